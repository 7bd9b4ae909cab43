"""Which images `take` takes: a sample that is the same on every host, in every run and with every version."""

from __future__ import annotations

import numpy as np


def order_of(length: int) -> np.ndarray:
    """i32 or i64[length]: all positions, in the order in which they are taken, so smaller samples are parts of larger.

    NumPy promises that the numbers of its older generator will never change.
    """
    order = np.arange(length, dtype=np.int32 if length < 2**31 else np.int64)
    np.random.RandomState(0).shuffle(order)
    return order


def drawn(length: int, take: int) -> np.ndarray:
    """The ascending positions of `take` of `length` images; 0 = all."""
    return np.sort(order_of(length)[:take]) if 0 < take < length else np.arange(length, dtype=np.int32)
