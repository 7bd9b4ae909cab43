"""ResNet and its relatives: -C and -D stems, squeeze and excitation, ResNet-RS; see `config.architectures`."""

from __future__ import annotations

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from must_jax.config.architectures import ResNetParts
from must_jax.models.backbone import Backbone
from must_jax.models.layers import KEPT, BatchNorm, Conv, DropPath, drop_rates, normal


class ResNet(Backbone):
    """The outputs of its four stages.

    Attributes:
      width: multiplies the channels (64 in the stem), rounded to multiples of 8.
    """

    parts: ResNetParts
    width: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
        parts, channels = self.parts, 8 * max(1, round(8 * self.width))
        norm = partial(BatchNorm, self.momentum)
        if parts.deep_stem:
            for index, (out, stride) in enumerate(((channels // 2, 2), (channels // 2, 1)), start=1):
                x = nn.relu(norm(name=f"stem{index}_norm")(Conv(out, 3, stride, name=f"stem{index}")(x), train))
            x = Conv(channels, 3, name="stem")(x)
        else:
            x = Stem(channels, name="stem")(x)
        x = nn.relu(norm(name="stem_norm")(x, train))
        if parts.convolved_pool:
            x = nn.relu(norm(name="pool_norm")(Conv(channels, 3, 2, name="pool")(x), train))
        else:
            x = _max_pool(_max_pool(x, axis=1), axis=2)
        features, rates = {}, iter(drop_rates(self.drop_path, sum(parts.blocks)))
        for stage, count in enumerate(parts.blocks):
            remat = f"stage{stage + 1}" in self.remat
            kind = nn.remat(Block, policy=KEPT, static_argnums=(2,)) if remat else Block
            for index in range(count):
                block = kind(
                    channels=channels * 2**stage,
                    stride=2 if stage > 0 and index == 0 else 1,
                    parts=parts,
                    momentum=self.momentum,
                    identity=self.identity_blocks,
                    drop_path=next(rates),
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
    parts: ResNetParts
    momentum: float
    identity: bool
    drop_path: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        # (channels, kernel size, stride) of each convolution.
        if self.parts.bottleneck:
            convs = [(self.channels, 1, 1), (self.channels, 3, self.stride), (4 * self.channels, 1, 1)]
        else:
            convs = [(self.channels, 3, self.stride), (self.channels, 3, 1)]
        out_channels = convs[-1][0]
        shortcut = x
        if self.stride > 1 or x.shape[-1] != out_channels:
            stride = self.stride
            if self.parts.pooled_shortcut and stride > 1:
                shortcut, stride = _halved(shortcut), 1
            shortcut = Conv(out_channels, 1, stride, name="shortcut")(shortcut)
            shortcut = BatchNorm(self.momentum, name="shortcut_norm")(shortcut, train)
        for index, (channels, size, stride) in enumerate(convs, start=1):
            last = index == len(convs)
            scale_init = nn.initializers.zeros if last and self.identity else nn.initializers.ones
            x = Conv(channels, size, stride, name=f"conv{index}")(x)
            x = BatchNorm(self.momentum, scale_init, name=f"norm{index}")(x, train)
            if last:
                if self.parts.squeeze:
                    x = SqueezeExcitation(self.parts.squeeze, name="squeeze")(x)
                x = DropPath(self.drop_path)(x, train) + shortcut
            x = nn.relu(x)
        return x


class SqueezeExcitation(nn.Module):
    """Channels are weighted by what their means over the map say (Hu et al. 2018)."""

    share: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        between = max(8, int(channels * self.share + 4) // 8 * 8)  # rounded as timm does it
        y = x.mean((1, 2), keepdims=True)
        y = nn.relu(Conv(between, 1, use_bias=True, name="squeeze")(y))
        return x * nn.sigmoid(Conv(channels, 1, use_bias=True, name="excite")(y))


def _halved(x: jax.Array) -> jax.Array:
    """Means of 2x2 cells, `[B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), C]`, without what is beyond the border."""
    b, h, w, c = x.shape
    rows, columns = math.ceil(h / 2), math.ceil(w / 2)
    padded = jnp.pad(x, ((0, 0), (0, 2 * rows - h), (0, 2 * columns - w), (0, 0)))
    sums = padded.reshape(b, rows, 2, columns, 2, c).sum((2, 4))
    if (h % 2, w % 2) == (0, 0):
        return sums / 4
    count = [jnp.asarray([2] * (n // 2) + [1] * (n % 2), x.dtype) for n in (h, w)]
    return sums / (count[0][None, :, None, None] * count[1][None, None, :, None])
