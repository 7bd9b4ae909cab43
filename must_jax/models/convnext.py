"""ConvNeXt (Liu et al. 2022), also as in DINOv3 (Siméoni et al. 2025), and V2 (Woo et al. 2023)."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from must_jax.config.architectures import ConvNeXtParts
from must_jax.models.backbone import Backbone
from must_jax.models.layers import KEPT, Conv, DropPath, LayerNorm, PatchConv, drop_rates, gelu, normal

_LAYER_SCALE = 1e-6  # of a fresh block
_KERNELS = normal(0.02)  # the papers cut it off at 100 times that


class ConvNeXt(Backbone):
    """The outputs of its four stages. Input sides are multiples of 32."""

    parts: ConvNeXtParts

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
        parts = self.parts
        if parts.stem_channels:
            x = _conv(parts.stem_channels, 3, 2, name="stem1")(x)
            x = _conv(parts.channels[0], 3, 2, name="stem")(gelu(x) if parts.stem_gelu else x)
        else:
            x = PatchConv(parts.channels[0], 4, kernel_init=_KERNELS, name="stem")(x)
        x = _norm(parts, "stem_norm")(x)
        features, rates = {}, iter(drop_rates(self.drop_path, sum(parts.blocks)))
        for stage, (count, channels) in enumerate(zip(parts.blocks, parts.channels, strict=True), start=1):
            if stage > 1:
                x = _norm(parts, f"stage{stage}_norm")(x)
                x = PatchConv(channels, 2, kernel_init=_KERNELS, name=f"stage{stage}_shrink")(x)
            remat = f"stage{stage}" in self.remat
            kind = nn.remat(Block, policy=KEPT, static_argnums=(2,)) if remat else Block
            for index in range(1, count + 1):
                rate, name = next(rates), f"stage{stage}_{index}"
                block = kind(parts=parts, identity=self.identity_blocks, drop_path=rate, name=name)
                x = block(x, train)
            features[f"c{stage + 1}"] = x
        return features


_conv = partial(Conv, use_bias=True, kernel_init=_KERNELS)


class Block(nn.Module):
    """A 7x7 convolution of each channel, then two layers over the channels of each cell, added to the input."""

    parts: ConvNeXtParts
    identity: bool
    drop_path: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shortcut, channels = x, x.shape[-1]
        x = Depthwise(7, name="depthwise")(x)
        x = _norm(self.parts, "norm")(x)
        x = gelu(_conv(4 * channels, 1, name="expand")(x))
        if self.parts.v2:
            x = ResponseNorm(name="response_norm")(x)
        x = _conv(channels, 1, name="project")(x)
        if not self.parts.v2:
            start = nn.initializers.constant(_LAYER_SCALE if self.identity else 1)
            x *= self.param("gamma", start, (channels,), jnp.float32).astype(x.dtype)[None, None, None]
        return DropPath(self.drop_path)(x, train) + shortcut


def _norm(parts: ConvNeXtParts, name: str) -> nn.Module:
    if parts.norm == "layer":
        return LayerNorm(parts.epsilon, name=name)
    return ScaleNorm(parts.epsilon, centred=parts.norm == "simple", name=name)


class ScaleNorm(nn.Module):
    """Divides the channels of each cell by their root mean square, or by their standard deviation (`centred`).

    As RmsNorm and SimpleNorm in timm: the mean stays, and the variance is the unbiased one.
    """

    epsilon: float
    centred: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        square = x32.var(-1, keepdims=True, ddof=1) if self.centred else jnp.square(x32).mean(-1, keepdims=True)
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        return (x32 * jax.lax.rsqrt(square + self.epsilon) * scale[None, None, None]).astype(x.dtype)


class ResponseNorm(nn.Module):
    """Global response normalisation (Woo et al. 2023): channels compete by their norms over the whole map."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale, bias = (
            self.param(name, nn.initializers.zeros, x.shape[-1:], jnp.float32)[None, None, None]
            for name in ("scale", "bias")
        )
        x32 = x.astype(jnp.float32)
        # Not 0, at which the square root has no gradient: GELU makes whole channels 0.
        norms = jnp.sqrt(jnp.maximum(jnp.square(x32).sum((1, 2), keepdims=True), 1e-20))
        share = norms / (norms.mean(-1, keepdims=True) + self.epsilon)
        return (x32 + scale * x32 * share + bias).astype(x.dtype)


class Depthwise(nn.Module):
    """A convolution of each channel with a kernel of its own, and a bias; sizes stay."""

    size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", _KERNELS, (self.size, self.size, 1, x.shape[-1])).astype(x.dtype)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:]).astype(x.dtype)
        return convolve_depthwise(x, kernel) + bias[None, None, None]


def convolve_depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[B, H, W, C]`, `[size, size, 1, C]`, size odd -> `[B, H, W, C]`, padded by zeros."""
    pad = kernel.shape[0] // 2

    def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
        numbers, channels = ("NHWC", "HWIO", "NHWC"), x.shape[-1]
        pads = ((pad, pad), (pad, pad))
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), pads, dimension_numbers=numbers, feature_group_count=channels
        )

    # [4, 28, 28, 192], 7x7, on two cores: 38 ms as a convolution and 1.5 ms as a sum; with gradients, 125 and 6 ms.
    return jax.lax.platform_dependent(x, kernel, cpu=_sum_of_shifted, default=convolution)


@jax.custom_vjp
@jax.jit  # traced once for all blocks of a shape
def _sum_of_shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`convolve_depthwise`, as a sum of products with moved maps, in float32.

    Barriers keep XLA from computing what comes before it once more for each product: they halve the time of a gradient.
    """
    (_, h, w, _), size = x.shape, kernel.shape[0]
    padded, kernel = _padded(x, size // 2), kernel.astype(jnp.float32)
    total = jnp.zeros(x.shape, jnp.float32)
    for i in range(size):
        for j in range(size):
            total += padded[:, i : i + h, j : j + w] * kernel[i, j][None, None]
    return jax.lax.optimization_barrier(total.astype(x.dtype))


def _shifted_backward(given: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A loop over the kernel's places: one program of all of them is six times slower, and takes longer to compile."""
    x, kernel = given
    size, padded = kernel.shape[0], _padded(x, kernel.shape[0] // 2)
    g = jax.lax.optimization_barrier(cotangent).astype(jnp.float32)

    def of_place(place: jax.Array) -> jax.Array:
        moved = jax.lax.dynamic_slice(padded, (0, place // size, place % size, 0), x.shape)
        return (moved * g).sum((0, 1, 2))

    of_kernel = jax.lax.map(of_place, jnp.arange(size**2)).reshape(kernel.shape).astype(kernel.dtype)
    return _sum_of_shifted(cotangent, kernel[::-1, ::-1]), of_kernel


def _padded(x: jax.Array, pad: int) -> jax.Array:
    x = jax.lax.optimization_barrier(x)
    return jnp.pad(x.astype(jnp.float32), ((0, 0), (pad, pad), (pad, pad), (0, 0)))


_sum_of_shifted.defvjp(lambda x, kernel: (_sum_of_shifted(x, kernel), (x, kernel)), _shifted_backward)
