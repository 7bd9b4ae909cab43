"""`slurm.sbatch` as SLURM's batch shell would run it, with stubs for what it calls."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from launchers import LAUNCH, ROOT, STAND_IN, wait_for, with_stubs

SCRIPT = LAUNCH / "slurm.sbatch"
SRUN = 'echo "srun $*" >>"$CALLS"; shift; exec "$@"'  # one task, in place
SQUEUE = 'echo "$STATE"'
SCONTROL = 'echo "scontrol $*" >>"$CALLS"'


def start(folder: Path, *arguments: str, state: str = "RUNNING", **variables: str) -> subprocess.Popen[str]:
    """The script with a stand-in as its command."""
    environment = with_stubs(folder / "stubs", srun=SRUN, squeue=SQUEUE, scontrol=SCONTROL)
    environment |= {"CALLS": f"{folder}/calls", "STATE": state, "SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(ROOT)}
    command = (*STAND_IN, f"--workdir={folder}/run", *arguments)
    return subprocess.Popen([SCRIPT, *command], env=environment | variables, stdout=subprocess.DEVNULL, text=True)


def batch(folder: Path, *arguments: str, state: str = "RUNNING", **variables: str) -> tuple[int, str]:
    """Runs it to its end -> exit code, the calls of SLURM's programs."""
    code = start(folder, *arguments, state=state, **variables).wait(60)
    return code, (folder / "calls").read_text()


def test_a_finished_job_is_not_requeued(tmp_path: Path):
    code, calls = batch(tmp_path)
    assert code == 0
    assert calls.startswith(f"srun --kill-on-bad-exit=1 {LAUNCH}/once.sh {STAND_IN[0]}")
    assert "requeue" not in calls


@pytest.mark.parametrize(
    ("fault", "state", "restarts", "requeued"),
    [
        (1, "RUNNING", "0", True),
        (1, "RUNNING", "19", True),
        (1, "RUNNING", "20", False),  # it crashes again and again
        (2, "RUNNING", "0", False),  # a mistake
        (1, "COMPLETING", "0", False),  # cancelled, or requeued by SLURM
        (75, "RUNNING", "99", True),  # out of time, state saved
    ],
)
def test_what_is_requeued(tmp_path: Path, fault: int, state: str, restarts: str, requeued: bool):
    code, calls = batch(tmp_path, f"--fail={fault}", state=state, SLURM_RESTART_COUNT=restarts)
    assert code == fault
    assert ("scontrol requeue 7" in calls) == requeued


def test_at_a_signal_to_all_it_waits_for_what_the_tasks_save(tmp_path: Path):
    job = start(tmp_path, "--hold=10")
    step = tmp_path / "run" / "step-0"
    wait_for(lambda: step.exists() and step.read_text() == "10", "step 10")
    job.send_signal(signal.SIGTERM)
    os.kill(int((tmp_path / "run" / "lives-0").read_text().split()[1]), signal.SIGTERM)
    assert job.wait(60) == 75
    assert "scontrol requeue 7" in (tmp_path / "calls").read_text()


def test_an_array_fills_in_its_task(tmp_path: Path):
    (tmp_path / "run").mkdir()
    command = f"--workdir={tmp_path}/run/{{task}}-of-{{tasks}}"
    code, calls = batch(tmp_path, command, SLURM_ARRAY_TASK_ID="3", SLURM_ARRAY_TASK_COUNT="8")
    assert code == 0
    assert calls.rstrip().endswith("/run/3-of-8")


def test_its_directives_ask_for_a_signal_before_the_time_is_up_and_for_requeueing():
    directives = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", SCRIPT.read_text(), re.MULTILINE))
    assert {"requeue", "signal", "time", "nodes", "ntasks-per-node", "open-mode"} <= directives.keys()
    assert re.fullmatch(r"TERM@\d+", directives["signal"])  # without "B:", which would leave the tasks out
    assert directives["open-mode"] == "append"  # a requeued job must not empty its log
    code = SCRIPT.read_text().partition("\nset ")[0]  # directives after the first command do not count
    assert code.count("#SBATCH --") == len(directives)


def test_it_is_submitted_from_the_repository(tmp_path: Path):
    done = subprocess.run([SCRIPT, "x"], env={"PATH": "/usr/bin:/bin"}, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: there is no ./launch/once.sh; submit from the must_jax repository\n"
