"""Helpers that several tasks share: masked sums, resizing of dense maps, means on the host."""

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


def valid_pixels(labels: Mapping[str, _Array]) -> _Array:
    """f32[B, h, w]: 1 where an image is labelled (`present`) and its pixel is too (`valid`)."""
    return labels["valid"] * labels["present"][:, None, None]


class Means:
    """Weighted means by name, added up in float64 on the host."""

    def __init__(self, *names: str):
        self._sums = {name: np.zeros(2) for name in names}  # sum of the values, and their number

    def add(self, name: str, values: np.ndarray, mask: np.ndarray | None = None) -> None:
        """Adds the values; with a `mask`, only those where it is above 0."""
        counted = values if mask is None else values[mask > 0]
        self._sums[name] += counted.sum(dtype=np.float64), counted.size

    def merge(self, other: Means) -> None:
        for name, sums in self._sums.items():
            sums += other._sums[name]

    def result(self) -> dict[str, float]:
        """Name -> mean; 0 if nothing was added."""
        return {name: float(total / count) if count else 0.0 for name, (total, count) in self._sums.items()}
