"""Runs a command in real processes that are struck down as they get on, and starts it again until it is through."""

from __future__ import annotations

import contextlib
import glob
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from must_jax.runs.workdir import PREEMPTED_FILE

POLL_S, GRACE_S = 0.005, 0.15
HANGS_AFTER_S = 300.0  # of a process that neither ends nor gets on

Damage = Callable[[random.Random, int], bool]  # after the process of this number; returns whether there was any to do


class Strike(NamedTuple):
    """What happens to a process, and when: at the `count`-th sign of progress, and `delay_s` later.

    Attributes:
      stage: what the process is at then.
      pattern: of files and folders; one that appears is a sign, and so is every line that comes to a .jsonl.
      kind: a key of `KINDS`.
    """

    stage: str
    pattern: str
    kind: str
    count: int = 1
    delay_s: float = 0.0


class Process:
    """A command at work in a process group of its own."""

    def __init__(self, command: Sequence[str], home: Path, environment: Mapping[str, str]) -> None:
        self._log = home / "log.txt"
        with self._log.open("w") as log:  # no pipe, which a child that outlives its parent would keep open
            self.popen = subprocess.Popen(
                [sys.executable, *command],
                cwd=home,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def is_running(self) -> bool:
        return self.popen.poll() is None

    def group(self) -> list[int]:
        """Itself and the processes that it has started; zombies, that only wait to be counted, are none."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, group = path.read_text().rpartition(")")[2].split()[:3]
                if int(group) == self.popen.pid and state != "Z":
                    found.append(int(path.parent.name))
        return found

    def end(self) -> int:
        """Its exit code.

        Raises:
          AssertionError: it does not end, or a process that it has started does not.
        """
        until = time.monotonic() + HANGS_AFTER_S
        while (self.is_running() or self.group()) and time.monotonic() < until:
            time.sleep(0.02)
        if self.is_running() or self.group():
            os.killpg(self.popen.pid, signal.SIGKILL)
            what = "has left processes behind" if self.popen.returncode is not None else "does not end"
            raise AssertionError(f"it {what}: {self.said}")
        return self.popen.returncode


def _lose_patience(process: int) -> None:
    """As a scheduler whose time of grace is over."""
    os.kill(process, signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(process, signal.SIGKILL)  # which does nothing if it has ended and was not waited for


KINDS: Mapping[str, Callable[[int], None]] = {
    "kill": lambda process: os.kill(process, signal.SIGKILL),
    "term": lambda process: os.kill(process, signal.SIGTERM),
    "term group": lambda process: os.killpg(process, signal.SIGTERM),
    "term, kill": _lose_patience,
}


class Storm:
    """Strikes, one a process, and damage to files before the next process.

    Attributes:
      struck: (stage, kind) -> how often.
      damaged: name -> how often.
      starts: processes.
    """

    def __init__(self, strikes: Sequence[Strike], damages: Mapping[str, Damage], seed: int) -> None:
        self._left, self._damages, self._random = list(strikes), damages, random.Random(seed)
        self.struck: Counter[tuple[str, str]] = Counter()
        self.damaged: Counter[str] = Counter(dict.fromkeys(damages, 0))
        self.starts = 0

    def rage(self, command: Sequence[str], home: Path, workdir: Path, environment: Mapping[str, str]) -> None:
        """Until no strike is left and the command is through.

        Args:
          home: where the command runs, and what the strikes' patterns start from.
          workdir: that of the command.

        Raises:
          AssertionError: a process ended otherwise than its strike explains, or was through before a strike.
        """
        marker = workdir / PREEMPTED_FILE
        while self._left:
            process = self._start(command, home, environment)
            strike = self._hit(process, home)
            code = process.end()
            killed = code == -signal.SIGKILL and "kill" in strike.kind
            preempted = code == 0 and marker.exists() and "term" in strike.kind
            assert killed or preempted, f"{strike} ended with {code}: {process.said}"
            self.struck[strike.stage, strike.kind] += 1
            self._damage(process.popen.pid)
        process = self._start(command, home, environment)
        assert process.end() == 0, process.said
        assert not marker.exists(), process.said

    def table(self) -> str:
        """Strikes by stage and kind, and damages."""
        stages = dict.fromkeys(stage for stage, _ in self.struck)
        rows = [("", *KINDS), *((stage, *(self.struck[stage, kind] for kind in KINDS)) for stage in stages)]
        lines = ["".join(f"{cell:>12}" for cell in row) for row in rows]
        return "\n".join([*lines, *(f"{count:>3} {name}" for name, count in self.damaged.items())])

    def _start(self, command: Sequence[str], home: Path, environment: Mapping[str, str]) -> Process:
        self.starts += 1
        return Process(command, home, environment)

    def _hit(self, process: Process, home: Path) -> Strike:
        """Waits for the first of the moments that are left, strikes, and crosses it out."""
        signs, known = Counter[Strike](), {strike: _signs(home, strike.pattern) for strike in self._left}
        until = time.monotonic() + HANGS_AFTER_S
        while process.is_running() and time.monotonic() < until:
            for strike in self._left:
                now = _signs(home, strike.pattern)
                signs[strike] += sum(max(0, count - known[strike].get(path, 0)) for path, count in now.items())
                known[strike] = now
                if signs[strike] >= strike.count:
                    time.sleep(strike.delay_s)
                    KINDS[strike.kind](process.popen.pid)
                    self._left.remove(strike)
                    return strike
            time.sleep(POLL_S)
        if process.is_running():
            os.killpg(process.popen.pid, signal.SIGKILL)
        raise AssertionError(f"it was through, or hung, before {self._left}: {process.said}")

    def _damage(self, dead: int) -> None:
        """Two damages, those that were done least among those that can be done now."""
        left = 2
        for name in sorted(self._damages, key=lambda name: (self.damaged[name], self._random.random())):
            if left and self._damages[name](self._random, dead):
                self.damaged[name] += 1
                left -= 1


def _signs(home: Path, pattern: str) -> dict[str, int]:
    """Path -> signs that it gives."""
    signs = {}
    for path in glob.glob(pattern, root_dir=home):
        with contextlib.suppress(FileNotFoundError):
            signs[path] = 1 + (home / path).read_bytes().count(b"\n") if path.endswith(".jsonl") else 1
    return signs
