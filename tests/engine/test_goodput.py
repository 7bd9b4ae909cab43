"""What is written, what is read after kills, and what it adds up to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from must_jax.engine import clock as clocks
from must_jax.engine import goodput
from must_jax.engine.clock import Clock
from must_jax.engine.goodput import FILE, GoodputLog, Line, read, total


class Time:
    """All clocks of a process, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    for module in (clocks, goodput):
        for name in ("time", "monotonic", "perf_counter"):
            monkeypatch.setattr(module.time, name, lambda: time.now)
    monkeypatch.setattr(clocks, "_loaded_s", 0.0)
    return time


def train(time: Time, workdir: Path, start: int, until: int, *, every: int, killed: bool = True) -> None:
    """A process: 2 s of init, 5 s of compilation, 1 s an update, 3 s to save after each `every`."""
    clock = Clock()
    time.pass_(2)
    log = GoodputLog(workdir, clock)
    log.write(start)
    clock.switch("compile")
    time.pass_(5)
    clock.start()
    for done in range(start + 1, until + 1):
        time.pass_(1)
        clock.tick()
        if done % every == 0:
            with clock.span("save"):
                time.pass_(3)
            log.write(done)
        else:
            log.update(done)
    if killed:
        os.close(log._file)  # no last line
    else:
        log.__exit__(None, None, None)


def test_one_process(time: Time, tmp_path: Path):
    train(time, tmp_path, 0, 30, every=20, killed=False)
    spent = total(read(tmp_path))
    assert spent.seconds == {"init": 2, "compile": 5, "step": 30, "save": 3}
    assert (spent.processes, spent.steps, spent.lost_steps) == (1, 30, 0)
    assert (spent.began, spent.last) == (1000, 1040)


def test_sums_over_restarts(time: Time, tmp_path: Path):
    """A checkpoint after 20; the first process dies after 38 updates, of which it has written down 30."""
    train(time, tmp_path, 0, 38, every=20)
    written = read(tmp_path)[-1]
    assert (written.step, written.time) == (30, 1000 + 2 + 5 + 20 + 3 + 10)  # a line when 10 s have passed
    time.pass_(100)
    train(time, tmp_path, 20, 22, every=20)  # dies at once
    time.pass_(50)
    train(time, tmp_path, 20, 50, every=20, killed=False)
    spent = total(read(tmp_path))
    assert spent.seconds == pytest.approx(
        {
            "init": 6,
            "compile": 10,  # the second process had no time to write its down
            "step": 50,  # each update once
            "save": 6,
            "lost": 10,  # 21 to 30
            "down": 8 + 100 + (5 + 2) + 50,
        }
    )
    assert sum(spent.seconds.values()) == pytest.approx(time.now - 1000)
    assert (spent.processes, spent.steps, spent.lost_steps) == (3, 50, 10)


def lines_of(*processes: list[tuple[int, float]]) -> list[Line]:
    """Lines of (updates done, seconds of updates since the line before), one list a process."""
    found, now = [], 0.0
    for process, lines in enumerate(processes):
        for step, seconds in lines:
            now += seconds
            found.append(Line(process, now, {"step": seconds}, step))
    return found


def test_updates_that_are_lost_twice_count_twice():
    spent = total(lines_of([(0, 0), (100, 50), (120, 10)], [(100, 0), (110, 5)], [(100, 0), (130, 15)]))
    assert spent.seconds == pytest.approx({"step": 50 + 15, "lost": 10 + 5, "down": 0})
    assert spent.lost_steps == 20 + 10


def test_of_a_line_that_reaches_over_the_checkpoint_a_share_is_lost():
    spent = total(lines_of([(0, 0), (40, 20)], [(30, 0), (60, 15)]))
    assert spent.seconds == pytest.approx({"step": 15 + 15, "lost": 5, "down": 0})
    spent = total(lines_of([(0, 0), (40, 20)], [(30, 0)], [(20, 0)]))  # the newest checkpoint was damaged
    assert spent.seconds == pytest.approx({"step": 10, "lost": 10, "down": 0})
    assert spent.lost_steps == 20


def test_a_run_that_goes_on_where_it_was_has_lost_nothing():
    spent = total(lines_of([(0, 0), (40, 20)], [(40, 0), (50, 5)]))
    assert (spent.seconds["step"], spent.seconds["lost"], spent.lost_steps) == (25, 0, 0)


def test_nothing_at_all(tmp_path: Path):
    assert read(tmp_path) == []
    assert total([]).seconds == {}


@pytest.mark.parametrize("torn", ["{", '{"process": 1, "time": 3.5, "st', '{"process": 1}', "\0\0\0"])
def test_half_a_line_is_not_read_and_does_not_spoil_the_next(time: Time, tmp_path: Path, torn: str):
    train(time, tmp_path, 0, 4, every=2)
    whole = (tmp_path / FILE).read_text()
    with (tmp_path / FILE).open("a") as file:
        file.write(torn)
    assert [line.step for line in read(tmp_path)] == [None, 0, 2, 4]
    train(time, tmp_path, 4, 6, every=2)
    assert (tmp_path / FILE).read_text().startswith(whole + '{"process": 1,')
    assert [(line.process, line.step) for line in read(tmp_path)[4:]] == [(1, None), (1, 4), (1, 6)]


def test_a_damaged_line_in_the_middle_is_left_out(time: Time, tmp_path: Path):
    train(time, tmp_path, 0, 4, every=2)
    first, *rest = (tmp_path / FILE).read_bytes().splitlines(keepends=True)
    (tmp_path / FILE).write_bytes(first + b"\xff\0\0\n" + b'{"other": 1}\n[]\n' + b"".join(rest))
    assert [line.step for line in read(tmp_path)] == [None, 0, 2, 4]


def test_an_error_ends_with_a_line(time: Time, tmp_path: Path):
    clock = Clock()
    with pytest.raises(ValueError), GoodputLog(tmp_path, clock) as log:
        clock.start()
        time.pass_(1)
        log.update(1)
        time.pass_(1)
        raise ValueError
    assert read(tmp_path)[-1] == Line(0, 1002, {"step": 2}, 1)


WRITER = """
import sys
from pathlib import Path
from must_jax.engine.clock import Clock
from must_jax.engine.goodput import GoodputLog
log = GoodputLog(Path(sys.argv[1]), Clock())
print("writing", flush=True)
step = 0
while True:
    step += 1
    log.write(step)
"""


def test_killed_while_it_writes_all_the_time(tmp_path: Path):
    """`kill -9` of a process that does nothing but append: every line is whole, and none is left out."""
    for process in range(3):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
            before = (tmp_path / FILE).stat().st_size
            while (tmp_path / FILE).stat().st_size < before + 20_000:
                pass
            writer.send_signal(signal.SIGKILL)
        found = [line.step for line in read(tmp_path) if line.process == process]
        assert found == [None, *range(1, len(found))]
        assert len(found) > 100
    for text in (tmp_path / FILE).read_text().split("\n")[:-1]:
        assert json.loads(text)["process"] in range(3)
