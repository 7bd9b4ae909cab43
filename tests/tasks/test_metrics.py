"""Metrics against their definitions, written out image by image, on random and on degenerate inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from must_jax.data.kinds import IGNORE_ID
from must_jax.tasks import build_task

SIZES = ((5, 7), (12, 3), (1, 1), (40, 60))  # every truth has a resolution of its own
PRESENT = {"present": np.float32(1)}


def measured(name: str, pairs: list[tuple[dict[str, Any], dict[str, Any]]], classes: int = 0) -> dict[str, float]:
    metrics = build_task(name, [str(i) for i in range(classes)]).metrics()
    for prediction, label in pairs:
        metrics.update(prediction, label | PRESENT)
    return metrics.result()


@pytest.mark.parametrize("seed", range(5))
def test_segmentation(seed: int):
    rng, classes = np.random.default_rng(seed), 6
    occurring = rng.choice(classes, 3, replace=False)  # a prediction may have others
    truth = [rng.choice([*occurring, IGNORE_ID], size).astype(np.int32) for size in SIZES]
    predicted = [rng.integers(0, classes - 1, size).astype(np.int32) for size in SIZES]
    known = np.concatenate([ids[ids != IGNORE_ID] for ids in truth])
    guessed = np.concatenate([guess[ids != IGNORE_ID] for guess, ids in zip(predicted, truth, strict=True)])
    shares = []
    for c in range(classes):
        union = np.sum((known == c) | (guessed == c))
        if union:
            shares.append(np.sum((known == c) & (guessed == c)) / union)
    found = measured("segmentation", [({"ids": p}, {"ids": t}) for p, t in zip(predicted, truth, strict=True)], classes)
    assert found == pytest.approx({"miou": 100 * np.mean(shares), "pixel_accuracy": 100 * np.mean(known == guessed)})


def test_segmentation_of_nothing_that_is_labelled():
    ids = np.full((4, 4), IGNORE_ID, np.int32)
    assert measured("segmentation", [({"ids": np.zeros_like(ids)}, {"ids": ids})], 3) == {
        "miou": 0.0,
        "pixel_accuracy": 0.0,
    }


@pytest.mark.parametrize("seed", range(5))
def test_depth(seed: int):
    rng = np.random.default_rng(seed)
    pairs, errors = [], []
    for size in SIZES:
        truth = rng.uniform(0.5, 80, size).astype(np.float32)
        truth[rng.random(size) < 0.2] = 0  # a measurement that is none, even where it is said to be valid
        valid = (rng.random(size) < 0.7).astype(np.float32)
        predicted = (truth * rng.uniform(0.6, 1.6, size)).astype(np.float32)
        pairs.append(({"depth": predicted}, {"depth": truth, "valid": valid}))
        for guess, real, counts in zip(predicted.ravel(), truth.ravel(), valid.ravel(), strict=True):
            if counts and real:
                errors.append((max(guess / real, real / guess) < 1.25, abs(guess - real) / real, (guess - real) ** 2))
    near, relative, squared = np.mean(errors, axis=0)
    wanted = {"delta1": 100 * near, "abs_rel": relative, "rmse": squared**0.5}
    assert measured("depth", pairs) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_normals(seed: int):
    rng = np.random.default_rng(seed)
    pairs, angles = [], []
    for size in SIZES:
        truth, guess = rng.normal(size=(2, *size, 3)) + np.array([0, 0, -2])
        truth, guess = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (truth, guess))
        guess[0, 0] = truth[0, 0]  # an angle of 0, whose cosine may round to more than 1
        valid = (rng.random(size) < 0.7).astype(np.float32)
        pairs.append(({"normals": guess.astype(np.float32)}, {"normals": truth.astype(np.float32), "valid": valid}))
        for a, b in zip(guess[valid > 0], truth[valid > 0], strict=True):
            angles.append(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)))
    wanted = {
        f"within_{name}": 100 * np.mean(np.array(angles) < float(name.replace("_", ".")))
        for name in ("11_25", "22_5", "30")
    }
    found = measured("normals", pairs)
    assert found == pytest.approx(wanted | {"mean_angle_deg": np.mean(angles)}, rel=1e-3, abs=0.02)


@pytest.mark.parametrize("classes", [5, 150])
def test_predictions_are_measured_at_the_resolution_of_the_truth(classes: int):
    """Two classes share the image; the border lies within a cell of the prediction, in the image's right half."""
    task = build_task("segmentation", [str(i) for i in range(classes)])
    probs = np.zeros((8, 8, classes), np.float32)
    probs[:, :3, classes - 1] = 1  # the image takes up 6 of 8 columns, of which 3 are of one class
    probs[:, 3:, 1] = 1
    truth = np.where(np.arange(600) < 300, classes - 1, 1)[None].repeat(400, 0).astype(np.int32)
    metrics, label = task.metrics(), {"ids": truth} | PRESENT
    metrics.update(task.in_frame_of(label, {"probs": probs}, (0.5, 0.75)), label)
    assert metrics.result() == {"miou": 100.0, "pixel_accuracy": 100.0}
