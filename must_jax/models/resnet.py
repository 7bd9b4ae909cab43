"""ResNet (He et al. 2015), v1.5: the 3x3 convolution of a bottleneck carries the stride."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from must_jax.models.layers import KEPT, BatchNorm, Conv, normal

# Name -> (blocks in each of the four stages, whether they are bottlenecks).
DEPTHS: dict[str, tuple[tuple[int, int, int, int], bool]] = {
    "resnet10": ((1, 1, 1, 1), False),
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}


class ResNet(nn.Module):
    """Images `[B, H, W, 3]`, normalised -> {"c2", "c3", "c4", "c5"}: the stages' outputs, at strides 4, 8, 16, 32.

    Attributes:
      depth: key of `DEPTHS`.
      width: multiplies the channels (64 in the stem), rounded to multiples of 8.
      remat: names ("stage1" to "stage4") of the stages whose blocks keep only inputs and batch statistics for the
        gradient.
      identity_blocks: whether every block starts as its shortcut (Goyal et al. 2017), a good start for training. In an
        untrained network, most parameters then do nothing.
    """

    depth: str
    width: float
    momentum: float
    remat: tuple[str, ...] = ()
    identity_blocks: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
        blocks, bottleneck = DEPTHS[self.depth]
        channels = 8 * max(1, round(8 * self.width))
        x = Stem(channels, name="stem")(x)
        x = nn.relu(BatchNorm(self.momentum, name="stem_norm")(x, train))
        x = _max_pool(_max_pool(x, axis=1), axis=2)
        features = {}
        for stage, count in enumerate(blocks):
            remat = f"stage{stage + 1}" in self.remat
            kind = nn.remat(Block, policy=KEPT, static_argnums=(2,)) if remat else Block
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                block = kind(
                    channels * 2**stage,
                    stride,
                    bottleneck,
                    self.momentum,
                    self.identity_blocks,
                    name=f"stage{stage + 1}_{index + 1}",
                )
                x = block(x, train)
            features[f"c{stage + 2}"] = x
        return features


class Stem(nn.Module):
    """A 7x7 convolution with stride 2, computed as a 4x4 one on blocks of 2x2 pixels (the same sums, over 12 channels).

    On a CPU the forward pass is 4 times faster and the gradient as fast; on a TPU this is the usual form.
    """

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        kernel = self.param("kernel", normal(), (7, 7, c, self.channels)).astype(x.dtype)
        kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0))).reshape(4, 2, 4, 2, c, self.channels)
        kernel = kernel.transpose(0, 2, 1, 3, 4, 5).reshape(4, 4, 4 * c, self.channels)
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4 * c)
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), ((2, 1), (2, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


def _max_pool(x: jax.Array, axis: int) -> jax.Array:
    """Windows of 3, stride 2, padded by one zero (x >= 0): `n -> n / 2`. Uses slices: XLA's own has a slow gradient."""
    before = jax.lax.slice_in_dim(x, 1, -1, 2, axis)
    first, second = jax.lax.slice_in_dim(x, 0, None, 2, axis), jax.lax.slice_in_dim(x, 1, None, 2, axis)
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (1, 0, 0)
    return jnp.maximum(jnp.maximum(first, second), jax.lax.pad(before, jnp.zeros((), x.dtype), padding))


class Block(nn.Module):
    """Residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1 with four times the channels at the end."""

    channels: int
    stride: int
    bottleneck: bool
    momentum: float
    identity: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        # (channels, kernel size, stride) of each convolution.
        if self.bottleneck:
            convs = [(self.channels, 1, 1), (self.channels, 3, self.stride), (4 * self.channels, 1, 1)]
        else:
            convs = [(self.channels, 3, self.stride), (self.channels, 3, 1)]
        out_channels = convs[-1][0]
        shortcut = x
        if self.stride > 1 or x.shape[-1] != out_channels:
            shortcut = Conv(out_channels, 1, self.stride, name="shortcut")(x)
            shortcut = BatchNorm(self.momentum, name="shortcut_norm")(shortcut, train)
        for index, (channels, size, stride) in enumerate(convs, start=1):
            last = index == len(convs)
            scale_init = nn.initializers.zeros if last and self.identity else nn.initializers.ones
            x = Conv(channels, size, stride, name=f"conv{index}")(x)
            x = BatchNorm(self.momentum, scale_init, name=f"norm{index}")(x, train)
            x = x + shortcut if last else x
            x = nn.relu(x)
        return x
