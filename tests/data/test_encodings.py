"""Labels survive being stored, in files that plain TFDS reads too."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from must_jax.data import encodings
from must_jax.data.kinds import IGNORE_ID, BoxesLabel, LabelKind, MapLabel, VectorLabel
from must_jax.errors import UserError

VECTOR = VectorLabel(5)
BOXES = BoxesLabel(4)
IDS = MapLabel("ids", "ids")
SCALAR = MapLabel("depth", "scalar", "m")
VECTORS = MapLabel("normals", "vector")
KINDS: list[LabelKind] = [VECTOR, BOXES, IDS, SCALAR, VECTORS]


def stored(kind: LabelKind, label: dict) -> dict:
    """Through the bytes of a TFDS record, images left encoded."""
    features = tfds.features.FeaturesDict(encodings.features(kind))
    record = features.serialize_example(encodings.encode(kind, label))
    pngs = {key: tfds.decode.SkipDecoding() for key, f in features.items() if isinstance(f, tfds.features.Image)}
    return features.deserialize_example_np(record, decoders=pngs)


def round_trip(kind: LabelKind, label: dict) -> dict:
    return encodings.decode(kind, stored(kind, label))


def unit_vectors(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.normal(size=(*shape, 3)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_records_are_written_as_tfds_writes_them():
    rng, hw = np.random.default_rng(0), (5, 7)
    boxes = {"boxes_yxyx": rng.random((4, 4)), "classes": np.array([3, 0, 400, 1]), "scores": rng.random(4)}
    labels: list[tuple[LabelKind, dict]] = [
        (VECTOR, {"probs": rng.random(5)}),
        (BOXES, boxes | {"valid": np.ones(4)}),
        (BOXES, boxes | {"valid": np.zeros(4)}),
        (IDS, {"ids": rng.integers(0, 9, hw)}),
        (SCALAR, {"depth": rng.random(hw, np.float32), "valid": rng.integers(0, 2, hw)}),
        (VECTORS, {"normals": unit_vectors(rng, *hw), "valid": np.ones(hw)}),
    ]
    for kind, label in (*labels, *((kind, encodings.absent(kind, (1, 1))) for kind in KINDS)):
        features, record = tfds.features.FeaturesDict(encodings.features(kind)), encodings.encode(kind, label)
        theirs, ours = (
            tf_example_pb2.Example.FromString(written)
            for written in (features.serialize_example(record), encodings.serialize(record))
        )
        assert ours == theirs, kind
        assert encodings.serialize(dict(reversed(record.items()))) == encodings.serialize(record)


def test_vector():
    probs = np.random.default_rng(0).dirichlet(np.ones(5)).astype(np.float32)
    label = round_trip(VECTOR, {"probs": probs})
    assert label["present"] == 1
    np.testing.assert_allclose(label["probs"], probs, rtol=1e-3)


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


def test_an_empty_box_list_is_not_an_absent_one():
    none = {"boxes_yxyx": np.zeros((0, 4)), "classes": np.zeros(0), "scores": np.zeros(0), "valid": np.zeros(0)}
    out = round_trip(BOXES, none)
    assert out["boxes_yxyx"].shape == (0, 4)
    assert out["present"] == 1


def test_ids():
    ids = np.random.default_rng(0).choice([0, 1, 7, IGNORE_ID], (5, 9))
    np.testing.assert_array_equal(round_trip(IDS, {"ids": ids})["ids"], ids)


def test_class_ids_out_of_range_are_refused():
    for wrong in (-1, 256):
        with pytest.raises(UserError, match=f"{wrong}"):
            encodings.encode(IDS, {"ids": np.array([[0, wrong]])})
    boxes = {"boxes_yxyx": np.zeros((2, 4)), "classes": np.array([0, 3])}
    for kind, label in ((IDS, {"ids": np.array([[0, IGNORE_ID, 3]])}), (BOXES, boxes)):
        record = stored(kind, label)
        assert encodings.decode(kind, record, classes=4)["present"] == 1
        with pytest.raises(UserError, match="class id 3, but its data lists 3 classes"):
            encodings.decode(kind, record, classes=3)


@pytest.mark.parametrize("low, high", [(0.3, 9.0), (-4.0, 1000.0), (2.5, 2.5)])
def test_scalars_are_exact_to_half_a_code(low: float, high: float):
    rng = np.random.default_rng(0)
    depth = rng.uniform(low, high, (6, 7)).astype(np.float32)
    valid = (rng.uniform(size=(6, 7)) > 0.3).astype(np.float32)
    out = round_trip(SCALAR, {"depth": depth, "valid": valid})
    np.testing.assert_array_equal(out["valid"], valid)
    step = (high - low) / 65534
    np.testing.assert_allclose(out["depth"], depth * valid, atol=0.6 * step + 1e-6 * max(abs(low), abs(high)))


def test_a_map_without_a_valid_pixel():
    out = round_trip(SCALAR, {"depth": np.full((2, 2), np.nan, np.float32), "valid": np.zeros((2, 2))})
    np.testing.assert_array_equal(out["depth"], np.zeros((2, 2)))
    np.testing.assert_array_equal(out["valid"], np.zeros((2, 2)))


def test_vectors_stay_units_and_their_png_is_rgb():
    normals = unit_vectors(np.random.default_rng(0), 8, 6)
    valid = np.ones((8, 6), np.float32)
    valid[2, 3] = 0
    out = round_trip(VECTORS, {"normals": normals, "valid": valid})
    np.testing.assert_array_equal(out["valid"], valid)
    np.testing.assert_allclose(np.linalg.norm(out["normals"], axis=-1), valid, atol=0.5 * 3**0.5 / 127)
    np.testing.assert_allclose(out["normals"], normals * valid[..., None], atol=0.5 / 127 + 1e-6)

    features = tfds.features.FeaturesDict(encodings.features(VECTORS))
    record = features.serialize_example(encodings.encode(VECTORS, {"normals": normals, "valid": valid}))
    codes = features.deserialize_example_np(record)["normals"]  # as plain TFDS decodes it: R, G, B = x, y, z
    np.testing.assert_allclose((codes[0].astype(float) - 128) / 127, normals[0], atol=0.5 / 127 + 1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_absent(kind: LabelKind):
    out = round_trip(kind, encodings.absent(kind, (4, 4)))
    assert out["present"] == 0
    absent = encodings.absent(kind, (2, 3))
    if isinstance(kind, MapLabel):
        assert absent[kind.field].shape[:2] == (2, 3)
        assert (absent["ids"] == IGNORE_ID).all() if kind == IDS else not absent["valid"].any()
    if kind == BOXES:
        assert absent["boxes_yxyx"].shape == (4, 4)
        assert not absent["valid"].any()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_kinds_survive_json(kind: LabelKind):
    assert encodings.kind_from_dict(encodings.kind_to_dict(kind)) == kind


def test_a_broken_png_is_an_error():
    with pytest.raises(ValueError, match="PNG"):
        encodings.decode(IDS, {"ids": b"no png", "present": 1})
