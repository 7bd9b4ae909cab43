"""`local.sh` and `once.sh` with real processes, real signals and kills."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from launchers import LAUNCH, STAND_IN, is_alive, wait_for


class Launch:
    """A running `local.sh` with two stand-ins."""

    def __init__(self, folder: Path, *arguments: str, flags: tuple[str, ...] = (), own_group: bool = False):
        self.workdir = folder / "run"
        self.logs = folder / "logs"
        command = (*STAND_IN, f"--workdir={self.workdir}", *arguments)
        self.process = subprocess.Popen(
            [LAUNCH / "local.sh", f"--logs={self.logs}", *flags, "--", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=own_group,
        )

    def lives(self, number: int) -> list[tuple[int, int, str]]:
        """(first step, process id, coordinator) of each life of a process."""
        file = self.workdir / f"lives-{number}"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(int(step), int(process), address) for step, process, address in map(str.split, lines)]

    def hold(self, step: int) -> list[int]:
        """Waits until both processes are at a step -> their ids."""
        steps = [self.workdir / f"step-{number}" for number in (0, 1)]
        wait_for(lambda: all(file.exists() and file.read_text() == str(step) for file in steps), f"step {step}")
        return [self.lives(number)[0][1] for number in (0, 1)]

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


def test_after_a_kill_of_one_process_both_continue_from_their_steps(tmp_path: Path):
    launch = Launch(tmp_path, "--steps=20", "--hold=10")
    _, victim = launch.hold(10)
    os.kill(victim, signal.SIGKILL)
    code, out, err = launch.end()
    assert code == 0, err
    assert "process 1 ended with 137" in err
    for number in (0, 1):
        assert [step for step, *_ in launch.lives(number)] == [0, 10]
        assert (launch.workdir / f"step-{number}").read_text() == "20"
        assert f"process {number}: through, steps 10 to 20" in (launch.logs / f"process-{number}.log").read_text()
    first, second = ([launch.lives(number)[life][2] for number in (0, 1)] for life in (0, 1))
    assert len({*first}) == len({*second}) == 1  # both were told one coordinator
    assert out == (launch.logs / "process-0.log").read_text()


def test_children_of_a_killed_process_do_not_outlive_it(tmp_path: Path):
    launch = Launch(tmp_path, "--hold=10", "--children", flags=("--restarts=0",))
    _, victim = launch.hold(10)
    children = [int((launch.workdir / f"child-{number}").read_text()) for number in (0, 1)]
    assert all(map(is_alive, children))
    os.kill(victim, signal.SIGKILL)
    code, _, err = launch.end()
    assert code == 137
    assert "restarts are used up" in err
    wait_for(lambda: not any(map(is_alive, children)), "the end of the children")


def test_what_does_not_heed_sigterm_is_killed_after_the_grace(tmp_path: Path):
    launch = Launch(tmp_path, "--hold=10", "--deaf", flags=("--restarts=0", "--grace=1"))
    survivor, victim = launch.hold(10)
    os.kill(victim, signal.SIGKILL)
    assert launch.end()[0] == 137
    assert not is_alive(survivor)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_all_and_the_same_command_continues(tmp_path: Path, number: signal.Signals):
    launch = Launch(tmp_path, "--steps=20", "--hold=10")
    launch.hold(10)
    launch.process.send_signal(number)
    code, _, err = launch.end()
    assert code == 75, err
    assert (launch.workdir / "PREEMPTED").exists()
    assert Launch(tmp_path, "--steps=20").end()[0] == 0
    assert not (launch.workdir / "PREEMPTED").exists()
    assert [step for step, *_ in launch.lives(0)] == [0, 10]


def test_a_second_signal_does_not_wait(tmp_path: Path):
    launch = Launch(tmp_path, "--hold=10", "--deaf")
    processes = launch.hold(10)
    launch.process.send_signal(signal.SIGTERM)
    assert launch.process.stderr is not None
    wait_for(lambda: "stopping" in launch.process.stderr.readline(), "an answer")
    launch.process.send_signal(signal.SIGTERM)
    assert launch.end()[0] == 137
    assert not any(map(is_alive, processes))


def test_the_end_of_its_terminal_stops_all_and_the_log_is_whole(tmp_path: Path):
    launch = Launch(tmp_path, "--steps=20", "--hold=10", own_group=True)
    launch.hold(10)
    for stream in (launch.process.stdout, launch.process.stderr):
        assert stream is not None
        stream.close()
    os.killpg(launch.process.pid, signal.SIGHUP)  # tee too
    assert launch.process.wait(60) == 75
    assert "process 0: preempted at step 10" in (launch.logs / "process-0.log").read_text()


def test_a_preempted_run_starts_again(tmp_path: Path):
    launch = Launch(tmp_path, "--steps=20", "--hold=10")
    for process in launch.hold(10):
        os.kill(process, signal.SIGTERM)
    code, _, err = launch.end()
    assert code == 0
    assert "preempted" in err
    assert [step for step, *_ in launch.lives(1)] == [0, 10]


@pytest.mark.parametrize(("fault", "code", "lives"), [(2, 2, 1), (3, 3, 3)])
def test_mistakes_are_not_tried_again_and_crashes_are(tmp_path: Path, fault: int, code: int, lives: int):
    launch = Launch(tmp_path, f"--fail={fault}", flags=("--restarts=2",))
    assert launch.end()[0] == code
    assert max(len(launch.lives(number)) for number in (0, 1)) == lives


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--processes=two", "--"), "error: --processes=two is no whole number"),
        (("--processes=0", "--", "python", "--workdir=x"), "error: --processes=0 runs nothing"),
        (("python", "-m"), "error: python is not a flag of local.sh; see --help, and write -- before the command"),
        (("--",), "error: the command is missing; write -- python -m must_jax.main --config=FILE"),
    ],
)
def test_mistakes_of_the_command_line_are_said_in_one_sentence(tmp_path, arguments, sentence):
    done = subprocess.run([LAUNCH / "local.sh", *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, sentence + "\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "workdir"),
    [
        (("--config=configs/student.py",), "runs/student"),
        (("--config", "configs/student.py"), "runs/student"),
        (("--workdir=/a b/c", "--config=configs/student.py"), "/a b/c"),
        (("--config=configs/student.py", "--workdir", "c"), "c"),
        (("--config=configs/student.py", "--config.model.width=2"), "runs/student"),
    ],
)
def test_the_workdir_is_that_of_must_jax(arguments, workdir):
    done = subprocess.run([LAUNCH / "workdir.sh", "python", *arguments], capture_output=True, text=True, check=True)
    assert done.stdout == workdir + "\n"
