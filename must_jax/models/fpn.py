"""Feature pyramid (Lin et al. 2017), levels 3 to 7, and its fusion into one map for the pixel-wise heads."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from must_jax.models.layers import BatchNorm, Conv

LEVELS = ("p3", "p4", "p5", "p6", "p7")
STRIDES = (8, 16, 32, 64, 128)  # input pixels per cell of each level
FUSED_STRIDE = 4


class FPN(nn.Module):
    """{"c3", "c4", "c5"} -> {"p3", ..., "p7"} with `channels` channels; level l has ceil(H / 2**l) rows."""

    channels: int
    momentum: float

    @nn.compact
    def __call__(self, features: Mapping[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        top_down: dict[int, jax.Array] = {}
        for level in (5, 4, 3):
            lateral = Conv(self.channels, 1, name=f"lateral{level}")(features[f"c{level}"])
            top_down[level] = lateral if level == 5 else lateral + _double(top_down[level + 1])
        pyramid = {level: Conv(self.channels, 3, name=f"conv{level}")(x) for level, x in top_down.items()}
        pyramid[6] = Conv(self.channels, 3, stride=2, name="conv6")(pyramid[5])
        pyramid[7] = Conv(self.channels, 3, stride=2, name="conv7")(nn.relu(pyramid[6]))
        return {
            f"p{level}": BatchNorm(self.momentum, name=f"norm{level}")(pyramid[level], train) for level in range(3, 8)
        }


def fuse(features: Mapping[str, jax.Array], input_hw: tuple[int, int]) -> jax.Array:
    """The sum of all levels, each resized bilinearly to stride 4: `[B, H / 4, W / 4, P]` of an input of H x W.

    No parameters (MuST section 3.1). The cells of a level lie where `heads.detector_points` says, so that all levels
    are aligned, even those whose last cells reach beyond the image. Resizing is a matrix product over columns and one
    over rows; the latter takes all levels stacked, so that it also sums them, and no level exists on its own at full
    size.
    """
    levels = [features[level] for level in LEVELS]
    dtype = levels[0].dtype
    rows, columns = (
        [
            bilinear_matrix(x.shape[axis], side // FUSED_STRIDE, stride / FUSED_STRIDE)
            for x, stride in zip(levels, STRIDES, strict=True)
        ]
        for axis, side in enumerate(input_hw, 1)
    )
    wide = [jnp.einsum("bhwc,Ww->bhWc", x, jnp.asarray(m, dtype)) for x, m in zip(levels, columns, strict=True)]
    return jnp.einsum("bhWc,Hh->bHWc", jnp.concatenate(wide, axis=1), jnp.asarray(np.concatenate(rows, axis=1), dtype))


def bilinear_matrix(source: int, target: int, factor: float) -> np.ndarray:
    """f32[target, source] to enlarge a vector `factor` times: linear, half-pixel centres, edge values repeated."""
    position = np.clip((np.arange(target) + 0.5) / factor - 0.5, 0, source - 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(source))).astype(np.float32)


def _double(x: jax.Array) -> jax.Array:
    """Nearest-neighbour upsampling by two; the level below is twice as large, as 32 divides both sides of the input."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
