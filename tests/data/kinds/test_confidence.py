from __future__ import annotations

import numpy as np
import pytest

from must_jax.data.confidence import Threshold, sure
from must_jax.data.kinds import BoxesLabel, DirectionsLabel, IdsLabel, MapLabel, ScalarsLabel, VectorLabel

PRESENT = {"present": np.float32(1)}
KEPT = IdsLabel("ids", confidence=True)
IDS = {"ids": np.array([[0, 1, 255]], np.int32), "confidence": np.array([[0.5, 0.4, 0.9]], np.float32)} | PRESENT


def test_a_vector_that_is_not_sure_enough_is_absent():
    label = {"probs": np.array([0.25, 0.75], np.float32)} | PRESENT
    assert VectorLabel(2).confident(label, 0.75)["present"] == 1
    assert VectorLabel(2).confident(label, 0.76)["present"] == 0
    assert VectorLabel(2).confident(label | {"present": np.float32(0)}, 0.5)["present"] == 0
    assert label["present"] == 1


def test_boxes_below_are_dropped_and_an_image_without_boxes_is_labelled():
    boxes_yxyx = np.arange(12, dtype=np.float32).reshape(3, 4)
    label = {"boxes_yxyx": boxes_yxyx, "classes": np.arange(3), "valid": np.ones(3)} | PRESENT
    label["scores"] = np.array([0.9, 0.5, 0.7], np.float32)
    left = BoxesLabel(3).confident(label, 0.7)
    np.testing.assert_array_equal(left["boxes_yxyx"], boxes_yxyx[[0, 2]])
    assert left["classes"].tolist() == [0, 2]
    none = BoxesLabel(3).confident(label, 0.95)
    assert none["boxes_yxyx"].shape == (0, 4)
    assert none["present"] == 1


def test_every_class_may_have_a_threshold_of_its_own():
    classes = ("a", "b", "c")
    least = Threshold(0.5, {"b": 0.8}).least(classes)
    probs = [np.array(each, np.float32) for each in ([0.6, 0.4, 0], [0.3, 0.7, 0], [0.1, 0.9, 0])]
    assert [VectorLabel(3).confident({"probs": p} | PRESENT, least)["present"] for p in probs] == [1, 0, 1]
    boxes = {"boxes_yxyx": np.zeros((4, 4)), "classes": np.array([0, 1, 1, 2]), "valid": np.ones(4)} | PRESENT
    boxes["scores"] = np.array([0.5, 0.7, 0.8, 0.4], np.float32)
    assert BoxesLabel(4).confident(boxes, least)["scores"].tolist() == np.float32([0.5, 0.8]).tolist()
    ids = {"ids": np.array([[0, 1, 2, 255]], np.int32), "confidence": np.full((1, 4), 0.6, np.float32)} | PRESENT
    assert KEPT.confident(ids, least)["ids"].tolist() == [[0, 255, 2, 255]]
    same = Threshold(0.5, dict.fromkeys(classes, 0.6)).least(classes)
    np.testing.assert_array_equal(KEPT.confident(IDS, same)["ids"], KEPT.confident(IDS, 0.6)["ids"])


@pytest.mark.parametrize("value", [0.1, 0.3, 0.55, 0.7])
def test_what_is_as_sure_as_is_asked_is_kept_whatever_its_type(value: float):
    for dtype in (np.float16, np.float32, np.float64):
        scores = np.array([value], dtype)
        for threshold in (Threshold(value), Threshold(0, {"a": value})):
            assert sure(scores, np.zeros(1, int), threshold.least("a")).all()
            assert not sure(np.nextafter(scores, dtype(0)), np.zeros(1, int), threshold.least("a")).any()


def test_a_threshold_is_replaced_as_a_whole_or_in_part():
    rule = Threshold(0.5, {"a": 0.3})
    assert rule.replaced(0.6) == Threshold(0.6)
    assert rule.replaced({"b": 0.7}) == Threshold(0.5, {"a": 0.3, "b": 0.7})
    assert str(rule.replaced({"b": 0.7})) == "0.5, 0.3 for a, 0.7 for b"


def test_pixels_below_have_no_label():
    left = KEPT.confident(IDS, 0.5)
    assert left["ids"].tolist() == [[0, 255, 255]] and left["ids"].dtype == np.int32
    assert IDS["ids"].tolist() == [[0, 1, 255]]


def test_only_where_the_confidence_is_kept_is_a_rule_left_to_the_reader():
    assert KEPT.by_rule(IDS, 0.5)["ids"].tolist() == [[0, 255, 255]]
    label = {"probs": np.array([0.25, 0.75], np.float32)} | PRESENT
    assert VectorLabel(2).by_rule(label, 0.9) is label


@pytest.mark.parametrize("kind", [IdsLabel("ids"), ScalarsLabel("depth"), DirectionsLabel("normals")])
def test_a_kind_without_confidence_has_no_threshold(kind: MapLabel):
    with pytest.raises(ValueError, match="has no confidence"):
        kind.confident(PRESENT, 0.5)
