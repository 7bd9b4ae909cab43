from __future__ import annotations

import numpy as np
import pytest

from must_jax.tasks import build_task, drawing

CLASSES = tuple(f"class {i}" for i in range(20))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((64, 64), (256, 256)), ((48, 100), (144, 300)), ((2048, 1024), (1024, 512)), ((300, 400),) * 2],
)
def test_canvas_is_readable_and_not_huge(size, expected):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    assert drawing.canvas(image).shape[:2] == expected


def test_small_photos_are_enlarged_by_whole_pixels():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    np.testing.assert_array_equal(drawing.canvas(image)[::4, ::4], image)
    np.testing.assert_array_equal(drawing.canvas(image)[3::4, 3::4], image)


@pytest.mark.parametrize(("count", "apart"), [(8, 0.2), (24, 0.12), (150, 0.05)])
def test_colours_of_classes_can_be_told_apart_and_from_pixels_without_a_label(count: int, apart: float):
    """Distances in OKLab, where black and white are 1 apart, and 0.02 can just be seen."""
    colours = drawing.oklab(np.array([*drawing.palette(count), drawing.UNKNOWN]))
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + np.eye(len(colours))
    assert distance.min() > apart


def test_a_class_keeps_its_colour_if_others_are_added():
    assert drawing.palette(0) == []
    assert drawing.palette(5) == drawing.palette(150)[:5]


def test_oklab_is_that_of_its_author():
    """White, and red, from Ottosson (2020)."""
    known = drawing.oklab(np.array([[255, 255, 255], [255, 0, 0], [0, 0, 0]]))
    np.testing.assert_allclose(known, [[1, 0, 0], [0.6280, 0.2249, 0.1258], [0, 0, 0]], atol=1e-4)


def test_drawing_leaves_the_photo_as_it_was():
    image = np.zeros((300, 300, 3), np.uint8)
    label = {
        "boxes_yxyx": np.array([[0.1, 0.1, 0.9, 0.9]]),
        "classes": np.array([19]),
        "scores": np.ones(1),
        "ignore": np.zeros(1),
        "valid": np.ones(1),
    }
    assert build_task("detection", CLASSES).draw(image, label).any()
    assert not image.any()


def test_a_label_with_nothing_in_it_is_drawn_too():
    image = np.full((64, 64, 3), 9, np.uint8)
    maps = np.zeros((16, 16), np.float32)
    nothing = {"boxes_yxyx": np.zeros((2, 4)), "classes": np.zeros(2, int)}
    nothing |= dict.fromkeys(("scores", "valid", "ignore"), np.zeros(2))
    np.testing.assert_array_equal(build_task("detection", CLASSES).draw(image, nothing), drawing.canvas(image))
    unsure = build_task("segmentation", CLASSES).draw(image, {"ids": np.full((16, 16), 255)})
    assert len(np.unique(unsure[:256].reshape(-1, 3), axis=0)) == 1
    for name, empty in (("depth", {"depth": maps}), ("normals", {"normals": np.zeros((16, 16, 3), np.float32)})):
        picture = build_task(name).draw(image, empty | {"valid": maps})
        assert np.all(picture[:256] == drawing.UNKNOWN)


def test_boxes_are_where_the_label_says():
    image = np.zeros((400, 200, 3), np.uint8)
    label = {
        "boxes_yxyx": np.array([[0.25, 0.5, 0.75, 1.0]]),
        "classes": np.zeros(1, int),
        "scores": np.ones(1),
        "ignore": np.zeros(1),
        "valid": np.ones(1),
    }
    picture = build_task("detection", ["x"]).draw(image, label).any(-1)
    assert picture[200, 98:102].any() and picture[298:302, 150].any() and picture[:95].sum() == 0
    assert not picture[250, 110:190].any()
