"""One line about labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from must_jax.data.kinds import BoxesLabel, IdsLabel, LabelKind, ScalarsLabel, VectorLabel
from must_jax.data.kinds.statistics import Statistics
from must_jax.labels.told import told


def line(kind: LabelKind, classes: tuple[str, ...], *labels: dict[str, Any]) -> str:
    """In two parts that are merged, as threads make them."""
    parts = [Statistics(len(classes)), Statistics(len(classes))]
    for i, label in enumerate(labels):
        kind.count({"present": np.float32(1)} | label, i, parts[i % 2])
    parts[0].merge(parts[1])
    return told(kind, classes, parts[0])


def boxes(*boxes_yxyx: tuple[float, ...], ignore: tuple[float, ...] = ()) -> dict[str, Any]:
    count = len(boxes_yxyx)
    return {
        "boxes_yxyx": np.reshape(np.array(boxes_yxyx, np.float32), (-1, 4)),
        "classes": np.zeros(count, np.int32),
        "scores": np.ones(count, np.float32),
        "valid": np.ones(count, np.float32),
        "ignore": np.array(ignore or [0] * count, np.float32),
    }


def test_boxes():
    said = line(
        BoxesLabel(3),
        ("cat", "dog"),
        boxes((0, 0, 0.1, 0.1), (0.5, 0.2, 0.75, 0.45), ignore=(0, 0)),
        boxes((0.5, 0.5, 1, 1), ignore=(1,)),
        boxes((0.5, 0.5, 0.7, 0.9)),
        {"present": np.float32(0)},
    )
    assert said == (
        "2 classes, images with each: cat 2, dog 0; 3 boxes, 1 per image, at most 2; 1 box to ignore; size (root of "
        "the area) from 10 over about 25 (median) to 28.3 % of the image's, reaching to 90 % of the width and "
        "75 % of the height; "
        "1 of 3 images empty"
    )
    assert line(BoxesLabel(1), ("cat",), boxes(), boxes()).endswith(
        "0 boxes, 0 per image, at most 0; 2 of 2 images empty"
    )


@pytest.mark.parametrize("count, asked", [(19, False), (20, True)])
def test_boxes_that_are_all_in_the_first_corner(count: int, asked: bool):
    """As percents of a large image are."""
    said = line(BoxesLabel(count), ("cat",), boxes(*[(0.01, 0.01, 0.1 + i / 1000, 0.15) for i in range(count)]))
    assert ("no box in the right or lower part of an image: are they in pixels" in said) == asked
    assert "are they" not in line(BoxesLabel(count), ("cat",), boxes(*[(0, 0, 0.1, 0.7 + i / 1000) for i in range(30)]))


def test_vectors_and_ids():
    labels = [{"probs": np.array(probs, np.float32)} for probs in ((1, 0), (1, 0), (0, 1))]
    assert line(VectorLabel(2), ("cat", "dog"), *labels) == "2 classes, images with each: cat 2, dog 1"
    kind = IdsLabel("ids")
    ids = {"ids": np.array([[0, 0, 1, 255]], np.int32)}
    assert line(kind, ("road", "sky", "car"), ids, {"ids": np.full((1, 4), 255, np.int32)}) == (
        "3 classes, images with each: road 1, sky 1, car 0; of the pixels road 66.7 %, sky 33.3 %; "
        "without label: 62 %; 1 of 2 images empty"
    )


def test_maps():
    depth = {"depth": np.array([[1.0, 2, 4, 0]], np.float32), "valid": np.array([[1, 1, 1, 0]], np.float32)}
    assert line(ScalarsLabel("depth", "m"), (), depth) == "depth from 1 over about 2 (median) to 4 m; valid: 75 %"
    nothing = {"depth": np.zeros((1, 1), np.float32), "valid": np.zeros((1, 1), np.float32)}
    assert line(ScalarsLabel("depth", "m"), (), nothing) == "no pixel with a label; 1 of 1 image empty"
