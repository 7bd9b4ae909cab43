"""Tasks whose predictions are maps, measured by sums over pixels: one definition, for the devices and for the host.

The sums are written in the Python array API. An evaluation computes them on the devices, for a tile of pixels at a time
(`engine/tiles.py`); where labels are compared with labels, NumPy does, for a whole image.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from must_jax.data.kinds import MapLabel
from must_jax.tasks.base import NumpyArrays, Task

AnyArrays = Mapping[str, Any]  # arrays of NumPy or jax
Moments = Callable[[Any, AnyArrays, AnyArrays], dict[str, Any]]

_FINE = 256


class MapTask(Task, abc.ABC):
    """A task that has `counted`, the map in its predictions that is compared with the truth.

    Pixels are [n, h, w] on devices and [1, h, w] on the host.
    """

    @property
    @abc.abstractmethod
    def label(self) -> MapLabel: ...

    @abc.abstractmethod
    def truth(self, label: NumpyArrays) -> NumpyArrays:
        """What counts in a label: maps [h, w, ...], compact, since they go to the devices; 0 = not known.

        Raises:
          UserError: the label does not fit the task.
        """

    def moments(self) -> tuple[Moments, ...]:
        """What is summed up over each image before its pixels are counted, one after the other.

        Each is a function (predicted, truth, the sums of those before it: [n, 1, 1]) -> name -> f32[n, h, w].
        """
        return ()

    @abc.abstractmethod
    def counts(self, predicted: Any, truth: AnyArrays, fit: AnyArrays) -> dict[str, Any]:
        """Sums over the pixels that are known: name -> integers or f32. What images add to them is added up.

        Args:
          predicted: of all pixels.
          truth: as from `truth`, of all pixels.
          fit: the sums of `moments`: [n, 1, 1].
        """


class MapMetrics:
    """Accumulates the counts of a `MapTask` as integers and floats of 64 bits."""

    def __init__(self, task: MapTask) -> None:
        self._task = task
        self._counts: dict[str, np.ndarray] = {}

    def update(self, prediction: NumpyArrays, label: NumpyArrays) -> None:
        if not label["present"]:
            return
        predicted = prediction[self._task.label.field][None]
        truth = {name: map_[None] for name, map_ in self._task.truth(label).items()}
        fit: dict[str, np.ndarray] = {}
        for moments in self._task.moments():
            values = moments(predicted, truth, fit)
            fit |= {name: each.sum(dtype=np.float64).reshape(1, 1, 1) for name, each in values.items()}
        self.add(self._task.counts(predicted, truth, fit))

    def add(self, counts: NumpyArrays) -> None:
        """Adds what the task's `counts` returned, or sums of it."""
        for name, value in counts.items():
            wide = np.asarray(value, np.int64 if np.issubdtype(value.dtype, np.integer) else np.float64)
            self._counts[name] = self._counts.get(name, 0) + wide

    def merge(self, other: MapMetrics) -> None:
        self.add(other._counts)


def namespace(array: Any) -> ModuleType:
    """jax.numpy or NumPy."""
    return array.__array_namespace__()


def total(values: Any, known: Any) -> Any:
    """f32 or f64: the sum of the known values."""
    return namespace(values).sum(values, where=known, dtype=np.float32 if isinstance(values, jax.Array) else np.float64)


def bins(values: Any, edges: np.ndarray) -> Any:
    """i32: into which of len(edges) + 1 bins each value falls; one on an edge into the upper one, NaN into the last.

    Args:
      edges: f32, ascending.
    """
    if isinstance(values, np.ndarray):
        return np.searchsorted(edges, values, side="right").astype(np.int32)
    above = ~(values[..., None] < edges.reshape((1,) * values.ndim + (-1,)))
    return jnp.sum(above, -1, dtype=jnp.int32)


def pairs(rows: Any, columns: Any, known: Any, shape: tuple[int, int]) -> Any:
    """i[shape]: how many of the known elements have each pair of indices (row, column); all are within `shape`."""
    if isinstance(rows, np.ndarray):
        index = rows[known].astype(np.int64) * shape[1] + columns[known]
        return np.bincount(index, minlength=shape[0] * shape[1]).reshape(shape)
    # Which is fast depends on the chip: scattering on CPUs, products of matrices on all that are made for them.
    by = {"cpu": _scattered, "default": _multiplied}
    return jax.lax.platform_dependent(rows, columns, known, **{chip: _with(count, shape) for chip, count in by.items()})


def histogram(index: Any, known: Any, length: int) -> Any:
    """i[length]: how many of the known elements have each index."""
    rows, columns = index // _FINE, index % _FINE
    return pairs(rows, columns, known, (-(-length // _FINE), _FINE)).reshape(-1)[:length]


def _with(count: Callable[..., jax.Array], shape: tuple[int, int]) -> Callable[..., jax.Array]:
    return lambda rows, columns, known: count(rows, columns, known, shape)


def _scattered(rows: jax.Array, columns: jax.Array, known: jax.Array, shape: tuple[int, int]) -> jax.Array:
    counts = jnp.zeros(shape, jnp.int32)
    return counts.at[rows.reshape(-1), columns.reshape(-1)].add(known.reshape(-1).astype(jnp.int32), mode="drop")


def _multiplied(rows: jax.Array, columns: jax.Array, known: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Exact for up to 2^24 elements at a time."""
    left = jax.nn.one_hot(jnp.where(known, rows, -1).reshape(-1), shape[0], dtype=jnp.bfloat16)
    right = jax.nn.one_hot(columns.reshape(-1), shape[1], dtype=jnp.bfloat16)
    return jnp.einsum("pr,pc->rc", left, right, preferred_element_type=jnp.float32).astype(jnp.int32)
