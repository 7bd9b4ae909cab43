"""`tpu_vm.sh` against a gcloud that records what it is told and plays preemptions; `tpu_worker.sh` for real."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest
from launchers import LAUNCH, STAND_IN, is_alive, wait_for, with_stubs

COMMAND = ("--", "python", "-m", "must_jax.main", "--config=configs/student.py", "--config.name=a b")
FLAGS = ("--name=n", "--zone=z", "--type=v5litepod-16", "--storage=10.0.0.2:/share", "--poll=0")
INSTALL = ["copy", "unpack", "install"]
DELETE = {
    "tpu-vm": "  gcloud compute tpus tpu-vm delete n --quiet --zone=z",
    "queued-resources": "  gcloud compute tpus queued-resources delete n --force --quiet --zone=z",
}


class Cloud:
    """The stub's state, and the script's run with it."""

    def __init__(self, folder: Path, *runs: str):
        self.folder = folder / "cloud"
        self.folder.mkdir()
        (self.folder / "runs").write_text("\n".join(runs) + "\n")
        (folder / "report").mkdir()
        (folder / "report" / "index.html").write_text("the report")
        with tarfile.open(self.folder / "result.tgz", "w:gz") as archive:
            archive.add(folder / "report", "report")
        stub = Path(__file__).with_name("gcloud_stub.sh").read_text()
        self.environment = with_stubs(folder / "stubs", gcloud=stub) | {"CLOUD": str(self.folder)}
        self.out = folder / "out"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [LAUNCH / "tpu_vm.sh", *arguments],
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *flags: str, command: tuple[str, ...] = COMMAND) -> tuple[int, str]:
        process = self.start("run", *FLAGS, f"--out={self.out}", *flags, *command)
        return self.end(process)

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        err = process.communicate(timeout=60)[1]
        return process.returncode, err

    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return file.read_text().split() if file.exists() else []

    def lines(self) -> list[str]:
        return (self.folder / "lines").read_text().splitlines()


@pytest.mark.parametrize("queued", [(), ("--queued",)])
def test_an_undisturbed_run_leaves_its_report_and_no_slice(tmp_path: Path, queued: tuple[str, ...]):
    cloud = Cloud(tmp_path, "0")
    code, err = cloud.run(*queued, "--spot", "--project=p", "--create=--network=mine")
    assert code == 0, err
    assert cloud.calls() == ["create", *INSTALL, "run", "pack", "fetch", "delete"]
    assert (cloud.out / "report" / "index.html").read_text() == "the report"
    create, *rest = cloud.lines()
    assert all(line.endswith("--zone=z --project=p") for line in (create, *rest))
    kind = "queued-resources" if queued else "tpu-vm"
    version = (
        "--node-id=n --accelerator-type=v5litepod-16 --runtime-version="
        if queued
        else ("--accelerator-type=v5litepod-16 --version=")
    )
    assert create.startswith(f"compute tpus {kind} create n {version}v2-alpha-tpuv5-lite --spot --network=mine")
    assert "--worker=all --command=bash must_jax/launch/tpu_worker.sh install 10.0.0.2:/share" in rest[2]
    assert r"run python -m must_jax.main --config=configs/student.py --config.name=a\ b" in rest[3]
    assert "may still be there" not in err


@pytest.mark.parametrize("queued", [(), ("--queued",)])
def test_after_a_preemption_the_slice_is_made_anew_and_the_command_continues(tmp_path: Path, queued: tuple[str, ...]):
    cloud = Cloud(tmp_path, "preempt", "0")
    code, err = cloud.run(*queued)
    assert code == 0, err
    one_time = ["create", *INSTALL, "run"]
    assert cloud.calls() == [*one_time, "delete", *one_time, "pack", "fetch", "delete"]


def test_a_run_that_saved_or_crashed_starts_again_on_the_slice_that_is_there(tmp_path: Path):
    cloud = Cloud(tmp_path, "75", "1", "0")
    code, err = cloud.run("--restarts=2", "--keep")
    assert code == 0
    assert cloud.calls() == ["create", *INSTALL, "run", *INSTALL, "run", *INSTALL, "run", "pack", "fetch"]
    assert err.rstrip().endswith(DELETE["tpu-vm"])  # it was kept, and that is said


@pytest.mark.parametrize(("outcome", "code"), [("2", 2), ("7", 7)])
def test_mistakes_and_too_many_crashes_end_it_and_the_slice_is_named(tmp_path: Path, outcome: str, code: int):
    cloud = Cloud(tmp_path, outcome, outcome)
    found, err = cloud.run("--restarts=0", "--queued")
    assert found == code
    assert cloud.calls().count("run") == 1
    assert err.rstrip().endswith(DELETE["queued-resources"])


@pytest.mark.parametrize("queued", [(), ("--queued",)])
def test_a_create_that_fails_ends_it_with_the_command_that_deletes(tmp_path: Path, queued: tuple[str, ...]):
    cloud = Cloud(tmp_path)
    (cloud.folder / "fail-create").write_text("ERROR: no quota\n")
    code, err = cloud.run(*queued)
    assert code == 1
    assert cloud.calls() == ["create"]
    assert "ERROR: no quota" in err
    assert err.rstrip().endswith(DELETE["queued-resources" if queued else "tpu-vm"])


def test_when_gcloud_cannot_tell_nothing_is_created(tmp_path: Path):
    cloud = Cloud(tmp_path)
    (cloud.folder / "fail-describe").write_text("ERROR: you are not logged in\n")
    code, err = cloud.run()
    assert code == 1
    assert "you are not logged in" in err
    assert cloud.calls() == []


def test_a_slice_that_is_there_is_reused_and_a_preempted_one_replaced(tmp_path: Path):
    cloud = Cloud(tmp_path, "0", "0")
    (cloud.folder / "node").write_text("READY")
    assert cloud.run("--keep")[0] == 0
    assert cloud.calls() == [*INSTALL, "run", "pack", "fetch"]
    (cloud.folder / "node").write_text("PREEMPTED")
    (cloud.folder / "calls").unlink()
    assert cloud.run()[0] == 0
    assert cloud.calls() == ["delete", "create", *INSTALL, "run", "pack", "fetch", "delete"]


def test_an_interrupted_run_saves_on_the_workers_and_names_the_slice(tmp_path: Path):
    cloud = Cloud(tmp_path, "wait", "0")
    process = cloud.start("run", *FLAGS, *COMMAND)
    wait_for(lambda: "run" in cloud.calls(), "the run")
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal
    code, err = cloud.end(process)
    assert code == 130
    assert cloud.calls() == ["create", *INSTALL, "run", "stop"]
    assert err.rstrip().endswith(DELETE["tpu-vm"])
    (cloud.folder / "calls").unlink()
    assert cloud.run()[0] == 0  # the same command goes on, with the slice that is there
    assert cloud.calls() == [*INSTALL, "run", "pack", "fetch", "delete"]


def test_a_dry_run_prints_the_commands_and_calls_nothing(tmp_path: Path):
    cloud = Cloud(tmp_path)
    code, err = cloud.run("--dry-run")
    assert code == 0
    assert cloud.calls() == []
    verbs = [line.split()[4:6] for line in err.splitlines()]
    assert all(line.startswith("+ gcloud compute tpus ") for line in err.splitlines())
    assert [verb for _, verb in verbs] == ["create", "scp", "ssh", "ssh", "ssh", "ssh", "scp", "delete"]


def test_fetch_status_and_delete_alone(tmp_path: Path):
    cloud = Cloud(tmp_path)
    (cloud.folder / "node").write_text("READY")
    where = ("--name=n", "--zone=z")
    assert cloud.end(cloud.start("fetch", *where, f"--out={cloud.out}", *COMMAND))[0] == 0
    assert (cloud.out / "report" / "index.html").exists()
    status = [LAUNCH / "tpu_vm.sh", "status", *where]
    for state in ("ready", "absent"):
        done = subprocess.run(status, env=cloud.environment, capture_output=True, text=True)
        assert done.stdout == f"{state}\n"
        assert cloud.end(cloud.start("delete", *where))[0] == 0


@pytest.mark.parametrize(("answer", "code"), [("True", 0), ("", 2)])
def test_a_bucket_must_be_able_to_rename_folders(tmp_path: Path, answer: str, code: int):
    cloud = Cloud(tmp_path, "0")
    (cloud.folder / "hierarchical").write_text(f"{answer}\n")
    found, err = cloud.run("--storage=gs://bucket")
    assert found == code
    assert (cloud.calls() == []) == (code == 2)
    assert ("has no hierarchical namespace" in err) == (code == 2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("walk",), "walk is none of run, fetch, status, delete; see --help"),
        (("run", "--zone=z"), "--name=NAME is missing"),
        (("run", "--name=n", "--zone=z"), "--type=TYPE is missing, e.g. --type=v5litepod-16"),
        (("run", *FLAGS, "--storage=bucket", *COMMAND), "--storage=bucket is neither HOST:/SHARE nor gs://BUCKET"),
        (("run", *FLAGS, "--poll=soon", *COMMAND), "--poll=soon is no whole number"),
        (
            ("run", *FLAGS, "--type=x-8", *COMMAND),
            "of --type=x-8 the image is not known; name it with --runtime=VERSION",
        ),
        (("run", *FLAGS, "python"), "python is no flag of tpu_vm.sh; see --help, and write -- before the command"),
        (("run", *FLAGS, "--", "true"), "the command has neither --workdir=FOLDER nor --config=FILE: true"),
    ],
)
def test_mistakes_are_said_in_one_sentence_before_anything_is_created(tmp_path: Path, arguments, sentence):
    cloud = Cloud(tmp_path)
    assert cloud.end(cloud.start(*arguments)) == (2, f"error: {sentence}\n")
    assert cloud.calls() == []


@pytest.fixture
def worker(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A worker's home with the launchers in it -> its code folder, the environment."""
    code = tmp_path / "must_jax"
    shutil.copytree(LAUNCH, code / "launch")
    return code, {**os.environ, "HOME": str(tmp_path)}


def test_a_worker_stops_what_runs_before_it_runs_again(tmp_path: Path, worker):
    code, environment = worker
    script, command = code / "launch" / "tpu_worker.sh", (*STAND_IN, f"--workdir={tmp_path}/w", "--hold=10")
    first = subprocess.Popen([script, "run", *command], env=environment)
    step = tmp_path / "w" / "step-0"
    wait_for(lambda: step.exists() and step.read_text() == "10", "step 10")
    assert subprocess.run([script, "run", *command], env=environment).returncode == 0
    assert first.wait(60) == 75
    assert step.read_text() == "20"
    assert not is_alive(int((tmp_path / "w" / "lives-0").read_text().split()[1]))
    assert subprocess.run([script, "stop"], env=environment).returncode == 0  # nothing runs


def test_a_worker_does_not_stop_another_process_that_has_got_the_number(tmp_path: Path, worker):
    code, environment = worker
    other = subprocess.Popen(["sleep", "1000"])
    (tmp_path / "must_jax.pid").write_text(str(other.pid))
    assert subprocess.run([code / "launch" / "tpu_worker.sh", "stop"], env=environment).returncode == 0
    assert is_alive(other.pid)
    other.kill()
    other.wait()


def test_a_worker_packs_results_without_checkpoints_and_columns(tmp_path: Path, worker):
    code, environment = worker
    for name in ("report/index.html", "teacher/checkpoints/1/x", "labels/columns/a/x", "teacher/metrics.jsonl"):
        (code / "runs" / "student" / name).parent.mkdir(parents=True, exist_ok=True)
        (code / "runs" / "student" / name).write_text("x")
    command = ("python", "-m", "must_jax.main", "--config=configs/student.py")
    subprocess.run([code / "launch" / "tpu_worker.sh", "pack", *command], env=environment, check=True)
    with tarfile.open(tmp_path / "result.tgz") as archive:
        files = {member.name for member in archive if member.isfile()}
    assert files == {"./report/index.html", "./teacher/metrics.jsonl"}
