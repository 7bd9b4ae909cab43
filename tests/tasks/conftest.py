"""Random outputs and labels of every task that has labels, in small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from must_jax.models.heads import detector_points
from must_jax.tasks import TASKS, build_task
from must_jax.tasks.base import Task

BATCH, SIZE, CLASSES = 4, 64, ("cat", "dog", "owl")
HEAD_HW = (SIZE // 4, SIZE // 4)
RELATIVE = [("depth", {"depth_kind": kind}) for kind in ("relative", "inverse_relative")]


@dataclass
class Case:
    """A task with raw outputs as a head gives them, and labels; image 2 is not labelled."""

    task: Task
    outputs: dict[str, jax.Array]
    labels: dict[str, np.ndarray]

    def loss(self, outputs: Any = None, labels: Any = None) -> jax.Array:
        terms = self.task.loss(outputs or self.outputs, labels or self.labels, (SIZE, SIZE))
        return sum(total / jnp.maximum(weight, 1e-6) for total, weight in terms.values())

    def predict(self, outputs: Any = None) -> dict[str, np.ndarray]:
        return jax.device_get(jax.jit(lambda x: self.task.predict(x, (SIZE, SIZE)))(outputs or self.outputs))


def make_labels(name: str, map_hw: tuple[int, int], seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    valid = (rng.random((BATCH, *map_hw)) < 0.9).astype(np.float32)
    fields: dict[str, dict[str, Any]] = {
        "classification": {"probs": rng.dirichlet(np.ones(3), BATCH)},
        "detection": make_boxes(rng),
        "segmentation": {"ids": rng.choice(np.array([0, 1, 2, 255], np.int32), (BATCH, *map_hw))},
        "depth": {"depth": rng.uniform(1, 8, (BATCH, *map_hw)), "valid": valid},
        "normals": {"normals": rng.normal(size=(BATCH, *map_hw, 3)), "valid": valid},
    }
    labels = fields[name] | {"present": np.array([1, 1, 0, 1], np.float32)}
    if name == "normals":
        labels["normals"] /= np.linalg.norm(labels["normals"], axis=-1, keepdims=True)
    return {key: value if value.dtype == np.int32 else np.asarray(value, np.float32) for key, value in labels.items()}


def make_boxes(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One box in each of up to three quarters of an image, the last image without any; slots 1, 3, ... stay empty."""
    boxes, valid = np.zeros((BATCH, 8, 4)), np.zeros((BATCH, 8))
    for image in range(BATCH - 1):
        for slot, corner in zip((0, 2, 4), [(0, 0), (0, 0.5), (0.5, 0)], strict=True):
            low = np.array(corner) + rng.uniform(0.02, 0.1, 2)
            boxes[image, slot] = [*low, *(low + rng.uniform(0.2, 0.38, 2))]
            valid[image, slot] = 1
    classes = rng.integers(0, 3, (BATCH, 8)).astype(np.int32)
    return {"boxes_yxyx": boxes, "classes": classes, "scores": valid, "valid": valid, "ignore": 0 * valid}


def make_outputs(name: str) -> dict[str, jax.Array]:
    cells = len(detector_points((SIZE, SIZE))[1])
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "classification": {"logits": (3,)},
        "detection": {"class_logits": (cells, 3), "box_ltrb": (cells, 4), "centerness": (cells,)},
        "segmentation": {"maps": (*HEAD_HW, 3)},
        "depth": {"maps": (*HEAD_HW, 1)},
        "normals": {"maps": (*HEAD_HW, 3)},
    }
    rng = np.random.default_rng(0)
    outputs = {key: rng.normal(size=(BATCH, *shape)).astype(np.float32) for key, shape in shapes[name].items()}
    if name == "detection":
        outputs["box_ltrb"] = np.abs(outputs["box_ltrb"]) + 0.1
    return {key: jnp.asarray(value) for key, value in outputs.items()}


@pytest.fixture
def make_case():
    def make(name: str, map_hw: tuple[int, int] = HEAD_HW, **options: Any) -> Case:
        slots = {"max_boxes": 8} | ({"max_detections": 8} if name == "detection" else {})
        task = build_task(name, CLASSES if TASKS[name].has_classes else (), slots | options)
        return Case(task, make_outputs(name), make_labels(name, map_hw))

    return make


@pytest.fixture(
    params=[
        *((name, {}) for name, task in TASKS.items() if not task.self_supervised),
        *(("depth", {"depth_kind": kind}) for kind in ("relative", "inverse_relative")),
    ],
    ids=lambda p: "-".join(map(str, [p[0], *p[1].values()])),
)
def case(request, make_case) -> Case:
    name, options = request.param
    return make_case(name, **options)
