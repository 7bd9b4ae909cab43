from __future__ import annotations

import numpy as np
import pytest

from must_jax.data.confidence import by_rule, confident
from must_jax.data.kinds import BoxesLabel, MapLabel, VectorLabel

PRESENT = {"present": np.float32(1)}
KEPT = MapLabel("ids", "ids", confidence=True)
IDS = {"ids": np.array([[0, 1, 255]], np.int32), "confidence": np.array([[0.5, 0.4, 0.9]], np.float32)} | PRESENT


def test_a_vector_that_is_not_sure_enough_is_absent():
    label = {"probs": np.array([0.25, 0.75], np.float32)} | PRESENT
    assert confident(VectorLabel(2), label, 0.75)["present"] == 1
    assert confident(VectorLabel(2), label, 0.76)["present"] == 0
    assert confident(VectorLabel(2), label | {"present": np.float32(0)}, 0.5)["present"] == 0
    assert label["present"] == 1


def test_boxes_below_are_dropped_and_an_image_without_boxes_is_labelled():
    boxes_yxyx = np.arange(12, dtype=np.float32).reshape(3, 4)
    label = {"boxes_yxyx": boxes_yxyx, "classes": np.arange(3), "valid": np.ones(3)} | PRESENT
    label["scores"] = np.array([0.9, 0.5, 0.7], np.float32)
    left = confident(BoxesLabel(3), label, 0.7)
    np.testing.assert_array_equal(left["boxes_yxyx"], boxes_yxyx[[0, 2]])
    assert left["classes"].tolist() == [0, 2]
    none = confident(BoxesLabel(3), label, 0.95)
    assert none["boxes_yxyx"].shape == (0, 4)
    assert none["present"] == 1


def test_pixels_below_have_no_label():
    left = confident(KEPT, IDS, 0.5)
    assert left["ids"].tolist() == [[0, 255, 255]] and left["ids"].dtype == np.int32
    assert IDS["ids"].tolist() == [[0, 1, 255]]


def test_only_where_the_confidence_is_kept_is_a_rule_left_to_the_reader():
    assert by_rule(KEPT, IDS, 0.5)["ids"].tolist() == [[0, 255, 255]]
    label = {"probs": np.array([0.25, 0.75], np.float32)} | PRESENT
    assert by_rule(VectorLabel(2), label, 0.9) is label


@pytest.mark.parametrize("kind", [MapLabel("ids", "ids"), MapLabel("depth", "scalar"), MapLabel("normals", "vector")])
def test_a_kind_without_confidence_has_no_threshold(kind: MapLabel):
    with pytest.raises(ValueError, match="has no confidence"):
        confident(kind, PRESENT, 0.5)
