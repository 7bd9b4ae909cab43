"""Class lists as large as people have them, on tiny images, from the first update to the student's answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hand_made import describe
from photos import jpeg, write_files

import must_jax
from must_jax.config import LabelConfig, TrainConfig
from must_jax.data.decoding import decode_image
from must_jax.data.image_sets import open_images
from must_jax.data.kinds import BoxesLabel, IdsLabel, LabelKind, MapLabel, VectorLabel
from must_jax.inputs.sources import run_digest
from must_jax.labels.columns import open_column
from must_jax.labels.writer import ColumnWriter
from must_jax.stages import label, train

IMAGES = 8
MODEL = {"backbone": "resnet10", "width": 0.125, "pyramid_channels": 8, "head_channels": 8, "head_convs": 1}


def truth_column(home: Path, task: str, kind: LabelKind, count: int, label_of: Any) -> str:
    """True labels of the photos in `home` with classes "0", "1", ..."""
    images = open_images(f"folder:{home / 'photos'}", "")
    manifest = describe(
        task, images, IMAGES, rule={}, teacher=None, kind=kind.to_dict(), classes=tuple(map(str, range(count)))
    )
    writer = ColumnWriter(home / task, manifest)
    for shard in writer.missing():
        with writer.shard(shard) as labels:
            for index in writer.manifest.shard_range(shard):
                labels.add(images.record(index)["name"], {"present": np.float32(1), **label_of(index)})
    writer.finish()
    return str(home / task)


def probs(count: int, index: int) -> dict[str, np.ndarray]:
    return {"probs": np.eye(count, dtype=np.float32)[count - 1 - index]}


def boxes(count: int, index: int) -> dict[str, np.ndarray]:
    ones = np.ones(2, np.float32)
    return {
        "boxes_yxyx": np.float32([[0.1, 0.1, 0.6, 0.6], [0.5, 0.2, 1, 0.9]]),
        "classes": np.int32([count - 1, index]),
        **{"scores": ones, "valid": ones, "ignore": 0 * ones},
    }


def ids(kind: MapLabel, count: int, index: int) -> dict[str, np.ndarray]:
    values = np.full((48, 64), kind.ignore_id, np.int32)
    values[:, :30], values[:, 34:] = count - 1, 255 if count > 255 else index
    return {"ids": values}


@pytest.mark.parametrize(
    ("classes", "boxed", "mapped"), [(1000, 80, 150), (1000, 1203, 1203)], ids=["COCO, ADE20K, ImageNet", "LVIS"]
)
def test_from_the_first_update_to_the_answers_of_the_student(classes: int, boxed: int, mapped: int, tmp_path: Path):
    write_files(tmp_path / "photos", {f"{i}.jpg": jpeg(i) for i in range(IMAGES)})
    kind = IdsLabel("ids", wide=mapped > 255)
    columns = (
        truth_column(tmp_path, "classification", VectorLabel(classes), classes, lambda i: probs(classes, i)),
        truth_column(tmp_path, "detection", BoxesLabel(2), boxed, lambda i: boxes(boxed, i)),
        truth_column(tmp_path, "segmentation", kind, mapped, lambda i: ids(kind, mapped, i)),
    )
    tasks: dict[str, dict[str, Any]] = {
        "classification": {},
        "detection": {"score_threshold": 0.0, "min_score": 0.0},
        "segmentation": {"confidence_threshold": 0.0},
    }
    images = f"folder:{tmp_path / 'photos'}"

    def config(*labels: str) -> TrainConfig:
        return TrainConfig(
            train=({"images": images, "labels": labels},),
            validation={"images": images, "labels": columns},
            tasks=tasks,
            image_size=32,
            max_boxes=4,
            model=MODEL,
            optimizer={"learning_rate": 0.01},
            batch_size=4,
            steps=2,
            devices=1,
        )

    train.run(config(*columns), tmp_path / "teacher")
    label.run(
        LabelConfig(
            images=images, teachers=(str(tmp_path / "teacher"),), batch_size=4, devices=1, accept_failed=tuple(tasks)
        ),
        tmp_path / "labels",
    )
    train.run(config(str(tmp_path / "labels")).model_copy(update={"accept_failed": tuple(tasks)}), tmp_path / "student")

    student = must_jax.load(tmp_path / "student")
    assert {name: len(task.classes) for name, task in student.tasks.items()} == {
        "classification": classes,
        "detection": boxed,
        "segmentation": mapped,
    }
    assert {name.split("/")[0] for name in student.metrics} == set(tasks)
    hw = decode_image((tmp_path / "photos/0.jpg").read_bytes()).shape[:2]
    answer = student.predict(tmp_path / "photos/0.jpg")
    assert answer["segmentation"]["ids"].shape == hw
    assert 0 <= answer["segmentation"]["ids"].min() <= answer["segmentation"]["ids"].max() < mapped
    for name, task in student.tasks.items():
        assert task.draw(np.zeros((48, 64, 3), np.uint8), answer[name]).dtype == np.uint8
        assert task.describe(answer[name])

    stored = open_column(tmp_path / "segmentation", open_images(images, ""))
    np.testing.assert_array_equal(stored[1]["ids"], ids(kind, mapped, 1)["ids"])
    perfect = student.tasks["segmentation"].metrics()
    perfect.update({"ids": stored[1]["ids"]}, stored[1])
    assert perfect.result()["miou"] == 100
    assert run_digest(str(tmp_path / "student")) == student.digest
