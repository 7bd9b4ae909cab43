"""Sampling of labels: an evenly spread sample, which grows as long as it is not enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from must_jax.cores import cores
from must_jax.progress import Progress

SAMPLED = 2000  # images per sample
LEAST = 100  # minimum number of non-empty labels for a judgement

Sum = TypeVar("Sum")


def sums(
    title: str, length: int, look: Callable[[int], Sum], add: Callable[[Sum, Sum], Sum], none: Sum
) -> Iterator[Sum]:
    """Yields the sum over SAMPLED of `length` positions, evenly spread, then over twice as many, and finally over all.

    The caller stops iterating when it has seen enough.

    Args:
      look: the summand for one position; called from several threads.
      none: the empty sum.
    """
    total, rounds = none, -(-length // SAMPLED)
    with Progress(title, length) as progress, ThreadPoolExecutor(cores()) as pool:
        for start in range(rounds):
            for seen in pool.map(look, range(start, length, rounds)):
                total = add(total, seen)
                progress.advance()
            yield total
