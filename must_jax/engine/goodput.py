"""`goodput.jsonl`: what the time of a run was spent on, over all of its processes.

A line is {"process": n, "time": unix seconds, "step": updates done, "seconds": {span: s}}: how far the process was at
`time`, and how its time since its previous line was spent. The seconds of a process add up to all of its time. The
first line, and those before a process knows where it resumes, have no step. The first line of a process that makes a
finished run longer also has {"extends": true}.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import pydantic

from must_jax.engine.clock import DATA_WAIT, STEP, Clock
from must_jax.files import writing
from must_jax.reading import read_json_lines

FILE = "goodput.jsonl"
EVERY_S = 10.0  # at most this much of a killed process's time counts as DOWN
LOST, DOWN = "lost", "down"
_LATEST = 253_402_300_799  # the end of the year 9999


@dataclass(frozen=True)
class Line:
    process: int
    time: Annotated[float, pydantic.Field(ge=0, le=_LATEST)]
    seconds: dict[str, pydantic.FiniteFloat]
    step: pydantic.NonNegativeInt | None = None
    extends: bool = False  # the run was finished before this process

    @property
    def began(self) -> float:
        return self.time - sum(self.seconds.values())


@dataclass
class Goodput:
    """The totals of a run so far.

    Attributes:
      seconds: by span. LOST: updates that were done again, since the process died before their checkpoint. DOWN: no
        process was running, from the last line of one to the beginning of the next.
      processes, steps, lost_steps: how many.
      began, last: unix seconds of the run's beginning and of its last line.
    """

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    processes: int = 0
    steps: int = 0
    lost_steps: int = 0
    began: float = 0.0
    last: float = 0.0


@dataclass
class _Updates:
    """Updates `first` to `last` - 1, and the time they took."""

    first: int
    last: int
    seconds: dict[str, float]


class GoodputLog:
    """Appends what a clock measures. Lines are whole: a partial one, left by a killed process, is cut off.

    Args:
      finished: updates of the run that was finished and goes on now: the time in between does not count as DOWN.
    """

    def __init__(self, workdir: Path, clock: Clock, *, finished: int | None = None) -> None:
        self._path = path = workdir / FILE
        lines = read(workdir)
        self._process = lines[-1].process + 1 if lines else 0
        self._step: int | None = None
        self._clock, self._time = clock, 0.0
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.ftruncate(self._file, path.read_bytes().rfind(b"\n") + 1)
        goes_on = bool(lines) and finished is not None and lines[-1].step == finished
        self._first: dict[str, Any] = {"extends": True} if goes_on else {}
        self.write()

    def __enter__(self) -> GoodputLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.write(self._step)
        os.close(self._file)

    def update(self, step: int) -> None:
        """Call this after `step` updates; writes a line now and then."""
        self._step = step
        if time.monotonic() - self._written >= EVERY_S:
            self.write(step)

    def write(self, step: int | None = None) -> None:
        """Writes a line after `step` updates."""
        self._step, self._written = step, time.monotonic()
        seconds = self._clock.take()
        # After the first line, the clock's own count is added: the time of day may be set meanwhile.
        self._time = self._time + sum(seconds.values()) if self._time else time.time()
        line = {"process": self._process, "time": self._time, "step": step, "seconds": seconds, **self._first}
        self._first = {}
        with writing(self._path):
            os.write(self._file, (json.dumps(line) + "\n").encode())  # one call, so that lines do not mix


def read(workdir: Path) -> list[Line]:
    """The lines that are whole."""
    return read_json_lines(workdir / FILE, Line)


def total(lines: Iterable[Line]) -> Goodput:
    """The sums over all processes."""
    found = Goodput()
    kept: list[_Updates] = []  # not lost so far
    before: Line | None = None
    at: int | None = None  # updates done, as far as this process knows
    for line in lines:
        if before is None or line.process != before.process:
            found.processes += 1
            at = None
        if before is None:
            found.began = line.began
        elif line.process != before.process and not line.extends:
            found.seconds[DOWN] += max(0.0, line.began - before.time)
        for span, seconds in line.seconds.items():
            found.seconds[span] += seconds
        if line.step is not None:
            if at is None:
                _lose(found, kept, line.step)
            elif line.step > at:
                kept.append(_Updates(at, line.step, {s: v for s, v in line.seconds.items() if s in (STEP, DATA_WAIT)}))
            at = found.steps = line.step
        before, found.last = line, line.time
    return found


def _lose(found: Goodput, kept: list[_Updates], step: int) -> None:
    """Moves the time of updates from `step` on to LOST: they are done again."""
    for updates in [updates for updates in kept if updates.last > step]:
        lost = updates.last - max(updates.first, step)
        share = lost / (updates.last - updates.first)
        for span, seconds in updates.seconds.items():
            found.seconds[span] -= share * seconds
            found.seconds[LOST] += share * seconds
        found.lost_steps += lost
        kept.remove(updates)
        if updates.first < step:
            kept.append(_Updates(updates.first, step, {s: (1 - share) * v for s, v in updates.seconds.items()}))
