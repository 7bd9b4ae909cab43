"""Vision transformers (Dosovitskiy et al. 2021) and their relatives; see `config.architectures`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from must_jax.config.architectures import ViTParts
from must_jax.models.attention import attention
from must_jax.models.backbone import Backbone
from must_jax.models.layers import KEPT, DropPath, LayerNorm, PatchConv, drop_rates, gelu, normal
from must_jax.models.positions import resized, rotated, rotations
from must_jax.models.rates import NEW
from must_jax.models.simple_pyramid import SimplePyramid

_INIT = normal(0.02, bound=2)
_ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_tanh": partial(nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
}
Rotations = tuple[jax.Array, jax.Array]  # sines and cosines


class ViT(Backbone):
    """A pyramid of the patches' tokens after the last norm.

    The sides of images are any multiples of the patch. A token of a patch of 14 stands for 16 pixels: either images are
    resized by `input_share` before, or strides are 14 / 16 of those said. The blocks are four stages of equal depth.
    """

    parts: ViTParts

    @property
    def stride(self) -> int:
        """For how many pixels a token stands."""
        return 2 ** round(math.log2(self.parts.patch))

    @property
    def input_share(self) -> float:
        return self.parts.patch / self.stride

    @property
    def published(self) -> tuple[str, ...]:
        """The tokens of the patches, which the pyramid keeps as one of its levels."""
        return (f"c{int(math.log2(self.stride))}",)

    def completed(self, params: Mapping[str, Any], published: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        [tokens] = published.values()
        return cast(
            dict[str, jax.Array], SimplePyramid(self.stride, parent=None).apply({"params": params[NEW]}, tokens)
        )

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
        parts, dtype = self.parts, x.dtype
        x = PatchConv(parts.channels, parts.patch, not parts.pre_norm, _INIT, name="patch")(x)
        batch, rows, columns, channels = x.shape
        x = x.reshape(batch, rows * columns, channels)
        before = int(parts.class_token) + parts.registers
        first = [
            self.param(name, normal(1e-6), (count, channels))
            for name, count in (("class_token", int(parts.class_token)), ("registers", parts.registers))
            if count
        ]
        if parts.position != "rotary":
            counted = before if parts.position == "all" else 0
            position = self.param("position", _INIT, (counted + parts.grid**2, channels))
            x += resized(position[counted:], rows, columns).astype(dtype)[None]
            if counted:
                first = [jnp.concatenate(first) + position[:counted]]
        if first:
            tokens = jnp.concatenate(first).astype(dtype)
            x = jnp.concatenate([jnp.broadcast_to(tokens[None], (batch, *tokens.shape)), x], axis=1)
        if parts.pre_norm:
            x = LayerNorm(parts.epsilon, name="pre_norm")(x)
        rotary: Rotations | None = None
        if parts.position == "rotary":
            sines, cosines = rotations(rows, columns, channels // parts.heads, before)
            rotary = jnp.asarray(sines), jnp.asarray(cosines)
        for index, rate in enumerate(drop_rates(self.drop_path, parts.depth)):
            remat = f"stage{1 + 4 * index // parts.depth}" in self.remat
            kind = nn.remat(Block, policy=KEPT, static_argnums=(3,)) if remat else Block
            x = kind(parts, rate, name=f"block{index + 1}")(x, rotary, train)
        x = LayerNorm(parts.epsilon, name="norm")(x)
        x = x[:, before:].reshape(batch, rows, columns, channels)
        return SimplePyramid(self.stride, name=NEW)(x)


class Block(nn.Module):
    """Attention and an MLP, both residual: `[B, tokens, C] -> [B, tokens, C]`."""

    parts: ViTParts
    drop_path: float

    @nn.compact
    def __call__(self, x: jax.Array, rotary: Rotations | None, train: bool) -> jax.Array:
        y = Attention(self.parts, name="attention")(LayerNorm(self.parts.epsilon, name="norm1")(x), rotary)
        x += DropPath(self.drop_path)(self._scaled("scale1", y), train)
        y = MLP(self.parts, name="mlp")(LayerNorm(self.parts.epsilon, name="norm2")(x))
        return x + DropPath(self.drop_path)(self._scaled("scale2", y), train)

    def _scaled(self, name: str, x: jax.Array) -> jax.Array:
        """By LayerScale."""
        if not self.parts.layer_scale:
            return x
        init = nn.initializers.constant(self.parts.layer_scale)
        return x * self.param(name, init, x.shape[-1:], jnp.float32).astype(x.dtype)[None, None]


class Attention(nn.Module):
    """Of all tokens to all (Vaswani et al. 2017)."""

    parts: ViTParts

    @nn.compact
    def __call__(self, x: jax.Array, rotary: Rotations | None) -> jax.Array:
        (batch, tokens, channels), parts = x.shape, self.parts
        x = _Linear(3 * channels, use_bias=parts.qkv_bias == "all", dtype=x.dtype, name="qkv")(x)
        if parts.qkv_bias == "query_value":  # that of keys would not change the result
            query, value = (
                self.param(f"{name}_bias", nn.initializers.zeros, (channels,), jnp.float32)
                for name in ("query", "value")
            )
            x += jnp.concatenate([query, jnp.zeros_like(query), value]).astype(x.dtype)[None, None]
        query, key, value = jnp.unstack(x.reshape(batch, tokens, 3, parts.heads, -1), axis=2)
        if rotary:
            query, key = rotated(query, *rotary), rotated(key, *rotary)
        x = attention(query, key, value).reshape(batch, tokens, channels)
        return _Linear(channels, dtype=x.dtype, name="out")(x)


class MLP(nn.Module):
    """Two layers, for each token on its own."""

    parts: ViTParts

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels, gated = x.shape[-1], self.parts.activation == "swiglu"
        y = _Linear(self.parts.hidden * (2 if gated else 1), dtype=x.dtype, name="fc1")(x)
        if gated:
            gate, y = jnp.split(y, 2, axis=-1)
            y *= nn.silu(gate)
        else:
            y = _ACTIVATIONS[self.parts.activation](y)
        return _Linear(channels, dtype=x.dtype, name="fc2")(y)


_Linear = partial(nn.Dense, kernel_init=_INIT)
