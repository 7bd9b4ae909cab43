"""Batches from processes and from threads: the same ones, in bounded memory, whatever happens to a worker."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from made_batches import ROWS, Counting, Maker, Unloadable, like

from must_jax import cli
from must_jax.config import InputConfig
from must_jax.data.kept import KeptBatches
from must_jax.data.layout import Layout
from must_jax.data.prefetch import makers, prefetched
from must_jax.errors import UserError, WorkerLost

WITHIN_S = 60.0
BYTES = Layout(like()).bytes


def batches(
    workers: int, threads: int, make: Any = None, ahead: int = 2, steps: int = 100, **options: Any
) -> Iterator[dict[str, Any]]:
    config = InputConfig(workers=workers, prefetch_bytes=ahead * BYTES)
    return prefetched(make or Maker(), range(steps), like(), config, threads, **options)


@pytest.fixture
def started() -> Callable[[], set[psutil.Process]]:
    """The processes that the test has started and that still exist."""
    before = set(psutil.Process().children(recursive=True))
    return lambda: set(psutil.Process().children(recursive=True)) - before


def wait_for(condition: Any) -> None:
    until = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize(("workers", "threads", "ahead"), [(0, 1, 1), (0, 3, 2), (0, 2, 100), (1, 3, 1), (3, 3, 7)])
def test_batches_are_complete_and_in_order(workers: int, threads: int, ahead: int, started: Any):
    heard: list[str] = []
    made = list(batches(workers, threads, ahead=ahead, steps=9, on_bad=lambda what, why: heard.append(what + why)))
    assert len(made) == 9
    for step, batch in enumerate(made):
        np.testing.assert_array_equal(batch["value"], (1000 * step + np.arange(ROWS))[:, None] * np.ones(1024))
    assert heard == [f"{step}[3]why" for step in range(9)]
    by = {int(process) for batch in made for process in batch["by"]["process"]}
    assert len(by) == max(1, workers)
    assert (os.getpid() in by) == (workers == 0)
    assert not started()
    made[0]["value"][:] = 0  # the arrays are the reader's
    del made[1:]


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_batches_are_made_ahead_than_fit(ahead: int):
    """Whatever the number of threads, which then share the batches."""
    counting = Counting()
    with closing(batches(0, 64, counting, ahead)) as made:
        for step in range(4):
            next(made)
            wait_for(lambda step=step: counting.steps >= set(range(step + 1 + ahead)))
            assert counting.steps == set(range(step + 1 + ahead))


def test_workers_outlive_signals_to_all_processes_and_end_with_their_reader(started):
    with closing(batches(2, 2)) as made:
        assert len(list(islice(made, 4))) == 4
        processes = started()
        assert len(processes) == 3
        for each in processes:
            each.send_signal(signal.SIGTERM)
            each.send_signal(signal.SIGINT)
        assert len(list(islice(made, 20))) == 20
    assert not any(each.is_running() for each in processes)


@pytest.mark.parametrize("waited_s", [0.0, 0.5])  # whether it waits already or is about to
def test_whoever_waits_for_a_worker_that_hangs_is_let_go(waited_s: float, started: Any):
    told: list[str] = []

    def wait(finished: Callable[[], Any]) -> None:
        try:
            finished()
        except WorkerLost as error:
            told.append(str(error))

    with makers(Maker(waits_at=0), Layout(like()), 1, 1, "config.input.workers") as begin:
        thread = threading.Thread(target=wait, args=(begin(0, [range(ROWS)]),), daemon=True)
        thread.start()
        time.sleep(waited_s)
    thread.join(WITHIN_S)
    assert len(told) == 1 and "lower config.input.workers" in told[0]
    assert not started()


def test_a_worker_that_is_killed_ends_the_reader_not_the_data():
    with closing(batches(2, 2, Maker(waits_at=5))) as made:
        workers = {int(process) for process in next(made)["by"]["process"]}
        wait_for(lambda: len(list(islice(made, 4))) == 4)
        os.kill(min(workers), signal.SIGKILL)
        with pytest.raises(WorkerLost, match=r"workers.*prefetch_bytes"):
            next(made)
        began = time.monotonic()
    assert time.monotonic() - began < WITHIN_S / 4  # although the other one waits for 1000 s
    assert not psutil.pid_exists(max(workers))


def test_workers_that_cannot_start_are_no_matter_of_memory(capfd: pytest.CaptureFixture[str], started: Any):
    assert cli.exit_code(lambda: list(batches(1, 1, Unloadable()))) == cli.FAILED
    *trace, last = capfd.readouterr().err.splitlines()
    assert "ValueError" in trace[-1] and "no number" in trace[-1]
    assert last.startswith("error: ") and "traceback above" in last and "memory" not in last
    assert not started()


def test_more_lanes_than_files_may_be_open():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 60, hard))
    try:
        assert len(list(batches(2, 64, ahead=100, steps=150))) == 150
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_batches_that_are_kept_hold_no_files_open():
    files = len(os.listdir("/proc/self/fd"))
    config = InputConfig(workers=1, prefetch_bytes=1)
    kept = KeptBatches(lambda _, start: prefetched(Maker(), range(start, 30), like(64), config, 1))
    made = list(kept(0))
    del made
    assert len(os.listdir("/proc/self/fd")) <= files
    assert [batch["value"][1, 0] for batch in kept(0)] == [1000 * step + 1 for step in range(30)]


@pytest.mark.parametrize(("mistake", "expected"), [(True, UserError), (False, RuntimeError)])
def test_what_a_worker_raises_is_raised_here(mistake: bool, expected: type[Exception], started: Any):
    made = batches(1, 1, Maker(fails_at=2, mistake=mistake))
    with pytest.raises(expected, match="free some space" if mistake else "ZeroDivisionError: at step 2"):
        list(made)
    assert not started()


def test_workers_end_if_their_reader_is_killed():
    code = (
        "import made_batches, sys; from must_jax.config import InputConfig; "
        "from must_jax.data.prefetch import prefetched; "
        "made = prefetched(made_batches.Maker(), range(9), made_batches.like(), InputConfig(workers=2), 2); "
        "[next(made) for _ in range(4)]; "
        "assert 'jax' not in sys.modules; print('ready', flush=True); sys.stdin.read()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as reader:
        assert reader.stdout is not None and reader.stdout.readline() == b"ready\n"
        processes = psutil.Process(reader.pid).children(recursive=True)
        assert len(processes) == 3
        reader.kill()
    wait_for(lambda: not any(each.is_running() for each in processes))


def test_a_small_array_of_a_batch_does_not_keep_all_of_it():
    made = batches(1, 1, steps=2)
    kept = next(made)["by"]["process"]
    assert kept.base is None
    made.close()


def test_the_memory_of_a_batch_is_used_again_only_when_nobody_holds_it(started):
    files = len(os.listdir("/proc/self/fd"))
    with closing(batches(1, 1, ahead=1)) as made:
        first, second = next(made), next(made)
        part = second["value"][2:]
        del second
        for step in range(2, 20):
            assert (next(made)["value"][:, 0] == 1000 * step + np.arange(ROWS)).all()
        np.testing.assert_array_equal(first["value"][:, 0], np.arange(ROWS))
        np.testing.assert_array_equal(part[:, 0], 1000 + np.arange(2, ROWS))
        assert len(os.listdir("/proc/self/fd")) < files + 10
    del first, part
    assert len(os.listdir("/proc/self/fd")) <= files


def test_a_worker_keeps_the_memory_of_batches_mapped():
    rows, steps = 1024, 12
    config = InputConfig(workers=1, prefetch_bytes=1)
    with closing(prefetched(Maker(), range(100), like(rows), config, 1)) as made:
        workers = {each for batch in islice(made, 8) for each in batch["by"]["process"].tolist()}
        before = faults(*workers)
        for _ in islice(made, steps):
            pass
        assert faults(*workers) - before < steps * rows / 4  # the rows of a batch are that many pages


def faults(pid: int) -> int:
    """How many pages a process had to map."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])
