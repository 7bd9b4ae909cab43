"""Batches made ahead of the one who reads them, by threads or by worker processes, in a bounded number of bytes.

A batch is memory into which its rows are written, so the rows of one can be made by several threads or processes. Where
batches are small, each is made by one of them; where only a few are allowed ahead, many share each.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from must_jax.config import InputConfig
from must_jax.cores import cores, divided
from must_jax.data.layout import Layout
from must_jax.data.workers import Unread, Workers

Batch = dict[Any, Any]
_Told = TypeVar("_Told")
OnBad = Callable[[str, str], None]  # takes what could not be read, and why

_IN_HAND = 2  # pieces of work for each thread: one that it works on, and the next one


class Maker(Protocol[_Told]):
    """Makes batches, which depend on their number alone. It is sent to worker processes."""

    def __call__(self, step: int, rows: range, batch: Batch, /) -> list[_Told]:
        """Writes these rows of a batch, or reads what they were given. Returns what there is to tell about them."""
        ...


class Begin(Protocol[_Told]):
    """Starts a batch in parts, with what its arrays are `given`, if anything. Returns what waits for it."""

    def __call__(
        self, step: int, parts: Sequence[range], given: Batch | None = None
    ) -> Callable[[], tuple[Batch, list[_Told]]]: ...


def prefetched(
    make: Maker[Unread], steps: range, like: Batch, config: InputConfig, threads: int = 0, on_bad: OnBad | None = None
) -> Iterator[Batch]:
    """The batches of these steps, in order.

    Args:
      like: an example of a batch's arrays, as to shapes and types.
      threads: number of threads that make batches, in all processes together; 0 = one per core.
      on_bad: called for everything that could not be read, just before its batch is returned.
    """
    workers = config.workers or 0
    threads = max(threads or cores(), workers)
    layout = Layout(like)
    count = max(1, min(config.prefetch_bytes // layout.bytes, _IN_HAND * threads))  # of batches ahead
    parts = min(layout.rows, -(-_IN_HAND * threads // count))
    rows = divided(layout.rows, parts)
    keys = "config.input.workers or config.input.prefetch_bytes"
    with makers(make, layout, min(workers, count * layout.rows), threads, keys) as begin:
        begun = deque(begin(step, rows) for step in steps[:count])
        for step in steps:
            batch, unread = begun.popleft()()
            if on_bad:
                for what, why in unread:
                    on_bad(what, why)
            if step + count < steps.stop:
                begun.append(begin(step + count, rows))
            yield batch


def makers(
    make: Maker[_Told], layout: Layout, workers: int, threads: int, keys: str
) -> contextlib.AbstractContextManager[Begin[_Told]]:
    """A context in which `make` is called, by so many threads in all: of worker processes, or of this one if 0.

    Args:
      keys: of the config, to lower if workers are killed for lack of memory.
    """
    return Workers(make, layout, workers, max(threads, workers), keys) if workers else _threads(make, layout, threads)


@contextlib.contextmanager
def _threads(make: Maker[_Told], layout: Layout, count: int) -> Iterator[Begin[_Told]]:
    pool = ThreadPoolExecutor(count, "input")

    def begin(step: int, parts: Sequence[range], given: Batch | None = None) -> Callable[[], tuple[Batch, list[_Told]]]:
        batch = layout.empty() if given is None else given
        begun = [pool.submit(make, step, rows, batch) for rows in parts]
        return lambda: (batch, [told for part in begun for told in part.result()])

    try:
        yield begin
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
