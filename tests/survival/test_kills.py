"""`kill -9` at random moments of training and of saving: every start continues from a complete checkpoint."""

from __future__ import annotations

import os
import random
import signal

import psutil
from processes import EVERY, saved, saving, updates, wait_until

KILLS = int(os.environ.get("MUST_JAX_TEST_KILLS", "10"))  # at least 5
MOST_FILES = 30  # nearly all that a checkpoint has


def starts(workdir):
    """How many processes have begun to log; what was logged after their checkpoint is gone by then."""
    return len(list(workdir.glob("events.out.tfevents.*")))


def test_killed_at_random_moments_it_ends_bit_for_bit_the_same(student, start, tmp_path, assert_same):
    workdir, moments = tmp_path / "run", random.Random(4)
    continued = set()
    for kill in range(KILLS):
        base = saved(workdir)[-1] if saved(workdir) else 0
        process = start(student, f"--workdir={workdir}")
        process.wait_for(lambda kill=kill: starts(workdir) > kill)
        if kill % 2:
            if kill % 4 == 3:  # in the second save of this process
                process.wait_for(lambda base=base: (saved(workdir) or [0])[-1] > base)
            files = moments.randint(1, MOST_FILES)
            process.wait_for(lambda base=base, files=files: updates(workdir) > base and saving(workdir) >= files)
        else:
            done = base + moments.randint(1, EVERY - 1)
            process.wait_for(lambda done=done: updates(workdir) >= done)
        process.send(signal.SIGKILL)
        assert process.end() == -signal.SIGKILL
        assert not base or f"resumes after step {base} of 40" in process.output
        continued.add(base)
        assert (saved(workdir) or [0])[-1] >= base
    assert len(continued) > KILLS // 4  # some of the saves were through
    assert 0 < saved(workdir)[-1] < 40
    start(student, f"--workdir={workdir}").finish()
    assert_same(workdir)


def test_with_workers_it_is_stopped_and_killed_and_ends_the_same(student, start, tmp_path, assert_same):
    """SIGTERM goes to all processes, as schedulers send it: the workers must not end before the checkpoint is written.

    When a worker is killed, as for lack of memory, the run ends by an error that launchers take for one to start again
    after. No process is left behind.
    """
    workdir, arguments = tmp_path / "run", (student, f"--workdir={tmp_path / 'run'}", "--config.input.workers=2")
    for ending in ("told", "a worker is killed"):
        base = saved(workdir)[-1] if saved(workdir) else 0
        process = start(*arguments)
        process.wait_for(lambda base=base: updates(workdir) >= base + 2)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) == 3
        if ending == "told":
            process.send_group(signal.SIGTERM)
            assert "stopped after update" in process.finish()
        else:
            family[-1].kill()
            assert process.end() not in (0, 2)
            assert "prefetch_bytes" in process.output
        wait_until(lambda family=family: not any(each.is_running() for each in family))
    start(*arguments).finish()
    assert_same(workdir)


def test_when_one_of_two_is_killed_the_other_ends_and_both_go_on(student, start_together, tmp_path, assert_same):
    """It ends by an error that launchers take for one to start again after."""
    workdir = tmp_path / "run"
    first, second = start_together(student, f"--workdir={workdir}")
    first.wait_for(lambda: saved(workdir))
    second.send(signal.SIGKILL)
    assert second.end() == -signal.SIGKILL
    assert first.end() not in (0, 2), first.output
    for process in start_together(student, f"--workdir={workdir}"):
        process.finish()
    assert_same(workdir)
