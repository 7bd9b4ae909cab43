"""Looking at labels: at some that are spread over all of them, and at ever more while that is not enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from must_jax.cores import cores
from must_jax.progress import Progress

SAMPLED = 2000  # images that are looked at together
LEAST = 100  # labels with something in them, to judge from

Sum = TypeVar("Sum")


def sums(
    title: str, length: int, look: Callable[[int], Sum], add: Callable[[Sum, Sum], Sum], none: Sum
) -> Iterator[Sum]:
    """The sum over SAMPLED of `length` positions, spread evenly, then that over twice as many, at last over all.

    Whoever has seen enough stops asking.

    Args:
      look: what is added up, of one position; called from several threads.
      none: the sum of nothing.
    """
    total, rounds = none, -(-length // SAMPLED)
    with Progress(title, length) as progress, ThreadPoolExecutor(cores()) as pool:
        for start in range(rounds):
            for seen in pool.map(look, range(start, length, rounds)):
                total = add(total, seen)
                progress.advance()
            yield total
