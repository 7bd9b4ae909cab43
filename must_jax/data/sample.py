"""Which images `take` takes: a sample that is the same on every host, in every run and with every version."""

from __future__ import annotations

import numpy as np

from must_jax.data.order import Order

_SEED = 0  # part, as is `Order`, of what columns on disk mean that were made with `take`


def in_order(length: int, places: range) -> np.ndarray:
    """i64[n]: the positions that are taken at these places of the order: smaller samples are parts of larger ones."""
    return Order([length], _SEED)(np.arange(places.start, places.stop))[1]


def drawn(length: int, take: int) -> np.ndarray:
    """i32[n]: the ascending positions of `take` of `length` images; 0 = all."""
    if not 0 < take < length:
        return np.arange(length, dtype=np.int32)
    return np.sort(in_order(length, range(take))).astype(np.int32)
