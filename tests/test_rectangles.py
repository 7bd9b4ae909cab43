"""Inputs that are not square, through all stages: training, labelling, a scorecard, predictions and features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from short_training import MODEL

import must_jax
from must_jax import predict
from must_jax.data.image_sets import open_images
from must_jax.data.shards import COLUMNS
from must_jax.errors import UserError
from must_jax.labels import manifest
from must_jax.labels.columns import open_column
from must_jax.parsing import parse
from must_jax.stages import STAGES

PHOTO_HW, INPUT_HW, MANY = (90, 160), (64, 96), 32


def photo(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """A picture of 16:9 with a green bar on grey: BGR, its map of ids, and the bar as x, y, width, height."""
    image = rng.integers(60, 100, (*PHOTO_HW, 3), np.uint8)
    height, width = 36, 48
    y, x = int(rng.integers(PHOTO_HW[0] - height)), int(rng.integers(PHOTO_HW[1] - width))
    ids = np.zeros(PHOTO_HW, np.uint8)
    ids[y : y + height, x : x + width] = 1
    image[ids > 0] = (20, 230, 20)
    return image, ids, [x, y, width, height]


def run(folder: Path, stage: str, workdir: str, **values: Any) -> Path:
    STAGES[stage](parse({"stage": stage, "data_dir": str(folder / "data"), **values}), folder / workdir)
    return folder / workdir


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng, found = tmp_path_factory.mktemp("rectangles"), np.random.default_rng(0), []
    for name in ("photos", "ids"):
        (folder / name).mkdir()
    for i in range(MANY):
        image, ids, xywh = photo(rng)
        cv2.imwrite(str(folder / f"photos/{i:02d}.png"), image)
        cv2.imwrite(str(folder / f"ids/{i:02d}.png"), ids)
        found.append({"id": i, "image_id": i, "category_id": 1, "bbox": xywh, "area": 1, "iscrowd": 0})
    images = [{"id": i, "file_name": f"{i:02d}.png", "height": 90, "width": 160} for i in range(MANY)]
    coco = {"images": images, "annotations": found, "categories": [{"id": 1, "name": "bar"}]}
    (folder / "boxes.json").write_text(json.dumps(coco))
    labels = {
        "segmentation": {"format": "id_png", "path": str(folder / "ids"), "options": {"classes": ["none", "bar"]}},
        "detection": {"format": "coco", "path": str(folder / "boxes.json")},
    }
    run(folder, "prepare", "prepared", name="made", images=f"folder:{folder}/photos", labels=labels)
    return folder


@pytest.fixture(scope="module")
def teacher(folder: Path) -> Path:
    common = {"model": MODEL, "image_size": [*INPUT_HW], "batch_size": 8, "steps": 50, "devices": 1, "max_boxes": 4}
    source = {"images": "made:train[:75%]"}
    validation = {"images": "made:train[75%:]"}
    optimizer = {"learning_rate": 0.2, "warmup_steps": 10, "clip_norm": 5.0}
    tasks: dict[str, Any] = {"segmentation": {}, "detection": {"max_detections": 5, "score_threshold": 0.3}}
    return run(
        folder, "train", "teacher", train=[source], validation=[validation], tasks=tasks, optimizer=optimizer, **common
    )


def test_a_network_of_wide_inputs_learns(teacher: Path) -> None:
    model = must_jax.load(teacher)
    assert (model.image_size, model.input_hw) == (INPUT_HW, INPUT_HW)
    assert json.loads((teacher / "model.json").read_text())["image_size"] == [*INPUT_HW]
    assert model.metrics["detection/ap50"] > 80 and model.metrics["segmentation/miou"] > 70


def test_its_predictions_lie_where_things_are(teacher: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, rng = must_jax.load(teacher), np.random.default_rng(1)
    image, ids, (x, y, width, height) = photo(rng)
    labels = model.predict(image[..., ::-1])
    wanted = np.array([y, x, y + height, x + width]) / np.array([*PHOTO_HW, *PHOTO_HW])
    np.testing.assert_allclose(labels["detection"]["boxes_yxyx"][0], wanted, atol=0.08)
    found = labels["segmentation"]["ids"]
    assert found.shape == PHOTO_HW and ((found == 1) & (ids == 1)).sum() / ((found == 1) | (ids == 1)).sum() > 0.7
    maps = model.features([image], ["c3", "p7"])
    assert (maps["c3"].shape[1:3], maps["p7"].shape[1:3]) == ((8, 12), (1, 1))
    np.testing.assert_allclose(maps["content"], [[54 / 64, 1]])
    with pytest.raises(UserError, match="64 x 96"):
        model.predict_batch(np.zeros((1, 96, 64, 3), np.uint8))
    out = folder / "predicted"
    asked = ["--model", str(teacher), "--out", str(out), str(folder / "photos/00.png")]
    assert predict.main(["predict", *asked]) == 0
    assert json.loads((out / "00.json").read_text())["image_hw"] == [*PHOTO_HW]


def test_its_labels_are_those_of_the_images(teacher: Path, folder: Path) -> None:
    images = {"images": "made:train", "gallery_images": 0, "batch_size": 8, "devices": 1}
    labels = run(folder, "label", "labels", teachers=[str(teacher)], **images)
    told = manifest.read(labels / COLUMNS / "teacher-detection").teacher
    assert told is not None and told.image_size == INPUT_HW
    opened = open_images("made:train", str(folder / "data"), 0)
    boxes, ids = (open_column(labels / COLUMNS / f"teacher-{name}", opened) for name in ("detection", "segmentation"))
    assert ids[0]["ids"].shape == (14, 24)  # 54 x 96 pixels
    truth = json.loads((folder / "boxes.json").read_text())["annotations"]
    away = []
    for index in range(MANY):
        x, y, width, height = truth[index]["bbox"]
        wanted = np.array([y, x, y + height, x + width]) / np.array([*PHOTO_HW, *PHOTO_HW])
        away.extend(np.abs(boxes[index]["boxes_yxyx"][:1] - wanted).max(1))
    assert len(away) == MANY and np.median(away) < 0.05


def test_its_features_are_measured_in_a_scorecard(teacher: Path, folder: Path) -> None:
    parts = {"train": "made:train[:25%]", "validation": "made:train[25%:50%]", "test": "made:train[50%:]"}
    downstream = {"bars": {"task": "detection"} | {split: {"images": images} for split, images in parts.items()}}
    transfer = {"mode": "frozen", "steps": 3, "batch_size": 8, "learning_rates": [0.1], "seeds": [0]}
    card: dict[str, Any] = {"inits": {"teacher": str(teacher)}, "downstream": downstream, "transfers": [transfer]}
    scorecard = run(folder, "evaluate", "card", **card, model=MODEL, image_size=[*INPUT_HW], devices=1, max_boxes=4)
    assert "bars" in (scorecard / "scorecard.csv").read_text()
