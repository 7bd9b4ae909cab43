from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest
from measured import count

from must_jax.tasks import build_task

CLASSES = ("cat", "dog", "owl", "fox")


def cross_entropy(task, probs, logits):
    labels = {"probs": np.array([probs], np.float32), "present": np.ones(1, np.float32)}
    total, weight = task.loss({"logits": jnp.array([logits], jnp.float32)}, labels, (64, 64))["cross_entropy"]
    assert weight == 1
    return float(total)


def test_cross_entropy_against_hard_and_soft_targets():
    task, logits = build_task("classification", CLASSES), np.log([0.4, 0.3, 0.2, 0.1])
    assert cross_entropy(task, [0, 1, 0, 0], logits) == pytest.approx(-math.log(0.3), rel=1e-5)
    soft = [0.4, 0.3, 0.2, 0.1]
    assert cross_entropy(task, soft, logits) == pytest.approx(-sum(p * math.log(p) for p in soft), rel=1e-5)


def test_label_smoothing_mixes_with_the_uniform_distribution():
    task, logits = build_task("classification", CLASSES, {"label_smoothing": 0.2}), np.log([0.4, 0.3, 0.2, 0.1])
    expected = -(0.85 * math.log(0.4) + 0.05 * sum(map(math.log, (0.3, 0.2, 0.1))))
    assert cross_entropy(task, [1, 0, 0, 0], logits) == pytest.approx(expected, rel=1e-5)


def test_pseudo_labels_are_the_distribution_or_its_top_with_the_rest_spread_evenly():
    prediction = {"probs": np.array([0.1, 0.5, 0.35, 0.05], np.float32)}
    full = build_task("classification", CLASSES).pseudo_label(prediction)["probs"]
    np.testing.assert_array_equal(full, prediction["probs"])
    top = build_task("classification", CLASSES, {"top_k": 2}).pseudo_label(prediction)["probs"]
    np.testing.assert_allclose(top, [0.075, 0.5, 0.35, 0.075], rtol=1e-6)
    assert prediction["probs"][0] == np.float32(0.1)
    every = build_task("classification", CLASSES, {"top_k": 9}).pseudo_label(prediction)["probs"]
    np.testing.assert_array_equal(every, prediction["probs"])


@pytest.mark.parametrize(("top_k", "stored"), [(0, 0), (1, 1), (2, 2), (3, 0), (9, 0)])
def test_the_top_is_stored_alone_where_that_takes_less(top_k: int, stored: int):
    task = build_task("classification", CLASSES, {"top_k": top_k})
    assert task.answer.top_k == stored and task.answer == task.label


def test_top1():
    task = build_task("classification", CLASSES)
    metrics = task.metrics()
    present = np.array([1, 1, 1, 0], np.float32)
    probs = np.eye(4, dtype=np.float32)
    count(metrics, task, {"probs": probs}, {"probs": probs[[0, 1, 3, 2]], "present": present})
    assert metrics.result() == {"top1": pytest.approx(200 / 3)}
