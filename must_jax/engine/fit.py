"""The training loop. Teachers, the student, fine-tuning and heads on frozen features all go through `fit`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial, reduce

import jax
import numpy as np
from jax.sharding import Mesh

from must_jax import preemption
from must_jax.config import OptimizerConfig
from must_jax.engine.checkpoint import Checkpoints
from must_jax.engine.clock import COMPILE, EVALUATION, SAVE, Clock
from must_jax.engine.goodput import GoodputLog
from must_jax.engine.mesh import put_batch, put_replicated
from must_jax.engine.metric_log import MetricWriter
from must_jax.engine.optimizers import schedule as schedule_of
from must_jax.engine.skipped import Skipped
from must_jax.engine.state import State
from must_jax.engine.step import STOP, Averages, Batch, TrainStep
from must_jax.engine.validations import Best, Validations
from must_jax.errors import Preempted
from must_jax.progress import Progress


def fit(
    step: TrainStep,
    state: State,
    batches: Iterator[Batch],
    optimizer: OptimizerConfig,
    steps: int,
    *,
    mesh: Mesh,
    batch_size: int,
    schedule: Callable[[int], Mapping[str, np.ndarray]] | None = None,
    start: int = 0,
    clock: Clock | None = None,
    goodput: GoodputLog | None = None,
    skipped: Skipped | None = None,
    progress: Progress | None = None,
    writer: MetricWriter | None = None,
    log_every: int = 0,
    also: Callable[[], Mapping[str, float]] = dict,
    checkpoints: Checkpoints | None = None,
    checkpoint_every: int = 0,
    validations: Validations | None = None,
) -> State:
    """Runs updates number `start` to `steps` - 1: exactly `steps` in all, over any number of restarts.

    Only `validations` can end a run before; `validations.done` then tells after how many updates.

    Args:
      step: compiled once; runs with other initial parameters, data and learning rates may share it.
      state: after `start` updates; it is consumed.
      batches: the next one is for update `start`.
      schedule: number of an update -> its f32 scalars; None = those of a run of `steps` (`optimizers.schedule`).
      clock: measures the time (and goes into the checkpoints), which `goodput` writes down.
      skipped: counts updates that were not finite.
      log_every: every so many updates and after the last one; 0 = never.
      checkpoint_every: every so many updates, before each validation and after the last one; 0 = only these.
      also: returns further values to log.

    Raises:
      Diverged: too many updates were not finite.
      Preempted: the run was told to stop and has been saved; only with `checkpoints`.
    """
    clock, skipped = clock or Clock(), skipped or Skipped()
    schedule = schedule or partial(schedule_of, optimizer, steps)
    running: Averages | None = None  # of the update that the devices work on
    window: list[Averages] = []  # of the updates since the last log
    extra: dict[str, float] = {}
    since = clock.state()

    def log(done: int, scheduled: Mapping[str, np.ndarray]) -> None:
        nonlocal window, since, extra
        row = _means(window) | {
            "learning_rate": float(scheduled["learning_rate"]),
            **clock.rates(batch_size, since),
            **also(),
            **extra,
        }
        window, since, extra = [], clock.state(), {}
        if writer:
            writer.write(done, row)
        if progress:
            loss = row.get("loss", math.nan)
            progress.note(f"loss {loss:.4g}, {100 * row['data_wait_share']:.0f} % waiting for data")

    def ends(done: int, state: State) -> bool:
        """Validates, if that is due; returns whether it ends the run."""
        if validations is None or not validations.is_due(done):
            return False
        with clock.span(EVALUATION):
            return validations.look(done, state)

    if start and ends(start, state):  # the checkpoint that the run continues from was saved before its validation
        return state
    for k in range(start, steps):
        # The devices still work on update k - 1 while the next batch is fetched. If they are done when it arrives,
        # they may have waited all that time: `waited` is an upper bound.
        asked = time.perf_counter()
        batch = put_batch(mesh, next(batches))
        if running is not None and running["loss"].total.is_ready():
            clock.waited += time.perf_counter() - asked

        if running is None:
            clock.switch(COMPILE)
        called = time.perf_counter()
        scheduled = schedule(k)
        now = put_replicated(mesh, scheduled)
        with jax.transfer_guard("disallow"):  # no implicit transfers
            state, averages = step(state, batch, now)
        if running is None:  # the first call compiles, which does not count as training
            extra = {"compile_seconds": time.perf_counter() - called}
            clock.start()
            jax.block_until_ready(averages)
        else:
            jax.block_until_ready(running)  # at most one update is queued behind the running one
            clock.tick()
            skipped.look(k - 1, running)
        before, running = running, averages
        if log_every:
            window.append(averages)
        if progress:
            progress.advance()

        done, last = k + 1, k + 1 == steps
        if log_every and (done % log_every == 0 or last):
            log(done, scheduled)
        due = validations is not None and validations.is_due(done)
        stop = checkpoints is not None and not last and _is_told_to_stop(before)
        if checkpoints and (stop or last or due or (checkpoint_every and done % checkpoint_every == 0)):
            jax.block_until_ready(running)  # which does not count as saving
            best = validations.best if validations else Best()
            with clock.span(SAVE):  # before the next batch is drawn
                checkpoints.save(done, state, {"clock": clock.state(), "best": asdict(best)}, keep=best.step)
            if goodput:
                goodput.write(done)
        elif goodput:
            goodput.update(done)
        if stop:
            skipped.look(k, running)
            raise Preempted(f"stopped after update {done} of {steps}")
        if ends(done, state):
            if window:
                log(done, scheduled)
            break
    if running is not None:
        skipped.look(k, running)
    return state


def _means(window: list[Averages]) -> dict[str, float]:
    """Means: sums over the window, then divided. Terms without any label in it are left out; "skipped" is a sum."""
    merged = reduce(lambda a, b: {name: a[name].merge(b[name]) for name in a}, jax.device_get(window))
    merged.pop(STOP, None)
    skipped = float(merged.pop("skipped").total)
    means = {name: float(average.total / average.count) for name, average in merged.items() if average.count > 0}
    return means | {"skipped": skipped}


def _is_told_to_stop(before: Averages | None) -> bool:
    """The same in all processes: decided from the averages of the update `before` the running one."""
    if jax.process_count() == 1:
        return preemption.requested()
    return before is not None and bool(jax.device_get(before[STOP].total))
