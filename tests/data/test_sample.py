"""The order is part of what columns on disk mean."""

from __future__ import annotations

import numpy as np

from must_jax.data.sample import drawn, order_of


def test_the_order_never_changes():
    assert order_of(12).tolist() == [6, 11, 4, 10, 2, 8, 1, 7, 9, 3, 0, 5]
    assert sorted(order_of(1000)[:3].tolist()) == drawn(1000, 3).tolist() == [298, 859, 993]


def test_all_of_them_or_a_part():
    np.testing.assert_array_equal(drawn(5, 0), np.arange(5))
    np.testing.assert_array_equal(drawn(5, 9), np.arange(5))
    assert drawn(10_000, 100).mean() > 4000  # not the first ones
