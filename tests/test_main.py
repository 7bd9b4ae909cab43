"""Bad input through the real command: one sentence, exit code 2, no traceback, and nothing is begun."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import CONFIGS, ROOT, call, config

from must_jax import main, preemption
from must_jax.inputs import memory
from must_jax.stages import train

TEACHER, LABEL, STUDENT, EVALUATE = map(config, ("teacher_depth", "label", "student", "evaluate"))
TINY = (
    "--config.train.0.images=scenes/teacher_depth_tiny:train",
    "--config.validation=None",  # a validated one would be refused as a teacher
    *("--config.steps=2", "--config.batch_size=8", "--config.optimizer.warmup_steps=1", "--config.minimum={}"),
)
UNMEASURED = ("--config.validation=none", "--config.minimum=none")
Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory):
    """The working directory, so that `data/` and `runs/` are the module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder := tmp_path_factory.mktemp("home"))
        yield folder


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in this process -> its exit code and what it wrote to stderr."""

    return lambda *arguments: (call(*arguments), capsys.readouterr().err)


@pytest.fixture(scope="module")
def teacher(home: Path) -> Path:
    """A finished run of two steps."""
    assert call(TEACHER, *TINY, "--workdir=runs/teacher_depth") == 0
    return home / "runs/teacher_depth"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def answer(said: str) -> str:
    """The sentence that was said; before it, images may have been rendered to learn what they are labelled with."""
    *before, last = said.splitlines()
    assert all(line.startswith("rendering ") for line in before), said
    assert last.startswith("error: ")
    return last


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "--config=FILE is missing; configs/quickstart.py is the one to start with"),
        (("--confg=x",), "Unknown command line flag 'confg'. Did you mean: config ?"),
        ((TEACHER, "now"), "now is not a flag; write --config=FILE, --workdir=FOLDER or --config.KEY=VALUE"),
        ((TEACHER, "--config.steps", "3"), "--config.steps has no value; write --config.steps=VALUE"),
        ((f"--config={CONFIGS}/teacher_dept.py",), f"is not a file; did you mean '{CONFIGS}/teacher_depth.py'?"),
        ((f"--config={CONFIGS}/teacher_depth",), f"is not a file; did you mean '{CONFIGS}/teacher_depth.py'?"),
        ((TEACHER, "--config.optimizer.lerning_rate=1"), "rning_rate is unknown; did you mean 'learning_rate'?"),
        ((TEACHER, "--config.batch_size=many"), "config.batch_size is 'many', but should be a valid integer"),
        ((TEACHER, "--config.image_size=50"), "config.image_size is 50, but should be a multiple of 32"),
        (
            (TEACHER, *TINY, "--config.tasks.depth.depth_knd=relative"),
            "task 'depth' has no option 'depth_knd'; did you mean 'depth_kind'?",
        ),
        ((TEACHER, *TINY, "--config.tasks.dept={}"), "there is no task 'dept' (did you mean 'depth'?)"),
        ((TEACHER, "--config.train.0.images=scenes/teacher_dept:train", *UNMEASURED), "did you mean 'teacher_depth'?"),
        ((TEACHER, "--config.train.0.images=scenes/teacher_depth_tiny:trian", *UNMEASURED), "trian"),
        ((TEACHER, "--config.train.0.images=nowhere/at_all:train", *UNMEASURED), "nowhere"),
        (
            (TEACHER, "--config.train.0.images=street:train"),
            "--config.validation.0.images=... or --config.validation=no",
        ),
        ((TEACHER, "--config.train.0.images=street:train"), ", and --config.minimum.depth/delta1=... or --config.mini"),
        (
            (config("quickstart"), "--config.stages.teacher_depth.train.0.images=street:train"),
            "--config.stages.teacher_depth.validation.0.images=... or --config.stages.teacher_depth.validation=none",
        ),
        ((TEACHER, *TINY, "--config.init=runs/nothing"), "runs/nothing"),
        ((LABEL, "--config.images=scenes/unlabelled_tiny:train"), "runs/teacher_classification"),
        (
            (STUDENT, "--config.train.0.images=scenes/unlabelled_tiny:train"),
            "there is no label column runs/label/columns/",
        ),
        ((EVALUATE,), "there is no run runs/"),
    ],
)
def test_a_mistake_is_answered_before_any_work(command: Command, arguments: tuple[str, ...], sentence: str):
    code, said = command(*arguments, *["--workdir=runs/never"] * any("--config=" in item for item in arguments))
    assert (code, said.count("\n")) == (2, 1), said
    assert said.startswith("error: ")
    assert sentence in said
    assert not Path("runs/never").exists()


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_labelling_a_folder_without_images(command: Command, teacher: Path, tmp_path: Path, folder: str):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").write_text("no image")
    images = f"--config.images=folder:{tmp_path}/{folder}"
    accepted = "--config.accept_failed=depth"  # the teacher was not validated
    code, said = command(LABEL, images, f"--config.teachers={teacher}", accepted, "--workdir=runs/never")
    assert code == 2
    assert f"{tmp_path}/{folder}" in said.splitlines()[-1]
    assert not Path("runs/never").exists()


def test_options_for_a_task_that_no_teacher_has(command: Command, teacher: Path):
    options = ("--config.images=scenes/unlabelled_tiny:train", "--config.tasks={'normals': {}}")
    code, said = command(LABEL, f"--config.teachers={teacher}", *options, "--workdir=runs/never")
    assert code == 2
    assert "normals" in said.splitlines()[-1]
    assert not Path("runs/never").exists()


def test_a_workdir_of_another_config_is_left_alone(command: Command, teacher: Path):
    before = contents(teacher)
    code, said = command(TEACHER, *TINY, "--config.optimizer.learning_rate=0.2", f"--workdir={teacher}")
    assert (code, said.count("\n")) == (2, 1), said
    assert "learning_rate" in said
    assert contents(teacher) == before


def test_a_finished_run_says_so_and_does_nothing(command: Command, teacher: Path):
    before = contents(teacher)
    code, said = command(TEACHER, *TINY, f"--workdir={teacher}")
    assert code == 0
    assert str(teacher) in said
    assert contents(teacher) == before


def test_data_without_labels_of_the_task(command: Command, teacher: Path):
    code, said = command(TEACHER, *TINY, "--config.tasks={'normals': {}}", "--workdir=runs/never")
    assert code == 2
    assert "normals" in answer(said)
    assert not Path("runs/never").exists()


def test_data_with_two_class_lists(command: Command):
    code, said = command(
        f"--config={CONFIGS}/teacher_segmentation.py",
        "--config.train=({'images': 'scenes/downstream_segmentation_tiny:train'},"
        "{'images': 'scenes/downstream_materials_tiny:train'})",
        "--config.validation.0.images=scenes/downstream_segmentation_tiny:validation",
        "--config.minimum=none",
        "--workdir=runs/never",
    )
    assert code == 2
    assert "classes" in answer(said)
    assert not Path("runs/never").exists()


def test_too_little_disk(command: Command, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage(".")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    code, said = command(TEACHER, *TINY, "--config.seed=5", "--workdir=runs/full")
    assert code == 2
    assert said.splitlines()[-1].startswith("error: ") and "free" in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "gib", "sentence"),
    [
        (
            ("--config.batch_size=1048576", "--config.image_size=16384"),
            64,
            "error: 1,048,576 images of 16384 x 16384 need at least 786,432.0 GiB of memory, this machine has "
            "64.0 GiB; lower batch_size or image_size",
        ),
        (
            (),
            0.001,
            "error: the parameters of this network need at least 0.0 GiB of memory, this machine has 0.0 GiB; "
            "lower the width or the channels of config.model",
        ),
    ],
)
def test_what_is_larger_than_the_memory(
    command: Command, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], gib: float, sentence: str
):
    monkeypatch.setattr(memory, "memory_bytes", lambda: gib * 2**30)
    code, said = command(TEACHER, *TINY, *flags, "--workdir=runs/never")
    assert (code, said.splitlines()[-1]) == (2, sentence)
    assert not Path("runs/never").exists()


def test_a_workdir_that_is_a_file(command: Command, tmp_path: Path):
    (tmp_path / "run").write_text("")
    code, said = command(TEACHER, *TINY, f"--workdir={tmp_path}/run")
    assert (code, said) == (2, f"error: --workdir={tmp_path}/run is a file; name a folder\n")


@pytest.mark.parametrize("flag", ["--workdir=", "--config.data_dir="])
@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("file", "is a file; name a folder"),
        ("file/run", "leads through {0}/file, which is a file; choose another folder"),
        ("/dev/null", "is a device; name a folder"),
        ("/dev/null/run", "leads through /dev/null, which is a device; choose another folder"),
        ("pipe", "is a pipe; name a folder"),
        ("loop/run", "cannot be a folder: Too many levels of symbolic links; choose another"),
        ("nothing", "leads through {0}/nothing, a dangling link; choose another folder"),
        ("x" * 300, "cannot be a folder: File name too long; choose another"),
    ],
)
def test_what_can_be_no_folder(command: Command, tmp_path: Path, flag: str, place: str, sentence: str):
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nothing").symlink_to("no/where")
    code, said = command(TEACHER, *TINY, f"{flag}{tmp_path / place}")
    named = flag if flag == "--workdir=" else flag.removeprefix("--")
    assert (code, said) == (2, f"error: {named}{tmp_path / place} {sentence.format(tmp_path)}\n")


def test_a_workdir_whose_name_is_no_text(command: Command, tmp_path: Path):
    code, said = command(TEACHER, *TINY, os.fsdecode(b"--workdir=" + os.fsencode(tmp_path) + b"/\xff"))
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith(f"error: --workdir={tmp_path}/\\xff is not UTF-8")


@pytest.mark.parametrize("kind", ["train", "describe"])
def test_a_signal_before_the_stage_begins_is_a_preemption(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    def signalled() -> None:
        watch()
        signal.raise_signal(signal.SIGTERM)

    watch, before = preemption.watch, signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(preemption, "watch", signalled)
    try:
        code, said = command(TEACHER, *TINY, f"--config.stage={kind}", f"--workdir={tmp_path}/run")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (code, said) == (0, "preempted, stopped by SIGTERM; the same command continues\n")
    assert (tmp_path / "run/PREEMPTED").exists() == (kind == "train")


@pytest.mark.parametrize("text", ["get_config = 1 / 0", "def get_config(:", "x = 3", "raise SystemExit(0)"])
def test_a_config_file_with_a_bug(command: Command, tmp_path: Path, text: str):
    (tmp_path / "mine.py").write_text(text)
    code, said = command(f"--config={tmp_path}/mine.py")
    assert (code, said.count("\n")) == (2, 1), said
    assert said.startswith(f"error: config file {tmp_path}/mine.py fails with ")


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "stopped; the same command continues\n"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "f"),
            2,
            "free some space, then the same command continues\n",
        ),
        (
            RuntimeError("write: No space left on device\nat g.cc"),
            2,
            "free some space, then the same command continues\n",
        ),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "f"), 2, "a folder that you may read and write\n"),
    ],
)
def test_what_ends_a_run_from_outside(
    command: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, sentence: str
):
    def fail(config: object, workdir: Path) -> None:
        raise error

    monkeypatch.setattr(train, "run", fail)
    ended, said = command(TEACHER, *TINY)
    assert (ended, said.count("\n")) == (code, 1)
    assert said.endswith(sentence)


def test_a_bug_keeps_its_traceback(command: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(train, "run", lambda config, workdir: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command(TEACHER)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--config=configs/teacher_depth.py", "--config.optimizer.lerning_rate=1"),
            "error: config.optimizer.lerning_rate is unknown; did you mean 'learning_rate'?\n",
        ),
        (
            ("--config=quickstrat",),
            "error: --config=quickstrat is not a file; did you mean 'configs/quickstart.py'?\n",
        ),
    ],
)
def test_as_typed_in_a_shell(arguments: tuple[str, ...], said: str):
    done = subprocess.run([sys.executable, "-m", "must_jax.main", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


@pytest.mark.parametrize(
    ("arguments", "stays"),
    [
        ((config("student"), "--config.stage=describe"), True),
        ((config("labels"), "--config.columns=nowhere"), True),
        ((config("label"), "--config.dry_run=true", "--config.teachers=nowhere"), True),
        ((config("student"),), False),
    ],
)
def test_only_a_run_takes_its_marker_away(
    arguments: tuple[str, ...], stays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Not who looks at a run that was told to stop: it would be taken for finished."""
    monkeypatch.setattr(main, "STAGES", dict.fromkeys(main.STAGES, lambda config, workdir: None))
    (tmp_path / "PREEMPTED").write_text("stopped")
    assert call(*arguments, f"--workdir={tmp_path}") == 0
    assert (tmp_path / "PREEMPTED").exists() == stays


def test_an_error_does_not_wait_for_a_compilation():
    program = """
import threading
from concurrent.futures import ThreadPoolExecutor
import jax
from must_jax import main
ThreadPoolExecutor(1).submit(threading.Event().wait)
print("the error", flush=True)
main.leave(2)
"""
    ended = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=600)
    assert (ended.returncode, ended.stdout) == (2, "the error\n")
