"""Labels survive being stored, in files that plain TFDS reads too."""

from __future__ import annotations

import zlib

import cv2
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow_datasets as tfds
from photos import bomb
from tensorflow_datasets.proto import tf_example_pb2

from must_jax.data.kinds import (
    IGNORE_ID,
    BoxesLabel,
    DirectionsLabel,
    IdsLabel,
    LabelKind,
    MapLabel,
    ScalarsLabel,
    VectorLabel,
    kind_from_dict,
    largest,
    objects,
)
from must_jax.data.kinds.values import SCALAR_STEPS
from must_jax.errors import UserError

VECTOR = VectorLabel(5)
TOP = VectorLabel(5, top_k=2)
MANY = VectorLabel(70_000, top_k=3)
BOXES = BoxesLabel(4)
IDS = IdsLabel("ids")
KEPT = IdsLabel("ids", confidence=True)
SCALAR = ScalarsLabel("depth", "m")
VECTORS = DirectionsLabel("normals")
WIDE = IdsLabel("ids", wide=True)
KINDS: list[LabelKind] = [VECTOR, TOP, MANY, BOXES, BoxesLabel(4, ignore=True), IDS, KEPT, WIDE, SCALAR, VECTORS]

settings = hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)
sides = st.integers(1, 24)


def stored(kind: LabelKind, label: dict) -> dict:
    """Through the bytes of a TFDS record, images left encoded."""
    features = tfds.features.FeaturesDict(kind.features())
    record = features.serialize_example(kind.encode(label))
    pngs = {key: tfds.decode.SkipDecoding() for key, f in features.items() if isinstance(f, tfds.features.Image)}
    return features.deserialize_example_np(record, decoders=pngs)


def round_trip(kind: LabelKind, label: dict) -> dict:
    return kind.decode(stored(kind, label))


def unit_vectors(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.normal(size=(*shape, 3)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_records_are_written_as_tfds_writes_them():
    rng, hw = np.random.default_rng(0), (5, 7)
    boxes = {"boxes_yxyx": rng.random((4, 4)), "classes": np.array([3, 0, 400, 1]), "scores": rng.random(4)}
    labels: list[tuple[LabelKind, dict]] = [
        (VECTOR, {"probs": rng.random(5)}),
        (TOP, {"probs": rng.random(5)}),
        (MANY, {"probs": rng.random(70_000)}),
        (BOXES, boxes | {"valid": np.ones(4)}),
        (BOXES, boxes | {"valid": np.zeros(4)}),
        (BoxesLabel(4, ignore=True), boxes | {"ignore": np.array([0, 1, 1, 0])}),
        (IDS, {"ids": rng.integers(0, 9, hw)}),
        (WIDE, {"ids": rng.integers(0, 1203, hw)}),
        (SCALAR, {"depth": rng.random(hw, np.float32), "valid": rng.integers(0, 2, hw)}),
        (VECTORS, {"normals": unit_vectors(rng, *hw), "valid": np.ones(hw)}),
    ]
    for kind, label in (*labels, *((kind, kind.absent((1, 1))) for kind in KINDS)):
        features, record = tfds.features.FeaturesDict(kind.features()), kind.encode(label)
        theirs, ours = (
            tf_example_pb2.Example.FromString(written)
            for written in (features.serialize_example(record), kind.serialize(record))
        )
        assert ours == theirs, kind
        assert kind.serialize(dict(reversed(record.items()))) == kind.serialize(record)


def test_vector():
    probs = np.random.default_rng(0).dirichlet(np.ones(5)).astype(np.float32)
    label = round_trip(VECTOR, {"probs": probs})
    assert label["present"] == 1
    np.testing.assert_allclose(label["probs"], probs, rtol=1e-3)


@pytest.mark.parametrize(("kind", "type_"), [(TOP, np.uint16), (MANY, np.int32)])
def test_of_a_vector_the_largest_numbers_are_kept_and_the_rest_is_spread(kind: VectorLabel, type_: type):
    probs = np.random.default_rng(0).dirichlet(np.full(kind.size, 0.3)).astype(np.float32)
    record = kind.encode({"probs": probs})
    assert record["classes"].dtype == type_ and record["probs"].dtype == np.float16
    found = round_trip(kind, {"probs": probs})["probs"]
    wanted, top = probs.astype(np.float64), np.argsort(-probs)[: kind.top_k]
    rest = np.delete(wanted, top)
    wanted[np.setdiff1d(np.arange(kind.size), top)] = rest.mean()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=5e-4)
    assert found.sum() == pytest.approx(1, abs=1e-3)


def test_of_equal_numbers_the_first_ones_are_kept():
    """So that the same label has the same bytes everywhere."""
    values = np.array([0.1, 0.3, 0.1, 0.3, 0.1, 0.1], np.float32)
    for count, wanted in ((1, [1]), (2, [1, 3]), (4, [1, 3, 0, 2]), (6, [1, 3, 0, 2, 4, 5])):
        assert largest(values, count).tolist() == wanted
    drawn = np.random.default_rng(0).integers(0, 40, 1000).astype(np.float32)
    np.testing.assert_array_equal(largest(drawn, 300), np.argsort(-drawn, kind="stable")[:300])


def test_a_vector_whose_rest_is_spread_already_stays_as_it_is():
    """To the rounding of the numbers that are kept; the others are as exact as 32 bits."""
    probs = np.full(70_000, 0.1 / 69_997, np.float32)
    probs[[69_999, 5, 66_000]] = 0.5, 0.25, 0.15
    found = round_trip(MANY, {"probs": probs})["probs"]
    np.testing.assert_allclose(found, probs, rtol=5e-4)
    np.testing.assert_allclose(found[:5], probs[:5], rtol=1e-6)


def test_how_much_of_a_vector_is_stored_is_told_and_nothing_if_it_is_all():
    assert VECTOR.to_dict() == {"kind": "vector", "size": 5}  # as before there was a choice
    assert TOP.to_dict() == {"kind": "vector", "size": 5, "top_k": 2}
    for kind in (VECTOR, TOP):
        assert kind_from_dict(kind.to_dict()).top_k == kind.top_k
    assert VECTOR == TOP  # the labels are of one kind
    for values in ({"size": 5, "top_k": 5}, {"size": 5, "top_k": -1}):
        with pytest.raises(ValueError, match="cannot be kept alone"):
            kind_from_dict({"kind": "vector", **values})


def test_a_damaged_vector_is_told():
    record = TOP.encode({"probs": np.array([0.1, 0.5, 0.2, 0.1, 0.1])})
    with pytest.raises(UserError, match="a label has class id 5, but"):
        TOP.decode(record | {"classes": np.array([1, 5])})
    with pytest.raises(UserError, match="a label of 2 numbers has 1"):
        TOP.decode(record | {"probs": b"ab"})


def test_boxes_keep_the_real_ones_in_order():
    boxes_yxyx = np.array([[0.1, 0.2, 0.3, 0.4], [0, 0, 0, 0], [0.5, 0.25, 1, 1]], np.float32)
    label = {
        "boxes_yxyx": boxes_yxyx,
        "classes": np.array([3, 0, 400]),
        "scores": np.array([0.5, 0, 1]),
        "valid": np.array([1, 0, 1]),
    }
    out = round_trip(BOXES, label)
    np.testing.assert_array_equal(out["boxes_yxyx"], boxes_yxyx[[0, 2]])
    np.testing.assert_array_equal(out["classes"], [3, 400])
    np.testing.assert_array_equal(out["scores"], [0.5, 1])
    np.testing.assert_array_equal(out["valid"], [1, 1])


def test_boxes_to_ignore_are_stored_where_the_kind_says_so():
    boxes = {"boxes_yxyx": np.tile([0, 0, 0.5, 0.5], (3, 1)), "classes": np.arange(3)}
    ignore, valid = np.float32([1, 0, 0]), np.array([1, 0, 1])
    kind = BoxesLabel(4, ignore=True)
    out = round_trip(kind, boxes | {"ignore": ignore, "valid": valid})
    assert out["ignore"].tolist() == [1, 0] and out["ignore"].dtype == np.float32
    assert objects(out).tolist() == [False, True]
    assert round_trip(kind, boxes)["ignore"].tolist() == [0, 0, 0]
    assert set(stored(BOXES, boxes)) == {"boxes_yxyx", "classes", "scores", "present"}  # as before
    assert round_trip(BOXES, boxes | {"ignore": 0 * ignore})["ignore"].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="no place"):
        BOXES.encode(boxes | {"ignore": ignore})
    assert BOXES.encode(boxes | {"ignore": ignore, "valid": 1 - ignore})["present"] == 1


def test_an_empty_box_list_is_not_an_absent_one():
    none = {"boxes_yxyx": np.zeros((0, 4)), "classes": np.zeros(0), "scores": np.zeros(0), "valid": np.zeros(0)}
    out = round_trip(BOXES, none)
    assert out["boxes_yxyx"].shape == (0, 4)
    assert out["present"] == 1


def test_ids():
    ids = np.random.default_rng(0).choice([0, 1, 7, IGNORE_ID], (5, 9))
    np.testing.assert_array_equal(round_trip(IDS, {"ids": ids})["ids"], ids)


def test_ids_of_more_than_255_classes_have_16_bits():
    assert (IDS.ignore_id, WIDE.ignore_id) == (255, 65535)
    ids = np.random.default_rng(0).choice([0, 254, 255, 256, 1202, WIDE.ignore_id], (5, 9))
    np.testing.assert_array_equal(round_trip(WIDE, {"ids": ids})["ids"], ids)
    WIDE.decode(stored(WIDE, {"ids": ids}), classes=1203)
    with pytest.raises(UserError, match="class id 1202, but its data lists 1202 classes"):
        WIDE.decode(stored(WIDE, {"ids": ids}), classes=1202)
    with pytest.raises(UserError, match="use 0 to 254, 255 for ignore"):
        IDS.encode({"ids": ids})


def test_a_confidence_is_kept_to_half_a_code():
    rng = np.random.default_rng(0)
    label = {"ids": rng.integers(0, 9, (5, 9)), "confidence": rng.random((5, 9), np.float32)}
    out = round_trip(KEPT, label)
    np.testing.assert_array_equal(out["ids"], label["ids"])
    np.testing.assert_allclose(out["confidence"], label["confidence"], atol=0.5 / 255 + 1e-6)
    assert out["confidence"].dtype == np.float32
    plain = stored(IDS, label)
    assert set(plain) == {"ids", "present"}  # nothing more unless it is asked for


@settings
@hypothesis.given(generators, st.integers(2, 1000), st.floats(-3, 1))
def test_a_distribution_loses_less_than_half_a_percent(rng: np.random.Generator, classes: int, evenness: float):
    """As total variation; from one class alone to all alike."""
    probs = rng.dirichlet(np.full(classes, 10**evenness)).astype(np.float32)
    out = round_trip(VectorLabel(classes), {"probs": probs})["probs"]
    assert 0.5 * np.abs(out.astype(np.float64) - probs).sum() <= 0.005


@settings
@hypothesis.given(generators, st.integers(0, 30))
def test_boxes_are_right_to_a_tenth_of_a_pixel_of_640(rng: np.random.Generator, count: int):
    boxes_yxyx = np.sort(rng.random((count, 2, 2)), axis=1).reshape(count, 4)
    out = round_trip(BOXES, {"boxes_yxyx": boxes_yxyx, "classes": np.zeros(count)})["boxes_yxyx"]
    np.testing.assert_allclose(out, boxes_yxyx, atol=0.1 / 640)


def surface(rng: np.random.Generator, height: int, width: int, roughness: float) -> np.ndarray:
    """f64[height, width]: a slope with noise."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    return rng.normal() * y + rng.normal() * x + roughness * rng.normal(size=(height, width))


@settings
@hypothesis.given(generators, sides, sides, st.floats(-4, 1), st.floats(-2, 3), st.floats(-100, 100))
def test_a_scalar_map_is_right_to_a_65535th_of_its_range(
    rng: np.random.Generator, height: int, width: int, roughness: float, scale: float, offset: float
):
    depth = ((surface(rng, height, width, 10**roughness) + offset) * 10**scale).astype(np.float32)
    valid = (rng.random((height, width)) < 0.9).astype(np.float32)
    out = round_trip(SCALAR, {"depth": np.where(valid > 0, depth, np.nan), "valid": valid})
    np.testing.assert_array_equal(out["valid"], valid)
    if valid.any():
        known = depth[valid > 0].astype(np.float64)
        rounding = 2 * np.finfo(np.float32).eps * np.abs(known).max()  # of float32 itself
        assert np.abs(out["depth"][valid > 0] - known).max() <= np.ptp(known) / 65535 + rounding


def angles_deg(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.degrees(2 * np.arcsin(np.linalg.norm(found.astype(np.float64) - wanted, axis=-1) / 2))


@settings
@hypothesis.given(generators, sides, sides, st.floats(-3, 1))
def test_no_vector_turns_by_more_than_a_degree_and_a_quarter(
    rng: np.random.Generator, height: int, width: int, roughness: float
):
    normals = np.stack([surface(rng, height, width, 10**roughness) for _ in range(3)], -1) + rng.normal(size=3)
    normals = (normals / np.linalg.norm(normals, axis=-1, keepdims=True)).astype(np.float32)
    out = round_trip(VECTORS, {"normals": normals, "valid": np.ones((height, width))})["normals"]
    assert angles_deg(out, normals).max() <= 1.25


def test_vectors_turn_by_less_than_half_a_degree_on_average():
    normals = unit_vectors(np.random.default_rng(0), 200, 200)
    for facing in (1, -1):  # the whole sphere; the half of it that a camera sees
        normals[..., 2] = np.where(normals[..., 2] > 0, facing * normals[..., 2], normals[..., 2])
        out = round_trip(VECTORS, {"normals": normals, "valid": np.ones((200, 200))})["normals"]
        assert angles_deg(out, normals).mean() <= 0.45


@pytest.mark.parametrize("axis", range(3))
def test_vectors_along_the_axes_come_back_exactly(axis: int):
    """Floors, walls and ceilings, and where the octahedron is folded."""
    normals = np.zeros((1, 2, 3), np.float32)
    normals[0, :, axis] = 1, -1
    out = round_trip(VECTORS, {"normals": normals, "valid": np.ones((1, 2))})
    np.testing.assert_allclose(out["normals"], normals, atol=1e-6)


def test_class_ids_out_of_range_are_refused():
    for wrong in (-1, 256):
        with pytest.raises(UserError, match=f"{wrong}"):
            IDS.encode({"ids": np.array([[0, wrong]])})
    boxes = {"boxes_yxyx": np.zeros((2, 4)), "classes": np.array([0, 3])}
    for kind, label in ((IDS, {"ids": np.array([[0, IGNORE_ID, 3]])}), (BOXES, boxes)):
        record = stored(kind, label)
        assert kind.decode(record, classes=4)["present"] == 1
        with pytest.raises(UserError, match="class id 3, but its data lists 3 classes"):
            kind.decode(record, classes=3)


@pytest.mark.parametrize("low, high", [(0.3, 9.0), (-4.0, 1000.0), (2.5, 2.5)])
def test_scalars_are_exact_to_half_a_code(low: float, high: float):
    rng = np.random.default_rng(0)
    depth = rng.uniform(low, high, (6, 7)).astype(np.float32)
    valid = (rng.uniform(size=(6, 7)) > 0.3).astype(np.float32)
    out = round_trip(SCALAR, {"depth": depth, "valid": valid})
    np.testing.assert_array_equal(out["valid"], valid)
    step = (high - low) / SCALAR_STEPS
    np.testing.assert_allclose(out["depth"], depth * valid, atol=0.6 * step + 1e-6 * max(abs(low), abs(high)))


def test_a_map_without_a_valid_pixel():
    out = round_trip(SCALAR, {"depth": np.full((2, 2), np.nan, np.float32), "valid": np.zeros((2, 2))})
    np.testing.assert_array_equal(out["depth"], np.zeros((2, 2)))
    np.testing.assert_array_equal(out["valid"], np.zeros((2, 2)))


def test_vectors_stay_units_and_zero_where_invalid():
    normals = unit_vectors(np.random.default_rng(0), 8, 6)
    valid = np.ones((8, 6), np.float32)
    valid[2, 3] = 0
    out = round_trip(VECTORS, {"normals": normals * valid[..., None], "valid": valid})
    np.testing.assert_array_equal(out["valid"], valid)
    np.testing.assert_allclose(np.linalg.norm(out["normals"], axis=-1), valid, atol=1e-6)


def plain(kind: LabelKind, label: dict) -> dict:
    """As plain TFDS decodes a record, without TensorFlow."""
    features = tfds.features.FeaturesDict(kind.features())
    return features.deserialize_example_np(features.serialize_example(kind.encode(label)))


def test_what_plain_tfds_reads_becomes_values_by_the_documented_formulas():
    rng = np.random.default_rng(0)
    depth, normals, valid = rng.uniform(1, 9, (8, 6)), unit_vectors(rng, 8, 6), np.ones((8, 6))
    valid[2, 3] = 0

    record = plain(SCALAR, {"depth": depth, "valid": valid})
    high, low, _ = np.moveaxis(record["depth"].astype(float), -1, 0)
    assert high[2, 3] == low[2, 3] == 0
    found = record["offset"] + record["scale"] * (256 * high + low)
    np.testing.assert_allclose(found[valid > 0], depth[valid > 0], atol=8 / 65535)

    codes = plain(VECTORS, {"normals": normals, "valid": valid})["normals"].astype(float)
    assert codes[2, 3].tolist() == [0, 0, 0]
    u, v = (codes[..., 0] - 128.0) / 100, (codes[..., 1] - 128.0) / 100
    z = abs(u) + abs(v) - 1
    behind = np.maximum(z, 0)
    found = np.stack([u - np.copysign(behind, u), v - np.copysign(behind, v), z], -1)
    found /= np.linalg.norm(found, axis=-1, keepdims=True)
    assert angles_deg(found, normals)[valid > 0].max() <= 1.25

    probs = rng.dirichlet(np.ones(5))
    np.testing.assert_allclose(plain(VECTOR, {"probs": probs})["probs"], probs, rtol=1e-3)
    ids = rng.integers(0, 256, (5, 9))
    np.testing.assert_array_equal(plain(IDS, {"ids": ids})["ids"][..., 0], ids)


def test_records_from_before_are_read():
    """Scalars were 16-bit PNGs, vectors RGB PNGs with 127 codes to 1 and (128, 128, 128) where invalid."""
    codes = np.array([[0, 1, 258, 65535]], np.uint16)
    old = {"depth": cv2.imencode(".png", codes)[1].tobytes(), "scale": np.float32(0.5), "offset": np.float32(1)}
    label = SCALAR.decode(old | {"present": 1})
    assert label["depth"].tolist() == [[0, 1.5, 130, 32768.5]]
    assert label["valid"].tolist() == [[0, 1, 1, 1]]

    rgb = np.array([[[128, 128, 128], [255, 128, 128], [128, 128, 1], [204, 128, 26]]], np.uint8)
    old = {"normals": cv2.imencode(".png", rgb[..., ::-1])[1].tobytes(), "present": 1}
    label = VECTORS.decode(old)
    np.testing.assert_allclose(label["normals"][0], [[0, 0, 0], [1, 0, 0], [0, 0, -1], [76 / 127, 0, -102 / 127]])
    assert label["valid"].tolist() == [[0, 1, 1, 1]]

    old = {"probs": np.array([0.25, 0.75], np.float16), "present": 1}
    np.testing.assert_array_equal(VectorLabel(2).decode(old)["probs"], [0.25, 0.75])


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_absent(kind: LabelKind):
    out = round_trip(kind, kind.absent((4, 4)))
    assert out["present"] == 0
    absent = kind.absent((2, 3))
    if isinstance(kind, MapLabel):
        assert absent[kind.field].shape[:2] == (2, 3)
        assert (absent["ids"] == kind.ignore_id).all() if kind.content == "ids" else not absent["valid"].any()
    if kind == BOXES:
        assert absent["boxes_yxyx"].shape == (4, 4)
        assert not absent["valid"].any()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_kinds_survive_json(kind: LabelKind):
    again = kind_from_dict(kind.to_dict())
    assert again == kind
    assert getattr(again, "confidence", None) == getattr(kind, "confidence", None)


def test_kinds_from_before_are_read():
    assert not kind_from_dict({"kind": "boxes", "max_boxes": 20}).ignore
    old = {"kind": "map", "field": "ids", "content": "ids", "unit": ""}
    assert not kind_from_dict(old).confidence and not kind_from_dict(old).wide


def test_a_broken_png_is_an_error():
    with pytest.raises(ValueError, match="picture cannot be decoded"):
        IDS.decode({"ids": b"no png", "present": 1})


def test_a_label_that_would_unfold_into_more_than_it_may_is_refused():
    record = stored(VECTOR, {"probs": np.ones(5)}) | {"probs": zlib.compress(bytes(2**24))}
    with pytest.raises(UserError, match="a label of 5 numbers does not have that many when it is decompressed"):
        VECTOR.decode(record)
    record = stored(IDS, {"ids": np.zeros((2, 2), np.int32)}) | {"ids": bomb(24_000)}
    with pytest.raises(ValueError, match="more than 200,000,000 pixels"):
        IDS.decode(record)
