from __future__ import annotations

import cv2
import numpy as np
import pytest
from hand_made import KINDS

from must_jax.data.augment import letterbox_geometry
from must_jax.data.batching import map_hw_of
from must_jax.data.kinds import place
from must_jax.data.letterbox import content_of, most_likely, nearest

PRESENT = {"present": np.float32(1)}


def test_boxes_in_the_padding_are_left_out_and_others_clipped() -> None:
    boxes = np.array([[0.0, 0.0, 0.25, 0.5], [0.25, 0.0, 0.75, 1.0], [0.6, 0.0, 0.9, 1.0]], np.float32)
    label = {"boxes_yxyx": boxes, "classes": np.zeros(3, np.int32), "scores": np.ones(3), "valid": np.ones(3)} | PRESENT
    cut = KINDS["detection"].cut_padding(label, content_of((32, 64), (64, 64)))
    np.testing.assert_allclose(cut["boxes_yxyx"][:2], [[0, 0, 0.5, 0.5], [0.5, 0, 1, 1]])
    assert cut["valid"].tolist() == [1, 1, 0]


def test_maps_are_cropped_where_the_stride_divides_the_content() -> None:
    ids = np.arange(256, dtype=np.int32).reshape(16, 16) % 5
    cut = KINDS["segmentation"].cut_padding({"ids": ids} | PRESENT, content_of((64, 24), (64, 64)))
    np.testing.assert_array_equal(cut["ids"], ids[:, :6])


def test_a_pixel_keeps_its_confidence() -> None:
    ids = np.random.default_rng(0).integers(0, 255, (16, 16)).astype(np.int32)
    label = {"ids": ids, "confidence": ids.astype(np.float32) / 255} | PRESENT
    for content_hw, shape in (((43, 64), (11, 16)), ((64, 24), (16, 6))):
        cut = KINDS["segmentation kept"].cut_padding(label, content_of(content_hw, (64, 64)))
        assert cut["ids"].shape == shape
        np.testing.assert_array_equal(cut["confidence"], cut["ids"].astype(np.float32) / 255)


@pytest.mark.parametrize("content_hw", [(43, 64), (64, 29)])
def test_maps_cover_the_image_exactly(content_hw: tuple[int, int]) -> None:
    """A ramp from 0 at the image's top left corner to 1 at its bottom right one, padding far off."""
    rows, columns = ((np.arange(16) + 0.5) * 4 / side for side in content_hw)
    ramp = (rows[:, None] + columns[None]).astype(np.float32) / 2
    label = {
        "depth": np.where(ramp <= 1.2, ramp, 100).astype(np.float32),
        "valid": np.ones((16, 16), np.float32),
    } | PRESENT
    cut = KINDS["depth"].cut_padding(label, content_of(content_hw, (64, 64)))
    height, width = cut["depth"].shape
    assert (height, width) == tuple(round(side / 4) for side in content_hw)
    wanted = ((np.arange(height) + 0.5)[:, None] / height + (np.arange(width) + 0.5)[None] / width) / 2
    np.testing.assert_allclose(cut["depth"][:-1, :-1], wanted[:-1, :-1], atol=2e-3)


@pytest.mark.parametrize(
    ("image_hw", "input_hw"), [((80, 160), (64, 96)), ((160, 80), (64, 96)), ((160, 80), (96, 64))]
)
def test_what_is_placed_in_a_rectangle_comes_back(image_hw: tuple[int, int], input_hw: tuple[int, int]) -> None:
    """Labels of all kinds, whose maps rise along both axes: in the input, and in the image again."""
    rng, geometry = np.random.default_rng(0), letterbox_geometry(image_hw, input_hw)
    content = content_of((geometry.y.out_length, geometry.x.out_length), input_hw)
    y, x = ((np.arange(n) + 0.5) / n for n in image_hw)
    ramp = (1 + y[:, None] + 2 * x[None]).astype(np.float32)
    vectors = np.stack([y[:, None] + 0 * x[None], 0 * y[:, None] + x[None], np.ones(image_hw)], -1)
    normals = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    ends = np.sort(rng.uniform(0, 1, (3, 2, 2)), 1).reshape(3, 4).astype(np.float32)
    ones, valid = np.ones(3, np.float32), np.ones(image_hw, np.float32)
    labels = {
        "detection": {"boxes_yxyx": ends, "classes": np.arange(3), "scores": ones, "valid": ones, "ignore": 0 * ones},
        "segmentation": {"ids": (10 * ramp).astype(np.int32)},
        "depth": {"depth": ramp, "valid": valid},
        "normals": {"normals": normals, "valid": valid},
    }
    placed = place(geometry, {name: label | PRESENT for name, label in labels.items()}, KINDS, map_hw_of(input_hw))
    for name, field, within in (("depth", "depth", 0.03), ("normals", "normals", 0.02)):
        back = KINDS[name].on_image(placed[name], content, image_hw)[field]
        np.testing.assert_allclose(back[8:-8, 8:-8], labels[name][field][8:-8, 8:-8], atol=within)
    ids = KINDS["segmentation"].cut_padding(placed["segmentation"], content)["ids"]
    wanted = (10 * nearest(ramp, (1.0, 1.0), ids.shape)).astype(np.int32)
    assert np.abs(ids - wanted).max() <= 1 and (ids != 255).all()
    boxes = KINDS["detection"].on_image(placed["detection"], content, image_hw)["boxes_yxyx"]
    np.testing.assert_allclose(boxes[:3], ends, atol=1e-5)


def test_an_image_thinner_than_a_cell_keeps_one_row() -> None:
    depth = np.random.default_rng(0).random((16, 16), np.float32)
    cut = KINDS["depth"].cut_padding(
        {"depth": depth, "valid": np.ones_like(depth)} | PRESENT, content_of((1, 64), (64, 64))
    )
    np.testing.assert_array_equal(cut["depth"], depth[:1])
    assert cut["valid"].tolist() == [[1] * 16]


def test_normals_stay_unit_vectors_and_invalid_ones_spread_not() -> None:
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(16, 16, 3)).astype(np.float32) + np.array([0, 0, -4], np.float32)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    valid = np.ones((16, 16), np.float32)
    valid[3, 5] = 0
    cut = KINDS["normals"].cut_padding({"normals": normals, "valid": valid} | PRESENT, content_of((50, 64), (64, 64)))
    np.testing.assert_allclose(np.linalg.norm(cut["normals"], axis=-1), 1, atol=1e-5)
    assert cut["valid"].shape == (12, 16)  # 50 / 4 = 12.5, and halves round to even
    assert cut["valid"].sum() in (16 * 12 - 1, 16 * 12 - 2)


@pytest.mark.parametrize("hw", [(97, 211), (480, 300), (9, 12), (1, 30)])
@pytest.mark.parametrize("smooth", [True, False])
def test_the_class_of_a_pixel_is_that_of_all_classes_interpolated(hw: tuple[int, int], smooth: bool) -> None:
    """However many there are, and though only few of them are looked at where the others cannot be the best."""
    cells, count, content = (24, 20), 40, (0.7, 1.0)
    rng = np.random.default_rng(0)
    probs = rng.random((*cells, count), np.float32)
    if smooth:
        probs = np.exp(9 * cv2.resize(probs[::6, ::5], cells[::-1], interpolation=cv2.INTER_CUBIC))
    probs /= probs.sum(-1, keepdims=True)

    def shares(length: int, n: int, share: float) -> np.ndarray:
        at = np.clip((np.arange(length) + 0.5) * share * n / length - 0.5, 0, n - 1)
        return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(n)))

    y, x = (shares(*axis) for axis in zip(hw, cells, content, strict=True))
    every = np.einsum("ya,xb,abk->yxk", y, x, probs.astype(np.float64), optimize=True)
    ids, best = most_likely(probs, content, hw)
    assert ids.dtype == np.int32 and best.dtype == np.float32
    np.testing.assert_allclose(best, every.max(-1), rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(every, ids[..., None], -1)[..., 0], best, rtol=1e-5)
    assert len(np.unique(ids)) > 3


def test_of_equally_likely_classes_the_first_is_taken() -> None:
    ids, best = most_likely(np.full((4, 4, 3), 1 / 3, np.float32), (1.0, 0.5), (40, 20))
    assert not ids.any()
    np.testing.assert_allclose(best, 1 / 3, rtol=1e-6)
