from __future__ import annotations

import numpy as np
import pytest

from must_jax.data import units
from must_jax.data.kinds import ScalarsLabel

DEPTH_M = np.array([[2, 4], [0, -1]], np.float32)
VALID = np.array([[1, 0], [1, 1]], np.float32)


def label(present: float = 1) -> dict[str, np.ndarray]:
    return {"depth": DEPTH_M, "valid": VALID, "present": np.float32(present)}


def test_metres_are_known_up_to_scale_and_shift_and_so_are_their_inverses() -> None:
    for unit, depth, valid in (
        ("m", DEPTH_M, VALID),
        ("relative", DEPTH_M, VALID),
        ("inverse_relative", [[0.5, 0], [0, 0]], [[1, 0], [0, 0]]),  # what is not in front of the camera has no inverse
    ):
        found = ScalarsLabel("depth", unit).converted(label(), "m")
        np.testing.assert_array_equal(found["depth"], depth)
        np.testing.assert_array_equal(found["valid"], valid)
        assert found["depth"].dtype == found["valid"].dtype == np.float32


def test_an_image_without_a_label_has_none_in_any_unit() -> None:
    none = {"depth": np.zeros((1, 1), np.float32), "valid": np.zeros((1, 1), np.float32), "present": np.float32(0)}
    assert ScalarsLabel("depth", "inverse_relative").converted(none, "m") == none


@pytest.mark.parametrize("unit", ["relative", "inverse_relative"])
def test_nothing_becomes_metres(unit: str) -> None:
    assert units.can_be_read("m", unit) and units.can_be_read(unit, unit)
    assert not units.can_be_read(unit, "m")
    assert not units.can_be_read(unit, {"relative": "inverse_relative", "inverse_relative": "relative"}[unit])
