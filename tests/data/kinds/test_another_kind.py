"""A new kind of label is one class: a column, its statistics and a batch follow from it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from hand_made import KINDS, Images, write_column

from must_jax.data import kinds
from must_jax.data.augment import Geometry, moved
from must_jax.data.batching import Source, eval_batches
from must_jax.data.image_sets import ImageSet, Truth
from must_jax.data.kinds import Label, LabelKind
from must_jax.data.kinds.base import Contents
from must_jax.data.kinds.statistics import Statistics
from must_jax.data.letterbox import Content
from must_jax.labels import verify
from must_jax.labels.columns import LabelColumn
from must_jax.labels.told import told


@dataclass(frozen=True)
class PointsLabel(LabelKind):
    """One point for each class: `{"points_yx": f32[K, 2], "seen": f32[K]}`, in fractions of the image."""

    points: int

    MARKS: ClassVar[Mapping[str, str]] = {"kind": "points"}
    called: ClassVar[str] = "points"
    things: ClassVar[str] = "points"
    sure_by: ClassVar[str] = "score"

    def features(self) -> dict[str, Any]:
        return {
            "points_yx": tfds.features.Tensor(shape=(self.points, 2), dtype=np.float32),
            "seen": tfds.features.Tensor(shape=(self.points,), dtype=np.uint8),
            "present": np.uint8,
        }

    def absent(self, map_hw: tuple[int, int]) -> Label:
        points = np.zeros((self.points, 2), np.float32)
        return {"present": np.float32(0), "points_yx": points, "seen": np.zeros(self.points, np.float32)}

    def most_bytes(self, map_hw: tuple[int, int]) -> int:
        return 9 * self.points

    def _encoded(self, label: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return {"points_yx": label["points_yx"], "seen": label["seen"].astype(np.uint8)}

    def _decoded(self, record: Mapping[str, Any], classes: int) -> dict[str, Any]:
        points = np.asarray(record["points_yx"], np.float32).reshape(-1, 2)
        return {"points_yx": points, "seen": np.asarray(record["seen"], np.float32)}

    def placed(self, geometry: Geometry, label: Label, map_hw: tuple[int, int]) -> Label:
        points = moved(geometry, np.tile(label["points_yx"], 2))[:, :2]
        return label | {"points_yx": points, "seen": label["seen"] * ((points >= 0) & (points < 1)).all(1)}

    def on_image(self, prediction: Mapping[str, np.ndarray], content: Content, hw: tuple[int, int]) -> Label:
        return {**prediction, "points_yx": prediction["points_yx"] / np.array(content, np.float32)}

    def is_empty(self, label: Mapping[str, np.ndarray]) -> bool:
        return not label["seen"].any()

    def contents(self, label: Mapping[str, np.ndarray]) -> Contents:
        return Contents(np.flatnonzero(label["seen"]), np.zeros(0))

    def rank(self, label: Mapping[str, np.ndarray]) -> float | None:
        return float(label["seen"].mean())

    def rank_name(self, statistics: Statistics) -> str:
        return "share of points that are seen"


KIND, CLASSES = PointsLabel(3), ("head", "hand", "foot")


def label_of(index: int) -> Label:
    points = np.array([[0.5, 0.25], [0, 0], [1, 1]], np.float32)
    return {"points_yx": points, "seen": np.array([1, index % 2, 0], np.float32), "present": np.float32(1)}


@pytest.fixture
def column(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LabelColumn:
    monkeypatch.setattr(kinds, "KINDS", (*kinds.KINDS, PointsLabel))
    monkeypatch.setitem(KINDS, "points", KIND)
    monkeypatch.setattr("hand_made.CLASSES", {"points": CLASSES})
    monkeypatch.setattr("hand_made.label_of", lambda task, index, map_hw: label_of(index))
    write_column(tmp_path, "points", Images(10))
    return LabelColumn(tmp_path)


def test_a_column_of_it_is_written_read_and_verified(column: LabelColumn) -> None:
    assert (column.kind, column.classes, len(column)) == (KIND, CLASSES, 10)
    for index in (0, 3):
        assert column[index].keys() == label_of(index).keys()
        for name, values in label_of(index).items():
            np.testing.assert_array_equal(column[index][name], values)
    assert (column[4]["present"], column[4]["seen"].tolist()) == (0, [0, 0, 0])
    assert not verify.damage(column.folder, column.manifest)
    assert column.manifest.summary().images_with_class == [8, 4]


def test_its_statistics_are_counted_and_told(column: LabelColumn) -> None:
    statistics = Statistics(len(CLASSES))
    for position in range(len(column)):
        KIND.count(column[position], position, statistics)
    assert statistics.class_images.tolist() == [8, 4, 0]
    assert {position for _, position in statistics.most[:4]} == {1, 3, 5, 7}
    assert KIND.readable(statistics, CLASSES)["classes"]["hand"] == {"images": 4, "labels": 4}
    assert "hand 4" in told(KIND, CLASSES, statistics)


def test_batches_hold_it_where_the_image_is() -> None:
    """An image that is wider than high: its upper left half of the input."""
    png = cv2.imencode(".png", np.zeros((16, 32, 3), np.uint8))[1].tobytes()
    records = [{"image": png, "name": str(index), "points": KIND.encode(label_of(index))} for index in range(3)]
    truth = Truth(KIND, CLASSES, "points", functools.partial(KIND.decode, classes=len(CLASSES)))
    images = ImageSet("photos", len(records), records.__getitem__, "digest", {"points": truth})
    source = Source(images, (images.labels["points"],))
    batch = next(eval_batches(source, {"points": KIND}, input_hw=(32, 32), batch_size=4))
    label = batch["labels"]["points"]
    assert label["present"].tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(label["points_yx"][0], [[0.25, 0.25], [0, 0], [0.5, 1]])
    assert label["seen"].tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]]
