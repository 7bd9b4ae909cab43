"""What a run writes down while it is trained: time, progress, metrics, checkpoints, validations."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import reduce

import jax
import numpy as np

from must_jax.engine.checkpoint import Checkpoints
from must_jax.engine.clock import COMPILE, EVALUATION, SAVE, Clock
from must_jax.engine.goodput import GoodputLog
from must_jax.engine.metric_log import VALIDATION, MetricWriter
from must_jax.engine.skipped import Skipped
from must_jax.engine.state import State
from must_jax.engine.step import STOP, Averages
from must_jax.engine.validations import Best, Validations
from must_jax.progress import Progress


@dataclass
class Recorder:
    """Called by `fit` at every update; what is left out is not recorded.

    Attributes:
      clock: measures the time (and goes into the checkpoints), which `goodput` writes down.
      skipped: counts updates that were not finite.
      batch_size: of all devices, for the rates that are logged.
      log_every: every so many updates and after the last one; 0 = never.
      also: returns further values to log.
      checkpoint_every: every so many updates, before each validation and after the last one; 0 = only these.
      validations: can end a run before its last update; `validations.done` then tells after how many.
    """

    clock: Clock = field(default_factory=Clock)
    skipped: Skipped = field(default_factory=Skipped)
    goodput: GoodputLog | None = None
    progress: Progress | None = None
    writer: MetricWriter | None = None
    batch_size: int = 0
    log_every: int = 0
    also: Callable[[], Mapping[str, float]] = dict
    checkpoints: Checkpoints | None = None
    checkpoint_every: int = 0
    validations: Validations | None = None

    def __post_init__(self) -> None:
        self._window: list[Averages] = []  # of the updates since the last row
        self._learning_rate = math.nan  # of the last of them
        self._compiled: dict[str, float] = {}  # for the next row
        self._since = self.clock.state()

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Around the first call of the step: it compiles, which does not count as training."""
        self.clock.switch(COMPILE)
        began = time.perf_counter()
        yield
        self._compiled = {"compile_seconds": time.perf_counter() - began}
        self.clock.start()

    def finished(self, update: int, averages: Averages) -> None:
        """Counts an update that the devices have finished.

        Raises:
          Diverged: too many updates were not finite.
        """
        self.clock.tick()
        self.skipped.look(update, averages)

    def begun(self, done: int, averages: Averages, schedule: Mapping[str, np.ndarray], last: bool) -> None:
        """Notes the update that the devices work on, number `done` - 1, and logs if that is due."""
        if self.progress:
            self.progress.advance()
        if not self.log_every:
            return
        self._window.append(averages)
        self._learning_rate = float(schedule["learning_rate"])
        if last or done % self.log_every == 0:
            self._log(done)

    def save(self, done: int, state: State, now: bool) -> None:
        """Saves the state after `done` updates: `now`, or if that is due."""
        every, due = self.checkpoint_every, self.validations is not None and self.validations.is_due(done)
        if self.checkpoints and (now or due or (every > 0 and done % every == 0)):
            jax.block_until_ready(state)  # which does not count as saving
            best = self.validations.best if self.validations else Best()
            with self.clock.span(SAVE):  # before the next batch is drawn
                meta = {"clock": self.clock.state(), "best": asdict(best)}
                self.checkpoints.save(done, state, meta, keep=best.step)
            if self.goodput:
                self.goodput.write(done)
        elif self.goodput:
            self.goodput.update(done)

    def validate(self, done: int, state: State) -> bool:
        """Validates the state after `done` updates, if that is due; returns whether training ends here."""
        if self.validations is None or not self.validations.is_due(done):
            return False
        with self.clock.span(EVALUATION):
            ends = self.validations.look(done, state)
        metrics = self.validations.metrics
        if self.writer and metrics:
            self.writer.write(done, {f"{VALIDATION}{name}": value for name, value in metrics.items()})
        if ends and self._window:
            self._log(done)
        return ends

    def _log(self, done: int) -> None:
        row = {
            **_means(self._window),
            "learning_rate": self._learning_rate,
            **self.clock.rates(self.batch_size, self._since),
            **self.also(),
            **self._compiled,
        }
        self._window, self._since, self._compiled = [], self.clock.state(), {}
        if self.writer:
            self.writer.write(done, row)
        if self.progress:
            loss = row.get("loss", math.nan)
            self.progress.note(f"loss {loss:.4g}, {100 * row['data_wait_share']:.0f} % waiting for data")


def _means(window: list[Averages]) -> dict[str, float]:
    """Means: sums over the window, then divided. Terms without any label in it are left out; "skipped" is a sum."""
    merged = reduce(lambda a, b: {name: a[name].merge(b[name]) for name in a}, jax.device_get(window))
    merged.pop(STOP, None)
    skipped = float(merged.pop("skipped").total)
    means = {name: float(average.total / average.count) for name, average in merged.items() if average.count > 0}
    return means | {"skipped": skipped}
