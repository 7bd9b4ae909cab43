"""Streams of batches that are read many times: what fits into memory is made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import jax

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
                kept.append(batch)
                self._free -= size
            yield batch
            k += 1
