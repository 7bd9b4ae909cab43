"""What the best constant prediction gets: held against constant answers that are really measured."""

from __future__ import annotations

import numpy as np
import pytest
from measured import count

from must_jax.data.scenes.domains import HELD_OUT, TRAINING, sample_scene
from must_jax.data.scenes.renderer import render
from must_jax.tasks import build_task
from must_jax.tasks.base import NumpyArrays, Task

CLASSES = ("a", "b", "c")
SIDE = 24


def labels_of(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    count = len(next(iter(values.values())))
    return values | {"present": np.ones(count, np.float32)}


@pytest.fixture(scope="module")
def rooms() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng, domain) for domain in (TRAINING, HELD_OUT) for _ in range(15)]
    drawn = [render(scene, scene.camera, SIDE, SIDE) for scene in scenes]
    valid = np.ones((len(drawn), SIDE, SIDE), np.float32)
    return labels_of(
        {
            "depth": np.stack([each.depth_m for each in drawn]),
            "normals": np.stack([each.normals for each in drawn]),
            "valid": valid,
        }
    )


def measured(task: Task, prediction: NumpyArrays, labels: NumpyArrays) -> float:
    metrics = task.metrics()
    return count(metrics, task, prediction, labels).result()[task.metric]


def chance(task: Task, prediction: NumpyArrays, labels: NumpyArrays) -> float:
    """In two parts, which are merged; what is predicted must not matter."""
    half, parts = len(labels["present"]) // 2, []
    for part in (slice(0, half), slice(half, None)):
        parts.append(task.metrics())
        count(parts[-1], task, *({key: value[part] for key, value in tree.items()} for tree in (prediction, labels)))
    parts[0].merge(parts[1])
    return parts[0].chance()


@pytest.mark.parametrize("scale", [1.0, 300.0])  # in metres, and of a street
def test_the_best_single_depth(rooms: dict[str, np.ndarray], scale: float) -> None:
    task, truth = build_task("depth"), rooms["depth"] * np.float32(scale)
    labels = rooms | {"depth": truth}
    tried = [measured(task, {"depth": np.full_like(truth, d)}, labels) for d in np.geomspace(1, 12, 120) * scale]
    assert chance(task, {"depth": truth}, labels) == pytest.approx(max(tried), abs=0.7)


@pytest.mark.parametrize("kind", ["relative", "inverse_relative"])
def test_of_a_relative_depth_the_fitted_constant(rooms: dict[str, np.ndarray], kind: str) -> None:
    task, depth = build_task("depth", (), {"depth_kind": kind}), rooms["depth"]
    truth = depth if kind == "relative" else 1 / depth
    rooms = rooms | {"depth": truth}
    constant = measured(task, {"depth": np.full_like(truth, 7)}, rooms)
    assert chance(task, {"depth": truth}, rooms) == pytest.approx(constant, abs=0.1)
    assert 20 < constant < 99


def test_the_best_single_direction(rooms: dict[str, np.ndarray]) -> None:
    task, truth = build_task("normals"), rooms["normals"]
    directions = truth.reshape(-1, 3)[::97]
    tried = [measured(task, {"normals": np.broadcast_to(each, truth.shape)}, rooms) for each in directions]
    assert chance(task, {"normals": truth}, rooms) == pytest.approx(max(tried), abs=1.0)


def test_pixels_and_images_without_a_label_do_not_count() -> None:
    depth = np.array([[[1.0, 1.0, 1.0, 8.0]], [[8.0, 8.0, 8.0, 8.0]]], np.float32)
    valid = np.array([[[1, 1, 0, 1]], [[1, 1, 1, 1]]], np.float32)
    labels = {"depth": depth, "valid": valid, "present": np.array([1, 0], np.float32)}
    task = build_task("depth")
    assert count(task.metrics(), task, {"depth": depth}, labels).chance() == pytest.approx(200 / 3)


def test_the_most_frequent_class() -> None:
    probs = np.eye(3, dtype=np.float32)[[1, 1, 0, 1, 2, 0]]
    assert chance(build_task("classification", CLASSES), {"probs": probs}, labels_of({"probs": probs})) == 50


def test_the_most_frequent_class_of_pixels() -> None:
    """Its IoU is its share, and the mean is over the classes that occur."""
    task, ids = build_task("segmentation", CLASSES), np.array([[[0, 0, 0, 2]], [[0, 0, 2, 255]]], np.int32)
    probs = np.eye(3, dtype=np.float32)[np.minimum(ids, 2)]
    constant = np.broadcast_to(np.eye(3, dtype=np.float32)[0], probs.shape)
    labels = labels_of({"ids": ids})
    assert chance(task, {"probs": probs}, labels) == pytest.approx(100 * 5 / 7 / 2)
    assert chance(task, {"probs": probs}, labels) == pytest.approx(measured(task, {"probs": constant}, labels))


def boxes(boxes_yxyx: np.ndarray, classes: np.ndarray) -> dict[str, np.ndarray]:
    """[B, 4] and [B]: one box an image."""
    ones = np.ones((len(boxes_yxyx), 1), np.float32)
    label = {"boxes_yxyx": boxes_yxyx[:, None].astype(np.float32), "classes": classes[:, None]}
    return labels_of(label | {"scores": ones, "valid": ones, "ignore": 0 * ones})


def test_the_same_box_everywhere() -> None:
    """Where every picture shows one object in its middle it scores high; where they lie anywhere, it does not."""
    task, rng = build_task("detection", CLASSES), np.random.default_rng(0)
    middle = np.array([0.2, 0.2, 0.8, 0.8]) + rng.uniform(-0.15, 0.15, (200, 4))
    classes = np.zeros(200, np.int32)
    truth = boxes(middle, classes)
    constant = measured(task, boxes(np.tile(np.median(middle, 0), (200, 1)), classes), truth)
    assert chance(task, truth, truth) == pytest.approx(constant, abs=8)
    assert constant > 60

    low = rng.uniform(0, 0.9, (200, 2))
    anywhere = boxes(np.concatenate([low, low + 0.1], 1), rng.integers(0, 3, 200).astype(np.int32))
    assert 0 < chance(task, anywhere, anywhere) < 1
