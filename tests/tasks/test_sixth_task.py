"""A task of one's own: this class and one line in the registry, then it trains, is measured and predicts."""

from __future__ import annotations

from typing import Any, ClassVar

import cv2
import jax.numpy as jnp
import numpy as np

from must_jax import trained
from must_jax.config import ModelConfig
from must_jax.data.image_sets import open_images
from must_jax.data.kinds import VectorLabel
from must_jax.labels.manifest import ImagesRecord, Manifest, TeacherRecord
from must_jax.labels.writer import ColumnWriter
from must_jax.models.heads import PooledLinearHead
from must_jax.parsing import parse
from must_jax.stages import train
from must_jax.tasks import TASKS
from must_jax.tasks.base import Task
from must_jax.tasks.measures import masked_sum

METRICS = {"brightness/within_tenth": 90.0, "brightness/chance": 20.0}


class Brightness(Task):
    kind: ClassVar[str] = "brightness"
    metric: ClassVar[str] = "within_tenth"

    @property
    def label(self) -> VectorLabel:
        return VectorLabel(1)

    def head(self, model: ModelConfig) -> PooledLinearHead:
        return PooledLinearHead(1)

    def loss(self, outputs, labels, input_hw):
        error = jnp.square(outputs["logits"] - labels["probs"])[:, 0]
        return {"squared": masked_sum(error, labels["present"])}

    def predict(self, outputs, input_hw):
        return {"probs": outputs["logits"]}

    def metrics(self) -> BrightnessMetrics:
        return BrightnessMetrics()

    def pseudo_label(self, prediction):
        return {"probs": prediction["probs"], "present": np.ones((), np.float32)}

    def draw(self, image, label):
        return image

    def describe(self, label) -> dict[str, Any]:
        return {"brightness": float(label["probs"][0])}


class BrightnessMetrics:
    def __init__(self) -> None:
        self._close, self._images = 0, 0

    def update(self, prediction, label) -> None:
        if label["present"]:
            self._close += int(np.abs(prediction["probs"] - label["probs"])[0] < 0.1)
            self._images += 1

    def merge(self, other: BrightnessMetrics) -> None:
        self._close += other._close
        self._images += other._images

    def result(self) -> dict[str, float]:
        return {"within_tenth": 100 * self._close / max(self._images, 1)}

    def details(self) -> dict[str, Any]:
        return {}

    def chance(self) -> float:
        return 20.0


def test_one_class_and_one_line_make_a_task(monkeypatch, tmp_path):
    monkeypatch.setitem(TASKS, "brightness", Brightness)
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        cv2.imwrite(str(tmp_path / f"photos/{i}.png"), np.full((32, 32, 3), rng.integers(256), np.uint8))
    spec = f"folder:{tmp_path / 'photos'}"
    source = {"images": spec, "labels": (str(label_column(tmp_path / "column", spec)),)}
    config = {
        "stage": "train",
        "train": (source,),
        "validation": source,
        "tasks": {"brightness": {}},
        "image_size": 32,
        "model": {"backbone": "resnet10", "width": 0.125, "pyramid_channels": 8, "head_channels": 8, "head_convs": 1},
        "batch_size": 4,
        "steps": 1,
        "devices": 1,
    }
    train.run(parse(config), tmp_path / "run")

    model = trained.load(tmp_path / "run")
    assert model.tasks == {"brightness": Brightness()}
    assert set(model.metrics) == {"brightness/within_tenth", "brightness/chance"}
    assert np.isfinite(model.predict(np.zeros((40, 50, 3), np.uint8))["brightness"]["probs"]).all()


def label_column(folder, spec):
    images = open_images(spec, "")
    description = Manifest.describe(
        VectorLabel(1),
        task="brightness",
        classes=(),
        rule={},
        preprocessing="none",
        images=ImagesRecord.of(images),
        teacher=TeacherRecord(
            name="t", digest="0" * 64, learning_rate=0.1, batch_size=4, steps=1, image_size=32, metrics=METRICS
        ),
        shard_images=8,
        must_jax="0",
        created="2026-01-01T00:00:00+00:00",
    )
    writer = ColumnWriter(folder, description)
    with writer.shard(0) as labels:
        for i in range(len(images)):
            pixel = cv2.imdecode(np.frombuffer(images.record(i)["image"], np.uint8), cv2.IMREAD_COLOR)[0, 0, 0]
            labels.add(f"{pixel}", {"probs": np.array([pixel / 255], np.float32), "present": np.float32(1)})
    writer.finish()
    return folder
