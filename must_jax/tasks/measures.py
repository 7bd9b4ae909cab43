"""What several tasks share between outputs and numbers: masked sums, resizing of dense maps, means on the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics

_Array = TypeVar("_Array", jax.Array, np.ndarray)


def masked_sum(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sum of `values` where `mask` is 1, sum of `mask`); a masked infinity does not count."""
    return jnp.sum(jnp.where(mask > 0, values, 0.0)), jnp.sum(mask)


def resize_maps(maps: jax.Array, hw: tuple[int, ...]) -> jax.Array:
    """f32[B, h, w, C] -> f32[B, *hw, C], bilinear with half-pixel centres; free when the size fits already."""
    if maps.shape[1:3] == hw:
        return maps
    return jax.image.resize(maps, (maps.shape[0], *hw, maps.shape[3]), "bilinear", antialias=False)


def resize_on_host(map_: np.ndarray, hw: tuple[int, ...]) -> np.ndarray:
    """[h, w, ...] -> [*hw, ...], the same interpolation as `resize_maps`."""
    return map_ if map_.shape[:2] == hw else cv2.resize(map_, hw[::-1], interpolation=cv2.INTER_LINEAR)


def valid_pixels(labels: Mapping[str, _Array]) -> _Array:
    """f32[B, h, w]: 1 where an image is labelled (`present`) and its pixel is too (`valid`)."""
    return labels["valid"] * labels["present"][:, None, None]


class Means:
    """Weighted means by name, added up in float64 on the host."""

    def __init__(self, *names: str):
        zero = np.float64(0)
        self._averages = {name: metrics.Average(total=zero, count=zero) for name in names}

    def add(self, name: str, values: np.ndarray, mask: np.ndarray) -> None:
        counted = values[mask > 0].astype(np.float64)
        batch = metrics.Average(total=counted.sum(), count=np.float64(counted.size))
        self._averages[name] = self._averages[name].merge(batch)

    def merge(self, other: Means) -> None:
        self._averages = {name: mean.merge(other._averages[name]) for name, mean in self._averages.items()}

    def result(self) -> dict[str, float]:
        """0 where nothing was added."""
        return {name: float(mean.compute()) if mean.count else 0.0 for name, mean in self._averages.items()}
