"""Maps are measured on devices as on the host: every pixel once, at the resolution of the truth."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from must_jax.engine import counting, tiles
from must_jax.engine.measuring import Evaluation, evaluate
from must_jax.engine.mesh import make_mesh, put_replicated
from must_jax.engine.step import make_predict_step
from must_jax.tasks import build_task
from must_jax.tasks.base import Task
from must_jax.tasks.maps import _multiplied, _scattered, bins, histogram, pairs

SIDE = 40  # cells of the predicted maps: tiles have a window of fewer
SIZES = ((5, 7), (40, 30), (100, 37), (1, 1), (150, 333), (20, 3), (130, 1), (48, 64))
CONTENT = ((160, 160), (160, 120), (80, 160), (7, 160))  # rows and columns of 160 that the images take up
CASES = {
    "segmentation": ("segmentation", {}, 5),
    "many classes": ("segmentation", {}, 201),
    "depth": ("depth", {}, 0),
    "relative depth": ("depth", {"depth_kind": "relative"}, 0),
    "inverse depth": ("depth", {"depth_kind": "inverse_relative"}, 0),
    "normals": ("normals", {}, 0),
}


def content_of(image: int) -> np.ndarray:
    return np.array(CONTENT[image % len(CONTENT)])


def made(name: str) -> tuple[Task, np.ndarray, list[dict[str, Any]]]:
    """A task, its raw outputs for the 8 images, and their truths; the last image is not labelled."""
    kind, options, classes = CASES[name]
    task, rng = build_task(kind, [str(i) for i in range(classes)], options), np.random.default_rng(0)
    channels = {"segmentation": classes, "depth": 1, "normals": 3}[kind]
    maps = jax.image.resize(rng.normal(size=(8, 6, 6, channels)) * 3, (8, SIDE, SIDE, channels), "cubic")
    labels = []
    for hw in SIZES:
        vectors, known = rng.normal(size=(*hw, 3)), (rng.random(hw) < 0.8).astype(np.float32)
        fields = {
            "segmentation": {"ids": rng.choice([*range(classes), 255], hw).astype(np.int32)},
            "depth": {"depth": rng.uniform(-0.1, 8, hw).astype(np.float32), "valid": known},
            "normals": {
                "normals": (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32),
                "valid": known,
            },
        }
        labels.append(fields[kind] | {"present": np.float32(1)})
    return task, np.asarray(maps, np.float32), labels[:-1]


def on_devices(task: Task, maps: np.ndarray, labels: list[dict[str, Any]], devices: int, batch: int = 8) -> Evaluation:
    mesh = make_mesh(devices)
    predict = make_predict_step(
        lambda variables, batch, train: ({task.name: {"maps": batch["maps"]}}, {}), {task.name: task}, (160, 160), mesh
    )
    batches = [
        {
            "maps": maps[first : first + batch],
            "index": np.arange(first, first + batch),
            "mask": np.ones(batch),
            "content_hw": np.stack([content_of(image) for image in range(first, first + batch)]),
        }
        for first in range(0, 8, batch)
    ]
    truth = {image: {task.name: label} for image, label in enumerate(labels)}
    tasks = {task.name: task}
    return evaluate(
        predict, put_replicated(mesh, {}), batches, lambda image: truth.get(image, {}), tasks, (160, 160), mesh
    )


@pytest.mark.parametrize("name", CASES)
def test_devices_count_what_the_host_does(name: str) -> None:
    task, maps, labels = made(name)
    metrics = task.metrics()
    for image, label in enumerate(labels):
        predictions = jax.device_get(task.predict({"maps": maps[image : image + 1]}, (160, 160)))
        prediction = {key: value[0] for key, value in predictions.items()}
        metrics.update(task.in_frame_of(label, prediction, tuple(content_of(image) / 160)), label)
    wanted = metrics.result() | {"chance": metrics.chance()}
    found = on_devices(task, maps, labels, 1)
    # OpenCV interpolates at rounded positions, which moves a few pixels to another class.
    assert found.metrics == {f"{task.name}/{key}": pytest.approx(value, rel=2e-3) for key, value in wanted.items()}


@pytest.mark.parametrize("name", ["segmentation", "relative depth", "inverse depth"])
def test_four_devices_count_what_one_does(name: str) -> None:
    one, four = (on_devices(*made(name), devices, batch=4) for devices in (1, 4))
    assert one.metrics == pytest.approx(four.metrics, rel=1e-6)
    assert one.details == four.details


def test_every_pixel_has_the_class_that_is_most_probable_there() -> None:
    """Against linear interpolation in 64 bits, written out."""
    task, maps, labels = made("segmentation")
    wanted = np.zeros((5, 6), np.int64)
    for image, label in enumerate(labels):
        probs = np.asarray(task.predict({"maps": maps[image : image + 1]}, (160, 160))["probs"][0], np.float64)
        for axis, length in enumerate(label["ids"].shape):
            at = (np.arange(length) + 0.5) * (content_of(image)[axis] / 160 * SIDE / length) - 0.5
            low = np.clip(np.floor(at), 0, SIDE - 2).astype(int)
            share = np.clip(at - low, 0, 1).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
            probs = np.take(probs, low, axis) * (1 - share) + np.take(probs, low + 1, axis) * share
        known = label["ids"] != 255
        np.add.at(wanted, (label["ids"][known], probs.argmax(-1)[known]), 1)
    assert on_devices(task, maps, labels, 1).details["segmentation"]["confusion"]["counts"] == wanted.tolist()


def test_counts_beyond_32_bits_are_fetched_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    task, maps, labels = made("depth")
    whole, fetches, fetch = on_devices(task, maps, labels, 1, batch=2), [], counting.Counting.fetch
    monkeypatch.setattr(counting, "_MOST_PIXELS", 2 * counting._FEWEST * 64**2)
    monkeypatch.setattr(counting.Counting, "fetch", lambda self: (fetches.append(self._pixels), fetch(self)))
    assert on_devices(task, maps, labels, 1, batch=2).metrics == pytest.approx(whole.metrics, rel=1e-12)
    assert len(fetches) > 1 and max(fetches) <= counting._MOST_PIXELS


def test_a_sum_of_many_loses_no_small_ones() -> None:
    values = jnp.asarray([2.0**24, *[1.0] * 4096], jnp.float32)
    total = tiles._total(lambda index: {"sum": values[index], "count": index}, jnp.int32(len(values)))
    assert np.asarray(total["sum"], np.float64).sum() == 2**24 + 4096
    assert total["count"] == 4096 * 4097 // 2


def test_of_many_classes_tiles_are_small_and_few_at_a_time() -> None:
    for channels in (1, 150, 256, 257, 1000, 65535):
        side, number = tiles.side_for(channels), tiles.together(channels)
        assert side**2 * number * channels * 4 <= 2**26
        assert counting._FEWEST % number == 0


def test_memory_does_not_grow_with_the_truth() -> None:
    task = build_task("segmentation", [str(i) for i in range(150)])
    image = tiles.cut({"ids": np.zeros((9, 9), np.uint8)}, (1.0, 1.0), (160, 160), 64) | {"row": np.zeros(1, np.int32)}
    needed = []
    for number in (32, 4096):  # of 17 megapixels
        batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((number, *x.shape[1:]), x.dtype), image)  # noqa: B023
        probs, count = jax.ShapeDtypeStruct((1, 160, 160, 150), np.float32), jax.ShapeDtypeStruct((), np.int32)
        program = jax.jit(lambda *given: tiles.counted(task, *given)).lower(probs, batch, count).compile()
        needed.append(program.memory_analysis().temp_size_in_bytes)
    assert max(needed) < 2**27 and needed[1] < needed[0] + 2**20


@pytest.mark.parametrize("shape", [(3, 5), (1, 256), (83, 64)])
def test_pairs_are_counted_alike_by_every_method(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    rows, columns = (rng.integers(0, n, (2, 40, 50)).astype(np.int32) for n in shape)
    known = rng.random(rows.shape) < 0.7
    wanted = np.zeros(shape, np.int64)
    np.add.at(wanted, (rows[known], columns[known]), 1)
    np.testing.assert_array_equal(pairs(rows, columns, known, shape), wanted)
    for count in (_scattered, _multiplied):
        np.testing.assert_array_equal(count(jnp.asarray(rows), jnp.asarray(columns), jnp.asarray(known), shape), wanted)
    np.testing.assert_array_equal(histogram(rows, known, shape[0]), wanted.sum(1))
    np.testing.assert_array_equal(histogram(jnp.asarray(rows), jnp.asarray(known), shape[0]), wanted.sum(1))


def test_values_on_an_edge_and_what_is_no_number_fall_into_the_upper_bin() -> None:
    edges = np.array([1, 1.25, 2], np.float32)
    values = np.array([0.5, 1, np.nextafter(np.float32(1.25), 0), 1.25, 2, 9, np.inf, np.nan], np.float32)
    for array in (values, jnp.asarray(values)):
        assert bins(array, edges).tolist() == [0, 1, 1, 2, 3, 3, 3, 3]
