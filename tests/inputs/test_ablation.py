"""What the student learns from is a matter of its config: the store stays as it is."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hand_made import TEACHER, describe, label_of
from made_teacher import HEADLINES

from must_jax.config import TrainConfig
from must_jax.data.image_sets import open_images
from must_jax.errors import UserError
from must_jax.inputs.mistakes import check_config
from must_jax.labels.writer import ColumnWriter
from must_jax.parsing import parse
from must_jax.stages import train
from must_jax.training import building

IMAGES = 12
COLUMNS = {
    "sharp-depth": "depth",
    "sharp-normals": "normals",
    "blunt-depth": "depth",
    "wise-classification": "classification",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, and columns of three teachers, of which two know depth."""
    home, rng = tmp_path_factory.mktemp("store"), np.random.default_rng(0)
    (home / "photos").mkdir()
    for i in range(IMAGES):
        cv2.imwrite(str(home / f"photos/{i:02d}.png"), rng.integers(0, 256, (32, 48, 3), np.uint8))
    images = open_images(f"folder:{home / 'photos'}", "")
    for name, task in COLUMNS.items():
        teacher = TEACHER.model_copy(update={"name": name.split("-")[0], "metrics": HEADLINES})
        writer = ColumnWriter(home / "columns" / name, describe(task, images, teacher=teacher))
        for shard in writer.missing():
            with writer.shard(shard) as labels:
                for i in writer.manifest.shard_range(shard):
                    labels.add(f"{i:02d}.png", label_of(task, i))
        writer.finish()
    return home


@pytest.fixture(scope="module")
def config(store: Path) -> Callable[..., TrainConfig]:
    def config(take: int = 0, **columns: Any) -> TrainConfig:
        labels = [str(store / "columns" / name) for name in COLUMNS]
        return parse(
            {
                "stage": "train",
                "devices": 1,
                "train": [{"images": f"folder:{store / 'photos'}", "labels": labels, "take": take}],
                "columns": columns,
                "tasks": {"depth": {}, "normals": {}, "classification": {}},
                "image_size": 32,
                "model": {
                    "backbone": "resnet10",
                    "width": 0.125,
                    "pyramid_channels": 8,
                    "head_channels": 8,
                    "head_convs": 1,
                },
                "optimizer": {"learning_rate": 0.01},
                "batch_size": 4,
                "steps": 1,
                "log_every": 1,
            }
        )

    return config


@pytest.fixture(scope="module")
def by_run(store: Path, config: Callable[..., TrainConfig]) -> Callable[..., TrainConfig]:
    """As `config`, with the folder of the label run in place of its columns, and with a task that nothing labels."""

    def by_run(**columns: Any) -> TrainConfig:
        plain = config(**columns)
        source = plain.train[0].model_copy(update={"labels": (str(store),)})
        return plain.model_copy(update={"train": (source,), "tasks": {**plain.tasks, "segmentation": {}}})

    return by_run


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[[TrainConfig, Path], tuple[list[str], list[str], int]]:
    """The columns and tasks that a training would use, and the number of its images, as it is about to begin."""

    class Begins(Exception):
        pass

    seen: list[Any] = []

    def stop(tasks: Any, sources: Any, *_: Any) -> None:
        seen.append((tasks, sources))
        raise Begins

    def read(config: TrainConfig, workdir: Path) -> tuple[list[str], list[str], int]:
        with monkeypatch.context() as patch, pytest.raises(Begins):
            patch.setattr(building, "loss_weights", stop)
            train.run(config, workdir)
        tasks, (source,) = seen[-1]
        return [column.folder.name for column in source.columns], list(tasks), len(source.images)

    return read


@pytest.mark.parametrize(
    ("choice", "columns", "tasks"),
    [
        ({}, list(COLUMNS), ["depth", "normals", "classification"]),
        ({"drop": "depth"}, ["sharp-normals", "wise-classification"], ["normals", "classification"]),
        ({"drop": "blunt"}, [*list(COLUMNS)[:2], "wise-classification"], ["depth", "normals", "classification"]),
        ({"drop": "wise,normals"}, ["sharp-depth", "blunt-depth"], ["depth"]),
        ({"keep": "sharp"}, ["sharp-depth", "sharp-normals"], ["depth", "normals"]),
        ({"keep": "depth", "drop": "sharp"}, ["blunt-depth"], ["depth"]),
    ],
)
def test_columns_are_chosen_by_task_or_teacher(config, read, choice, columns, tasks, tmp_path):
    assert read(config(**choice), tmp_path / "run") == (columns, tasks, IMAGES)


@pytest.mark.parametrize(
    ("choice", "columns", "tasks"),
    [
        ({"drop": "segmentation"}, set(COLUMNS), ["depth", "normals", "classification"]),
        ({"drop": "segmentation,sharp"}, {"blunt-depth", "wise-classification"}, ["depth", "classification"]),
        ({"keep": "depth,normals"}, {"sharp-depth", "sharp-normals", "blunt-depth"}, ["depth", "normals"]),
        ({"keep": "normals,wise"}, {"sharp-normals", "wise-classification"}, ["normals", "classification"]),
    ],
)
def test_a_label_run_stands_for_its_columns_and_tasks_without_labels_can_be_left_out(
    by_run, read, choice, columns, tasks, tmp_path
):
    found, *others = read(by_run(**choice), tmp_path / "run")
    assert (set(found), others) == (columns, [tasks, IMAGES])


def test_columns_of_a_label_run_for_other_tasks_are_not_opened(store, read, by_run, tmp_path):
    run = Path(shutil.copytree(store, tmp_path / "store"))
    next((run / "columns/wise-classification").glob("*.array_record*")).unlink()
    config = by_run(drop="segmentation")
    source = config.train[0].model_copy(update={"labels": (str(run),)})
    tasks = {task: options for task, options in config.tasks.items() if task != "classification"}
    found, *_ = read(config.model_copy(update={"train": (source,), "tasks": tasks}), tmp_path / "run")
    assert set(found) == set(COLUMNS) - {"wise-classification"}


@pytest.mark.parametrize("choice", [{}, {"keep": "sharp,blunt,wise"}, {"keep": "depth,segmentation"}])
def test_a_task_that_nothing_labels_is_a_mistake_and_the_sentence_says_how_to_go_on(by_run, choice, tmp_path):
    sentence = (
        r"for task 'segmentation'; labelled are: (classification, )?depth(, normals)?; provide its labels, .*drop=segm"
    )
    with pytest.raises(UserError, match=sentence):
        train.run(by_run(**choice), tmp_path / "run")


def test_the_first_images_of_a_column_will_do(config, read, tmp_path):
    assert read(config(take=8), tmp_path / "run") == (list(COLUMNS), ["depth", "normals", "classification"], 8)


def test_a_run_without_a_task_is_trained_without_it_and_is_another_run(config, store, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    workdir = tmp_path / "run"
    train.run(config(drop="depth", take=8), workdir)
    model = json.loads((workdir / "model.json").read_text())
    assert list(model["tasks"]) == list(model["training"]["loss_weights"]) == ["normals", "classification"]
    row = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[0])
    assert {name.split("/")[0] for name in row if "/" in name} == {"normals", "classification"}
    assert before == {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    for other, key in (
        (config(take=8), "columns.drop.0 is 'depth' there and 'not set' here"),
        (config(drop="sharp", take=8), "columns.drop.0 is 'depth' there and 'sharp' here"),
        (config(drop="depth"), "train.0.take is 8 there and 0 here"),
    ):
        with pytest.raises(UserError, match=re.escape(key)):
            train.run(other, workdir)


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"drop": "dept"}, "columns.drop names 'dept', which is neither .* did you mean 'depth'"),
        ({"keep": "sharp,blnt"}, "columns.keep names 'blnt', .* did you mean 'blunt'"),
        ({"drop": "depth,normals,wise"}, "config.columns leaves no labels to train on"),
        ({"keep": "wise", "drop": "classification"}, "config.columns leaves no labels to train on"),
    ],
)
def test_a_choice_that_cannot_be_meant_is_refused(config, choice, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        train.run(config(**choice), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_columns_that_are_yet_to_be_made_are_known_by_their_folder(config, tmp_path):
    made = tmp_path / "label/columns/teacher_a-depth"
    coming = config().model_copy(update={"train": (config().train[0].model_copy(update={"labels": (str(made),)}),)})
    check_config(coming.model_copy(update={"columns": config(drop="teacher_a").columns}), {made})
    whole = {"train": (coming.train[0].model_copy(update={"labels": (str(tmp_path / "label"),)}),)}
    check_config(
        coming.model_copy(update=whole | {"columns": config(drop="teacher_a").columns}), {made, tmp_path / "label"}
    )
    with pytest.raises(UserError, match="did you mean 'teacher_a'"):
        check_config(coming.model_copy(update={"columns": config(drop="teacher_b").columns}), {made})


def test_columns_that_are_not_chosen_are_not_opened(config, read, store, tmp_path):
    lost = next((store / "columns/wise-classification").glob("*.array_record*"))
    data = lost.read_bytes()
    lost.unlink()
    try:
        with pytest.raises(UserError, match="wise-classification has lost labels"):
            train.run(config(), tmp_path / "run")
        for choice in ({"keep": "sharp"}, {"drop": "classification"}, {"drop": "wise"}):
            assert "wise-classification" not in read(config(**choice), tmp_path / "run")[0]
    finally:
        lost.write_bytes(data)
