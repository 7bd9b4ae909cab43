from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest
from measured import count

from must_jax.errors import UserError
from must_jax.tasks import build_task

CLASSES = ("floor", "wall", "ball")
PRESENT = np.ones(1, np.float32)


def test_cross_entropy_leaves_ignored_pixels_out():
    task = build_task("segmentation", CLASSES)
    logits = jnp.broadcast_to(jnp.log(jnp.array([0.5, 0.3, 0.2])), (1, 2, 2, 3))
    labels = {"ids": np.array([[[0, 1], [2, 255]]], np.int32), "present": PRESENT}
    total, weight = task.loss({"maps": logits}, labels, (64, 64))["cross_entropy"]
    assert float(total) == pytest.approx(-math.log(0.5 * 0.3 * 0.2), rel=1e-5)
    assert weight == 3


def test_unsure_pixels_become_the_ignore_id():
    probs = np.array([[[0.5, 0.3, 0.2], [0.49, 0.3, 0.21]], [[0, 0, 1], [0.1, 0.9, 0]]], np.float32)
    label = build_task("segmentation", CLASSES).pseudo_label({"probs": probs})
    assert label["ids"].tolist() == [[0, 255], [2, 1]]
    bold = build_task("segmentation", CLASSES, {"confidence_threshold": 0}).pseudo_label({"probs": probs})
    assert bold["ids"].tolist() == [[0, 0], [2, 1]]


def test_a_class_may_have_a_threshold_of_its_own():
    probs = np.array([[[0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.3, 0.3, 0.4]]], np.float32)
    options = {"confidence_threshold": 0.5, "confidence_thresholds": {CLASSES[0]: 0.7, CLASSES[2]: 0.4}}
    assert build_task("segmentation", CLASSES, options).pseudo_label({"probs": probs})["ids"].tolist() == [[255, 1, 2]]


def test_with_its_confidence_a_pseudo_label_leaves_the_threshold_to_the_reader():
    probs = np.array([[[0.5, 0.3, 0.2], [0.49, 0.3, 0.21]]], np.float32)
    task = build_task("segmentation", CLASSES, {"keep_confidence": True})
    label = task.pseudo_label({"probs": probs})
    assert label["ids"].tolist() == [[0, 0]]
    np.testing.assert_array_equal(label["confidence"], probs.max(-1))
    assert task.label.confidence and not build_task("segmentation", CLASSES).label.confidence
    assert task.label.by_rule(label, task.min_confidence.least(CLASSES))["ids"].tolist() == [[0, 255]]


def miou(predicted, truth, classes=CLASSES):
    task = build_task("segmentation", classes)
    metrics = task.metrics()
    probs = np.eye(len(classes), dtype=np.float32)[np.array([predicted])]
    count(metrics, task, {"probs": probs}, {"ids": np.array([truth], np.int32), "present": PRESENT})
    return metrics.result()["miou"]


def test_miou_is_over_classes_that_the_truth_or_a_prediction_has():
    assert miou([[0, 1], [0, 1]], [[0, 1], [0, 1]]) == 100
    assert miou([[0, 0], [0, 0]], [[0, 0], [1, 1]]) == pytest.approx(100 * (0.5 + 0) / 2)
    # A class that is predicted alone counts as one that is never right, as in mmsegmentation and torchmetrics.
    assert miou([[0, 2], [0, 1]], [[0, 1], [0, 1]]) == pytest.approx(100 * (1 + 0.5 + 0) / 3)
    assert miou([[0, 2], [1, 1]], [[0, 255], [1, 1]]) == 100


def test_a_class_id_beyond_the_classes_is_named():
    with pytest.raises(UserError, match="class id 3, but there are 3 classes"):
        miou([[0, 1]], [[3, 255]])


def test_predictions_at_stride_four_are_measured_at_full_size():
    coarse = np.repeat(np.repeat([[0, 1, 2]] * 2, 4, 0), 4, 1)
    probs = np.eye(3, dtype=np.float32)[np.array([[[0, 1, 2]] * 2])]
    task = build_task("segmentation", CLASSES)
    metrics = task.metrics()
    count(metrics, task, {"probs": probs}, {"ids": coarse[None].astype(np.int32), "present": PRESENT})
    assert metrics.result()["miou"] == 100


def test_description_gives_shares():
    label = {"ids": np.array([[0, 0], [1, 255]], np.int32)}
    assert build_task("segmentation", CLASSES).describe(label) == {"floor": 0.5, "wall": 0.25, "unsure": 0.25}
