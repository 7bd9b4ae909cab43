"""The order is part of what columns on disk mean."""

from __future__ import annotations

import numpy as np

from must_jax.data.sample import drawn, in_order


def test_the_order_never_changes():
    assert in_order(12, range(12)).tolist() == [8, 0, 2, 9, 7, 11, 6, 3, 10, 4, 5, 1]
    assert sorted(in_order(1000, range(3)).tolist()) == drawn(1000, 3).tolist() == [106, 354, 520]
    assert drawn(300_000_000, 2).tolist() == [30600669, 259503742]


def test_all_of_them_or_a_part():
    np.testing.assert_array_equal(drawn(5, 0), np.arange(5))
    np.testing.assert_array_equal(drawn(5, 9), np.arange(5))
    assert drawn(10_000, 100).mean() > 4000  # not the first ones
