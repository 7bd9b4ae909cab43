"""What one pass over labels says of them, in closed form."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hand_made import CLASSES, KINDS, label_of

from must_jax.data.kinds import IGNORE_ID, MapLabel, ScalarsLabel
from must_jax.data.kinds.statistics import BINS, SHOWN, Statistics
from must_jax.labels.summary import Summary, summarize

PRESENT = {"present": np.float32(1)}


def read(task: str, *labels: dict[str, Any]) -> Statistics:
    statistics = Statistics(len(CLASSES.get(task, ())))
    for position, label in enumerate(labels):
        KINDS[task].count(PRESENT | label, position, statistics)
    return statistics


def vector(*probs: float) -> dict[str, Any]:
    return {"probs": np.array(probs, np.float32)}


def boxes(*rows: tuple[float, float, float, float, int, float]) -> dict[str, Any]:
    """(y0, x0, y1, x1, class, score), and an empty slot."""
    table = np.array([*rows, (0, 0, 1, 1, 0, 1)], np.float32)
    valid = np.array([1] * len(rows) + [0], np.float32)
    label = {"boxes_yxyx": table[:, :4], "classes": table[:, 4].astype(np.int32), "scores": table[:, 5]}
    return label | {"valid": valid, "ignore": 0 * valid}


def ids(*values: int) -> dict[str, Any]:
    return {"ids": np.array(values, np.int32).reshape(2, -1)}


def depth(*values: float) -> dict[str, Any]:
    """0 = not known."""
    map_ = np.array(values, np.float32).reshape(2, -1)
    return {"depth": map_, "valid": (map_ != 0).astype(np.float32)}


def normals(*vectors: tuple[float, float, float]) -> dict[str, Any]:
    map_ = np.array(vectors, np.float32).reshape(1, -1, 3)
    return {"normals": map_, "valid": np.ones(map_.shape[:2], np.float32)}


def test_distributions() -> None:
    found = read(
        "classification", vector(0.62, 0.2, 0.18), vector(0, 0, 1), {"present": np.float32(0), **vector(1, 0, 0)}
    )
    assert (found.images, found.absent, found.empty) == (3, 1, 0)
    assert found.class_images.tolist() == found.class_amount.tolist() == [1, 0, 1]
    assert np.flatnonzero(found.confidence).tolist() == [12, BINS - 1]  # 0.6 to 0.65, and 1
    assert [position for _, position in found.most] == [1, 0]


def test_boxes() -> None:
    found = read("detection", boxes((0, 0, 0.5, 0.5, 2, 0.9), (0, 0, 0.2, 0.2, 2, 0.5)), boxes())
    assert (found.images, found.empty) == (2, 1)
    assert (found.class_images.tolist(), found.class_amount.tolist()) == ([0, 0, 1], [0, 0, 2])
    assert found.boxes[:4].tolist() == [1, 0, 1, 0]
    assert np.flatnonzero(found.box_side).tolist() == [4, 10]  # of the root of their area
    assert found.confidence.sum() == 2
    assert found.most == found.least == [(pytest.approx(0.7), 0)]  # no score without a box
    assert KINDS["detection"].readable(found, "abc")["boxes_an_image"] == 1.0


def test_maps_of_ids() -> None:
    found = read("segmentation", ids(0, 0, 1, IGNORE_ID), ids(*[IGNORE_ID] * 4), ids(1, 1, 1, 1))
    assert (found.images, found.empty, found.pixels, found.known) == (3, 1, 12, 7)
    assert (found.class_images.tolist(), found.class_amount.tolist()) == ([1, 2, 0], [2, 5, 0])
    assert found.known_share[[0, 15, BINS - 1]].tolist() == [1, 1, 1]
    assert [position for _, position in found.least] == [1, 0, 2]
    assert not found.confidence.any() and KINDS["segmentation"].rank_name(found) == "share of labelled pixels"


def test_maps_of_ids_with_confidence() -> None:
    unsure, sure = np.full((2, 2), 0.31, np.float32), np.full((2, 2), 0.99, np.float32)
    found = read("segmentation", ids(0, 0, 1, 1) | {"confidence": sure}, ids(0, 0, 1, 1) | {"confidence": unsure})
    assert found.confidence[[6, BINS - 1]].tolist() == [4, 4]
    assert [position for _, position in found.most] == [0, 1]
    assert KINDS["segmentation"].rank_name(found) == "mean confidence"


def test_depth() -> None:
    found = read("depth", depth(1, 2, 3, 0), depth(5, 5, 5, 5), depth(0, 0, 0, 0))
    assert (found.empty, found.flat, found.low, found.high) == (1, 1, 1.0, 5.0)
    told = KINDS["depth"].readable(found, ())
    assert told["labelled_pixels"] == pytest.approx(100 * 7 / 12)
    assert told["mean"] == pytest.approx(26 / 7)
    assert [position for _, position in found.most] == [0, 1]


@pytest.mark.parametrize("shift", [0.0, -4.0])  # relative depth may be negative
def test_quantiles_are_those_of_all_pixels(shift: float) -> None:
    values = np.random.default_rng(0).uniform(0.5, 9, (40, 2, 50)).astype(np.float32) + np.float32(shift)
    found = read("depth", *({"depth": map_, "valid": np.ones((2, 50), np.float32)} for map_ in values))
    for share in (0.01, 0.05, 0.5, 0.95, 0.99):
        exact = np.quantile(values, share)
        assert found.quantile(share) == pytest.approx(exact, rel=0.03, abs=0.01)
    edges, counts = found.histogram_of_values()
    assert sum(counts) == values.size and len(edges) == len(counts) + 1
    assert edges[0] <= values.min() and values.max() <= edges[-1] and min(counts[0], counts[-1]) > 0
    inside = [((values > low) & (values <= high)).sum() for low, high in itertools.pairwise(edges)]
    assert counts == inside


def test_values_beyond_the_histogram_count_at_its_ends() -> None:
    found = read("depth", depth(1e9, -1e9, 1e-9, 2))
    edges, counts = found.histogram_of_values()
    assert (edges[0], edges[-1], sum(counts)) == (-1e4, 1e4, 4)
    assert (found.low, found.high) == (np.float32(-1e9), np.float32(1e9))


def test_normals() -> None:
    found = read(
        "normals", normals((0, 0, -1), (0, 0, -1)), normals((0, -1, 0), (0, 0, 1)), normals((0, 0, 0.2), (1, 0, 0))
    )
    assert (found.flat, found.away, found.off_unit) == (1, 1, 1)
    told = KINDS["normals"].readable(found, ())
    assert told["mean_vector"] == pytest.approx([1 / 6, -1 / 6, -0.8 / 6])
    assert told["away"] == pytest.approx(100 / 6)
    assert found.least[0][1] == 0 and found.least[0][0] == pytest.approx(0)


@pytest.mark.parametrize("task", KINDS)
def test_parts_add_up_to_the_whole(task: str) -> None:
    labels = [label_of(task, index) for index in range(30)]
    whole, part = Statistics(3), Statistics(3)
    for start in (0, 7, 20):
        piece = Statistics(3)
        for position, label in list(enumerate(labels))[start : {0: 7, 7: 20, 20: 30}[start]]:
            KINDS[task].count(label, position, piece)
        part.merge(piece)
    for position, label in enumerate(labels):
        KINDS[task].count(label, position, whole)
    assert len(whole.most) == len(whole.least) == SHOWN
    assert [value for value, _ in whole.most] == sorted((value for value, _ in whole.most), reverse=True)
    for name, value in vars(whole).items():
        np.testing.assert_allclose(vars(part)[name], value, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("task", KINDS)
def test_the_summary_made_while_labelling_agrees(task: str) -> None:
    labels = [label_of(task, index) for index in range(12)]
    found, summary = read(task, *labels), Summary()
    for label in labels:
        summary = summary.add(summarize(KINDS[task], label))
    assert (found.images, found.absent, found.empty) == (summary.images, summary.absent, summary.empty)
    assert found.class_images.tolist()[: len(summary.images_with_class)] == summary.images_with_class
    if not isinstance(KINDS[task], MapLabel):  # of maps the summary knows no confidence
        assert found.confidence.sum() == summary.confident


@pytest.mark.parametrize(
    ("task", "field"), [("classification", "probs"), ("detection", "boxes_yxyx"), ("depth", "depth")]
)
def test_what_is_no_number_is_counted_and_nothing_else_said_of_that_image(task: str, field: str) -> None:
    label = label_of(task, 1)
    label[field].flat[:2] = np.nan, np.inf
    found, summary = read(task, label), summarize(KINDS[task], label)
    assert (found.images, found.not_finite, summary.images, summary.not_finite) == (1, 2, 1, 2)
    assert not found.class_images.any() and not found.known and np.isfinite(summary.confidence)
    assert Summary.model_validate_json(summary.model_dump_json()) == summary  # NaN in it would be lost


def test_of_a_large_map_some_values_stand_for_all():
    """In the histogram; ends, mean and counts are of all."""
    depth = np.linspace(1, 10, 800 * 800, dtype=np.float32).reshape(800, 800)
    kind, statistics = ScalarsLabel("depth", "m"), Statistics(0)
    kind.count({"depth": depth, "valid": np.ones_like(depth), "present": np.float32(1)}, 0, statistics)
    assert statistics.quantile(0.5) == pytest.approx(5.5, rel=0.02)
    assert statistics.values.sum() == pytest.approx(depth.size, rel=1e-3)
    assert (statistics.low, statistics.high, statistics.known) == (1, 10, depth.size)
