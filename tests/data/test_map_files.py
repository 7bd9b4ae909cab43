from __future__ import annotations

import io

import cv2
import numpy as np
import pytest

from must_jax.data.kinds import IdsLabel, ScalarsLabel
from must_jax.data.kinds.values import FARTHEST_M
from must_jax.data.map_files import encode

RNG = np.random.default_rng(0)
VALID = (RNG.random((5, 7)) < 0.8).astype(np.float32)


def picture(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def test_depths_beyond_sixteen_bits_are_invalid_and_counted():
    depth_m = np.array([[0.0004, 1.2344, FARTHEST_M], [65.6, 900.0, 2.0]], np.float32)
    valid = np.array([[1, 1, 1], [1, 1, 0]], np.float32)
    label = {"depth": depth_m, "valid": valid}
    data, meaning = encode("depth", ScalarsLabel("depth", "m"), label, "png")["depth"]
    np.testing.assert_array_equal(picture(data), [[0, 1234, 65535], [0, 0, 0]])
    assert picture(data).dtype == np.uint16
    assert meaning == {"unit": "mm", "invalid": 0, "beyond": 2}
    values = np.load(io.BytesIO(encode("depth", ScalarsLabel("depth", "m"), label, "npy")["depth"].data))
    np.testing.assert_array_equal(values, np.where(valid > 0, depth_m, np.nan))


@pytest.mark.parametrize("spread", [0.0, 1e-3, 40.0])
def test_relative_depth_keeps_its_scale_and_offset(spread: float):
    depth = (RNG.normal(size=(5, 7)) * spread - 3).astype(np.float32)
    kind = ScalarsLabel("depth", "relative")
    data, meaning = encode("near", kind, {"depth": depth, "valid": VALID}, "png")["near"]
    codes = picture(data)
    np.testing.assert_array_equal(codes == meaning["invalid"], VALID == 0)
    found = meaning["offset"] + meaning["scale"] * codes
    np.testing.assert_allclose(found[VALID > 0], depth[VALID > 0], atol=spread * 1e-4 + 1e-6)


def test_ids_of_many_classes_and_their_confidence():
    ids = RNG.integers(0, 400, (5, 7)).astype(np.int32)
    label = {"ids": np.where(VALID > 0, ids, 65535), "confidence": RNG.random((5, 7)).astype(np.float32)}
    kind = IdsLabel("ids", confidence=True, wide=True)
    made = encode("things", kind, label, "png")
    assert set(made) == {"things", "things_confidence"}
    np.testing.assert_array_equal(picture(made["things"].data), label["ids"])
    assert made["things"].meaning == {"ignore": 65535}
    data, meaning = made["things_confidence"]
    np.testing.assert_allclose(picture(data) * meaning["scale"], label["confidence"], atol=1e-5)
    made = encode("things", kind, label, "npy")
    assert np.load(io.BytesIO(made["things"].data)).dtype == np.uint16
    np.testing.assert_array_equal(np.load(io.BytesIO(made["things_confidence"].data)), label["confidence"])
