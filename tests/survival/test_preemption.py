"""SIGTERM at every kind of moment, in real processes: the run saves itself once, and ends bit for bit the same."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from processes import DEVICES, Process, rows, saved, saving, updates, wait_until

Start = Callable[..., Process]
LAST_LINE = r"preempted, stopped after update (\d+) of 40; the same command continues"


def told_to_stop(process: Process, workdir: Path) -> int:
    """SIGTERM, then all that must be true of a training; returns the update it stopped after."""
    process.send()
    match = re.fullmatch(LAST_LINE, process.finish())
    assert match, process.output
    update = int(match[1])
    assert saved(workdir)[-1] == update and len(saved(workdir)) <= 3
    assert rows(workdir, "goodput.jsonl")[-1]["step"] == update
    assert (workdir / "PREEMPTED").read_text() == (f"stopped after update {update} of 40; the same command continues\n")
    assert not (workdir / "model.json").exists()
    return update


def test_one_process_at_any_moment_of_a_training(student, start, tmp_path, assert_same):
    """During compilation, between updates, during an asynchronous save and during validation, in one run."""
    workdir = tmp_path / "run"
    command = (student, f"--workdir={workdir}")

    compiling = start(*command)
    compiling.wait_for_line(f"parameters on {DEVICES} device")
    assert told_to_stop(compiling, workdir) == 1  # the update that was called

    training = start(*command)
    training.wait_for(lambda: updates(workdir) >= 6)
    stopped = told_to_stop(training, workdir)
    assert 6 <= stopped < 40
    assert "resumes after step 1 of 40" in training.output

    between = start(*command)
    between.wait_for(lambda: updates(workdir) > stopped and saving(workdir))
    assert told_to_stop(between, workdir) > stopped

    evaluating = start(*command)
    evaluating.wait_for(lambda: updates(workdir) == 40)
    evaluating.send()
    assert evaluating.finish() == "preempted, stopped while it was evaluated; the same command continues"
    assert saved(workdir)[-1] == 40 and (workdir / "PREEMPTED").exists() and not (workdir / "model.json").exists()

    start(*command).finish()
    assert_same(workdir)


def test_one_of_two_processes_stops_both(student, start, start_together, tmp_path, assert_same):
    """Both save the same update once. Two processes go on with it, and one with two devices does as well."""
    workdir = tmp_path / "run"
    command = (student, f"--workdir={workdir}")
    first, second = start_together(*command)
    first.wait_for(lambda: updates(workdir) >= 6)
    second.send()
    lines = [process.finish() for process in (first, second)]
    stopped = [re.fullmatch(LAST_LINE, line) for line in lines]
    assert all(stopped) and stopped[0][1] == stopped[1][1], lines
    assert saved(workdir)[-1] == int(stopped[0][1])
    assert (workdir / "PREEMPTED").exists()

    alone = tmp_path / "alone"
    shutil.copytree(workdir, alone)
    third, *others = start(student, f"--workdir={alone}"), *start_together(*command)
    for process in (third, *others):
        process.finish()
        assert f"resumes after step {stopped[0][1]} of 40" in process.output or process is others[1]
    assert_same(workdir)
    assert_same(alone)


def test_one_of_two_processes_that_prepare_stops_both(student, start_together, tmp_path, assert_same):
    """Neither has begun, and neither takes the other's end for a mistake of its own."""
    workdir = tmp_path / "run"
    first, second = start_together(student, f"--workdir={workdir}", f"--config.data_dir={tmp_path / 'data'}")
    second.wait_for(lambda: list((tmp_path / "data").rglob(".lock")))
    second.send()
    for process in (first, second):
        assert re.fullmatch(r"preempted, .*; the same command continues", process.finish()), process.output
    assert (workdir / "PREEMPTED").exists() and not saved(workdir)


def test_the_process_group_while_workers_render(student, start, tmp_path):
    """All of them end; what was begun is thrown away, and the next start begins anew."""
    workdir, data = tmp_path / "run", tmp_path / "data"
    images = "--config.train.0.images=scenes/teacher_depth:train"  # enough images for workers
    unwatched = "--config.validation=none", "--config.best=none"
    process = start(student, f"--workdir={workdir}", f"--config.data_dir={data}", images, *unwatched)
    process.wait_for(lambda: len(members(process.pid)) >= 3)
    process.wait_for(lambda: list(data.rglob("*incomplete*")))
    process.send_group()
    assert process.finish() == "preempted, stopped by SIGTERM; the same command continues"
    wait_until(lambda: not members(process.pid))
    assert (workdir / "PREEMPTED").exists()
    assert not list(data.glob("scenes/teacher_depth/1*"))


def members(leader: int) -> list[int]:
    """Of a process group, those that are at work."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[2]) == leader and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found
