"""Layouts of a detector's outputs: which one a model has, and from its arrays to boxes.

| layout | outputs of an image | models |
|---|---|---|
| yolov5 | [rows, 5 + K]: cx, cy, w, h, objectness, classes | YOLO v5, v7 |
| yolov8 | [4 + K, rows] or transposed: cx, cy, w, h, classes | YOLO v8, 9, 11, 12, 13 |
| end2end | [rows, 6]: x0, y0, x1, y1, score, class; rows of zeros are none | exported with nms=True, YOLO v10, 26 |
| detr | logits [rows, K or K + 1], boxes [rows, 4] as shares of the input | DETR; with K, RT-DETR and D-FINE |
| torchvision | boxes [rows, 4], labels [rows], scores [rows] | torchvision's, and DETRs with post-processing |

What follows the classes in a row (masks, keypoints) is not read.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from must_jax.config.teachers import Layout
from must_jax.errors import UserError
from must_jax.teachers.onnx_file import Metadata
from must_jax.teachers.outputs import Output, Plan, shown
from must_jax.teachers.reading import Reading
from must_jax.teachers.said import Said

YOLO = ("yolov5", "yolov8", "end2end")  # they take letterboxed images
_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (16, 32), (4, 8, 16, 32))  # of the grids of a YOLO
_ANCHORS = 3  # boxes of a cell, before YOLO v8
_MOST_SUPPRESSED = 1000  # rows after non-maximum suppression
_DEFAULTS: dict[Layout, dict[str, Any]] = {
    "yolov5": {"boxes": "cxcywh", "box_unit": "pixels", "scores": "probabilities", "nms_iou": 0.7},
    "yolov8": {"boxes": "cxcywh", "box_unit": "pixels", "scores": "probabilities", "nms_iou": 0.7},
    "end2end": {"boxes": "xyxy", "box_unit": "pixels", "nms_iou": 1.0},
    "detr": {"boxes": "cxcywh", "box_unit": "fractions", "nms_iou": 1.0},
    "torchvision": {"boxes": "xyxy", "box_unit": "pixels", "nms_iou": 1.0, "first_class": 1},
}


class _Fit(NamedTuple):
    layout: Layout
    plan: Plan
    rows: int = 0  # of a YOLO whose rows come first


def plan(where: str, reading: Reading, outputs: Sequence[Output], hw: tuple[int, int], metadata: Metadata) -> Plan:
    """How a detector is read.

    Its layout is the declared one, if the shapes allow it; otherwise the only one that they, the number of classes and
    the metadata allow.

    Args:
      hw: of the input.

    Raises:
      UserError: none fits, several do, or the declared one does not; raw grids.
    """
    declared, count = reading.declared, reading.outputs
    fits = [*_yolo(outputs, count, metadata), *_detr(outputs, count, reading), *_torchvision(outputs)]
    if declared.layout:
        found = [each for each in fits if each.layout == declared.layout]
    else:
        told = None if metadata.is_rtdetr else metadata.end2end
        found = [each for each in fits if told is None or (each.layout == "end2end") == told]
        is_told = told is not None or metadata.is_rtdetr
        sure = [each for each in found if is_told or not each.rows or _has_rows_of(each, hw)]
        if found and len({each.layout for each in sure}) != 1:
            raise UserError(
                f"{where}: its outputs are {shown(outputs)}, which may be of layout {_either(sure or found)}; say "
                f"which in its tasks.{reading.task.name}.layout (docs/teachers.md)"
            )
        found = sure
    if not found and any(_is_raw(each, outputs, hw) for each in outputs):
        raise UserError(
            f"{where}: its outputs {shown(outputs)} are grids from which no boxes have been made; export the model "
            "with its boxes decoded, as 'yolo export format=onnx' does, or 'export.py --include onnx' of YOLO v5"
        )
    if not found and declared.scores:
        free = dataclasses.replace(reading, declared=declared.model_copy(update={"scores": None}))
        if any(not declared.layout or each.layout == declared.layout for each in _detr(outputs, count, free)):
            raise UserError(
                f"{where}: its outputs {shown(outputs)} are one more than its {count} classes, as of a softmax whose "
                f"last is no class, but scores is {declared.scores}; set its tasks.{reading.task.name}.scores=softmax"
            )
    if not found:
        raise UserError(f"{where}: {_misfit(reading, outputs, count, fits)}")
    if len(found) > 1:
        names = " or ".join("+".join(each.plan.outputs) for each in found)
        raise UserError(f"{where}: outputs {names} fit; say which in its tasks.{reading.task.name}.outputs")
    if declared.first_class and found[0].layout not in ("end2end", "torchvision"):
        raise UserError(
            f"{where}: first_class is for models that return indices, but layout {found[0].layout} has a score for "
            "each class; remove it, or say with background which of them is none"
        )
    layout, plan_, _ = found[0]
    rtdetr = {"boxes": "cxcywh", "box_unit": "fractions", "nms_iou": 1.0} if metadata.is_rtdetr else {}
    return plan_._replace(told={"layout": layout} | plan_.told | rtdetr)


def _yolo(outputs: Sequence[Output], count: int, metadata: Metadata) -> Iterator[_Fit]:
    masks = {each.shape[0] for each in outputs if len(each.shape) == 3}
    extras = {"detect": {0}, "segment": masks, "pose": {metadata.keypoints}}.get(metadata.task, {0} | masks)
    for output in outputs:
        if len(output.shape) != 2 or output.is_whole or _has_boxes(output, outputs):
            continue
        first, last = output.shape
        names = (output.name,)
        if last in {5 + count + extra for extra in extras}:
            yield _Fit("yolov5", Plan(names, _read_yolov5, _DEFAULTS["yolov5"]), first)
        if last in {4 + count + extra for extra in extras}:
            yield _Fit("yolov8", Plan(names, _read_yolov8_rows, _DEFAULTS["yolov8"]), first)
        if first in {4 + count + extra for extra in extras}:
            yield _Fit("yolov8", Plan(names, _read_yolov8, _DEFAULTS["yolov8"]))
        if last in {6 + extra for extra in extras}:
            yield _Fit("end2end", Plan(names, _read_end2end, _DEFAULTS["end2end"]), first)


def _has_boxes(output: Output, outputs: Sequence[Output]) -> bool:
    """Whether the boxes of its rows are another output."""
    return any(each.shape == (output.shape[0], 4) for each in outputs if each != output)


def _detr(outputs: Sequence[Output], count: int, reading: Reading) -> Iterator[_Fit]:
    """Logits for the classes alone are of sigmoids, with one more of a softmax, whose last is "no object"."""
    declared = reading.declared
    for logits, boxes in itertools.permutations(outputs, 2):
        if len(logits.shape) != 2 or boxes.shape != (logits.shape[0], 4) or logits.is_whole or boxes.is_whole:
            continue
        if logits.shape[1] == 4 and "box" not in boxes.name.lower():
            continue
        if logits.shape[1] == count:
            scores = "softmax" if declared.background is not None else "sigmoid"
            told: dict[str, Any] = {"scores": scores}
        elif logits.shape[1] == count + 1 and declared.background is None and declared.scores != "sigmoid":
            told = {"scores": "softmax", "background": -1}
        else:
            continue
        yield _Fit("detr", Plan((logits.name, boxes.name), _read_detr, _DEFAULTS["detr"] | told))


def _torchvision(outputs: Sequence[Output]) -> Iterator[_Fit]:
    for each in itertools.permutations(outputs, 3):
        boxes, labels, scores = each
        if (
            boxes.is_whole
            or scores.is_whole
            or not (labels.is_whole or _is_of_classes(labels))
            or _is_of_classes(scores)
        ):
            continue
        *rows, last = boxes.full
        if (
            last == 4
            and not _is_of_classes(scores)
            and list(labels.full) == list(scores.full) == rows
            and len(rows) in (1, 2)
        ):
            names = boxes.name, labels.name, scores.name
            yield _Fit("torchvision", Plan(names, _read_torchvision, _DEFAULTS["torchvision"], len(rows) == 2))


def _is_of_classes(output: Output) -> bool:
    return any(part in output.name.lower() for part in ("label", "class"))


def _has_rows_of(fit: _Fit, hw: tuple[int, int]) -> bool:
    """Whether a YOLO with an input of this size has so many rows: a box, or three, for each cell of its grids."""
    cells = {
        sum(-(-hw[0] // s) * -(-hw[1] // s) for s in strides)
        if up
        else sum((hw[0] // s) * (hw[1] // s) for s in strides)
        for strides in _STRIDES
        for up in (False, True)
    }
    if fit.layout == "end2end":
        return fit.rows <= _MOST_SUPPRESSED and fit.rows not in cells | {_ANCHORS * each for each in cells}
    return fit.rows in ({_ANCHORS * each for each in cells} if fit.layout == "yolov5" else cells)


def _is_raw(output: Output, outputs: Sequence[Output], hw: tuple[int, int]) -> bool:
    """A grid of a YOLO: v5's [3, rows, columns, 5 + K], or one of v8's [64 + K, rows, columns] at three strides."""
    if len(output.shape) == 4:
        return output.shape[0] == _ANCHORS and output.shape[3] > 5
    grids = [each.shape[1:] for each in outputs if len(each.shape) == 3 and each.shape[0] == output.shape[0]]
    return len(output.shape) == 3 and {(hw[0] // s, hw[1] // s) for s in _STRIDES[0]} <= {*grids}


def _misfit(reading: Reading, outputs: Sequence[Output], count: int, fits: Sequence[_Fit]) -> str:
    wanted = {
        "yolov5": f"[rows, {5 + count}]",
        "yolov8": f"[{4 + count}, rows] or [rows, {4 + count}]",
        "end2end": "[rows, 6]",
        "detr": f"logits [rows, {count}] or [rows, {count + 1}] with boxes [rows, 4]",
        "torchvision": "boxes [rows, 4] with labels [rows] and scores [rows]",
    }
    layout = reading.declared.layout
    seen = f"its outputs are {shown(outputs)}"
    if layout and fits:
        return (
            f"layout {layout} with {count} classes would be {wanted[layout]}, but {seen}, which is {_either(fits)}; "
            f"correct its tasks.{reading.task.name}.layout"
        )
    guesses = [guess for each in outputs if (guess := _guess(each, outputs, layout))]
    means = f" ({', or '.join(guesses)})" if guesses else ""
    if layout:
        return f"layout {layout} with {count} classes would be {wanted[layout]}, but {seen}{means}; correct either"
    options = "; ".join(f"{name}: {shape}" for name, shape in wanted.items())
    return f"{seen}{means}, which fits no layout with {count} classes ({options}); correct its classes or layout"


def _guess(output: Output, outputs: Sequence[Output], layout: str | None) -> str:
    """How many classes an output may be for."""
    if len(output.shape) != 2 or min(output.shape) < 5:
        return ""
    first, last = output.shape
    if _has_boxes(output, outputs):
        return f"detr with {last - 1} or {last} classes"
    if first < last or layout == "yolov8":
        return f"yolov8 with {min(first, last) - 4} classes"
    return f"yolov5 with {last - 5} classes" if layout else f"yolov5 with {last - 5} or yolov8 with {last - 4} classes"


def _either(fits: Sequence[_Fit]) -> str:
    return " or ".join(dict.fromkeys(each.layout for each in fits))


def _read_yolov5(reading: Reading, arrays: Sequence[np.ndarray], hw: tuple[int, int]) -> Said:
    rows = np.asarray(arrays[0], np.float32)
    return reading.scored(rows[:, :4], rows[:, 5 : 5 + reading.outputs], hw, rows[:, 4])


def _read_yolov8(reading: Reading, arrays: Sequence[np.ndarray], hw: tuple[int, int]) -> Said:
    return _read_yolov8_rows(reading, [arrays[0].T], hw)


def _read_yolov8_rows(reading: Reading, arrays: Sequence[np.ndarray], hw: tuple[int, int]) -> Said:
    rows = np.asarray(arrays[0], np.float32)
    return reading.scored(rows[:, :4], rows[:, 4 : 4 + reading.outputs], hw)


def _read_end2end(reading: Reading, arrays: Sequence[np.ndarray], hw: tuple[int, int]) -> Said:
    rows = np.asarray(arrays[0], np.float32)
    rows = rows[~(rows[:, 4] <= 0)]  # the others fill up; what is not a number stays, and is reported
    return reading.boxes(rows[:, :4], rows[:, 4], reading.whole(rows[:, 5]), hw)


def _read_detr(reading: Reading, arrays: Sequence[np.ndarray], hw: tuple[int, int]) -> Said:
    logits, boxes = (np.asarray(each, np.float32) for each in arrays)
    if reading.declared.scores == "softmax":
        return reading.scored(boxes, logits, hw)
    return reading.paired(boxes, logits, hw)


def _read_torchvision(reading: Reading, arrays: Sequence[np.ndarray], hw: tuple[int, int]) -> Said:
    boxes, labels, scores = arrays
    scores = np.asarray(scores, np.float32)
    if boxes.shape[:1] == labels.shape == scores.shape:  # otherwise an error
        boxes, labels, scores = (each[~(scores <= 0)] for each in (boxes, labels, scores))  # the others fill up
    return reading.boxes(boxes, scores, reading.whole(labels), hw)
