"""Helpers that several tasks share: masked sums, resizing of dense maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

_Array = TypeVar("_Array", jax.Array, np.ndarray)


def masked_sum(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sum of `values` where `mask` is 1, sum of `mask`); a masked infinity does not count."""
    return jnp.sum(jnp.where(mask > 0, values, 0.0)), jnp.sum(mask)


def resize_maps(maps: jax.Array, hw: tuple[int, ...]) -> jax.Array:
    """f32[B, h, w, C] -> f32[B, *hw, C], bilinear with half-pixel centres; free if the size is right already."""
    if maps.shape[1:3] == hw:
        return maps
    return jax.image.resize(maps, (maps.shape[0], *hw, maps.shape[3]), "bilinear", antialias=False)


def log_sums(logits: jax.Array, index: np.ndarray, count: int) -> jax.Array:
    """f32[..., K] -> f32[..., count]: the logits of groups, whose softmax are the sums of the probabilities of each.

    Args:
      index: i32[K], the group of each, or -1 of those that are in none: their probability is spread evenly.
    """
    groups = np.where(index[:, None] < 0, np.float32(1 / count), np.eye(count, dtype=np.float32)[index])
    largest = logits.max(-1, keepdims=True)
    sums = jnp.matmul(jnp.exp(logits - largest), groups, precision=jax.lax.Precision.HIGHEST)
    return jnp.log(sums) + largest


def valid_pixels(labels: Mapping[str, _Array]) -> _Array:
    """f32[B, h, w]: 1 where an image is labelled (`present`) and its pixel is too (`valid`)."""
    return labels["valid"] * labels["present"][:, None, None]
