"""Where the time of a process goes (every moment belongs to one span), and how long the updates of a run took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

IMPORTS, INIT, DATA, RESTORE, COMPILE = "imports", "init", "data", "restore", "compile"
STEP, DATA_WAIT, SAVE, EVALUATION = "step", "data_wait", "save", "evaluation"
SPANS = (IMPORTS, INIT, DATA, RESTORE, COMPILE, STEP, DATA_WAIT, SAVE, EVALUATION)

_loaded_s = 0.0  # counted as IMPORTS by the next clock


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Times the imports inside, for the next clock to count as IMPORTS."""
    global _loaded_s
    began = time.perf_counter()
    yield
    _loaded_s = time.perf_counter() - began


@dataclass
class Clock:
    """Time of the updates over all restarts of a run (`state` goes into its checkpoints), and of this process by span.

    Attributes:
      seconds: time of `steps` updates, without compilation and saving.
      waited: the part of `seconds` that passed without a batch to work on; an upper bound, see `fit`.
    """

    seconds: float = 0.0
    waited: float = 0.0
    steps: int = 0

    def __post_init__(self) -> None:
        global _loaded_s
        self.least_update_s: float | None = None  # at the devices' peak; None = unknown
        self._spent = {IMPORTS: _loaded_s}
        self._span, self._last = INIT, time.perf_counter()
        self._since_tick, self._taken_waited = 0.0, self.waited
        _loaded_s = 0.0

    def resume(self, state: dict[str, Any]) -> None:
        """Continues from the `state` that a checkpoint holds."""
        self.seconds, self.waited, self.steps = state["seconds"], state["waited"], state["steps"]
        self._taken_waited = self.waited

    def switch(self, span: str) -> str:
        """From now on, time counts towards `span`, one of SPANS; returns the span that ends."""
        now = time.perf_counter()
        passed, self._last = now - self._last, now
        self._spent[self._span] = self._spent.get(self._span, 0.0) + passed
        if self._span == STEP:
            self._since_tick += passed
        ended, self._span = self._span, span
        return ended

    @contextlib.contextmanager
    def span(self, span: str) -> Iterator[None]:
        """Counts the time of the block towards `span`, then switches back to the span before it."""
        outer = self.switch(span)
        try:
            yield
        finally:
            self.switch(outer)

    def start(self) -> None:
        """Call this when the first update begins."""
        self.switch(STEP)
        self._since_tick = 0.0

    def tick(self) -> None:
        """Counts one more update."""
        self.switch(STEP)
        self.seconds, self.steps, self._since_tick = self.seconds + self._since_tick, self.steps + 1, 0.0

    def take(self) -> dict[str, float]:
        """Seconds by span since the last call; they add up to the time that has passed since then."""
        self.switch(self._span)
        taken, self._spent = self._spent, {}
        waited, self._taken_waited = self.waited - self._taken_waited, self.waited
        if waited:
            taken[DATA_WAIT] = waited
            taken[STEP] -= waited
        return {name: seconds for name, seconds in taken.items() if seconds}

    def state(self) -> dict[str, Any]:
        return asdict(self)

    def rates(self, batch_size: int, since: dict[str, Any] | None = None) -> dict[str, float]:
        """Images per second, and shares (0..1) of time waited and of the devices' peak: since a `state`, or in all."""
        before = since or {"seconds": 0.0, "waited": 0.0, "steps": 0}
        seconds, steps = max(self.seconds - before["seconds"], 1e-9), self.steps - before["steps"]
        rates = {
            "images_per_second": steps * batch_size / seconds,
            "data_wait_share": (self.waited - before["waited"]) / seconds,
        }
        return rates | ({"mfu": steps * self.least_update_s / seconds} if self.least_update_s else {})
