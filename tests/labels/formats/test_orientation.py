"""Labels turn as their image does; how that is, Pillow says."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
import pytest

from must_jax.data.decoding import ImageShape
from must_jax.data.kinds import (
    BoxesLabel,
    DirectionsLabel,
    IdsLabel,
    Label,
    LabelKind,
    ScalarsLabel,
    VectorLabel,
)
from must_jax.errors import UserError
from must_jax.labels.formats import build_format
from must_jax.labels.formats.base import Photo, Placed
from must_jax.labels.formats.orientation import upright

HEIGHT, WIDTH = 5, 8
CODES = pytest.mark.parametrize("code", range(1, 9))


def turned(pixels: np.ndarray, code: int) -> np.ndarray:
    """u8[h, w] as Pillow turns an image with this code of Exif."""
    image = PIL.Image.fromarray(pixels)
    image.getexif()[PIL.ExifTags.Base.Orientation] = code
    return np.array(PIL.ImageOps.exif_transpose(image))


def spot(y: int, x: int) -> np.ndarray:
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[y, x] = 255
    return pixels


@CODES
def test_boxes(code: int):
    boxes = np.array([[1, 2, 2, 3], [4, 0, 5, 1], [0, 5, 1, 6]])
    label = {"boxes_yxyx": (boxes / [HEIGHT, WIDTH, HEIGHT, WIDTH]).astype(np.float32), "classes": np.arange(3)}
    found = upright(BoxesLabel(3), label, code)
    assert found["boxes_yxyx"].dtype == np.float32
    np.testing.assert_array_equal(found["classes"], np.arange(3))
    for box, corner in zip(found["boxes_yxyx"], boxes, strict=True):
        pixels = turned(spot(*corner[:2]), code)
        (y,), (x,) = np.nonzero(pixels)
        np.testing.assert_allclose(box * np.tile(pixels.shape, 2), [y, x, y + 1, x + 1], atol=1e-5)


@CODES
def test_maps(code: int):
    values = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH)).astype(np.uint8)
    ids = upright(IdsLabel("ids"), {"ids": values.astype(np.int32)}, code)
    np.testing.assert_array_equal(ids["ids"], turned(values, code))
    depth = upright(ScalarsLabel("depth"), {"depth": values / 2, "valid": values % 2, "present": 1}, code)
    np.testing.assert_array_equal(depth["depth"], turned(values, code) / 2)
    np.testing.assert_array_equal(depth["valid"], turned(values, code) % 2)
    assert depth["present"] == 1


@CODES
def test_vectors_keep_pointing_at_what_they_pointed_at(code: int):
    def towards(y: int, x: int, height: int, width: int) -> np.ndarray:
        rows, columns = np.indices((height, width))
        return np.stack([x - columns, y - rows, np.full((height, width), -1)], -1).astype(np.float32)

    label = {"normals": towards(1, 6, HEIGHT, WIDTH), "valid": np.ones((HEIGHT, WIDTH))}
    found = upright(DirectionsLabel("normals"), label, code)["normals"]
    (y,), (x,) = np.nonzero(turned(spot(1, 6), code))
    np.testing.assert_array_equal(found, towards(y, x, *found.shape[:2]))


def test_what_lies_nowhere_in_the_image_does_not_turn():
    label = {"probs": np.arange(3)}
    assert upright(VectorLabel(3), label, 6) is label


def placed(hw: tuple[int, int], shape: ImageShape | None, **options: Any) -> Label:
    kind: LabelKind = BoxesLabel(1)
    format_ = build_format("coco", options)
    assert isinstance(format_, Placed)
    return format_.placed(kind, {"boxes_yxyx": np.array([[0, 0, 1, 0.25]])}, Photo("1.jpg", shape), hw, "a.json")


def test_sides_are_compared_with_those_that_the_labels_see():
    photo = ImageShape(40, 30, 6)
    np.testing.assert_array_equal(placed((40, 30), photo)["boxes_yxyx"], [[0, 0, 1, 0.25]])
    np.testing.assert_array_equal(placed((30, 40), photo, orientation="stored")["boxes_yxyx"], [[0, 0, 0.25, 1]])
    np.testing.assert_array_equal(placed((30, 40), None)["boxes_yxyx"], [[0, 0, 1, 0.25]])
    for hw, shape, options, message in (
        (
            (30, 40),
            photo,
            {},
            "a.json is for 40 x 30 pixels, but 1.jpg has 30 x 40 upright; set the option orientation=stored",
        ),
        (
            (40, 30),
            photo,
            {"orientation": "stored"},
            "but 1.jpg has 40 x 30 stored; set the option orientation=upright",
        ),
        ((40, 40), photo, {}, "1.jpg has 30 x 40 upright; use labels made for this image"),
        ((30, 40), ImageShape(40, 30, 3), {}, "1.jpg has 30 x 40 upright; use labels made for this image"),
        ((30, 40), None, {"orientation": "stored"}, "the header of 1.jpg does not say how to turn its labels"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            placed(hw, shape, **options)


@pytest.mark.parametrize(
    "name, options",
    [
        *(("coco", {}), ("voc", {}), ("coco_panoptic", {}), ("voc_masks", {}), ("id_png", {"classes": ("a",)})),
        *(("depth_png", {"unit": "m"}), ("normal_png", {"axes": "x,y,z"})),
    ],
)
def test_every_format_of_places_has_the_option(name: str, options: dict[str, Any]):
    format_ = build_format(name, {**options, "orientation": "stored"})
    assert isinstance(format_, Placed) and format_.model_dump(mode="json")["orientation"] == "stored"
    assert "orientation" not in build_format(name, options).model_dump(mode="json")
    with pytest.raises(UserError, match="option orientation: Input should be 'upright' or 'stored'"):
        build_format(name, {**options, "orientation": "sideways"})
