"""True boxes through the real stages: all of them count in a validation, and those to ignore in none."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from command_line import call, config
from photos import encoded, picture, write_files

from must_jax.config import TrainConfig
from must_jax.stages import train
from must_jax.training import validation

MODEL = {"backbone": "resnet10", "width": 0.125, "pyramid_channels": 8, "head_channels": 8, "head_convs": 1}


def validated(
    images: str, data_dir: Path, found: Sequence[tuple[float, ...]], monkeypatch: pytest.MonkeyPatch
) -> dict[str, float]:
    """What a training measures if the model finds these boxes (fractions of the input) of class 0 in every image."""
    rows = np.array(found, np.float32)
    label = {"boxes_yxyx": rows, "classes": np.zeros(len(rows), np.int32), "scores": np.linspace(0.9, 0.5, len(rows))}
    label |= {"valid": np.ones(len(rows), np.float32)}

    def made(*args: Any, **options: Any) -> Any:
        def predict(variables: Any, batch: Any) -> Any:
            count = len(batch["image"])
            return {"detection": {key: jnp.stack([jnp.asarray(x)] * count) for key, x in label.items()}}

        return jax.jit(predict)

    monkeypatch.setattr(validation, "make_predict_step", made)
    source = {"images": images}
    values: dict[str, Any] = {"train": (source,), "validation": source, "tasks": {"detection": {}}, "model": MODEL}
    values |= {"image_size": 64, "batch_size": 2, "steps": 1, "devices": 1, "optimizer": {"learning_rate": 0.01}}
    train.run(TrainConfig(data_dir=str(data_dir), **values), data_dir / "run")
    metrics: dict[str, float] = json.loads((data_dir / "run/result.json").read_text())["metrics"]
    return {name.removeprefix("detection/"): value for name, value in metrics.items()}


def test_boxes_under_a_pixel_count_in_a_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """An image has a house, which is always found, and nine cars of 14 pixels in 1600, which never are."""
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path / "photos", {f"{n}.jpg": encoded(picture(1200, 1600, n)) for n in range(3)})
    boxes = [(1, [900, 500, 600, 600]), *((2, [60 + 90 * j, 60 + 40 * j, 14, 14]) for j in range(9))]
    truth = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 1600, "height": 1200} for n in range(3)],
        "categories": [{"id": 1, "name": "house"}, {"id": 2, "name": "car"}],
        "annotations": [
            {"id": 10 * n + i, "image_id": n, "category_id": category, "bbox": bbox, "iscrowd": 0}
            for n in range(3)
            for i, (category, bbox) in enumerate(boxes)
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(truth))
    labels = ["--config.labels.detection.format=coco", "--config.labels.detection.path=a.json"]
    assert call(config("prepare"), "--config.images=folder:photos", *labels) == 0
    # The image takes up the upper three quarters of the input.
    house = (0.75 * 500 / 1200, 900 / 1600, 0.75 * 1100 / 1200, 1500 / 1600)
    found = validated("photos:train", tmp_path / "data", [house], monkeypatch)
    assert found["ap50"] == found["ap50_voc07"] == pytest.approx(50)
    told = "detection learns at image_size 64 from 3 of 30 boxes in 3 of 3 labelled images (27 smaller than a pixel"
    assert told in capsys.readouterr().err


class Crowds(tfds.core.GeneratorBasedBuilder):
    """As TFDS has COCO: one person, a crowd, and a box without area in every image."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        objects = {"bbox": tfds.features.BBoxFeature(), "is_crowd": np.bool_}
        objects["label"] = tfds.features.ClassLabel(names=["person", "dog"])
        features = {"image": tfds.features.Image(), "objects": tfds.features.Sequence(objects)}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Any:
        box = tfds.features.BBox
        objects = [
            {"bbox": box(ymin=0.1, xmin=0.1, ymax=0.3, xmax=0.3), "is_crowd": False, "label": 0},
            {"bbox": box(ymin=0.4, xmin=0.2, ymax=0.9, xmax=1.0), "is_crowd": True, "label": 0},
            {"bbox": box(ymin=0.5, xmin=0.5, ymax=0.5, xmax=0.6), "is_crowd": False, "label": 1},
        ]
        for index in range(3):
            yield index, {"image": io.BytesIO(encoded(picture(64, 64, index), "PNG")), "objects": objects}

    def _log_download_bytes(self) -> None:
        pass

    _log_download_done = _log_download_bytes


def test_crowds_of_tfds_are_neither_learnt_nor_missed_nor_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    tfds.disable_progress_bar()
    Crowds(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    many = [(0.4 + 0.05 * i, 0.3 + 0.05 * i, 0.5 + 0.05 * i, 0.4 + 0.05 * i) for i in range(8)]
    found = validated("crowds:train", tmp_path, [*many, (0.1, 0.1, 0.3, 0.3)], monkeypatch)
    assert found["ap50"] == pytest.approx(100)
    assert "detection learns at image_size 64 from 3 of 3 boxes in 3 of 3 labelled images" in capsys.readouterr().err
