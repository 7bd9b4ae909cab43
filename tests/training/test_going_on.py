"""A finished run that goes on, is started from, or has learnt nothing of a task."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from made_teacher import HEADLINES, make_teacher, redescribe
from short_training import short_training

from must_jax import trained
from must_jax.config import LabelConfig, TrainConfig
from must_jax.engine import goodput
from must_jax.engine.checkpoint import restore_variables
from must_jax.errors import UserError
from must_jax.inputs.named import mesh_of
from must_jax.labelling import teachers
from must_jax.runs.workdir import history
from must_jax.stages import describe, train
from must_jax.training import building
from must_jax.training.building import Training, prepare

SCENES = "scenes/teacher_classification_tiny"


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def config(data_dir: Path) -> Callable[..., TrainConfig]:
    def config(**changes: Any) -> TrainConfig:
        values = {
            "train": [{"images": f"{SCENES}:train"}],
            "validation": [{"images": f"{SCENES}:validation"}],
            "tasks": {"classification": {}},
            "optimizer": {"learning_rate": 0.02, "warmup_steps": 1, "clip_norm": 1.0, "ema_decay": 0.5},
            "steps": 4,
            "checkpoint_every": 3,
        }
        return short_training(data_dir, **values | changes)

    return config


@pytest.fixture(scope="module")
def finished(config: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("finished") / "run"
    train.run(config(), workdir)
    return workdir


def rows(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_finished_run_goes_on_with_more_steps(
    config: Callable[..., TrainConfig],
    finished: Path,
    tmp_path: Path,
    leaves: Callable[[Any], dict[str, np.ndarray]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Killed on the way, it ends as the one that was not; its former model can be loaded meanwhile."""
    once, killed = tmp_path / "once", tmp_path / "killed"
    for workdir in (once, killed):
        shutil.copytree(finished, workdir)
    longer, before = config(steps=9), trained.load(finished)
    train.run(longer, once)
    told = capsys.readouterr().err
    assert (
        f"{once} goes on after step 4 up to 9, with its optimizer and heads; the learning rate jumps from 0.005 "
        in told
    )
    assert "from the start" in told

    original = building.train_batches

    def batches(*args: Any, start_step: int, **options: Any) -> Any:
        for step, batch in enumerate(original(*args, start_step=start_step, **options), start_step):
            if step == 7:
                raise Killed
            yield batch

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(building, "train_batches", batches)
        train.run(longer, killed)
    assert not (killed / "result.json").exists() and trained.load(killed).digest == before.digest
    for steps in (4, 12):
        with pytest.raises(
            UserError, match=rf"is a run of 9 updates that is not finished, and config.steps is {steps}"
        ):
            train.run(config(steps=steps), killed)
    train.run(longer, killed)

    expected, found = (leaves(restore_variables(workdir / "checkpoints")) for workdir in (once, killed))
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert trained.load(killed).digest == trained.load(once).digest != before.digest
    assert [row["step"] for row in rows(killed) if "loss" in row] == [2, 4, 6, 8, 9]
    assert [row["step"] for row in rows(killed) if "loss" not in row] == [4, 9]
    assert (killed / "result.json").exists() and trained.load(killed).settings["steps"] == 9
    (former,) = history(killed)
    assert former["steps"] == 4
    assert f"until {former['until']}: steps 4" in "\n".join(map(str, describe.describe(killed)))
    with pytest.raises(UserError, match=r"was trained for 9 updates, which config.steps = 4 cannot undo"):
        train.run(config(), killed)
    with pytest.raises(UserError, match=r"config.seed is 0 there and 1 here"):
        train.run(config(steps=12, seed=1), killed)


def test_the_time_between_does_not_count_as_down(
    config: Callable[..., TrainConfig], finished: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    lines = (workdir / goodput.FILE).read_text().splitlines()
    ago = [json.loads(line) for line in lines]
    for line in ago:
        line["time"] -= 1e6
    (workdir / goodput.FILE).write_text("".join(f"{json.dumps(line)}\n" for line in ago))
    train.run(config(steps=5), workdir)
    spent = goodput.total(goodput.read(workdir))
    assert (spent.processes, spent.steps, spent.lost_steps) == (2, 5, 0)
    assert spent.seconds["down"] == 0 and sum(spent.seconds.values()) < time.time() - spent.began - 1e5


def prepared(config: TrainConfig) -> Training:
    return prepare(config, mesh_of(config))


def test_heads_are_taken_where_they_fit(
    config: Callable[..., TrainConfig], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    depth = {"train": [{"images": f"{SCENES}:train"}, {"images": "scenes/teacher_depth_tiny:train"}]}
    both = config(**depth, tasks={"classification": {}, "depth": {}}, init=str(finished), seed=7)
    run = trained.load(finished)
    training = prepared(both.model_copy(update={"init_parts": ("backbone", "heads")}))
    told = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("taken from "))
    assert told.startswith(
        f"taken from {finished}: backbone, the head of classification; new: fpn, the head of depth ("
    )
    for part, same in (("backbone", True), ("fpn", False)):
        pair = (jax.tree.leaves(each["params"][part])[0] for each in (training.variables, run.variables))
        assert np.array_equal(*pair) == same
    heads = (each["params"]["heads"]["classification"] for each in (training.variables, run.variables))
    jax.tree.map(np.testing.assert_array_equal, *heads)
    other = both.model.model_copy(update={"width": 0.25, "head_channels": 4})
    asked = rf"^config.init={finished} .*; set --config.model.width={both.model.width}$"  # heads may differ
    with pytest.raises(UserError, match=asked):
        prepared(both.model_copy(update={"model": other}))


def test_a_head_without_training_is_told_and_does_not_label(
    config: Callable[..., TrainConfig], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = prepared(config(tasks={"classification": {"weight": 0}}))
    assert training.untrained == ["classification"]
    assert "the head of classification will learn nothing, since its loss weight is 0" in capsys.readouterr().err
    parts = ("backbone", "fpn", "heads")
    assert not prepared(
        config(tasks={"classification": {"weight": 0}}, init=str(finished), init_parts=parts)
    ).untrained  # it has learnt before

    able = make_teacher(tmp_path / "able", ("depth", "normals"), 32, HEADLINES)
    redescribe(able / "model.json", training={"untrained": ["normals"]})
    asked = LabelConfig(images="folder:photos", teachers=(str(able),), devices=1)
    assert [list(teacher.tasks) for teacher in teachers.load(asked)] == [["depth"]]
    assert f"{able} does not label normals" in capsys.readouterr().err
    redescribe(able / "model.json", training={"untrained": ["depth", "normals"]})
    with pytest.raises(UserError, match=r"has learnt none of its tasks \(depth, normals\)"):
        teachers.load(asked)
