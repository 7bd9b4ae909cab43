"""The training loop. Teachers, the student, fine-tuning and heads on frozen features all go through `fit`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from must_jax import preemption
from must_jax.engine.mesh import put_batch, put_replicated
from must_jax.engine.recorder import Recorder
from must_jax.engine.state import State
from must_jax.engine.step import STOP, Averages, Batch, TrainStep
from must_jax.errors import Preempted


def fit(
    step: TrainStep,
    state: State,
    batches: Iterator[Batch],
    schedule: Callable[[int], Mapping[str, np.ndarray]],
    updates: range,
    mesh: Mesh,
    recorder: Recorder | None = None,
) -> State:
    """Runs these updates, each exactly once over any number of restarts; only a validation can end them before.

    Args:
      step: compiled once; runs with other initial parameters, data and learning rates may share it.
      state: before the first of the updates; it is consumed.
      batches: the next one is for the first of the updates.
      schedule: number of an update -> what it depends on, as `optimizers.schedule` has them.
      updates: numbers from 0, to the end of the run.
      recorder: writes down what happens, and saves; None = nobody does.

    Raises:
      Diverged: too many updates were not finite.
      Preempted: the run was told to stop and has been saved; only with checkpoints.
    """
    recorder = recorder or Recorder()
    if updates.start and recorder.validate(updates.start, state):  # its checkpoint was saved before its validation
        return state
    running: Averages | None = None  # of the update that the devices work on
    for k in updates:
        # The devices still work on update k - 1 while the next batch is fetched. If they are done when it arrives,
        # they may have waited all that time: `waited` is an upper bound.
        asked = time.perf_counter()
        batch = put_batch(mesh, next(batches))
        if running is not None and running["loss"].total.is_ready():
            recorder.clock.waited += time.perf_counter() - asked

        scheduled = schedule(k)
        with recorder.compiling() if running is None else contextlib.nullcontext():
            now = put_replicated(mesh, scheduled)
            with jax.transfer_guard("disallow"):  # no implicit transfers
                state, averages = step(state, batch, now)
        if running is None:
            jax.block_until_ready(averages)
        else:
            jax.block_until_ready(running)  # at most one update is queued behind the running one
            recorder.finished(k - 1, running)
        before, running = running, averages

        done, last = k + 1, k + 1 == updates.stop
        recorder.begun(done, running, scheduled, last)
        stop = recorder.checkpoints is not None and not last and _is_told_to_stop(before)
        recorder.save(done, state, now=stop or last)
        if stop:
            recorder.skipped.look(k, running)
            raise Preempted(f"stopped after update {done} of {updates.stop}")
        if recorder.validate(done, state):
            break
    if running is not None:
        recorder.skipped.look(k, running)
    return state


def _is_told_to_stop(before: Averages | None) -> bool:
    """The same in all processes: decided from the averages of the update `before` the running one."""
    if jax.process_count() == 1:
        return preemption.requested()
    return before is not None and bool(jax.device_get(before[STOP].total))
