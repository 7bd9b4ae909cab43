"""Geometry of boxes, against plain NumPy and by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from must_jax.models.heads import detector_points
from must_jax.tasks import boxes


def iou_by_hand(a, b):
    height, width = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    overlap = max(height, 0) * max(width, 0)
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def random_boxes(rng, count):
    low = rng.uniform(0, 0.7, (count, 2))
    return np.concatenate([low, low + rng.uniform(0.1, 0.3, (count, 2))], 1).astype(np.float32)


def test_iou_and_giou_by_hand():
    a, b = jnp.array([0.0, 0, 2, 2]), jnp.array([1.0, 1, 3, 3])
    assert float(boxes.iou(a, b)) == pytest.approx(1 / 7)
    assert float(boxes.giou(a, b)) == pytest.approx(1 / 7 - 2 / 9)
    apart = jnp.array([0.0, 3, 2, 5])
    assert float(boxes.iou(a, apart)) == 0
    assert float(boxes.giou(a, apart)) == pytest.approx(-2 / 10)
    assert float(boxes.giou(a, a)) == pytest.approx(1)


def test_giou_of_empty_boxes_has_a_finite_gradient():
    empty = jnp.zeros(4)
    assert np.all(np.isfinite(jax.grad(lambda box: boxes.giou(box, empty))(empty)))


@pytest.mark.parametrize("seed", range(5))
def test_suppression_does_what_the_plain_loop_does(seed):
    rng = np.random.default_rng(seed)
    found, classes = random_boxes(rng, 60), rng.integers(0, 2, 60).astype(np.int32)
    kept: list[int] = []
    for i in range(60):
        if all(classes[i] != classes[j] or iou_by_hand(found[i], found[j]) <= 0.3 for j in kept):
            kept.append(i)
    keep = jax.jit(boxes.non_maximum_suppression, static_argnums=2)(found, classes, 0.3)
    assert np.flatnonzero(keep).tolist() == kept
    assert 5 < len(kept) < 55


@pytest.fixture
def assigned():
    """Cells (y, x, stride) by slot."""
    centers, strides = detector_points(64)

    def assign(*boxes_px, valid=None):
        valid = jnp.ones(len(boxes_px)) if valid is None else jnp.asarray(valid, jnp.float32)
        positive, slot = jax.jit(boxes.assign)(jnp.asarray(boxes_px, jnp.float32), valid, centers, strides)
        cells: dict[int, set[tuple[int, int, int]]] = {i: set() for i in range(len(boxes_px))}
        for i in np.flatnonzero(positive):
            cells[int(slot[i])].add((*map(int, centers[i]), int(strides[i])))
        return cells

    return assign


def test_a_box_goes_to_the_cells_around_its_centre(assigned):
    # Centre (32, 32) of P3: cell centres at 28 and 36 lie within 12 pixels, those at 20 and 44 just so.
    assert assigned([18, 18, 46, 46])[0] == {(y, x, 8) for y in (20, 28, 36, 44) for x in (20, 28, 36, 44)}
    assert assigned([22, 24, 42, 40])[0] == {(y, x, 8) for y in (28, 36) for x in (28, 36)}


def test_larger_boxes_go_to_coarser_levels(assigned):
    assert {cell[2] for cell in assigned([16, 16, 48, 48])[0]} == {8}  # side 32 = 4 strides of P3
    assert {cell[2] for cell in assigned([15, 15, 49, 49])[0]} == {16}
    assert {cell[2] for cell in assigned([0, 0, 64, 64])[0]} == {16}


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
