from __future__ import annotations

import io
import time

import pytest

from must_jax import progress
from must_jax.progress import Progress, Waiting, counted, rounded


@pytest.fixture
def now(monkeypatch):
    clock = {"s": 0.0}
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock["s"])
    return clock


def test_plain_lines_every_ten_seconds_and_at_the_end(now, capsys):
    with Progress("training student", 100, start=20, scale=32) as bar:
        for _ in range(79):  # the first second is compilation
            now["s"] += 1
            bar.note(f"loss {bar._done}")
            bar.advance()
        now["s"] += 1
        bar.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training student 30/100 (30 %) 32 images/s, 1:10 left, loss 29"
    assert len(lines) == 8  # in 80 s; the end is one of them, and not said twice
    assert lines[-1] == "training student 100/100 (100 %) 32 images/s, loss 98"


def test_a_bar_on_a_terminal(now, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(progress.sys, "stderr", Terminal())
    with Progress("rendering", 4, unit="images") as bar:
        for _ in range(4):
            now["s"] += 0.5
            bar.advance()
    shown = progress.sys.stderr.getvalue()
    assert "rendering" in shown
    assert "4/4" in shown
    assert "2.0 images/s" in shown


def test_what_is_waited_for_and_how_long(monkeypatch, capsys):
    monkeypatch.setattr(progress, "WAITING_EVERY_S", 0.01)
    said = ""
    with Waiting("compiling train"):
        while said.count("\n") < 3:
            said += capsys.readouterr().err
            time.sleep(0.01)
    assert said.splitlines()[:2] == ["compiling train", "compiling train: 0 s"]
    capsys.readouterr()
    time.sleep(0.05)
    assert capsys.readouterr().err == ""  # it is over


def test_things_are_counted_in_words():
    assert [counted(n, "file") for n in (0, 1, 2000)] == ["0 files", "1 file", "2,000 files"]


def test_numbers_are_rounded_without_exponents():
    assert [rounded(value, 2) for value in (99.7, 100, 1234.5, 0.1234, 0)] == ["100", "100", "1,200", "0.12", "0"]
