"""A trace of some updates by jax's profiler."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from must_jax.engine.step import TrainStep
from must_jax.progress import say


@contextlib.contextmanager
def traced(step: TrainStep, updates: range, start: int, folder: Path) -> Iterator[TrainStep]:
    """Yields a step that writes a trace of the calls numbered `updates` into `folder`.

    Args:
      updates: numbered from 1, as in metrics; an empty range costs nothing.
      start: number of updates already done.
    """
    if not updates:
        yield step
        return
    if updates[-1] <= start:
        say(f"updates {updates[0]} to {updates[-1]} are already done; they cannot be traced again")
        yield step
        return
    update, tracing = start, False

    def called(*args: Any) -> Any:
        nonlocal update, tracing
        update += 1
        if update in updates and not tracing:
            jax.profiler.start_trace(folder)
            tracing = True
        with jax.profiler.StepTraceAnnotation("update", step_num=update):
            made = step(*args)
        if update == updates[-1]:
            jax.block_until_ready(made)
            tracing = False
            jax.profiler.stop_trace()
            say(_how_to_open(folder, updates))
        return made

    try:
        yield called
    finally:
        if tracing:  # the run ends before the range does
            jax.profiler.stop_trace()


def _how_to_open(folder: Path, updates: range) -> str:
    newest = max((folder / "plugins/profile").iterdir())
    return (
        f"trace of updates {updates[0]} to {updates[-1]}: pip install xprof && xprof --logdir={folder}, "
        f"or open {newest}/*.trace.json.gz in https://ui.perfetto.dev"
    )
