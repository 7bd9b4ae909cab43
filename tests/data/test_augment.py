"""One geometry for image, boxes and maps: against analytic ramps, and against rendering with the transformed camera."""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from must_jax.config import AugmentConfig
from must_jax.data import scenes
from must_jax.data.augment import (
    PADDING_RGB,
    Geometry,
    Span,
    letterbox_geometry,
    resized,
    sample_geometry,
    sample_scale,
)
from must_jax.data.kinds import IGNORE_ID, BoxesLabel, DirectionsLabel, IdsLabel, ScalarsLabel, VectorLabel, place

IDS = IdsLabel("ids")
DEPTH = ScalarsLabel("depth", "m")
NORMALS = DirectionsLabel("normals")
BOXES = BoxesLabel(6)
PRESENT = np.float32(1)

settings = hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
sides = st.integers(5, 90)


def apply(
    geometry: Geometry, image: np.ndarray, labels: dict[str, Any], kinds: dict[str, Any], map_size: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """An example as a network sees it, with maps of `map_size` rows."""
    return resized(geometry, image), place(geometry, labels, kinds, maps_of(geometry, map_size))


def maps_of(geometry: Geometry, rows: int) -> tuple[int, int]:
    return rows, rows * geometry.x.out // geometry.y.out


def sampled(
    rng: np.random.Generator, hw: tuple[int, int], input_hw: tuple[int, int], augment: AugmentConfig
) -> Geometry:
    return sample_geometry(rng, hw, input_hw, sample_scale(rng, augment), augment.flip)


@st.composite
def geometries(draw: st.DrawFn) -> tuple[Geometry, tuple[int, int]]:
    """From images of all sizes to square, wide and tall inputs."""
    hw, input_hw = (draw(sides), draw(sides)), draw(st.sampled_from([(32, 32), (32, 64), (64, 32), (32, 48)]))
    low, factor = draw(st.floats(0.3, 2)), draw(st.floats(1, 2))
    augment = AugmentConfig(scale_min=low, scale_max=low * factor, flip=draw(st.booleans()))
    return sampled(np.random.default_rng(draw(st.integers(0, 99))), hw, input_hw, augment), hw


def to_image(span: Span, fraction: np.ndarray) -> np.ndarray:
    """The definition: a fraction of the input -> that of the image shown there, beyond 0..1 in the padding."""
    share = (fraction * span.out - span.out_start) / span.out_length
    share = 1 - share if span.flip else share
    return (span.start + share * span.length) / span.image


def centres(count: int) -> np.ndarray:
    return (np.arange(count) + 0.5) / count


def ramps(geometry: Geometry, map_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of maps with `map_size` rows, image fractions y and x of every pixel, and where that is inside of the image.

    Of centres on the image's border the input's low side is inside, flipped or not: it is a slice of whole pixels.
    An image that is thinner than a cell is in the cell that its middle is in.
    """
    fractions, within = [], []
    for span, cells in zip(geometry, maps_of(geometry, map_size), strict=True):
        place = centres(cells) * span.out - span.out_start
        fractions.append(to_image(span, centres(cells)))
        within.append((place >= 0) & (place < span.out_length))
        if not within[-1].any():
            middle = (span.out_start + span.out_length / 2) / span.out
            cell = int(middle * cells)
            shown = np.clip([cell / cells, (cell + 1) / cells], span.out_start / span.out, None)
            shown = np.minimum(shown, (span.out_start + span.out_length) / span.out)
            within[-1][cell], fractions[-1][cell] = True, to_image(span, shown.mean())
    y, x = np.meshgrid(*fractions, indexing="ij")
    return y, x, within[0][:, None] & within[1]


def blank(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


@settings
@hypothesis.given(geometries(), sides, sides, st.sampled_from([8, 16, 32]))
def test_scalar_ramps(drawn: tuple[Geometry, tuple[int, int]], height: int, width: int, map_size: int):
    """A map of any resolution that holds its own coordinates holds the transformed coordinates afterwards."""
    geometry, image_hw = drawn
    y, x, inside = ramps(geometry, map_size)
    of_axes = zip((centres(height)[:, None], centres(width)[None]), (y, x), geometry, y.shape, strict=True)
    for ramp, expected, span, cells in of_axes:
        depth = np.broadcast_to(ramp, (height, width)).astype(np.float32)
        label = {"depth": depth, "valid": np.ones((height, width), np.float32), "present": PRESENT}
        _, out = apply(geometry, blank(*image_hw), {"depth": label}, {"depth": DEPTH}, map_size)
        np.testing.assert_array_equal(out["depth"]["valid"], inside)
        cell = span.length / span.image / span.out_length * span.out / cells
        reach = max(cell, 1 / ramp.size) / 2 + 0.5 / ramp.size  # of what is mixed; beyond the ends the map goes on flat
        whole = inside & (expected > reach) & (expected < 1 - reach)
        found = out["depth"]["depth"]
        np.testing.assert_allclose(found[whole], expected[whole], atol=1e-4)
        assert np.abs(found - np.clip(expected, ramp.min(), ramp.max()))[inside].max() <= reach
        assert not found[~inside].any()


@settings
@hypothesis.given(geometries(), sides, sides, st.sampled_from([8, 16, 32]))
def test_ids_are_those_of_the_pixel_underneath(
    drawn: tuple[Geometry, tuple[int, int]], height: int, width: int, map_size: int
):
    geometry, image_hw = drawn
    y, x, inside = ramps(geometry, map_size)
    row_of, column_of = np.mgrid[:height, :width]
    for ids, exact in ((row_of, y * height), (column_of, x * width)):
        _, out = apply(geometry, blank(*image_hw), {"s": {"ids": ids, "present": PRESENT}}, {"s": IDS}, map_size)
        ids = out["s"]["ids"]
        assert (ids[~inside] == IGNORE_ID).all()
        np.testing.assert_allclose((ids + 0.5)[inside], exact[inside], atol=0.5 + 1e-4)


@settings
@hypothesis.given(geometries())
def test_image_ramps(drawn: tuple[Geometry, tuple[int, int]]):
    geometry, (height, width) = drawn
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.rint(255 * centres(width))
    image[..., 1] = np.rint(255 * centres(height))[:, None]
    out, _ = apply(geometry, image, {}, {}, 8)
    y, x, inside = ramps(geometry, geometry.y.out)
    np.testing.assert_array_equal(out[~inside], np.broadcast_to(PADDING_RGB, out[~inside].shape))
    # Flat ends: half a pixel beyond the outermost centres, of the image or of the crop, whichever is coarser.
    for channel, expected, span in ((0, x, geometry.x), (1, y, geometry.y)):
        coarse = max(
            span.image / span.length / span.out_length, 1 / span.image, span.length / span.image / span.out_length
        )
        assert np.abs(out[..., channel] - 255 * expected)[inside].max() < 255 * 0.5 * coarse + 1.5


@settings
@hypothesis.given(geometries())
def test_boxes_move_with_the_image(drawn: tuple[Geometry, tuple[int, int]]):
    geometry, image_hw = drawn
    rng = np.random.default_rng(0)
    ends = np.sort(rng.uniform(size=(6, 2, 2)), axis=1)  # [box, low | high, y | x]
    classes = np.arange(6, dtype=np.int32)
    ones = np.ones(6, np.float32)
    label = {
        "boxes_yxyx": ends.reshape(6, 4),
        "classes": classes,
        "scores": ones,
        "valid": ones,
        "ignore": 0 * ones,
        "present": PRESENT,
    }
    _, out = apply(geometry, blank(*image_hw), {"d": label}, {"d": BOXES}, 8)
    boxes = out["d"]["boxes_yxyx"]
    for box, box_class, valid in zip(boxes, out["d"]["classes"], out["d"]["valid"], strict=True):
        if not valid:
            assert not box.any()
            continue
        assert (
            (box >= 0).all()
            and (box <= 1).all()
            and ((box[2:] - box[:2]) * [span.out for span in geometry] >= 1 - 1e-5).all()
        )
        for axis, span in enumerate(geometry):
            back = np.sort(to_image(span, box[axis::2]))
            window = np.sort(to_image(span, np.array([0.0, 1.0])))
            np.testing.assert_allclose(back, np.clip(ends[box_class, :, axis], *window), atol=1e-5)


def test_boxes_that_are_hardly_visible_are_dropped_and_the_largest_fill_the_slots():
    crop = Geometry(Span(100, 0, 100, 50, 0, 50), Span(100, 50, 50, 50, 0, 50))  # the right half
    boxes_yxyx = np.array(
        [[0, 0, 1, 0.6], [0, 0.4, 1, 0.7], [0.1, 0.6, 0.2, 0.7], [0.1, 0.6, 0.11, 0.9], [0, 0.5, 1, 1], [0, 0, 1, 0.4]]
    )
    classes, ones = np.arange(6, dtype=np.int32), np.ones(6, np.float32)
    label = {
        "boxes_yxyx": boxes_yxyx,
        "classes": classes,
        "scores": ones,
        "valid": ones,
        "ignore": 0 * ones,
        "present": PRESENT,
    }
    _, out = apply(crop, blank(100, 100), {"d": label}, {"d": BoxesLabel(6)}, 8)
    np.testing.assert_array_equal(out["d"]["classes"][out["d"]["valid"] > 0], [1, 2, 4])
    np.testing.assert_allclose(out["d"]["boxes_yxyx"][0], [0, 0, 1, 0.4], atol=1e-6)
    _, out = apply(crop, blank(100, 100), {"d": label}, {"d": BoxesLabel(2)}, 8)
    np.testing.assert_array_equal(out["d"]["classes"], [1, 4])


def test_boxes_to_ignore_stay_while_anything_of_them_is_seen_and_give_way_to_objects():
    crop = Geometry(Span(100, 0, 100, 50, 0, 50), Span(100, 50, 50, 50, 0, 50))  # the right half
    boxes_yxyx = np.array([[0, 0, 1, 0.6], [0, 0.5, 1, 1], [0.1, 0.6, 0.2, 0.7]])
    classes, ones = np.arange(3, dtype=np.int32), np.ones(3, np.float32)
    label = {"boxes_yxyx": boxes_yxyx, "classes": classes, "scores": ones, "valid": ones, "present": PRESENT}
    label["ignore"] = np.float32([1, 1, 0])
    for slots, left in ((3, [0, 1, 2]), (2, [1, 2]), (1, [2])):
        _, out = apply(crop, blank(100, 100), {"d": label}, {"d": BoxesLabel(slots)}, 8)
        np.testing.assert_array_equal(out["d"]["classes"], left)
        np.testing.assert_array_equal(out["d"]["ignore"], label["ignore"][left])


def test_an_invalid_pixel_is_never_mixed_in():
    rng = np.random.default_rng(0)
    valid = (rng.uniform(size=(48, 48)) > 0.1).astype(np.float32)
    depth = 2 * valid
    label = {"depth": depth, "valid": valid, "present": PRESENT}
    augment = AugmentConfig(scale_min=0.5, scale_max=2)
    seen = 0.0
    for _ in range(20):
        geometry = sampled(rng, (48, 48), (32, 32), augment)
        _, out = apply(geometry, blank(48, 48), {"depth": label}, {"depth": DEPTH}, 16)
        values = out["depth"]["depth"][out["depth"]["valid"] > 0]
        np.testing.assert_allclose(values, 2, rtol=1e-6)
        seen += out["depth"]["valid"].mean() / 20
    assert 0.2 < seen < 0.9


def labels_of(rng: np.random.Generator, size: int) -> dict[str, dict[str, np.ndarray]]:
    normals = rng.normal(size=(size, size, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    ends = np.float32([[0, 0, 0.5, 1], [0.125, 0.25, 0.5, 0.75], [0.3, 0.1, 0.9, 0.2]])
    valid = np.ones((size, size), np.float32)
    ones = np.ones(3, np.float32)
    return {
        "ids": {"ids": rng.integers(0, 5, (size, size), np.int32), "present": PRESENT},
        "depth": {"depth": rng.uniform(1, 2, (size, size)).astype(np.float32), "valid": valid, "present": PRESENT},
        "normals": {"normals": normals, "valid": valid, "present": PRESENT},
        "boxes": {
            "boxes_yxyx": ends,
            "classes": np.arange(3),
            "scores": ones,
            "valid": ones,
            "ignore": 0 * ones,
            "present": PRESENT,
        },
        "vector": {"probs": np.float32([0.2, 0.8]), "present": PRESENT},
    }


KINDS = {"ids": IDS, "depth": DEPTH, "normals": NORMALS, "boxes": BoxesLabel(3), "vector": VectorLabel(2)}


@pytest.mark.parametrize("flips", [0, 2])
def test_nothing_and_two_flips_are_the_identity(flips: int):
    rng = np.random.default_rng(0)
    image, labels = rng.integers(0, 255, (24, 24, 3), np.uint8), labels_of(rng, 24)
    span = Span(24, 0, 24, 24, 0, 24)
    out_image, out = image, labels
    for _ in range(flips or 1):
        geometry = Geometry(span, span._replace(flip=flips > 0))
        out_image, out = apply(geometry, out_image, out, KINDS, 24)
    np.testing.assert_array_equal(out_image, image)
    for task, label in labels.items():
        for field, value in label.items():
            np.testing.assert_allclose(out[task][field], value, atol=1e-6, err_msg=f"{task} {field}")


def test_a_flip_negates_the_normals_x():
    normals = np.zeros((8, 8, 3), np.float32)
    normals[...] = [0.6, 0, -0.8]
    label = {"normals": normals, "valid": np.ones((8, 8), np.float32), "present": PRESENT}
    span = Span(8, 0, 8, 8, 0, 8)
    _, out = apply(Geometry(span, span._replace(flip=True)), blank(8, 8), {"n": label}, {"n": NORMALS}, 8)
    np.testing.assert_allclose(out["n"]["normals"], normals * [-1, 1, 1], atol=1e-6)


def test_absent_labels_have_their_shapes():
    labels = {"depth": labels_of(np.random.default_rng(0), 8)["depth"] | {"present": np.float32(0)}}
    _, out = apply(letterbox_geometry((8, 8), (16, 16)), blank(8, 8), labels, KINDS, 4)
    assert {task: label["present"] for task, label in out.items()} == dict.fromkeys(KINDS, 0)
    assert out["depth"]["depth"].shape == (4, 4)
    assert not out["depth"]["valid"].any()
    assert out["boxes"]["boxes_yxyx"].shape == (3, 4)
    assert (out["ids"]["ids"] == IGNORE_ID).all()


def test_letterbox_is_the_whole_image_in_the_top_left():
    geometry = letterbox_geometry((30, 60), (32, 32))
    assert geometry == (Span(30, 0, 30, 32, 0, 16), Span(60, 0, 60, 32, 0, 32))
    image, _ = apply(geometry, np.full((30, 60, 3), 9, np.uint8), {}, {}, 8)
    assert (image[:16] == 9).all()
    assert (image[16:] == PADDING_RGB).all()


@pytest.mark.parametrize(
    ("image_hw", "input_hw", "content_hw"),
    [
        ((1080, 1920), (384, 640), (360, 640)),  # by its width: 6 % of the input are padding, of a square one 44 %
        ((1080, 1920), (640, 640), (360, 640)),
        ((1920, 1080), (384, 640), (384, 216)),
        ((1920, 1080), (640, 384), (640, 360)),
        ((480, 640), (384, 640), (384, 512)),
        ((90, 150), (384, 640), (384, 640)),  # the same aspect: all of it
    ],
)
def test_a_letterbox_touches_the_side_that_is_reached_first(image_hw, input_hw, content_hw):
    geometry = letterbox_geometry(image_hw, input_hw)
    assert (geometry.y.out, geometry.x.out) == input_hw
    assert (geometry.y.out_length, geometry.x.out_length) == content_hw
    assert sample_geometry(np.random.default_rng(0), image_hw, input_hw, 1.0, False).y.out_length == content_hw[0]


def test_an_image_of_one_row_is_still_an_example():
    labels = {"ids": {"ids": np.ones((1, 500), np.int32), "present": PRESENT}}
    labels["depth"] = {
        "depth": np.ones((1, 500), np.float32),
        "valid": np.ones((1, 500), np.float32),
        "present": PRESENT,
    }
    image, out = apply(letterbox_geometry((1, 500), (32, 32)), blank(1, 500), labels, {"ids": IDS, "depth": DEPTH}, 8)
    assert image.shape == (32, 32, 3)
    assert out["depth"]["valid"].tolist() == [[1] * 8, *[[0] * 8] * 7]
    assert (out["ids"]["ids"] == np.where(out["depth"]["valid"] > 0, 1, IGNORE_ID)).all()


def sparse(rng: np.random.Generator, share: float, *hw: int) -> np.ndarray:
    return (rng.random(hw) < share).astype(np.float32)


def test_every_cell_with_a_measurement_in_it_is_supervised_by_their_mean():
    """A LiDAR's 4.5 % of 1242 x 375 pixels, of a plane that goes away from the camera."""
    rng = np.random.default_rng(0)
    plane = 5 + 0.1 * np.arange(375, dtype=np.float32)[::-1, None] + np.zeros((1, 1242), np.float32)
    valid = sparse(rng, 0.045, 375, 1242)
    label = {"depth": plane * valid, "valid": valid, "present": PRESENT}
    dense = {"depth": plane, "valid": np.ones_like(valid), "present": PRESENT}
    for size in (640, 128):
        geometry = letterbox_geometry((375, 1242), (size, size))
        _, out = apply(geometry, blank(375, 1242), {"s": label, "d": dense}, {"s": DEPTH, "d": DEPTH}, size // 4)
        cells = out["d"]["valid"] > 0
        assert cells.sum() == round(geometry.y.out_length / 4) * size // 4
        supervised = out["s"]["valid"] > 0
        assert not supervised[~cells].any()
        pixels = (1242 / (size / 4)) ** 2
        assert supervised[cells].mean() >= 1 - 1.5 * 0.955**pixels
        half = 1242 / (size / 4) / 2 * 0.1  # a cell holds no other depths
        np.testing.assert_allclose(out["s"]["depth"][supervised], out["d"]["depth"][supervised], atol=half + 0.06)


@settings
# Places a pixel apart lie on the borders of pixels.
@hypothesis.example((Geometry(Span(5, 0, 5, 32, 15, 12), Span(5, 0, 5, 32, 19, 12)), (5, 5)), 69, 16)
@hypothesis.given(geometries(), st.integers(0, 99), st.sampled_from([8, 16, 32]))
def test_a_cell_is_valid_if_and_only_if_something_valid_is_in_its_footprint(
    drawn: tuple[Geometry, tuple[int, int]], seed: int, map_size: int
):
    geometry, image_hw = drawn
    rng = np.random.default_rng(seed)
    height, width = rng.integers(5, 90, 2).tolist()
    valid = sparse(rng, 0.1, height, width)
    labels = {
        "d": {"depth": 3 * valid, "valid": valid, "present": PRESENT},
        "n": {"normals": valid[..., None] * np.float32([0, 0, -1]), "valid": valid, "present": PRESENT},
        "s": {"ids": np.where(valid > 0, 2, IGNORE_ID).astype(np.int32), "present": PRESENT},
    }
    _, out = apply(geometry, blank(*image_hw), labels, {"d": DEPTH, "n": NORMALS, "s": IDS}, map_size)
    _, _, inside = ramps(geometry, map_size)
    ends = []
    for span, n, cells in zip(geometry, (height, width), inside.shape, strict=True):
        edges = np.clip(np.arange(cells + 1) / cells * span.out, span.out_start, span.out_start + span.out_length)
        ends.append(np.sort(np.stack([to_image(span, edges / span.out)[i:][:cells] * n for i in (0, 1)]), axis=0))
    for row, column in np.argwhere(inside):
        (top, bottom), (left, right) = ends[0][:, row], ends[1][:, column]
        some, sure = (
            valid[
                int(top + e) : max(int(np.ceil(bottom - e)), 0), int(left + e) : max(int(np.ceil(right - e)), 0)
            ].any()
            for e in (-0.01, 0.55)  # a pixel of which a cell has little may count or not
        )
        assert sure <= out["d"]["valid"][row, column] <= some
        assert out["n"]["valid"][row, column] == out["d"]["valid"][row, column]
    known = out["d"]["valid"] > 0
    np.testing.assert_allclose(out["d"]["depth"][known], 3, rtol=1e-5)
    np.testing.assert_allclose(out["n"]["normals"][known], np.float32([[0, 0, -1]]).repeat(known.sum(), 0), atol=1e-6)
    assert not out["d"]["depth"][~known].any() and not out["n"]["normals"][~known].any()
    assert set(np.unique(out["s"]["ids"])) <= {2, IGNORE_ID}


def test_a_pixel_that_is_ignored_hides_no_labelled_ones_in_its_cell():
    ids = np.full((64, 64), IGNORE_ID, np.int32)
    ids[1::8, 1::8], ids[6::8, 6::8] = 3, 4  # of two in each cell of 8 x 8 the second is nearer to the centre, (4, 4)
    _, out = apply(
        letterbox_geometry((64, 64), (32, 32)), blank(64, 64), {"s": {"ids": ids, "present": PRESENT}}, {"s": IDS}, 8
    )
    assert (out["s"]["ids"] == 4).all()
    ids[6::8, 6::8] = IGNORE_ID
    _, out = apply(
        letterbox_geometry((64, 64), (32, 32)), blank(64, 64), {"s": {"ids": ids, "present": PRESENT}}, {"s": IDS}, 8
    )
    assert (out["s"]["ids"] == 3).all()


@pytest.mark.parametrize(("sampling", "below_one"), [("uniform", 1 / 3), ("log_uniform", 1 / 2)])
def test_the_distribution_of_geometries(sampling, below_one):
    rng = np.random.default_rng(0)
    augment = AugmentConfig(scale_min=0.5, scale_max=2, scale_sampling=sampling)
    drawn = [sampled(rng, (60, 90), (48, 48), augment) for _ in range(2000)]
    scales = np.array([g.x.out_length / g.x.length * 90 / 48 for g in drawn])
    assert scales.min() > 0.48 and scales.max() < 2.1
    assert np.mean(scales < 1) == pytest.approx(below_one, abs=0.05)
    assert np.mean([g.x.flip for g in drawn]) == pytest.approx(0.5, abs=0.05)
    cropped = [g.x for g in drawn if g.x.length < 60]
    assert {span.start == 0 for span in cropped} == {False, True}
    assert any(span.start + span.length == 90 for span in cropped)
    assert any(g.y.out_start > 0 for g in drawn)
    assert not any(g.y.flip for g in drawn)
    plain = sampled(rng, (60, 60), (48, 48), AugmentConfig(flip=False))
    assert plain == letterbox_geometry((60, 60), (48, 48))


def transformed(camera: scenes.Camera, geometry: Geometry) -> scenes.Camera:
    """The camera whose whole picture is the network input."""
    (b_y, end_y), (b_x, end_x) = (to_image(span, np.array([0.0, 1.0])) for span in geometry)
    a_y, a_x = end_y - b_y, end_x - b_x
    return dataclasses.replace(
        camera, fx=camera.fx / a_x, fy=camera.fy / a_y, cx=(camera.cx - b_x) / a_x, cy=(camera.cy - b_y) / a_y
    )


@pytest.mark.parametrize("seed", range(12))
def test_transform_then_render_is_render_then_transform(seed: int):
    height, width, size, map_size = 120, 160, 96, 48
    rng = np.random.default_rng(seed)
    scene = scenes.sample_scene(rng, scenes.TRAINING)
    geometry = sampled(rng, (height, width), (size, size), AugmentConfig(scale_min=0.7, scale_max=1.8))
    rendering = scenes.render(scene, scene.camera, height, width)
    camera = transformed(scene.camera, geometry)
    target, maps = scenes.render(scene, camera, size, size), scenes.render(scene, camera, map_size, map_size)
    fine = scenes.render(scene, camera, 8 * map_size, 8 * map_size)
    depth_m = cv2.resize(fine.depth_m, (map_size, map_size), interpolation=cv2.INTER_AREA)

    valid, ones = np.ones((height, width), np.float32), np.ones(len(rendering.box_items), np.float32)
    boxes = {
        "boxes_yxyx": rendering.boxes_yxyx,
        "classes": rendering.box_items,
        "scores": ones,
        "valid": ones,
        "ignore": 0 * ones,
    }
    labels = {
        "ids": {"ids": rendering.surfaces},
        "depth": {"depth": rendering.depth_m, "valid": valid},
        "normals": {"normals": rendering.normals, "valid": valid},
        "boxes": boxes,
    }
    labels = {task: label | {"present": PRESENT} for task, label in labels.items()}
    kinds = {"ids": IDS, "depth": DEPTH, "normals": NORMALS, "boxes": BoxesLabel(20)}
    image, out = apply(geometry, rendering.image, labels, kinds, map_size)

    inside = out["depth"]["valid"] > 0
    borders = cv2.morphologyEx(maps.surfaces, cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0
    flat = cv2.erode(inside.astype(np.uint8), np.ones((3, 3)), borderValue=0) > 0
    smooth = flat & ~borders & (np.abs(cv2.Laplacian(maps.normals, cv2.CV_32F)).max(axis=-1) < 0.2)
    assert smooth.mean() > 0.15
    np.testing.assert_array_equal(out["ids"]["ids"][smooth], maps.surfaces[smooth])
    np.testing.assert_allclose(out["depth"]["depth"][smooth], depth_m[smooth], rtol=2e-3)
    assert np.abs(out["normals"]["normals"] - maps.normals)[smooth].max() < 0.03

    far = cv2.resize(smooth.astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST) > 0
    difference = np.abs(image.astype(int) - target.image)[far]
    assert np.median(difference) <= 2
    assert difference.mean() < 5

    expected = dict(zip(target.box_items, target.boxes_yxyx, strict=True))
    for box, item in zip(out["boxes"]["boxes_yxyx"], out["boxes"]["classes"], strict=True):
        if item in expected and (box > 0.02).all() and (box < 0.98).all() and inside.all():
            pixel = max(
                1 / size,
                geometry.x.out_length / geometry.x.length / size,
                geometry.y.out_length / geometry.y.length / size,
            )
            np.testing.assert_allclose(box, expected[item], atol=2 * pixel)
