from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measured import count

from must_jax.tasks import build_task

FACING = np.array([0, 0, -1], np.float32)


def tilted(degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    return np.array([np.sin(angle), 0, -np.cos(angle)], np.float32)


def label(*vectors):
    normals = np.array([[vectors]], np.float32)
    return {"normals": normals, "valid": np.ones(normals.shape[:3], np.float32), "present": np.ones(1, np.float32)}


@pytest.mark.parametrize(("degrees", "expected"), [(0, 0), (60, 0.5), (90, 1), (180, 2)])
def test_loss_is_one_minus_the_cosine_whatever_the_length(degrees, expected):
    for length in (0.3, 1, 8):
        maps = length * jnp.asarray(label(tilted(degrees))["normals"])
        total, weight = build_task("normals").loss({"maps": maps}, label(FACING), (64, 64))["one_minus_cosine"]
        assert float(total / weight) == pytest.approx(expected, abs=1e-5)


def test_a_zero_vector_has_a_finite_gradient():
    gradient = jax.grad(
        lambda maps: build_task("normals").loss({"maps": maps}, label(FACING), (64, 64))["one_minus_cosine"][0]
    )
    assert np.all(np.isfinite(gradient(jnp.zeros((1, 1, 1, 3)))))


def test_predictions_have_unit_length():
    normals = build_task("normals").predict({"maps": jnp.array([0.3, -4, 12]).reshape(1, 1, 1, 3)}, (4, 4))["normals"]
    assert float(jnp.linalg.norm(normals)) == pytest.approx(1, rel=1e-5)


def test_metrics_by_hand():
    task = build_task("normals")
    metrics = task.metrics()
    count(metrics, task, label(FACING, tilted(11), tilted(12), tilted(57)), label(*[FACING] * 4))
    wanted = {"within_11_25": 50, "within_22_5": 75, "within_30": 75, "mean_angle_deg": 20}
    assert metrics.result() == pytest.approx(wanted, rel=1e-3)


def test_colours_are_those_of_the_field():
    vectors = np.array([[[0, 0, -1], [0, -1, 0], [1, 0, 0]]], np.float32)  # to the camera, up, right
    picture = build_task("normals").draw(
        np.zeros((256, 768, 3), np.uint8), {"normals": vectors, "valid": np.ones((1, 3), np.float32)}
    )
    assert picture[128, [128, 384, 640]].tolist() == [[128, 128, 255], [128, 255, 128], [255, 128, 128]]
