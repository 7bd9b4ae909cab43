"""Maps at several strides out of one (Li et al. 2022, Exploring plain vision transformer backbones, section 3)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from must_jax.models.layers import LayerNorm, gelu, normal


class SimplePyramid(nn.Module):
    """`[B, H, W, C]` at this stride -> {"c2", "c3", "c4", "c5"} at strides 4, 8, 16, 32.

    Finer maps come by deconvolutions, which halve the channels, with a norm and GELU between them; the one at the same
    stride is the input itself; coarser ones come by max pooling, with sizes rounded up.

    Attributes:
      stride: of the input, a power of 2.
    """

    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        features = {}
        for level in (2, 3, 4, 5):
            y, stride, step = x, self.stride, 1
            while stride > 2**level:
                if step > 1:
                    y = gelu(LayerNorm(name=f"norm{level}_{step - 1}")(y))
                y = Doubling(y.shape[-1] // 2, name=f"double{level}_{step}")(y)
                stride, step = stride // 2, step + 1
            while stride < 2**level:
                y, stride = _max_pool(y), stride * 2
            features[f"c{level}"] = y
        return features


class Doubling(nn.Module):
    """`[B, H, W, C] -> [B, 2 H, 2 W, channels]`: a 2x2 deconvolution with stride 2, with a bias."""

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        # He's variance by fan-out is 1 / C here if channels are halved: what each output needs.
        kernel = self.param("kernel", normal(), (2, 2, c, self.channels)).astype(x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,)).astype(x.dtype)
        y = jnp.einsum("bhwc,ijcd->bhiwjd", x, kernel).reshape(b, 2 * h, 2 * w, self.channels)
        return y + bias[None, None, None]


def _max_pool(x: jax.Array) -> jax.Array:
    """Of 2x2 cells, `[B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), C]`."""
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    return x.reshape(b, (h + 1) // 2, 2, (w + 1) // 2, 2, c).max((2, 4))
