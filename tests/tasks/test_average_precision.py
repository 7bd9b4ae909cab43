"""Average precision against the references: pycocotools, and the arithmetic of VOC's devkit."""

from __future__ import annotations

import contextlib
import io
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from must_jax.tasks import build_task, coco_ap

CLASSES = ("cat", "dog", "owl", "fox")
SIDES_PX = ((512, 1024), (1024, 256), (64, 64))  # rows and columns; powers of two, so that fractions are exact
Boxes = dict[str, np.ndarray]


def boxes(yxyx_px: Any, classes: Any, scores: Any = None, ignore: Any = None) -> Boxes:
    count = len(classes)
    return {
        "boxes_yxyx": np.asarray(yxyx_px, np.float32).reshape(-1, 4),
        "classes": np.asarray(classes, np.int32),
        "scores": np.ones(count, np.float32) if scores is None else np.asarray(scores, np.float32),
        "ignore": np.zeros(count, np.float32) if ignore is None else np.asarray(ignore, np.float32),
        "valid": np.ones(count, np.float32),
    }


NONE = boxes([], [])
FROM_1 = np.array([1.0, 1, 0, 0])  # VOC counts pixels from 1


def random_image(
    rng: np.random.Generator, hw: tuple[int, int], objects: int, found: int, grid: int = 1
) -> tuple[Boxes, Boxes]:
    """Detections and truth; most detections are objects moved a little. Corners are multiples of `grid`, if not 0."""

    def snapped(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        if grid:
            low, high = np.floor(low / grid) * grid, np.ceil(high / grid) * grid
        return np.concatenate([np.clip(low, 0, hw), np.clip(high, 0, hw)], 1)

    sides = rng.uniform(0.05, 0.4, (objects, 2)) * hw
    low = rng.uniform(0, 1, (objects, 2)) * (hw - sides)
    classes = rng.integers(0, 3, objects)
    truth = boxes(snapped(low, low + sides), classes, ignore=rng.random(objects) < 0.3)
    of = rng.integers(0, max(objects, 1), found) if objects else np.zeros(0, int)
    moved = rng.normal(size=(len(of), 2, 2)) * 0.12 * sides[of][:, None]
    yxyx = snapped(low[of] + np.minimum(moved[:, 0], 0), low[of] + sides[of] + moved[:, 1].clip(-0.4 * sides[of]))
    other = rng.integers(0, 4, len(of))
    kinds = np.where(rng.random(len(of)) < 0.7, classes[of], other)
    return boxes(yxyx, kinds, scores=rng.integers(1, 9, len(of)) / 8), truth  # many ties


def random_set(seed: int, most: int = 9, grid: int = 1) -> list[tuple[tuple[int, int], Boxes, Boxes]]:
    rng = np.random.default_rng(seed)
    return [
        (hw, *random_image(rng, hw, int(rng.integers(0, most)), int(rng.integers(0, 3 * most)), grid))
        for hw in SIDES_PX * 3
    ]


HW = SIDES_PX[0]
TWO = boxes([[0, 0, 100, 100], [50, 60, 200, 300]], [0, 1])
BOTH_IGNORED = boxes([[0, 0, 100, 100], [50, 60, 200, 300]], [0, 1], ignore=[1, 1])
TIED = boxes([[0, 0, 100, 100], [0, 0, 100, 100], [300, 0, 400, 100]], [0, 0, 0], scores=[0.5, 0.5, 0.5])
DEGENERATE = {
    "nothing": [],
    "neither truth nor detections": [(HW, NONE, NONE)],
    "no truth": [(HW, TWO, NONE)],
    "no detections": [(HW, NONE, TWO)],
    "all ignored": [(HW, TWO, BOTH_IGNORED)],
    "all ignored, none found": [(HW, NONE, BOTH_IGNORED)],
    "a class in the predictions alone": [(HW, boxes(TWO["boxes_yxyx"], [0, 3]), boxes([[0, 0, 100, 100]], [0]))],
    "a class that is ignored wherever it occurs": [(HW, TWO, boxes(TWO["boxes_yxyx"], [0, 1], ignore=[0, 1]))],
    "detections of one object, with one score": [(HW, TIED, boxes([[0, 0, 100, 100]], [0]))] * 2,
    "many in one box to ignore": [
        (
            HW,
            boxes([[0, 10 * i, 10, 10 * i + 9] for i in range(20)], [0] * 20),
            boxes([[0, 0, 300, 300], [400, 0, 450, 90]], [0, 0], ignore=[1, 0]),
        ),
    ],
    "one object, twice to ignore": [(HW, TWO, boxes([[0, 0, 100, 100]] * 3, [0, 0, 0], ignore=[0, 1, 1]))],
}
SETS = [*(random_set(seed) for seed in range(6)), random_set(7, most=60), *DEGENERATE.values()]
IDS = [*(f"random {seed}" for seed in range(6)), "crowded", *DEGENERATE]


def measured(images: Any) -> dict[str, float]:
    metrics = build_task("detection", CLASSES).metrics()
    for hw, found, truth in images:
        fractions = [each | {"boxes_yxyx": each["boxes_yxyx"] / np.float32([*hw, *hw])} for each in (found, truth)]
        metrics.update(fractions[0], fractions[1] | {"present": np.float32(1)})
    return metrics.result()


def pycocotools_says(images: Any) -> tuple[float, float]:
    """AP and AP50 in percent, of boxes in pixels."""
    listed: dict[str, list[dict[str, Any]]] = {"truth": [], "found": []}
    for image, (_, *both) in enumerate(images, 1):
        for name, each in zip(("found", "truth"), both, strict=True):
            for (y0, x0, y1, x1), class_, score, crowd in zip(
                *(each[key].tolist() for key in ("boxes_yxyx", "classes", "scores", "ignore")), strict=True
            ):
                box = {"image_id": image, "category_id": class_ + 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
                box |= {"area": (x1 - x0) * (y1 - y0), "iscrowd": int(crowd), "score": score}
                listed[name].append(box | {"id": len(listed[name]) + 1})
    reference = COCO()
    reference.dataset = {
        "images": [{"id": image} for image in range(1, len(images) + 1)],
        "categories": [{"id": index + 1} for index in range(len(CLASSES))],
        "annotations": listed["truth"],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        reference.createIndex()
        found = COCO()
        found.dataset = {**reference.dataset, "annotations": [each | {"iscrowd": 0} for each in listed["found"]]}
        found.createIndex()
        evaluation = COCOeval(reference, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * float(evaluation.stats[0]), 100 * float(evaluation.stats[1])


def devkit_says(images: Any) -> float:
    """VOCevaldet.m of 2007, line by line; a pixel box [xmin, ymin, xmax, ymax] there includes its last pixel."""
    each_class = []
    for class_ in range(len(CLASSES)):
        ground, detections = [], []
        for image, (_, found, truth) in enumerate(images):
            chosen = truth["classes"] == class_
            ground.append(
                {
                    "boxes": truth["boxes_yxyx"][chosen] + FROM_1,
                    "difficult": truth["ignore"][chosen] > 0,
                    "detected": np.zeros(chosen.sum(), bool),
                }
            )
            mine = found["classes"] == class_
            rows = zip(found["scores"][mine], found["boxes_yxyx"][mine] + FROM_1, strict=True)
            detections += [(score, image, box) for score, box in rows]
        positives = sum(int((~each["difficult"]).sum()) for each in ground)
        if not positives:
            continue
        right: list[int] = []
        wrong: list[int] = []
        for _, image, box in sorted(detections, key=lambda detection: -detection[0]):  # stable, as MATLAB's sort
            of = ground[image]
            best, best_iou = -1, -np.inf
            for j, other in enumerate(of["boxes"]):
                height = min(box[2], other[2]) - max(box[0], other[0]) + 1
                width = min(box[3], other[3]) - max(box[1], other[1]) + 1
                if height > 0 and width > 0:
                    areas = sum((b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (box, other))
                    if height * width / (areas - height * width) > best_iou:
                        best, best_iou = j, height * width / (areas - height * width)
            is_right = is_wrong = 0
            if best_iou >= 0.5:
                if not of["difficult"][best]:
                    if not of["detected"][best]:
                        is_right = 1
                        of["detected"][best] = True
                    else:
                        is_wrong = 1
            else:
                is_wrong = 1
            right.append(is_right)
            wrong.append(is_wrong)
        hits, misses = np.cumsum(right), np.cumsum(wrong)
        ap = 0.0
        for tenths in range(11):
            reached = [
                hit / (hit + miss)
                for hit, miss in zip(hits.tolist(), misses.tolist(), strict=True)
                if hit + miss and Fraction(hit, positives) >= Fraction(tenths, 10)
            ]
            ap += max(reached, default=0.0) / 11
        each_class.append(ap)
    return 100 * float(np.mean(each_class)) if each_class else 0.0


@pytest.mark.parametrize("images", SETS, ids=IDS)
def test_coco_average_precision_is_that_of_pycocotools(images):
    wanted = pycocotools_says(images) if images else (-100, -100)
    found = measured(images)
    # pycocotools says -1 where there is nothing to find; here that is 0.
    assert (found["ap"], found["ap50"]) == pytest.approx([max(value, 0.0) for value in wanted], abs=1e-6)


@pytest.mark.parametrize("images", SETS[5:9], ids=IDS[5:9])
def test_classes_that_are_evaluated_one_by_one_have_the_same_average_precision(images, monkeypatch):
    together = measured(images)
    monkeypatch.setattr(coco_ap, "_TOGETHER", 1)
    assert measured(images) == pytest.approx(together, abs=1e-9)


@pytest.mark.parametrize("images", SETS, ids=IDS)
def test_voc_average_precision_is_that_of_the_devkit(images):
    assert measured(images)["ap50_voc07"] == pytest.approx(devkit_says(images), abs=1e-6)


def test_the_random_sets_can_tell_rules_apart():
    """The two rules, and what ignoring changes, differ on them; all of them are between nothing and everything."""
    for images in SETS[:7]:
        result = measured(images)
        as_objects = [(hw, found, truth | {"ignore": 0 * truth["ignore"]}) for hw, found, truth in images]
        assert 5 < result["ap"] < result["ap50"] < 99
        assert abs(result["ap50"] - result["ap50_voc07"]) > 0.1
        assert abs(measured(as_objects)["ap50"] - result["ap50"]) > 0.1
        assert abs(measured(as_objects)["ap50_voc07"] - result["ap50_voc07"]) > 0.1


@pytest.mark.parametrize("seed", range(3))
def test_parts_merge_to_the_whole(seed):
    images = random_set(seed)
    whole, *parts = (build_task("detection", CLASSES).metrics() for _ in range(4))
    for index, (hw, found, truth) in enumerate(images):
        fractions = [each | {"boxes_yxyx": each["boxes_yxyx"] / np.float32([*hw, *hw])} for each in (found, truth)]
        for metrics in (whole, parts[index * 3 // len(images)]):
            metrics.update(fractions[0], fractions[1] | {"present": np.float32(1)})
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    assert parts[0].result() == pytest.approx(whole.result())
