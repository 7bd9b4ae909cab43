"""Progress: a bar on a terminal, otherwise an occasional plain line. Everything goes to stderr."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from must_jax.errors import printable

PLAIN_EVERY_S = 10.0
WAITING_EVERY_S = 30.0
_muted = False
_kept: list[str] | None = None  # what is said, while `kept` does not let it be printed


def mute() -> None:
    """Prints nothing from now on, because another process of the same run prints it already."""
    global _muted
    _muted = True


@contextlib.contextmanager
def kept() -> Iterator[list[str]]:
    """Within the block, what is said is added to this list, and not printed; progress is shown as ever."""
    global _kept
    lines: list[str] = []
    before, _kept = _kept, lines
    try:
        yield lines
    finally:
        _kept = before


def say(text: str) -> None:
    """Prints one or more plain lines."""
    if _kept is not None:
        _kept.append(text)
    else:
        _print(text)


def _print(text: str) -> None:
    if not _muted:
        print("\n".join(map(printable, text.split("\n"))), file=sys.stderr, flush=True)


class Progress:
    """Counts towards `total`, with rate, time left and a note.

    with Progress("rendering scenes/unlabelled", total=6000, unit="images") as progress:
        progress.advance(32)
        progress.note("loss 1.23")

    `start` units were done before: they count for the share, but not for the rate. Neither does the first unit, which
    often waits for compilation, unless the rate is to count `at_once`. `scale` turns a unit of progress into `unit`s
    for the rate (a training step is many images). Bytes are counted in "MB".
    """

    def __init__(
        self, title: str, total: float, unit: str = "images", *, start: int = 0, scale: int = 1, at_once: bool = False
    ) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done: float = start
        self._scale = scale
        self._first_s = time.monotonic() if at_once else None  # when timing for the rate started
        self._timed: float = 0  # units since then
        self._note = ""
        self._bar: RichProgress | None = None

    def __enter__(self) -> Progress:
        self._printed, self._printed_done = time.monotonic(), -1.0
        if sys.stderr.isatty() and not _muted:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
            )
            self._bar = RichProgress(*columns, console=Console(stderr=True))
            self._bar.add_task(self._title, total=self._total, completed=int(self._done), numbers="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done, numbers=self._numbers())
            self._bar.stop()
        elif self._printed_done != self._done:
            self._print()

    def advance(self, count: float = 1) -> None:
        if self._first_s is None:
            self._first_s = time.monotonic()
        else:
            self._timed += count
        self._done += count
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done, numbers=self._numbers())
        elif time.monotonic() - self._printed >= PLAIN_EVERY_S:
            self._print()

    def note(self, text: str) -> None:
        """Sets the note shown after the numbers."""
        self._note = text

    def _print(self) -> None:
        self._printed, self._printed_done = time.monotonic(), self._done
        share = int(100 * self._done / (self._total or 1) + 1e-6)  # sums of fractions end a little below their total
        _print(f"{self._title} {self._done:.0f}/{self._total:.0f} ({share} %) {self._numbers()}".rstrip())

    def _numbers(self) -> str:
        parts = []
        if self._first_s is not None and self._timed:
            rate = self._timed / max(time.monotonic() - self._first_s, 1e-9)
            shown = rate * self._scale
            parts.append(f"{shown:,.{0 if shown >= 10 else 1}f} {self._unit}/s")
            if self._done < self._total:
                minutes, seconds = divmod(round((self._total - self._done) / rate), 60)
                parts.append(f"{minutes}:{seconds:02d} left")
        return ", ".join([*parts, self._note] if self._note else parts)


def rounded(value: float, digits: int = 3) -> str:
    """Rounds to `digits` significant digits, no exponent below a million: 99.7, 2 -> "100"; 1234.5 -> "1,230"."""
    return f"{float(f'{value:.{digits}g}'):,g}"


def counted(count: int, noun: str) -> str:
    """(1, "image") -> "1 image"; (2000, "box") -> "2,000 boxes"; (8, "process") -> "8 processes"."""
    ending = "" if count == 1 else "es" if noun.endswith(("x", "s")) else "s"
    return f"{count:,} {noun}{ending}"


class Waiting:
    """Shows what is being waited for, and for how long, where nothing can be counted.

    with Waiting("compiling train"):
        ...
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._over = threading.Event()

    def __enter__(self) -> Waiting:
        self._began = time.monotonic()
        self._bar: RichProgress | None = None
        if sys.stderr.isatty():
            columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
            self._bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
            self._bar.add_task(self._title, total=None)
            self._bar.start()
        else:
            say(self._title)
            self._thread = threading.Thread(target=self._tell, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        else:
            self._over.set()
            self._thread.join()

    def _tell(self) -> None:
        while not self._over.wait(WAITING_EVERY_S):
            say(f"{self._title}: {time.monotonic() - self._began:.0f} s")


_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def readable_bytes(count: float) -> str:
    """1536 -> "1.5 KiB"."""
    size, unit = next(((size, unit) for size, unit in _UNITS if count >= size), (1, "B"))
    return f"{count / size:.1f} {unit}"
