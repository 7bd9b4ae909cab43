"""`slurm.sbatch` as SLURM's batch shell would run it, with stubs for what it calls."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from launchers import LAUNCH, STAND_IN, wait_for, with_stubs

SCRIPT = LAUNCH / "slurm.sbatch"
SRUN = """
echo "srun $*, ${SRUN_CPUS_PER_TASK:-} CPUs" >>"$CALLS"
while [[ $1 == --* ]]; do shift; done
for ((task = 0; task < ${TASKS:-1}; task++)); do SLURM_PROCID=$task "$@" & done
highest=0
for task in $(jobs -p); do
  wait "$task" || { code=$?; highest=$((code > highest ? code : highest)); }
done
exit "$highest"
"""
SQUEUE = """
echo "squeue $*" >>"$CALLS"
if [[ -e $CALLS-fail ]]; then rm "$CALLS-fail"; exit 1; fi
echo "$STATE"
"""
SCONTROL = 'echo "scontrol $*" >>"$CALLS"'


def start(
    folder: Path, *arguments: str, state: str = "RUNNING", command: tuple[str, ...] = (), **variables: str
) -> subprocess.Popen[str]:
    """The script with a stand-in as its command, unless there is another."""
    environment = with_stubs(folder / "stubs", srun=SRUN, squeue=SQUEUE, scontrol=SCONTROL, sleep="")
    environment |= {"CALLS": f"{folder}/calls", "STATE": state, "SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(folder)}
    (folder / "launch").symlink_to(LAUNCH)
    command = command or (*STAND_IN, f"--workdir={folder}/run", *arguments)
    return subprocess.Popen([SCRIPT, *command], env=environment | variables, stdout=subprocess.DEVNULL, text=True)


def batch(
    folder: Path, *arguments: str, state: str = "RUNNING", command: tuple[str, ...] = (), **variables: str
) -> tuple[int, str]:
    """Runs it to its end -> exit code, the calls of SLURM's programs."""
    code = start(folder, *arguments, state=state, command=command, **variables).wait(60)
    assert not list((folder / "runs" / "exit_codes").iterdir())
    return code, (folder / "calls").read_text()


def test_a_finished_job_is_not_requeued(tmp_path: Path):
    code, calls = batch(tmp_path, SLURM_CPUS_PER_TASK="3")
    assert code == 0
    assert calls.startswith("srun --kill-on-bad-exit=0 --wait=120 bash -c ")
    assert f" {tmp_path}/launch/once.sh {STAND_IN[0]}" in calls
    assert "/run, 3 CPUs\n" in calls  # srun does not inherit --cpus-per-task
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


@pytest.mark.parametrize(
    ("codes", "code", "requeued"),
    [
        ("2 134", 2, False),  # the mistake of one, upon which the other crashes
        ("75 2", 2, False),
        ("75 1", 75, True),
        ("0 75", 75, True),
        ("1 139", 139, False),  # too many restarts
        ("0 0", 0, False),
    ],
)
def test_the_codes_of_all_tasks_are_judged(tmp_path: Path, codes: str, code: int, requeued: bool):
    command = ("bash", "-c", 'codes=($CODES); exit "${codes[SLURM_PROCID]}"')
    found, calls = batch(tmp_path, command=command, CODES=codes, TASKS="2", SLURM_RESTART_COUNT="20")
    assert found == code
    assert ("scontrol requeue 7" in calls) == requeued


def test_a_squeue_that_fails_once_is_asked_again(tmp_path: Path):
    (tmp_path / "calls-fail").touch()
    _, calls = batch(tmp_path, "--fail=1")
    assert calls.count("squeue --noheader") == 2
    assert "scontrol requeue 7" in calls


def test_at_a_signal_to_all_it_waits_for_what_the_tasks_save(tmp_path: Path):
    job = start(tmp_path, "--hold=10")
    step = tmp_path / "run" / "step-0"
    wait_for(lambda: step.exists() and step.read_text() == "10", "step 10")
    job.send_signal(signal.SIGTERM)
    os.kill(int((tmp_path / "run" / "lives-0").read_text().split()[1]), signal.SIGTERM)
    assert job.wait(60) == 75
    assert "scontrol requeue 7" in (tmp_path / "calls").read_text()


def test_an_array_fills_in_its_task(tmp_path: Path):
    workdir = f"--workdir={tmp_path}/run/{{task}}-of-{{tasks}}"
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}
    code, calls = batch(tmp_path, workdir, "--fail=1", **array)
    assert code == 1
    assert "/run/3-of-8 " in calls
    assert "scontrol requeue 7_3\n" in calls  # 7 alone can be the whole array
    assert "--jobs=7_3 " in calls


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
