"""What is said of a workdir, from files alone; of real runs see `tests/test_configs.py`."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import ROOT, call, config
from rich.console import Console

from must_jax import files
from must_jax.config import EvaluateConfig, PipelineConfig, TrainConfig
from must_jax.engine.goodput import FILE
from must_jax.report import scorecard
from must_jax.runs.briefs import state
from must_jax.stages import describe

TEACHER = {"stage": "train", "train": [{"images": "scenes/teacher_depth:train"}], "tasks": {"depth": {}}, "steps": 100}
ROWS: list[dict[str, Any]] = [
    {"step": 50, "loss": 4.0, "depth/log_l1": 4.0, "images_per_second": 90.0, "data_wait_share": 0.5},
    {"step": 80, "loss": 1.5, "depth/log_l1": 1.5, "images_per_second": 110.0, "data_wait_share": 0.25, "mfu": 0.4},
]
VALIDATED = {"step": 100, "validation/depth/delta1": 91.25, "validation/depth/abs_rel": None}
LINES = [
    {"process": 0, "time": 10.0, "step": 0, "seconds": {"init": 10.0}},
    {"process": 0, "time": 110.0, "step": 50, "seconds": {"step": 90.0, "data_wait": 10.0}},
    {"process": 1, "time": 215.0, "step": 40, "seconds": {"init": 5.0}},
    {"process": 1, "time": 295.0, "step": 80, "seconds": {"step": 80.0}},
]


def write(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def training(workdir: Path, rows: list[dict[str, Any]] = ROWS, **values: Any) -> Path:
    write(workdir / "config.json", TrainConfig.model_validate(TEACHER | values).model_dump(mode="json"))
    write(workdir / "metrics.jsonl", *rows)
    write(workdir / FILE, *LINES)
    return workdir


def told(workdir: Path, width: int = 80) -> str:
    console = Console(highlight=False, width=width)
    with console.capture() as capture:
        for part in describe.describe(workdir, ascii=True):
            console.print(part, markup=False, soft_wrap=isinstance(part, str))
    return capture.get()


def test_a_training_that_was_stopped(tmp_path: Path):
    text = told(training(tmp_path / "run"))
    first, *lines = text.splitlines()
    assert first.endswith("run: train, stopped, 80/100 steps")
    spent = dict(re.match(r"([a-z ]+?) +([\d.:]+(?: s)?) +", line).groups() for line in lines if "%  #" in line)
    assert spent == {"init": "15.0 s", "step": "2:32", "data wait": "8.0 s", "lost": "20.0 s", "down": "1:40"}
    assert next(line for line in lines if line.startswith("all ")).split() == ["all", "4:55"]
    assert "1 restart, 10 updates done again; last line 1970-01-01" in text
    assert "last logged: 110 images/s, 25.0 % waiting for data, mfu 40.0 %" in text
    assert "loss 4 -> 1.5" in text
    assert "validation" not in text


def test_a_training_that_is_finished(tmp_path: Path):
    minimum = {"minimum": {"depth/delta1": 85}, "validation": TEACHER["train"][0]}
    workdir = training(tmp_path / "run", [*ROWS, VALIDATED], **minimum)
    unreadable = {f"photo {number}": "cut off" for number in range(7)}
    rates = {"images_per_second": 100.0, "data_wait_share": 0.125}
    write(workdir / "result.json", {"steps": 100, "unreadable": unreadable, **rates})
    write(workdir / "skipped.jsonl", {"update": 7, "images": ["photos[1]"]}, {"update": 9, "images": []})
    with (workdir / "skipped.jsonl").open("a") as file:
        file.write('{"update": 1')  # a kill in the middle of a line, behind which the next process writes its own
        file.write('{"update": 11, "images": []}\n{"update": 12, "images": []}\n{"upd')
    lines = told(workdir).splitlines()
    assert lines[0].endswith("run: train, finished, 100/100 steps")
    assert "all steps: 100 images/s, 12.5 % waiting for data" in lines
    assert ["depth/delta1", "91.25", "85"] in [line.split() for line in lines]
    assert "unreadable images: 7" in lines
    assert lines[lines.index("unreadable images: 7") + 1 :][:6] == [
        *(f"  photo {number}, cut off" for number in range(5)),
        "  ... (result.json has all)",
    ]
    assert "skipped updates: 3, the last ones 7, 9, 12 (skipped.jsonl has all)" in lines


def test_curves_of_several_tasks_stand_beside_each_other(tmp_path: Path):
    rows = [{"step": 1, "loss": 3.0, "depth/log_l1": 1.0, "normals/a": 0.5, "normals/b": 1.5}]
    lines = told(training(tmp_path, rows, tasks={"depth": {}, "normals": {}})).splitlines()
    (heads,) = [line for line in lines if line.startswith("loss 3 -> 3")]
    assert "depth 1 -> 1" in heads
    assert any(line.startswith("normals 2 -> 2") for line in lines)


def test_a_run_that_has_only_begun(tmp_path: Path):
    workdir = training(tmp_path / "run", [])
    (workdir / FILE).unlink()
    assert told(workdir).splitlines() == [f"{workdir}: train, stopped, 0/100 steps"]


def test_states(tmp_path: Path):
    assert state(tmp_path / "run") == "not started"
    workdir = training(tmp_path / "run")
    assert state(workdir) == "stopped"
    (workdir / "PREEMPTED").write_text("")
    assert state(workdir) == "preempted"
    for worker in ("", "1-of-2"):
        lock = files.lock(workdir, worker)
        assert state(workdir) == "running"
        files.unlock(lock)
        write(workdir / "result.json", {})
        assert state(workdir) == "finished"


def test_a_pipeline_in_its_order_a_line_a_stage(tmp_path: Path):
    student = TEACHER | {"init": "{workdir}/a_teacher_of_depth"}
    stages = {"a_teacher_of_depth": TEACHER, "a_student": student}
    write(tmp_path / "config.json", PipelineConfig.model_validate({"stages": stages}).model_dump(mode="json"))
    training(tmp_path / "a_teacher_of_depth", [*ROWS, VALIDATED])
    write(tmp_path / "a_teacher_of_depth/result.json", {"steps": 100})
    write(tmp_path / "times.json", {"a_teacher_of_depth": 75.0})
    first, _, heads, *lines = told(tmp_path).splitlines()
    assert first == f"{tmp_path}: pipeline, stopped, 1/2 stages"
    assert heads.split() == ["stage", "state", "progress", "time", "result"]
    assert [line.rstrip() for line in lines] == [
        "a_teacher_of_depth  finished     100/100 steps  1:15  delta1 91.25",
        "a_student           not started  0/100 steps",
    ]
    write(tmp_path / "failures.json", {"a_student": "near chance", "a_stage_that_was_renamed": "near chance"})
    *_, line, _, why = told(tmp_path).splitlines()
    assert line.split()[:2] == ["a_student", "failed"] and why == "a_student has failed: near chance"


@pytest.mark.parametrize("seeds", [1, 3])
def test_an_evaluation_names_the_metric_of_each_set(tmp_path: Path, seeds: int):
    """Of one seed there is no spread, and that is said."""
    split = {"images": "scenes/downstream_depth_tiny:train"}
    inits, sets = {"scratch": "", "student": "runs/student"}, {"range": ("depth", "delta1"), "a set": ("depth", "rmse")}
    values = {
        "inits": inits,
        "downstream": {"range": {"task": "depth", "train": split, "validation": split, "test": split}},
        "transfers": [{"mode": "frozen", "steps": 2, "learning_rates": [0.1]}],
    }
    write(tmp_path / "config.json", EvaluateConfig.model_validate(values).model_dump(mode="json"))
    rows = [
        scorecard.Row(init, task, name, "frozen", metric, 10.0 + seed, seed, 0.1, 2, 64)
        for init in inits
        for name, (task, metric) in sets.items()
        for seed in range(seeds)
    ]
    scorecard.write(rows, tmp_path)
    starts = {"scratch": {"tasks": [], "image_steps": 0}, "student": {"tasks": ["a", "b"], "image_steps": 64}}
    write(tmp_path / "result.json", {"starts": starts})
    text = told(tmp_path)
    names, metrics = next(pair for pair in itertools.pairwise(text.splitlines()) if "frozen" in pair[0])
    assert names.split() == ["frozen", "range", "a", "set"] and metrics.split()[-2:] == ["delta1", "rmse"]
    assert ("±" in text) == (seeds > 1) and (scorecard.ONE_SEED in text) == (seeds == 1)


def test_an_evaluation_by_two_processes_is_counted_together(tmp_path: Path):
    splits = {split: {"images": f"scenes/downstream_depth:{split}"} for split in ("train", "validation", "test")}
    transfer = {"mode": "frozen", "learning_rates": [0.1, 0.2, 0.3], "seeds": [0, 1, 2], "steps": 9, "batch_size": 8}
    values = {"inits": {"scratch": ""}, "downstream": {"range": {"task": "depth", **splits}}, "transfers": [transfer]}
    write(tmp_path / "config.json", EvaluateConfig.model_validate(values).model_dump(mode="json"))
    write(tmp_path / "runs.jsonl", *({"run": f"run {number}"} for number in range(3)))
    assert told(tmp_path).splitlines()[0].endswith("evaluate, stopped, 3/5 trainings")
    write(tmp_path / "runs-1.jsonl", {"run": "run 3"}, {"run": "run 4"})
    assert told(tmp_path).splitlines()[0].endswith("evaluate, stopped, 5/5 trainings")


def test_no_line_is_wider_than_a_terminal(tmp_path: Path):
    workdir = training(tmp_path, [*ROWS, VALIDATED], tasks={"depth": {}, "normals": {}})
    assert max(map(len, told(workdir).splitlines()[1:])) <= 80  # the first begins with the workdir


@pytest.mark.parametrize("name", ["student", "label", "audit", "evaluate", "quickstart", "prepare"])
def test_a_folder_without_a_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert call(config(name), "--config.stage=describe", f"--workdir={tmp_path}/nothing") == 2
    captured = capsys.readouterr()
    sentence = f"error: there is no run in {tmp_path}/nothing; start it first, or name its folder with --workdir\n"
    assert (captured.out, captured.err) == ("", sentence)


def test_as_typed_in_a_shell_without_colours_and_without_jax(tmp_path: Path):
    workdir = training(tmp_path / "run")
    before = {path: path.read_bytes() for path in workdir.iterdir()}
    code = (
        "import sys; from must_jax import main; code = main.main(sys.argv);"
        "print(sorted({'jax', 'flax', 'optax'} & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    arguments = [config("student"), "--config.stage=describe", f"--workdir={workdir}"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert done.stdout.startswith(f"{workdir}: train, stopped, 80/100 steps\n")
    assert "\x1b" not in done.stdout
    assert {path: path.read_bytes() for path in workdir.iterdir()} == before
