"""Every config through the real command, for two steps on tiny data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import CONFIGS, call, config
from photos import good_files, write_files

from must_jax.data.image_sets import open_images
from must_jax.errors import UserError
from must_jax.inputs.mistakes import mistakes_of
from must_jax.main import read_config
from must_jax.parsing import parse
from must_jax.planning.foreseen import Foreseen
from must_jax.planning.sequence import ordered, placed

TASKS = ("classification", "detection", "segmentation", "depth", "normals")
LATER = ("label", "student", "evaluate")
TWO_STEPS = ("--config.steps=2", "--config.batch_size=8", "--config.optimizer.warmup_steps=1", "--config.minimum={}")


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory):
    """The working directory, so that `data/` and `runs/` are the module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder := tmp_path_factory.mktemp("home"))
        yield folder


@pytest.fixture(scope="module")
def smoke(home: Path) -> Path:
    run("smoke")
    return home / "runs/smoke"


def run(name: str, *overrides: str) -> Path:
    assert call(config(name), *overrides) == 0
    return Path("runs") / name


def result(workdir: Path) -> dict:
    return json.loads((workdir / "result.json").read_text())


def test_smoke_goes_all_the_way(smoke: Path):
    assert (smoke / "report/index.html").stat().st_size > 10_000
    assert (smoke / "label/gallery.html").exists()
    assert {path.name for path in (smoke / "label/columns").iterdir()} == {f"teacher_{task}-{task}" for task in TASKS}
    rows = json.loads((smoke / "evaluate/scorecard.json").read_text())
    assert {(row["init"], row["mode"]) for row in rows} == {
        (init, mode) for init in ("scratch", "student") for mode in ("frozen", "finetune")
    }
    assert {row["dataset"] for row in rows} == {*TASKS, "materials"}
    assert set(rows[0]) == {
        "init",
        "task",
        "dataset",
        "mode",
        "metric",
        "value",
        "seed",
        "learning_rate",
        "steps",
        "image_steps",
        "details",
    }


@pytest.mark.parametrize("name", ["smoke", "quickstart"])
def test_a_finished_pipeline_says_so_at_once(name: str, smoke: Path, capsys: pytest.CaptureFixture[str]):
    """And the quick start, with everything that makes smoke small as an override, is the run that smoke has been."""
    before = {path: path.stat().st_mtime_ns for path in smoke.rglob("*.json") if "config" not in path.name}
    small = read_config(CONFIGS / "smoke.py")
    overrides = [f"--config.{key}={small[key]}" for key in ("title", "stages")] if name == "quickstart" else []
    run(name, *overrides, f"--workdir={smoke}")
    assert f"{smoke}" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_describe(smoke: Path):
    """In processes of their own; this one holds the workdirs."""

    def described(workdir: Path) -> str:
        command = [sys.executable, "-m", "must_jax.main", config("smoke"), "--config.stage=describe"]
        done = subprocess.run([*command, f"--workdir={workdir}"], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        assert max(map(len, done.stdout.splitlines()[1:])) <= 80
        return done.stdout

    lines = described(smoke).splitlines()[3:]
    assert [line.split()[0] for line in lines] == [*(f"teacher_{task}" for task in sorted(TASKS)), *LATER]
    student, label = described(smoke / "student"), described(smoke / "label")
    assert "4/4 steps" in student.splitlines()[0] and "compile" in student
    assert all(f"teacher_{task}-{task}" in label for task in TASKS)
    assert "finetune: one seed has no spread" in described(smoke / "evaluate")


@pytest.mark.parametrize("task", TASKS)
def test_teacher(task: str, capsys: pytest.CaptureFixture[str]):
    images = f"scenes/teacher_{task}_tiny"
    workdir = run(
        f"teacher_{task}",
        *(f"--config.train.0.images={images}:train", f"--config.validation.0.images={images}:validation", *TWO_STEPS),
    )
    told = result(workdir)
    (minimum,) = read_config(CONFIGS / f"teacher_{task}.py")["minimum"]
    assert told["steps"] == 2
    assert 0 <= told["metrics"][minimum] <= 100

    # Two steps teach nothing, so it is refused as a teacher.
    assert call(config("label"), f"--config.teachers={workdir}", "--config.images=scenes/unlabelled_tiny:train") == 2
    assert f"{workdir} has hardly learnt {task}" in capsys.readouterr().err


def test_prepare(home: Path):
    write_files(home / "photos", good_files())
    assert call(config("prepare")) == 0
    assert len(open_images("photos:train", home / "data")) == len(good_files())


def test_check(smoke: Path):
    tiny = ("--config.images=scenes/teacher_depth_tiny:test", "--config.take=12", "--config.page_images=1")
    workdir = run("check", f"--config.teachers={smoke / 'teacher_depth'}", *tiny)
    assert list(result(workdir)["teachers"]["teacher_depth"]) == ["depth"]
    assert (workdir / "check.html").exists()


def test_label(smoke: Path):
    teachers = ",".join(str(smoke / f"teacher_{task}") for task in TASKS)
    accepted = f"--config.accept_failed={','.join(TASKS)}"
    workdir = run("label", "--config.images=scenes/unlabelled_tiny:train", f"--config.teachers={teachers}", accepted)
    assert len(list((workdir / "columns").iterdir())) == 5
    assert (workdir / "gallery.html").exists()


def test_labels(smoke: Path, capsys: pytest.CaptureFixture[str]):
    run("labels", f"--config.columns={smoke / 'label'}", "--config.action=describe")
    told = capsys.readouterr().out
    assert all(f"teacher_{task}-{task}" in told for task in TASKS)
    images = "--config.images=scenes/unlabelled_tiny:train"
    run("labels", f"--config.columns={smoke / 'label'}", "--config.action=verify", images)
    assert "intact: 5 columns" in capsys.readouterr().err


def test_audit(smoke: Path, capsys: pytest.CaptureFixture[str]):
    tiny = ("--config.images=scenes/unlabelled_tiny:train", "--config.evaluation=scenes/downstream_depth_tiny:test")
    workdir = run("audit", f"--config.columns={smoke / 'label'}", *tiny)
    columns = result(workdir)["columns"]
    assert [about["task"] for about in columns.values()] == sorted(TASKS)
    assert {about["verdict"] for about in columns.values()} == {"failed"}  # their teachers were not validated
    assert (workdir / "audit.html").exists()
    assert all((Path(folder) / "audit.json").exists() for folder in columns)


def test_student(smoke: Path):
    columns = ",".join(str(smoke / f"label/columns/teacher_{task}-{task}") for task in TASKS)
    overrides = ("--config.train.0.images=scenes/unlabelled_tiny:train", f"--config.train.0.labels={columns}")
    accepted = f"--config.accept_failed={','.join(TASKS)}"  # untrained teachers may say the same of every image
    assert result(run("student", *overrides, *TWO_STEPS, accepted))["steps"] == 2


def test_export():
    """The stage itself: tests/exporting/test_export_stage.py."""
    assert parse(read_config(CONFIGS / "export.py")).model == "runs/student"


def test_simclr():
    """Two steps of it: tests/tasks/test_simclr.py."""
    config = parse(read_config(CONFIGS / "simclr.py"))
    assert mistakes_of(config) == []


@pytest.mark.parametrize("trial", ["", "1"])
@pytest.mark.parametrize("backbone", ["resnet", "vit"])
@pytest.mark.parametrize("start", ["supervised", "simclr"])
def test_strong(backbone: str, start: str, trial: str, monkeypatch: pytest.MonkeyPatch, home: Path):
    """What it will do is right, as far as that is known before any work."""
    for name, value in {"BACKBONE": backbone, "START": start, "TRIAL": trial}.items():
        monkeypatch.setenv(name, value)
    pipeline = parse(read_config(CONFIGS / "strong.py"))
    stages = {name: placed(pipeline.stages[name], pipeline, home / "strong") for name in ordered(pipeline)}
    assert list(stages) == ["start", *(f"teacher_{task}" for task in sorted(TASKS)), *LATER]
    foreseen = Foreseen(home / "strong", "data")
    for name, stage in stages.items():
        assert foreseen.mistakes(stage) == []
        foreseen.add(name, stage)
    assert {stages[name].model.backbone for name in stages if name != "label"} == {
        {"resnet": "resnet18", "vit": "vit_tiny_patch16_224"}[backbone]
    }


def test_strong_names_what_it_does_not_know(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BACKBONE", "vti")
    with pytest.raises(UserError, match=r"BACKBONE=vti.*'vit'"):
        read_config(CONFIGS / "strong.py")


def test_evaluate(smoke: Path):
    values = read_config(CONFIGS / "evaluate.py")
    tiny = {
        name: value
        | {split: {"images": f"scenes/downstream_{name}_tiny:{split}"} for split in ("train", "validation", "test")}
        for name, value in values["downstream"].items()
        if name in ("classification", "depth")
    }
    transfers = tuple(
        transfer | {"steps": 2, "batch_size": 8, "learning_rates": (0.1,), "seeds": (0,)}
        for transfer in values["transfers"]
    )
    for transfer in transfers:
        transfer["optimizer"] = transfer["optimizer"] | {"warmup_steps": 1}
    workdir = run(
        "evaluate",
        f"--config.downstream={tiny}",
        f"--config.transfers={transfers}",
        f"--config.inits={ {'scratch': '', 'student': str(smoke / 'student')} }",
    )
    assert len(json.loads((workdir / "scorecard.json").read_text())) == 2 * 2 * 2


def test_every_config_is_run_here():
    others = {
        "quickstart",
        "smoke",
        "prepare",
        "check",
        "label",
        "labels",
        "audit",
        "student",
        "simclr",
        "strong",
        "export",
        "evaluate",
    }
    tested = {f"teacher_{task}" for task in TASKS} | others | {"own", "others"}  # test_own_data, test_teachers_page
    assert {path.stem for path in CONFIGS.glob("*.py")} == tested
