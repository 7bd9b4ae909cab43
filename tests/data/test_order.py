"""The order of examples: every image once an epoch, no order preferred, no structure, no table."""

from __future__ import annotations

import itertools
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from must_jax.data.order import Order


def epochs(count: int, epochs: int, seed: int = 3) -> np.ndarray:
    return Order([count], seed)(np.arange(count * epochs))[1].reshape(epochs, count)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 9, 16, 100, 1023, 99_991, 250_000])
def test_every_image_comes_once_an_epoch(count: int):
    for epoch in epochs(count, 3):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(count))


def test_positions_in_any_company_give_the_same_images():
    order, positions = Order([7, 5], 2), np.arange(100)
    together = np.stack(order(positions))
    alone = np.concatenate([np.stack(order(positions[i : i + 1])) for i in positions], axis=1)
    np.testing.assert_array_equal(alone, together)


def test_images_of_several_sources_are_numbered_within_each():
    sources, images = Order([3, 1, 4], 0)(np.arange(8))
    everything = [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1), (2, 2), (2, 3)]
    assert sorted(zip(sources.tolist(), images.tolist(), strict=True)) == everything


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_no_order_of_a_few_images_is_preferred(count: int):
    seen = Counter(map(tuple, epochs(count, 24_000).tolist()))
    assert seen.keys() == set(itertools.permutations(range(count)))
    share = np.array(list(seen.values())) / 24_000 * len(seen)
    assert np.abs(share - 1).max() < 6 * np.sqrt(len(seen) / 24_000)  # standard deviations of uniform draws, and a bit


@pytest.mark.parametrize("count", [1000, 10_007])
def test_orders_are_as_those_of_uniform_permutations(count: int):
    """Fixed points, neighbours that stay neighbours, and correlations, within an epoch and from one to the next."""
    many = epochs(count, 200).astype(float)
    of_place = many.mean(0) / count - 0.5
    assert np.abs(of_place).max() < 6 * np.sqrt(1 / 12 / 200)
    assert abs((many == np.arange(count)).sum(1).mean() - 1) < 0.4
    assert abs((np.diff(many, axis=1) == 1).sum(1).mean() - 1) < 0.4
    assert abs((many[1:] == many[:-1]).sum(1).mean() - 1) < 0.4
    for lag in (1, 2, round(count**0.5)):
        together = [np.corrcoef(epoch[lag:], epoch[:-lag])[0, 1] for epoch in many]
        assert abs(np.mean(together)) < 6 / np.sqrt(200 * count)


def test_seeds_differ():
    many = np.stack([epochs(50, 1, seed)[0] for seed in (0, 1, 2, 2**32, 2**64 - 1)])
    assert len(np.unique(many, axis=0)) == 5


def test_300_million_images_take_no_memory():
    tracemalloc.start()
    order = Order([300_000_000], 0)
    images = order(np.arange(256) + 299_999_900)[1]  # from one epoch into the next
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert images.max() < 300_000_000
    assert len(set(images.tolist())) > 250
    assert peak < 1e6
