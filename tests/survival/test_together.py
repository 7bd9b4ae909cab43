"""Two processes: what differs or fails is named in one sentence, with its process and its host."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest
from processes import group, rows, saved, values

import must_jax
from must_jax.engine import sums

HOST = socket.gethostname()


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        ("--config.seed=1", rf"process 1 on {HOST} has config \w+, but process 0 on {HOST} has \w+; bring all hosts"),
        ("--workdir=/proc/nowhere/run", rf"process 1 on {HOST}: /proc/nowhere/run cannot be written to: .*; mount it"),
        ("--config.validation.0.images=folder:/nowhere", rf"process 1 on {HOST}: .* there is no folder /nowhere; name"),
    ],
)
def test_a_host_that_differs_is_named(student, start_together, tmp_path, own, sentence):
    for process in start_together(student, f"--workdir={tmp_path / 'run'}", own=((), (own,))):
        told = process.finish(2)
        # The one that fails by itself need not say who it is.
        assert re.search(sentence, told) or re.search(sentence.rpartition(": ")[2], told), told
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_host_with_other_code_is_named(student, start, tmp_path):
    package = tmp_path / "other" / "must_jax"
    shutil.copytree(Path(must_jax.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    with (package / "errors.py").open("a") as file:
        file.write("# another version\n")
    program = ("-P", "-m", "must_jax.main")  # takes nothing from the working directory
    paths = os.pathsep.join([str(package.parent), *sys.path])
    processes = [
        start(student, f"--workdir={tmp_path / 'run'}", environment=joined | other, program=program)
        for joined, other in zip(group(2), ({}, {"PYTHONPATH": paths}), strict=True)
    ]
    for process in processes:
        assert re.search(rf"process 1 on {HOST} has code \w+, but process 0 on {HOST} has \w+;", process.finish(2))


@pytest.mark.parametrize(
    ("hangs", "host"),
    [
        ("jax.distributed.initialize('{JAX_COORDINATOR_ADDRESS}', 2, 1)", "an unknown host"),
        ("distributed.join(); jax.devices()", HOST),  # later
    ],
)
def test_a_process_that_hangs_is_named(student, start, tmp_path, hangs, host):
    first, second = group(2)
    program = f"import time, jax; from must_jax.engine import distributed; {hangs.format(**second)}; time.sleep(1e4)"
    start(environment=second, program=("-c", program))
    process = start(student, f"--workdir={tmp_path / 'run'}", "--config.ready_within_s=5", environment=first)
    assert process.finish(1) == (
        f"error: process 1 of 2 on {host} was not ready 5 s after process 0; look at its log and its host, "
        "then start all again"
    )


def test_a_process_that_is_alone_says_so(student, start, tmp_path):
    process = start(student, f"--workdir={tmp_path / 'run'}", "--config.ready_within_s=3", environment=group(2)[0])
    assert process.finish(1) == (f"error: process 0 of 2 on {HOST} has waited 3 s for the others; start all of them")


WORK = """
import sys, time
from must_jax import cli, preemption
from must_jax.engine import distributed

def work():
    preemption.watch()
    distributed.join()
    with distributed.linked():
        if not distributed.is_first():
            raise MemoryError("too many images")
        while True:
            try:
                time.sleep(60)
            except Exception as error:  # of somebody who takes all errors for his own
                heard.append(error)
                if len(heard) == 2:
                    raise

heard = []
sys.exit(cli.exit_code(work))
"""


def test_where_one_breaks_down_the_other_ends_and_may_be_started_again(start):
    """Also if it does not hear that at once."""
    first, second = (start(environment=joined, program=("-c", WORK)) for joined in group(2))
    assert second.end() == 1 and "MemoryError: too many images" in second.output
    assert first.end() == 1, first.output
    assert first.output.splitlines()[-1] == f"error: process 1 on {HOST}: MemoryError: too many images"


ALONE = """
import time
from must_jax import main
from must_jax.engine import distributed

distributed.join()
distributed.wait("begun")
if not distributed.is_first():
    main.leave(1)
while True:
    time.sleep(60)
"""


def test_a_process_that_has_failed_does_not_wait_for_one_that_has_not(start):
    """It may be what the other one waits for."""
    _, second = (start(environment=joined, program=("-c", ALONE)) for joined in group(2))
    began = time.monotonic()
    assert second.end() == 1
    assert time.monotonic() - began < 60


def test_two_processes_agree_on_what_is_not_finite(student, start_together, tmp_path):
    """They leave out the same updates, and say why they end."""
    workdir = tmp_path / "run"
    far = [
        *("--config.optimizer.learning_rate=1e6", "--config.optimizer.weight_decay=1e6"),
        *("--config.optimizer.clip_norm=0", "--config.max_skipped=2"),
    ]
    for process in start_together(student, f"--workdir={workdir}", *far):
        assert re.fullmatch(
            r"error: loss or gradient of 3 of the last 100 updates is not finite, the last one of update \d+; "
            r"lower config.optimizer.learning_rate, .*",
            process.finish(2),
        )
    skipped = rows(workdir, "skipped.jsonl")
    assert len(skipped) == 3 and all(len(row["images"]) == 8 for row in skipped)
    logged = [row["step"] - 1 for row in rows(workdir) if row["skipped"]]
    assert logged[:3] == [row["update"] for row in skipped]


def test_two_processes_hold_one_state_in_parts(student, start, start_together, tmp_path):
    """With fsdp over processes, the run is that of one process with two devices; also when it was stopped."""
    alone, together = tmp_path / "alone", tmp_path / "together"
    parts = ("--config.fsdp=2", "--config.steps=8")
    start(student, f"--workdir={alone}", *parts).finish()
    first, second = start_together(student, f"--workdir={together}", *parts)
    first.wait_for(lambda: saved(together))
    second.send()
    assert all(process.finish().startswith("preempted, ") for process in (first, second))
    assert 0 < saved(together)[-1] <= 8 and not (together / "model.json").exists()
    for process in start_together(student, f"--workdir={together}", *parts):
        process.finish()
    assert values(together) == values(alone)
    digests = [json.loads((workdir / "model.json").read_text())["digest"] for workdir in (together, alone)]
    assert digests[0] == digests[1]
    for step in saved(together):  # of the parts of both
        folder = together / "checkpoints" / str(step)
        assert sums.changed(folder, step) == "" and len(list(folder.glob("state/ocdbt.process_*"))) == 2
    damaged = next((folder / "state/ocdbt.process_1/d").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    (together / "model.json").unlink()
    for process in start_together(student, f"--workdir={together}", *parts):
        assert re.search(rf"{damaged} has other bytes than were written .*; the checkpoint of step", process.finish(2))
