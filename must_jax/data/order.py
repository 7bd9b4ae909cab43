"""The order of training examples: a new permutation of all images every epoch, computed instead of stored.

A Feistel network over a x b >= count, a and b being near its root, permutes a * b numbers; a number beyond the count is
permuted again until it is below (cycle walking; Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). So
a position takes a few operations and no memory, whether there are ten images or 300 million.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_ROUNDS = 12
# The finaliser of SplitMix64: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
_GOLDEN, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class Order:
    """Position in the endless stream of examples -> which source, and which of its images."""

    def __init__(self, lengths: Sequence[int], seed: int) -> None:
        """`lengths` are the numbers of images of the sources, not all 0; `seed` has up to 64 bits."""
        self._starts = np.cumsum([0, *lengths])
        self._count = int(self._starts[-1])
        self._rows = np.uint64(math.isqrt(self._count - 1) + 1)
        self._columns = np.uint64(-(-self._count // int(self._rows)))
        self._keys = _mixed(np.uint64(seed) + np.arange(1, _ROUNDS + 1, dtype=np.uint64) * _GOLDEN)

    def __call__(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """i64[n], positions from 0 on -> i64[n], sources, and i64[n], images in them."""
        epochs, places = np.divmod(positions.astype(np.int64), self._count)
        keys = _mixed(self._keys[:, None] ^ (epochs.astype(np.uint64) * _GOLDEN)[None])
        images = self._permuted(places.astype(np.uint64), keys)
        while (beyond := images >= self._count).any():
            images[beyond] = self._permuted(images[beyond], keys[:, beyond])
        images = images.astype(np.int64)
        sources = np.searchsorted(self._starts, images, side="right") - 1
        return sources, images - self._starts[sources]

    def _permuted(self, numbers: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """u64[n] below rows * columns -> the same numbers permuted, by keys u64[rounds, n]."""
        row, column = np.divmod(numbers, self._columns)
        for first, second in zip(keys[::2], keys[1::2], strict=True):
            row = (row + _mixed(column ^ first) % self._rows) % self._rows
            column = (column + _mixed(row ^ second) % self._columns) % self._columns
        return row * self._columns + column


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """u64 -> u64, each bit of the result depending on all bits of the number."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _FIRST
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _SECOND
    return numbers ^ (numbers >> np.uint64(31))
