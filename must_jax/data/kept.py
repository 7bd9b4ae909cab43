"""What is read many times: streams of batches, of which as much as fits into memory is made once; and large arrays."""

from __future__ import annotations

import math
import os
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import numpy as np

KEPT_BYTES = 2**28

_Key = TypeVar("_Key")
_Batch = Mapping[str, Any]


class KeptBatches(Generic[_Key]):
    """Streams by key, each always the same. Their first batches are kept, up to `most_bytes` for all streams together.

    Do not change the batches.

    Args:
      make: (key, k) -> batches k, k + 1, ... of the stream.
    """

    def __init__(self, make: Callable[[_Key, int], Iterator[_Batch]], most_bytes: int = KEPT_BYTES) -> None:
        self._make = make
        self._kept: dict[_Key, list[_Batch]] = {}
        self._free = most_bytes

    def __call__(self, key: _Key) -> Iterator[_Batch]:
        """The stream of a key, from its first batch on."""
        kept, k = self._kept.setdefault(key, []), 0
        while k < len(kept):
            yield kept[k]
            k += 1
        for batch in self._make(key, k):
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(batch))
            if k == len(kept) and size <= self._free:  # another reader of the stream may be ahead
                kept.append(jax.tree.map(np.array, batch))  # those of workers keep files open
                self._free -= size
            yield batch
            k += 1


class Room:
    """Arrays in memory, up to `most_bytes` for all that are in use; those beyond it lie in files of `folder`.

    A file has no name, so it is gone with the last use of its array, and with the process, however that ends.
    """

    def __init__(self, most_bytes: int, folder: Path) -> None:
        self._free, self._folder = most_bytes, folder

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array whose values are not set.

        Raises:
          OSError: the disk is full.
        """
        size = math.prod(shape) * dtype.itemsize
        if size <= self._free:
            array = np.empty(shape, dtype)
            self._free -= size
            weakref.finalize(array, self._release, size).atexit = False
            return array
        with tempfile.TemporaryFile(dir=self._folder) as file:
            if sys.platform == "darwin":
                file.truncate(size)
            else:
                os.posix_fallocate(file.fileno(), 0, size)  # a disk that is full later would kill the process
            return np.memmap(file, dtype, "r+", shape=shape)

    def _release(self, size: int) -> None:
        self._free += size
