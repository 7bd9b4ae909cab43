from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measured import count

from must_jax.models.heads import detector_points
from must_jax.tasks import build_task

HW = (64, 64)
CENTERS, STRIDES = detector_points(HW)
CELLS = len(STRIDES)
BOX = [18 / 64, 18 / 64, 46 / 64, 46 / 64]  # centre (32, 32), 16 cells of P3


def outputs(logit: float, ltrb: np.ndarray | float = 1.0, classes: int = 1):
    return {
        "class_logits": jnp.full((1, CELLS, classes), logit),
        "box_ltrb": jnp.broadcast_to(jnp.asarray(ltrb, jnp.float32), (1, CELLS, 4)),
        "centerness": jnp.zeros((1, CELLS)),
    }


def label(*boxes, classes=None, slots=4, ignore=()):
    """The boxes in `ignore` are to be ignored."""
    padded, valid = np.zeros((1, slots, 4), np.float32), np.zeros((1, slots), np.float32)
    padded[0, : len(boxes)], valid[0, : len(boxes)] = np.reshape(boxes, (-1, 4)), 1
    ids = np.zeros((1, slots), np.int32)
    ids[0, : len(boxes)] = classes or 0
    ignored = np.zeros((1, slots), np.float32)
    ignored[0, list(ignore)] = 1
    fields = {"boxes_yxyx": padded, "classes": ids, "scores": valid, "valid": valid, "ignore": ignored}
    return fields | {"present": np.ones(1, np.float32)}


def exact_ltrb(box, least=0.01):
    """What every cell must say for `box` (fractions)."""
    low, high = np.array(box[:2]) * 64, np.array(box[2:]) * 64
    before, after = (CENTERS - low) / STRIDES[:, None], (high - CENTERS) / STRIDES[:, None]
    return np.stack([before[:, 1], before[:, 0], after[:, 1], after[:, 0]], -1)[None].clip(least)


def test_an_image_without_boxes_teaches_that_there_are_none():
    task = build_task("detection", ["thing"])
    terms = task.loss(outputs(logit=0.0), label(), HW)
    # Focal loss of a probability of 1/2 for a negative: (1 - alpha) * 2^-gamma * log 2, over one image.
    assert float(terms["focal"][0]) == pytest.approx(CELLS * 0.75 * 0.5**1.5 * math.log(2), rel=1e-5)
    assert {key: float(weight) for key, (_, weight) in terms.items()} == {"focal": 1, "giou": 1, "centerness": 1}
    assert float(terms["giou"][0]) == float(terms["centerness"][0]) == 0


def test_terms_of_one_box():
    task = build_task("detection", ["thing"], {"focal_alpha": 0.5, "focal_gamma": 0})
    terms = task.loss(outputs(0.0, exact_ltrb(BOX)), label(BOX), HW)
    assert {float(weight) for _, weight in terms.values()} == {16}
    assert float(terms["focal"][0]) == pytest.approx(CELLS * 0.5 * math.log(2), rel=1e-5)
    assert float(terms["giou"][0]) == pytest.approx(0, abs=1e-4)
    assert float(terms["centerness"][0]) == pytest.approx(16 * math.log(2), rel=1e-5)


def test_giou_term_of_a_prediction_that_is_too_large():
    task = build_task("detection", ["thing"])
    terms = task.loss(outputs(0.0, exact_ltrb([14 / 64, 14 / 64, 50 / 64, 50 / 64])), label(BOX), HW)
    assert float(terms["giou"][0]) == pytest.approx(16 * (1 - 28**2 / 36**2), rel=1e-5)


def test_a_box_to_ignore_is_neither_taught_nor_background():
    task = build_task("detection", ["thing"], {"focal_alpha": 0.5, "focal_gamma": 0})
    crowd = [0, 0, 1, 0.5]  # the left half of the image: half of the cells of P3 to P5; of P6 and P7 the one cell
    inside = sum(1 for y, x in CENTERS if x <= 32)
    empty = task.loss(outputs(0.0), label(), HW)
    terms = task.loss(outputs(0.0), label(crowd, ignore=[0]), HW)
    assert float(empty["focal"][0]) == pytest.approx(CELLS * 0.5 * math.log(2), rel=1e-5)
    assert float(terms["focal"][0]) == pytest.approx((CELLS - inside) * 0.5 * math.log(2), rel=1e-5)
    assert float(terms["giou"][0]) == float(terms["centerness"][0]) == 0
    # An object inside of it is learnt by its own cells.
    both = task.loss(outputs(0.0, exact_ltrb(BOX)), label(BOX, crowd, ignore=[1]), HW)
    alone = task.loss(outputs(0.0, exact_ltrb(BOX)), label(BOX), HW)
    assert both["giou"] == alone["giou"] and both["centerness"] == alone["centerness"]
    learnt = sum(
        1
        for (y, x), stride in zip(CENTERS, STRIDES, strict=True)
        if stride == 8 and max(abs(y - 32), abs(x - 32)) < 13 and x <= 32
    )
    assert float(both["focal"][0]) == pytest.approx((CELLS - inside + learnt) * 0.5 * math.log(2), rel=1e-5)


def test_extreme_logits_have_finite_losses_and_gradients():
    task = build_task("detection", ["thing"])

    def total(raw):
        return sum(sums[0] for sums in task.loss(raw, label(BOX), HW).values())

    for logit in (-200.0, 200.0):
        value, gradient = jax.value_and_grad(total)(outputs(logit))
        assert np.isfinite(value)
        assert all(np.all(np.isfinite(leaf)) for leaf in gradient.values())


def test_in_a_rectangle_boxes_are_measured_in_its_pixels():
    """A box of 28 x 28 pixels, a different share of each side, is learnt by 16 cells, which then predict it exactly."""
    task, input_hw = build_task("detection", ["thing"], {"max_detections": 2}), (64, 128)
    centers, strides = detector_points(input_hw)
    assert len(centers) == 8 * 16 + 4 * 8 + 2 * 4 + 1 * 2 + 1
    before, after = (centers - 18) / strides[:, None], (46 - centers) / strides[:, None]
    ltrb = np.stack([before[:, 1], before[:, 0], after[:, 1], after[:, 0]], -1).clip(0.01)
    learns = (strides == 8) & (np.abs(centers - 32).max(1) < 13)
    assert learns.sum() == 16
    logits = np.where(learns, np.float32(20), np.float32(-20))[None]
    raw = {"class_logits": logits[..., None], "box_ltrb": ltrb[None].astype(np.float32), "centerness": 20 + 0 * logits}
    box = np.array([18, 18, 46, 46]) / np.array([*input_hw, *input_hw])

    @jax.jit
    def answers(raw):
        labels = label(box), label(box[[1, 0, 3, 2]])  # the second one: the same fractions the other way round
        return [task.loss(raw, each, input_hw) for each in labels], task.predict(raw, input_hw)

    (terms, others), found = jax.device_get(answers(raw))
    assert {float(weight) for _, weight in terms.values()} == {16}
    assert terms["focal"][0] == pytest.approx(0, abs=1e-4) and terms["giou"][0] == pytest.approx(0, abs=1e-4)
    assert others["giou"][0] > 1
    assert found["valid"].tolist() == [[1, 0]]
    np.testing.assert_allclose(found["boxes_yxyx"][0, 0], box, atol=1e-5)


def predict(task, raw):
    return {key: np.asarray(value[0]) for key, value in jax.jit(task.predict, static_argnums=1)(raw, HW).items()}


def test_prediction_decodes_scores_suppresses_and_pads():
    task = build_task("detection", ["cat", "dog"], {"max_detections": 5, "min_score": 0.3})
    raw = outputs(-20.0, exact_ltrb(BOX), classes=2)
    cells = [i for i in range(CELLS) if STRIDES[i] == 8 and abs(CENTERS[i] - 32).max() < 5]
    logits, centerness = np.array(raw["class_logits"]), np.array(raw["centerness"])
    logits[0, cells, 0] = [2, 1, 0, 0]  # four times the same cat
    logits[0, cells[0], 1] = 1  # and a dog in the same place
    centerness[0, cells[0]] = 20
    found = predict(task, raw | {"class_logits": jnp.asarray(logits), "centerness": jnp.asarray(centerness)})
    assert found["valid"].tolist() == [1, 1, 0, 0, 0]
    assert found["classes"][:2].tolist() == [0, 1]
    sigmoid = 1 / (1 + np.exp(-np.array([2.0, 1.0])))
    np.testing.assert_allclose(found["scores"][:2], np.sqrt(sigmoid), rtol=1e-5)
    np.testing.assert_allclose(found["boxes_yxyx"][:2], [BOX, BOX], atol=1e-5)
    for key in ("boxes_yxyx", "classes", "scores"):
        assert not found[key][2:].any()


def test_a_crowded_level_leaves_the_others_their_candidates():
    """Of P3 all 2,560 pairs are surer than one of P7, which sees another box."""
    task, other = build_task("detection", [f"{i}" for i in range(40)]), [0, 0, 0.125, 0.125]
    where_ltrb = np.where(STRIDES[:, None] == 8, exact_ltrb(BOX, least=-99)[0], exact_ltrb(other, least=-99)[0])
    raw = outputs(-20.0, where_ltrb, classes=40)
    logits = np.array(raw["class_logits"])
    logits[0, STRIDES == 8] = 5
    logits[0, -1, 1] = 1
    found = predict(task, raw | {"class_logits": jnp.asarray(logits)})
    real = found["valid"] > 0
    assert np.unique(found["classes"][real & (found["boxes_yxyx"][:, 0] > 0)]).size == real.sum() - 1 > 20
    np.testing.assert_allclose(found["boxes_yxyx"][real][-1], other, atol=1e-6)


def test_more_slots_than_candidates():
    found = predict(build_task("detection", ["cat"], {"max_detections": 150}), outputs(-20.0))
    assert found["boxes_yxyx"].shape == (150, 4)
    assert not found["valid"].any()


def test_boxes_stay_inside_the_image():
    found = predict(build_task("detection", ["cat"]), outputs(3.0, 50.0))
    assert found["valid"].any()
    assert found["boxes_yxyx"].min() == 0 and found["boxes_yxyx"].max() == 1


def test_pseudo_labels_are_the_boxes_above_the_threshold_with_their_scores():
    task = build_task("detection", ["cat"], {"max_boxes": 3, "score_threshold": 0.5})
    prediction = {
        "boxes_yxyx": np.array([BOX, BOX, [0, 0, 0, 0]], np.float32),
        "classes": np.zeros(3, np.int32),
        "scores": np.array([0.5, 0.49, 0], np.float32),
        "valid": np.array([1, 1, 0], np.float32),
    }
    found = task.pseudo_label(prediction)
    assert found["valid"].tolist() == [1, 0, 0]
    np.testing.assert_array_equal(found["scores"], np.array([0.5, 0, 0], np.float32))
    assert not found["boxes_yxyx"][1:].any()


def test_a_class_may_have_a_threshold_of_its_own():
    options = {"max_boxes": 4, "score_threshold": 0.5, "score_thresholds": {"cat": 0.8, "owl": 0.3}}
    task = build_task("detection", ["cat", "dog", "owl"], options)
    prediction = {
        "boxes_yxyx": np.array([BOX] * 5, np.float32),
        "classes": np.array([0, 0, 1, 2, 2], np.int32),
        "scores": np.array([0.8, 0.7, 0.5, 0.3, 0.2], np.float32),
        "valid": np.ones(5, np.float32),
    }
    assert task.pseudo_label(prediction)["valid"].tolist() == [1, 0, 1, 1, 0]
    assert {task: 1}[build_task("detection", ["cat", "dog", "owl"], options)]  # can be a key
    assert "score_thresholds" not in build_task("detection", ["cat"]).model_dump()  # as it was before there were any


def average_precision(prediction, truth, classes=("cat", "dog")):
    task = build_task("detection", classes)
    metrics = task.metrics()
    count(metrics, task, prediction, truth)
    return metrics.result()


def test_average_precision_of_perfect_missing_and_half_right():
    other = [0.1, 0.1, 0.2, 0.3]
    truth = label(BOX, other, classes=[0, 1])
    assert average_precision(truth, truth) == dict.fromkeys(("ap50", "ap", "ap50_voc07"), pytest.approx(100))
    assert set(average_precision(label(), truth).values()) == set(average_precision(truth, label()).values()) == {0}
    assert average_precision(label(BOX), truth)["ap50"] == pytest.approx(50)  # one of two classes
    swapped = label(BOX, other, classes=[1, 0])
    assert average_precision(swapped, truth)["ap50"] == 0
    # Shrunk to IoU 0.81: right at thresholds up to 0.8, seven of ten.
    small = np.array(BOX) + np.array([1, 1, -1, -1]) * 0.05 * (BOX[2] - BOX[0])
    assert average_precision(label(small), label(BOX))["ap"] == pytest.approx(70)


def test_that_no_box_at_all_is_predicted_is_told():
    """Average precision alone does not tell it from wrong boxes."""
    task = build_task("detection", ["cat"])
    blind, seeing, without_truth = (task.metrics() for _ in range(3))
    for prediction in (label(), label()):
        count(blind, task, prediction, label(BOX))
        count(seeing, task, prediction, label(BOX))
        count(without_truth, task, prediction, label())
    count(seeing, task, label(BOX), label())
    assert re.search("no box .* 2 images .* 2", blind.details()["remark"])
    assert "remark" not in seeing.details() and "remark" not in without_truth.details()


def test_a_confident_false_box_on_an_image_without_boxes_lowers_the_precision():
    truth, false = label(BOX), label(BOX)
    false["scores"] = 2 * false["scores"]
    task = build_task("detection", ["cat"])
    metrics = task.metrics()
    count(metrics, task, truth, truth)
    count(metrics, task, false, label())
    assert metrics.result()["ap50"] == pytest.approx(50)


def test_boxes_to_ignore_are_neither_hits_nor_misses():
    crowd, inside, outside = [0, 0, 1, 0.5], [0.2, 0.1, 0.4, 0.4], [0.2, 0.6, 0.4, 0.9]
    truth = label(outside, crowd, ignore=[1])
    assert average_precision(label(outside), truth)["ap50"] == pytest.approx(100)
    found = label(inside, [0.5, 0.1, 0.9, 0.3], outside)  # many in one crowd
    assert average_precision(found, truth)["ap50"] == pytest.approx(100)
    assert average_precision(found, label(outside))["ap50"] == pytest.approx(100 / 3, abs=0.5)


def test_measuring_prints_nothing(capfd):
    average_precision(label(BOX), label(BOX))
    assert capfd.readouterr() == ("", "")
