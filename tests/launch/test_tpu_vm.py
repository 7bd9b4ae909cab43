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
    kind: "the slice n may still be there and cost money; to delete it: gcloud compute tpus " + rest
    for kind, rest in {
        "tpu-vm": "tpu-vm delete n --quiet --zone=z",
        "queued-resources": "queued-resources delete n --force --quiet --zone=z",
    }.items()
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
    options = ("ConnectTimeout=15", "ServerAliveInterval=30", "ServerAliveCountMax=4")
    for line in rest[:-1]:  # everything but the delete goes by ssh or scp
        flag = "--scp-flag=-o" if " tpu-vm scp " in line else "--ssh-flag=-o"
        assert all(flag + option in line for option in options)
    assert r" python -m must_jax.main --config=configs/student.py --config.name=a\ b" in rest[3]
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


def test_a_mistake_ends_it_and_the_slice_is_named(tmp_path: Path):
    cloud = Cloud(tmp_path, "2", "0")
    code, err = cloud.run("--queued")
    assert code == 2
    assert cloud.calls() == ["create", *INSTALL, "run"]
    assert err.rstrip().endswith(DELETE["queued-resources"])


@pytest.mark.parametrize("keep", [(), ("--keep",)])
def test_after_too_many_crashes_the_slice_does_not_stay_unless_it_is_kept(tmp_path: Path, keep: tuple[str, ...]):
    cloud = Cloud(tmp_path, "7", "7", "0")
    code, err = cloud.run("--restarts=1", *keep)
    assert code == 7
    assert cloud.calls() == ["create", *[*INSTALL, "run"] * 2, "pack", "fetch", *([] if keep else ["delete"])]
    assert ("may still be there" in err) == bool(keep)


def test_preemptions_are_not_counted_as_restarts(tmp_path: Path):
    cloud = Cloud(tmp_path, "preempt", "75", "preempt", "0")
    assert cloud.run("--restarts=0")[0] == 0
    assert cloud.calls().count("run") == 4


def test_an_install_that_fails_is_no_mistake_of_the_command(tmp_path: Path):
    cloud = Cloud(tmp_path, "0")
    (cloud.folder / "fail-install").write_text("no network, exit code 2\n")
    assert cloud.run("--restarts=1")[0] == 0
    assert cloud.calls() == ["create", *INSTALL, *INSTALL, "run", "pack", "fetch", "delete"]


def test_a_connection_that_breaks_finds_the_command_again(tmp_path: Path):
    cloud = Cloud(tmp_path, "255", "1", "0")
    assert cloud.run()[0] == 0
    assert cloud.calls() == ["create", *INSTALL, "run", "run", *INSTALL, "run", "pack", "fetch", "delete"]
    first, again, restarted = (
        line.partition(" run ")[2].split()[0] for line in cloud.lines() if "tpu_worker.sh run" in line
    )
    assert first == again != restarted


def test_after_a_preemption_it_waits_for_capacity(tmp_path: Path):
    cloud = Cloud(tmp_path, "preempt", "0")
    (cloud.folder / "on-preempt").write_text("printf 'ERROR: no capacity\\n%.0s' 1 2 3 >$CLOUD/fail-create")
    code, err = cloud.run("--spot", "--restarts=0")
    assert code == 0
    assert err.count("ERROR: no capacity") == 3
    one_time = [*INSTALL, "run"]
    assert cloud.calls() == ["create", *one_time, "delete", *["create"] * 4, *one_time, "pack", "fetch", "delete"]


@pytest.mark.parametrize(("patience", "code"), [("1800", 0), ("0", 1)])
def test_gcloud_may_fail_in_passing(tmp_path: Path, patience: str, code: int):
    cloud = Cloud(tmp_path, "preempt", "0")
    (cloud.folder / "on-preempt").write_text(
        "printf 'ERROR: unavailable\\n%.0s' 1 2 >$CLOUD/fail-describe; echo unavailable >$CLOUD/fail-delete"
    )
    found, err = cloud.run(f"--patience={patience}")
    assert found == code
    assert err.count("ERROR: unavailable") == (2 if code == 0 else 1)
    assert cloud.calls().count("run") == (2 if code == 0 else 1)
    assert ("may still be there" in err) == (code != 0)


def test_results_that_cannot_be_fetched_do_not_leave_a_slice_behind(tmp_path: Path):
    cloud = Cloud(tmp_path, "0")
    (cloud.folder / "fail-pack").write_text("ERROR: no space\n")
    (cloud.folder / "fail-delete").write_text("ERROR: unavailable\n")
    code, err = cloud.run()
    assert code == 1
    assert cloud.calls() == ["create", *INSTALL, "run", "pack", "delete", "delete"]
    assert "may still be there" not in err


def test_what_cannot_be_deleted_is_named(tmp_path: Path):
    cloud = Cloud(tmp_path, "0")
    (cloud.folder / "fail-delete").write_text("ERROR: unavailable\n" * 3)
    code, err = cloud.run()
    assert code == 1
    assert err.rstrip().endswith(DELETE["tpu-vm"])


def test_a_slice_on_its_way_is_waited_for(tmp_path: Path):
    cloud = Cloud(tmp_path, "0")
    (cloud.folder / "states").write_text("DELETING\nSTOPPING\nHIDDEN\nUNKNOWN\n")
    assert cloud.run()[0] == 0
    assert cloud.calls() == ["create", *INSTALL, "run", "pack", "fetch", "delete"]


def test_a_queued_resource_that_failed_says_why(tmp_path: Path):
    cloud = Cloud(tmp_path)
    (cloud.folder / "queue").write_text("FAILED")
    code, err = cloud.run("--queued")
    assert code == 1
    assert "tpu_vm.sh: the queued resource n has failed: no such accelerator\n" in err
    assert cloud.calls() == []
    assert err.rstrip().endswith(DELETE["queued-resources"])


def test_a_queued_resource_that_fails_after_the_slice_was_there_is_queued_again(tmp_path: Path):
    cloud = Cloud(tmp_path, "preempt", "0")
    (cloud.folder / "on-preempt").write_text("echo FAILED >$CLOUD/queue")
    assert cloud.run("--queued")[0] == 0
    one_time = ["create", *INSTALL, "run"]
    assert cloud.calls() == [*one_time, "delete", *one_time, "pack", "fetch", "delete"]


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
        (("run", *FLAGS, "python"), "python is not a flag of tpu_vm.sh; see --help, and write -- before the command"),
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


class Run:
    """`tpu_worker.sh run` with a stand-in, as ssh starts it."""

    def __init__(self, folder: Path, worker: tuple[Path, dict[str, str]], launch: str, *arguments: str):
        self.workdir = folder / "w"
        command = (*STAND_IN, f"--workdir={self.workdir}", *arguments)
        self.process = subprocess.Popen(
            [worker[0] / "launch" / "tpu_worker.sh", "run", launch, *command],
            env=worker[1],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def hold(self) -> int:
        """Waits until the stand-in is at step 10 -> its process."""
        step = self.workdir / "step-0"
        wait_for(lambda: step.exists() and step.read_text() == "10", "step 10")
        return self.lives()[-1][1]

    def lives(self) -> list[tuple[int, int]]:
        """(first step, process id) of each life of the stand-in."""
        lines = (self.workdir / "lives-0").read_text().splitlines()
        return [(int(step), int(process)) for step, process, _ in map(str.split, lines)]

    def end(self) -> tuple[int, str]:
        out = self.process.communicate(timeout=60)[0]
        return self.process.returncode, out


def test_a_worker_stops_what_runs_before_it_runs_again(tmp_path: Path, worker):
    first = Run(tmp_path, worker, "one", "--hold=10")
    process = first.hold()
    second = Run(tmp_path, worker, "two", "--hold=10")
    assert second.end() == (0, "process 0: through, steps 10 to 20\n")
    assert first.end() == (75, "process 0: preempted at step 10; the same command continues\n")
    assert not is_alive(process)
    script = worker[0] / "launch" / "tpu_worker.sh"
    assert subprocess.run([script, "stop"], env=worker[1]).returncode == 0  # nothing runs


@pytest.mark.parametrize("ends", ["before", "after"])
def test_a_run_outlives_its_connection_and_is_found_again(tmp_path: Path, worker, ends: str):
    lost = Run(tmp_path, worker, "one", "--hold=10")
    process = lost.hold()
    os.killpg(lost.process.pid, signal.SIGKILL)
    lost.end()
    assert is_alive(process)
    if ends == "before":
        os.kill(process, signal.SIGTERM)
        wait_for((tmp_path / "must_jax_launches" / "one" / "code").exists, "the end")
    again = Run(tmp_path, worker, "one", "--hold=10")
    if ends == "after":
        os.kill(process, signal.SIGTERM)
    assert again.end() == (75, "process 0: preempted at step 10; the same command continues\n")
    assert again.lives() == [(0, process)]  # it was not started a second time


def test_a_run_that_is_killed_with_all_that_watches_it_has_crashed(tmp_path: Path, worker):
    run = Run(tmp_path, worker, "one", "--hold=10")
    process = run.hold()
    os.killpg(os.getpgid(process), signal.SIGKILL)
    assert run.end()[0] == 137


def test_a_worker_does_not_stop_another_process_that_has_got_the_number(tmp_path: Path, worker):
    code, environment = worker
    other = subprocess.Popen(["sleep", "1000"])
    launch = tmp_path / "must_jax_launches" / "one"
    launch.mkdir(parents=True)
    (launch / "process").write_text(str(other.pid))
    assert subprocess.run([code / "launch" / "tpu_worker.sh", "stop"], env=environment).returncode == 0
    assert is_alive(other.pid)
    other.kill()
    other.wait()


def test_what_a_worker_compiles_lies_on_the_storage(tmp_path: Path, worker):
    script = worker[0] / "launch" / "tpu_worker.sh"
    command = [script, "run", "one", "printenv", "JAX_COMPILATION_CACHE_DIR"]
    done = subprocess.run(command, env=worker[1] | {"MUST_JAX_MOUNT": "/share"}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "/share/jax_cache\n")


def test_a_worker_tries_again_while_another_installs_packages(tmp_path: Path, worker):
    code, environment = worker
    calls = tmp_path / "calls"
    sudo = """echo "$*" >>"$CALLS"; [[ $* != *install* ]] || (($(grep -c install "$CALLS") > 2))"""
    with_stubs(tmp_path / "stubs", sudo=sudo, sleep="", mountpoint="exit 1", python3="", uv="")
    environment |= {"CALLS": str(calls), "MUST_JAX_MOUNT": str(tmp_path), "PATH": f"{tmp_path}/stubs:/usr/bin:/bin"}
    subprocess.run([code / "launch" / "tpu_worker.sh", "install", "10.0.0.2:/share"], env=environment, check=True)
    lines = calls.read_text().splitlines()
    assert lines.count("apt-get -o DPkg::Lock::Timeout=300 install -qq -y nfs-common") == 3
    assert lines[-1] == f"mount -t nfs -o hard 10.0.0.2:/share {tmp_path}"


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


@pytest.mark.parametrize(("tar", "fails"), [(1, False), (2, True)])
def test_files_that_change_while_they_are_packed_are_no_failure(tmp_path: Path, worker, tar: int, fails: bool):
    folder, environment = worker
    environment |= {"PATH": with_stubs(tmp_path / "stubs", tar=f"exit {tar}")["PATH"]}
    command = [folder / "launch" / "tpu_worker.sh", "pack", "python", "--config=configs/student.py"]
    assert bool(subprocess.run(command, env=environment).returncode) == fails
