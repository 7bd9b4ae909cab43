"""Where the arrays of a batch lie in its memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

_ALIGNED = 64  # bytes; jax takes such arrays on a CPU as they are
_SMALL = 2**16  # bytes; smaller arrays are copied, so that whoever keeps one does not keep the whole batch


class _Array(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Layout:
    """The arrays of a batch, nested dicts of them, in one piece of memory.

    Attributes:
      rows: length of all arrays.
      bytes: size of the memory.
    """

    def __init__(self, like: Mapping[Any, Any]) -> None:
        self.rows = self.bytes = 0

        def placed(value: np.ndarray) -> _Array:
            array = _Array(value.shape, value.dtype, self.bytes)
            self.rows = len(value)
            self.bytes += -(-array.size * value.dtype.itemsize // _ALIGNED) * _ALIGNED
            return array

        self._arrays = _map(placed, like)

    def empty(self) -> dict[Any, Any]:
        """A batch with undefined values, each array by itself."""
        return _map(lambda array: np.empty(array.shape, array.dtype), self._arrays)

    def fill(self, memory: Any, batch: Mapping[Any, Any]) -> None:
        """Writes arrays into the memory: all of a batch or some, and all of their rows or the first ones."""
        _copy(batch, self.views(memory))

    def views(self, memory: Any, copy_small: bool = False) -> dict[Any, Any]:
        """The batch that lies in the memory, which exists as long as one of its arrays does."""

        def view(array: _Array) -> np.ndarray:
            values = np.frombuffer(memory, array.dtype, array.size, array.start).reshape(array.shape)
            return values.copy() if copy_small and values.nbytes < _SMALL else values

        return _map(view, self._arrays)


def _copy(batch: Mapping[Any, Any], to: Mapping[Any, Any]) -> None:
    for name, each in batch.items():
        if isinstance(each, Mapping):
            _copy(each, to[name])
        else:
            to[name][: len(each)] = each


def _map(change: Callable[[Any], Any], node: Mapping[Any, Any]) -> dict[Any, Any]:
    return {name: _map(change, each) if isinstance(each, Mapping) else change(each) for name, each in node.items()}
