"""How long a written file takes for a batch, beside the run itself, on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from must_jax.exporting.base import Network, Written

_LEAST_CALLS, _MOST_CALLS, _ENOUGH_S = 3, 50, 2.0


def seconds(written: Written, network: Network, batch_size: int) -> tuple[float, float]:
    """Medians for one batch: of the file, and of the run, each from and to host memory.

    They take turns, so that what slows the machine slows both.
    """
    shape = (batch_size, *(network.seen_hw if written.is_prepared else network.input_hw), 3)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32 if written.is_prepared else np.uint8)
    of_file, of_run = _by_turns([lambda: written.answers(images), lambda: jax.device_get(written.run(images))])
    return of_file, of_run


def _by_turns(calls: Sequence[Callable[[], object]]) -> list[float]:
    """The median seconds of each call, after one that is not counted; at least three of each, for about two seconds."""
    for call in calls:
        call()
    seconds: list[list[float]] = [[] for _ in calls]
    started = time.perf_counter()
    while len(seconds[0]) < _LEAST_CALLS or (
        len(seconds[0]) < _MOST_CALLS and time.perf_counter() - started < _ENOUGH_S
    ):
        for call, each in zip(calls, seconds, strict=True):
            begun = time.perf_counter()
            call()
            each.append(time.perf_counter() - begun)
    return [statistics.median(each) for each in seconds]
