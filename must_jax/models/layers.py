"""The layers that everything is built from. Activations are `[batch, rows, columns, channels]`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from must_jax.config import Padding

_BATCH_STATISTICS = "batch_statistics"
# What rematerialisation keeps: these are small, and recomputing them would take communication between all devices.
KEPT = jax.checkpoint_policies.save_only_these_names(_BATCH_STATISTICS)


def kept(values: jax.Array) -> jax.Array:
    """The same values, marked to be kept by rematerialisation."""
    return checkpoint_name(values, _BATCH_STATISTICS)


def normal(stddev: float | None = None, bound: float = math.inf) -> nn.initializers.Initializer:
    """N(0, stddev^2) for kernels; by default variance 2 / fan-out (He et al. 2015).

    With a bound, values that are more than this many stddev from 0 are drawn again.

    Drawn by NumPy: the same on every accelerator, while XLA takes 0.3 s to compile a generator for each shape. Under a
    tracer, where only shapes matter, jax draws them.
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Any:
        scale = np.asarray(math.sqrt(2 * shape[-2] / math.prod(shape)) if stddev is None else stddev, dtype)
        if isinstance(key, jax.core.Tracer):
            return scale * jax.random.truncated_normal(key, -bound, bound, shape, dtype)
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
        values = rng.standard_normal(shape, np.float32)
        while (beyond := np.abs(values) > bound).any():
            values[beyond] = rng.standard_normal(int(beyond.sum()), np.float32)
        return scale * values.astype(dtype)

    return init


class Conv(nn.Module):
    """`[B, H, W, C] -> [B, H / stride, W / stride, channels]`, sizes rounded up, in the dtype of its input.

    Padding is the same on both sides (not TensorFlow's "SAME"), as published weights expect. No bias by default, since
    a norm usually follows.

    Attributes:
      padding: what lies beyond the border: "zeros" or, for 3x3 convolutions without stride, the outermost cells again
        ("edge").
    """

    channels: int
    size: int
    stride: int = 1
    use_bias: bool = False
    padding: Padding = "zeros"
    kernel_init: nn.initializers.Initializer = normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.channels)
        kernel = self.param("kernel", self.kernel_init, shape).astype(x.dtype)
        y = convolve_edge(x, kernel) if self.padding == "edge" else convolve(x, kernel, self.stride)
        if self.use_bias:
            y += self.param("bias", self.bias_init, shape[-1:]).astype(x.dtype)[None, None, None]
        return y


class PatchConv(nn.Module):
    """`[B, H, W, C] -> [B, H / size, W / size, channels]`: a convolution whose stride is its size.

    Computed as a product with the values of each patch: faster than a convolution on CPUs, and the usual form on TPUs.
    """

    channels: int
    size: int
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        (b, h, w, c), size = x.shape, self.size
        kernel = self.param("kernel", self.kernel_init, (size, size, c, self.channels)).astype(x.dtype)
        x = x.reshape(b, h // size, size, w // size, size, c).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(b, h // size, w // size, size * size * c)
        y = convolve(x, kernel.reshape(1, 1, -1, self.channels), 1)
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.channels,)).astype(x.dtype)[None, None, None]
        return y


def convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`[B, H, W, C]`, `[size, size, C, D]` -> `[B, ceil(H / stride), ceil(W / stride), D]`, padded by size // 2."""
    size, pad = kernel.shape[0], kernel.shape[0] // 2

    def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), ((pad, pad), (pad, pad)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        x = x[:, ::stride, ::stride]
        return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], kernel.shape[-1])

    # CPUs compute gradients of the product in half the time. On GPUs, XLA's compiler aborts on some products.
    if size == 1:
        return jax.lax.platform_dependent(x, kernel, cpu=product, default=convolution)
    rows, columns = (math.ceil(n / stride) for n in x.shape[1:3])
    if rows * columns >= size**2:
        return convolution(x, kernel)
    # Maps smaller than the kernel: one matrix product. XLA would swap map and kernel, 20 times slower on a CPU.
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    corners = [(i, j) for i in range(size) for j in range(size)]
    shifted = [padded[:, i : i + stride * rows : stride, j : j + stride * columns : stride] for i, j in corners]
    return jnp.einsum("bhwc,cd->bhwd", jnp.concatenate(shifted, axis=-1), kernel.reshape(-1, kernel.shape[-1]))


def convolve_edge(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[B, H, W, C]`, `[3, 3, C, D]` -> `[B, H, W, D]`, H and W at least 2, padded by the outermost cells.

    It is the convolution that is padded by zeros, plus what the padding adds to the outermost rows and columns: on a
    CPU, gradients of padded copies take twice the time of the convolution itself.
    """

    def strip(cells: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            cells, kernel, (1, 1), ((0, 0), (0, 0)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def row(cells: jax.Array, kernel: jax.Array) -> jax.Array:
        """With the corners of the padding."""
        return strip(jnp.concatenate([cells[:, :, :1], cells, cells[:, :, -1:]], 2), kernel)

    def column(cells: jax.Array, kernel: jax.Array) -> jax.Array:
        return strip(jnp.pad(cells, ((0, 0), (1, 1), (0, 0), (0, 0))), kernel)

    y = convolve(x, kernel, 1)
    top, bottom = row(x[:, :1], kernel[:1]), row(x[:, -1:], kernel[2:])
    left, right = column(x[:, :, :1], kernel[:, :1]), column(x[:, :, -1:], kernel[:, 2:])
    y = jnp.concatenate([y[:, :1] + top, y[:, 1:-1], y[:, -1:] + bottom], 1)
    return jnp.concatenate([y[:, :, :1] + left, y[:, :, 1:-1], y[:, :, -1:] + right], 2)


class BatchNorm(nn.Module):
    """Batch norm over all devices: under `jit` the means are over the global batch. Statistics are float32.

    Unlike `nn.BatchNorm` it is one multiply-add per element, and it passes strict dtype and rank promotion.
    """

    momentum: float
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        running_mean = self.variable("stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("stats", "var", jnp.ones, shape, jnp.float32)
        x32 = x.astype(jnp.float32)
        initialising = self.is_initializing()
        if train or initialising:
            mean = x32.mean((0, 1, 2))
            var = jnp.maximum(jnp.square(x32).mean((0, 1, 2)) - jnp.square(mean), 0.0)  # one pass over x
            mean, var = (kept(value) for value in (mean, var))
        else:
            mean, var = running_mean.value, running_var.value
        if train and not initialising:
            running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
            running_var.value = self.momentum * running_var.value + (1 - self.momentum) * var
        gain = scale * jax.lax.rsqrt(var + self.epsilon)
        offset = bias - mean * gain
        return (x32 * gain[None, None, None] + offset[None, None, None]).astype(x.dtype)


class LayerNorm(nn.Module):
    """Over the channels, which are the last axis (Ba et al. 2016). Statistics are float32."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        x32 = x.astype(jnp.float32)
        x32 -= x32.mean(-1, keepdims=True)
        x32 *= jax.lax.rsqrt(jnp.square(x32).mean(-1, keepdims=True) + self.epsilon)
        axes = (1,) * (x.ndim - 1)
        return (x32 * scale.reshape(*axes, -1) + bias.reshape(*axes, -1)).astype(x.dtype)


def gelu(x: jax.Array) -> jax.Array:
    """x times the share of N(0, 1) below x (Hendrycks and Gimpel 2016), exact. On CPUs, jax's takes 6 times as long."""
    x32 = x.astype(jnp.float32)
    return (0.5 * x32 * (1 + jax.lax.erf(math.sqrt(0.5) * x32))).astype(x.dtype)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training, a share `rate` of the images skips a residual branch.

    The others are divided by 1 - rate, so that the mean stays. It draws from the stream "drop_path"; without it, none
    skips.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if not train or self.rate == 0 or not self.has_rng("drop_path") or self.is_initializing():
            return x
        kept_share = 1 - self.rate
        shape = (x.shape[0], *[1] * (x.ndim - 1))
        kept_images = jax.random.bernoulli(self.make_rng("drop_path"), kept_share, shape)
        return x * (kept_images.astype(x.dtype) / jnp.asarray(kept_share, x.dtype))


def drop_rates(last: float, blocks: int) -> list[float]:
    """From 0 for the first of the blocks, evenly, to that of the last one."""
    return [last * index / max(blocks - 1, 1) for index in range(blocks)]
