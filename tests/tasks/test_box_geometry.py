"""Geometry of boxes, against plain NumPy and by hand."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from must_jax.models.heads import detector_points
from must_jax.tasks import box_geometry


def iou_by_hand(a, b):
    height, width = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    overlap = max(height, 0) * max(width, 0)
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def random_boxes(rng, count):
    low = rng.uniform(0, 0.7, (count, 2))
    return np.concatenate([low, low + rng.uniform(0.1, 0.3, (count, 2))], 1).astype(np.float32)


def test_iou_and_giou_by_hand():
    a, b = jnp.array([0.0, 0, 2, 2]), jnp.array([1.0, 1, 3, 3])
    assert float(box_geometry.iou(a, b)) == pytest.approx(1 / 7)
    assert float(box_geometry.giou(a, b)) == pytest.approx(1 / 7 - 2 / 9)
    apart = jnp.array([0.0, 3, 2, 5])
    assert float(box_geometry.iou(a, apart)) == 0
    assert float(box_geometry.giou(a, apart)) == pytest.approx(-2 / 10)
    assert float(box_geometry.giou(a, a)) == pytest.approx(1)


def test_giou_of_empty_boxes_has_a_finite_gradient():
    empty = jnp.zeros(4)
    assert np.all(np.isfinite(jax.grad(lambda box: box_geometry.giou(box, empty))(empty)))


@pytest.mark.parametrize("seed", range(5))
def test_suppression_does_what_the_plain_loop_does(seed):
    rng = np.random.default_rng(seed)
    found, classes = random_boxes(rng, 60), rng.integers(0, 2, 60).astype(np.int32)
    scores = np.where(np.arange(60) < 50, rng.uniform(0.1, 1, 60), 0).astype(np.float32)
    kept: list[int] = []
    for i in np.argsort(-scores)[:50].tolist():
        if all(classes[i] != classes[j] or iou_by_hand(found[i], found[j]) <= 0.3 for j in kept):
            kept.append(i)
    assert 5 < len(kept) < 45
    for count in (5, len(kept), 60):
        suppress = jax.jit(box_geometry.non_maximum_suppression, static_argnums=(3, 4))
        chosen, left = map(np.asarray, suppress(found, classes, scores, 0.3, count))
        assert len(chosen) == len(left) == count
        assert chosen[left > 0].tolist() == kept[:count]
        np.testing.assert_array_equal(left[left > 0], scores[kept[:count]])


def test_a_box_without_area_is_found_once():
    found, scores = jnp.array([[0.5, 0.5, 0.5, 0.5], [0, 0, 1, 1]]), jnp.array([0.9, 0.8])
    chosen, left = box_geometry.non_maximum_suppression(found, jnp.zeros(2, jnp.int32), scores, 0.5, 4)
    assert chosen[:2].tolist() == [0, 1]
    np.testing.assert_array_equal(left, np.float32([0.9, 0.8, 0, 0]))


_assign = jax.jit(box_geometry.assign)


def assigned_to(image_size, *boxes_px, valid=None):
    """Cells (y, x, stride) by slot."""
    centers, strides = detector_points((image_size, image_size))
    valid = jnp.ones(len(boxes_px)) if valid is None else jnp.asarray(valid, jnp.float32)
    positive, slot = map(np.asarray, _assign(jnp.asarray(boxes_px, jnp.float32), valid, centers, strides))
    cells: dict[int, set[tuple[int, int, int]]] = {i: set() for i in range(len(boxes_px))}
    for i in np.flatnonzero(positive):
        cells[int(slot[i])].add((*map(int, centers[i]), int(strides[i])))
    return cells


@pytest.fixture
def assigned():
    return functools.partial(assigned_to, 64)


def test_a_box_goes_to_the_cells_around_its_centre(assigned):
    # Centre (32, 32) of P3: cell centres at 28 and 36 lie within 12 pixels, those at 20 and 44 just so.
    assert assigned([18, 18, 46, 46])[0] == {(y, x, 8) for y in (20, 28, 36, 44) for x in (20, 28, 36, 44)}
    assert assigned([22, 24, 42, 40])[0] == {(y, x, 8) for y in (28, 36) for x in (28, 36)}


def levels(cells) -> set[int]:
    return {stride for *_, stride in cells}


def test_larger_boxes_go_to_coarser_levels():
    """FCOS's limits of the distance to the farthest side: 64, 128, 256 and 512 pixels."""
    for half, strides in (
        (2, {8}),
        (30, {8}),
        (60, {8, 16}),  # the inner cells of P3, the outer ones of P4
        (72, {16}),
        (150, {32}),
        (300, {64}),
        (600, {128}),
    ):
        low, high = 640 - half, 640 + half
        cells = assigned_to(1280, [low, low, high, high])[0]
        assert levels(cells) == strides, half
        for y, x, stride in cells:
            farthest = max(abs(y - 640), abs(x - 640)) + half
            assert (farthest <= 8 * stride or stride == 128) and (farthest > 4 * stride or stride == 8)
        # What counts is the longer side.
        assert levels(assigned_to(1280, [low, 636, high, 644])[0]) == strides


def test_in_an_image_of_64_pixels_all_boxes_are_learnt_by_p3():
    for box in ([0, 0, 64, 64], [0, 0, 64, 3], [30, 30, 31, 31]):
        assert levels(assigned_to(64, box)[0]) == {8}


@pytest.mark.parametrize("image_size", [64, 224, 640])
def test_every_box_that_stands_alone_is_learnt(image_size):
    rng = np.random.default_rng(0)
    for _ in range(300):
        sides = np.exp(rng.uniform(np.log(0.5), np.log(image_size), 2))
        low = rng.uniform(0, image_size - sides)
        box = [*low, *(low + sides)]
        assert assigned_to(image_size, box)[0], box


def test_a_thin_box_between_cells_gets_the_cell_at_its_centre(assigned):
    assert assigned([29, 10, 35, 16])[0] == {(28, 12, 8), (36, 12, 8)}
    assert assigned([0, 29, 60, 34])[0] == {(y, x, 8) for y in (20, 28, 36) for x in (28,)} | {
        (y, 28, 8) for y in (20, 28, 36)
    }


def test_of_two_boxes_in_one_place_the_smaller_wins_and_padding_never(assigned):
    large, small = [16, 16, 46, 46], [24, 24, 40, 40]
    for pair, winner in (((large, small), 1), ((small, large), 0)):
        cells = assigned(*pair)
        assert cells[winner] == {(y, x, 8) for y in (28, 36) for x in (28, 36)}
        assert cells[1 - winner] and not cells[0] & cells[1]
    assert assigned(large, small, valid=[1, 0])[1] == set()
    assert assigned([0, 0, 0, 0], valid=[0])[0] == set()
