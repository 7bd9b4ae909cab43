"""Batches made ahead of the one who reads them, by threads or by worker processes, in a bounded number of bytes.

A batch is memory into which its rows are written, so the rows of one can be made by several threads or processes. Where
batches are small, each is made by one of them; where only a few are allowed ahead, many share each.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from must_jax.config import InputConfig
from must_jax.cores import cores
from must_jax.data.layout import Layout
from must_jax.data.workers import Unread, Workers

Batch = dict[str, Any]
OnBad = Callable[[str, str], None]  # takes what could not be read, and why

_IN_HAND = 2  # pieces of work for each thread: one that it works on, and the next one


class Maker(Protocol):
    """Makes batches, which depend on their number alone. It is sent to worker processes."""

    def __call__(self, step: int, rows: range, out: Batch) -> list[Unread]:
        """Writes these rows of a batch. Returns what could not be read for them."""
        ...


Made = tuple[Batch, list[Unread]]
Begin = Callable[[int, list[range]], Callable[[], Made]]  # starts a batch, in parts; returns what waits for it


def prefetched(
    make: Maker, steps: range, like: Batch, config: InputConfig, threads: int = 0, on_bad: OnBad | None = None
) -> Iterator[Batch]:
    """The batches of these steps, in order.

    Args:
      like: an example of a batch's arrays, as to shapes and types.
      threads: number of threads that make batches, in all processes together; 0 = one per core.
      on_bad: called for everything that could not be read, just before its batch is returned.
    """
    threads = max(threads or cores(), config.workers)
    layout = Layout(like)
    count = max(1, min(config.prefetch_bytes // layout.bytes, _IN_HAND * threads))  # of batches ahead
    parts = min(layout.rows, -(-_IN_HAND * threads // count))
    ends = [layout.rows * part // parts for part in range(parts + 1)]
    rows = [range(*each) for each in itertools.pairwise(ends)]
    makers = Workers(make, layout, config.workers, threads) if config.workers else _threads(make, layout, threads)
    with makers as begin:
        begun = deque(begin(step, rows) for step in steps[:count])
        for step in steps:
            batch, unread = begun.popleft()()
            if on_bad:
                for what, why in unread:
                    on_bad(what, why)
            if step + count < steps.stop:
                begun.append(begin(step + count, rows))
            yield batch


@contextlib.contextmanager
def _threads(make: Maker, layout: Layout, count: int) -> Iterator[Begin]:
    pool = ThreadPoolExecutor(count, "input")

    def begin(step: int, parts: list[range]) -> Callable[[], Made]:
        batch = layout.empty()
        begun = [pool.submit(make, step, rows, batch) for rows in parts]
        return lambda: (batch, [unread for part in begun for unread in part.result()])

    try:
        yield begin
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
