"""Average precision as PASCAL VOC 2007 measures it (its devkit, VOCevaldet.m)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_MIN_IOU = 0.5
_SCORES = 101  # least scores of a curve
_NOTHING, _DIFFICULT = -1, -2  # instead of the number of the object that a detection belongs to


class Voc07:
    """AP at IoU 0.5, interpolated at 11 recalls, in percent; the mean over classes that have an object.

    Boxes are given by their edges: the devkit counts the same pixels when it adds 1 to differences of pixel numbers.
    A detection belongs to the box of its class that it overlaps most. The surest detection of an object is right, its
    others are wrong, and those that belong to a box to ignore ("difficult") are not counted.
    """

    def __init__(self, classes: int) -> None:
        self._objects = np.zeros(classes, np.int64)  # number by class, without those to ignore
        self._boxes = 0
        self._found: list[np.ndarray] = []  # f64[n, 3] per image: class, score, number of the object

    def update(self, prediction: Mapping[str, np.ndarray], label: Mapping[str, np.ndarray]) -> None:
        """Adds one image's boxes, in fractions of it: IoU is the same as in pixels, whatever the image's sides."""
        found, real = prediction["valid"] > 0, label["valid"] > 0
        classes, truth, ignore = prediction["classes"][found], label["classes"][real], label["ignore"][real] > 0
        iou = _iou(prediction["boxes_yxyx"][found].astype(np.float64), label["boxes_yxyx"][real].astype(np.float64))
        iou = np.where(classes[:, None] == truth[None], iou, 0)
        numbers = np.where(ignore, _DIFFICULT, self._boxes + np.arange(len(truth)))
        best = iou.max(1, initial=0) >= _MIN_IOU
        objects = np.full(len(classes), _NOTHING)
        objects[best] = numbers[iou[best].argmax(1)] if best.any() else _NOTHING
        self._found.append(np.stack([classes, prediction["scores"][found], objects], 1).astype(np.float64))
        self._objects += np.bincount(truth[~ignore], minlength=len(self._objects))
        self._boxes += len(truth)

    def merge(self, other: Voc07) -> None:
        for each in other._found:
            shift = np.where(each[:, 2:] >= 0, self._boxes, 0) * [[0, 0, 1]]
            self._found.append(each + shift)
        self._objects, self._boxes = self._objects + other._objects, self._boxes + other._boxes

    def result(self) -> float:
        """In percent; 0 without objects."""
        found = np.concatenate([np.zeros((0, 3)), *self._found])
        found = found[np.argsort(-found[:, 1], kind="stable")]
        occurring = np.flatnonzero(self._objects)
        each = [_average_precision(found[found[:, 0] == index, 2], int(self._objects[index])) for index in occurring]
        return float(100 * np.mean(each)) if each else 0.0

    def by_score(self) -> tuple[list[float], list[float], list[float]]:
        """Least scores, and precision and recall in percent of the detections with at least these; without any, empty.

        Of all classes together.
        """
        found = np.concatenate([np.zeros((0, 3)), *self._found])
        found = found[found[:, 2] != _DIFFICULT]
        found = found[np.argsort(-found[:, 1], kind="stable")]
        if not len(found) or not self._objects.sum():
            return [], [], []
        hits = np.cumsum(_first(found[:, 2]))
        scores = np.linspace(0, 1, _SCORES)
        number = np.searchsorted(-found[:, 1], -scores, side="right")
        scores, number = scores[number > 0], number[number > 0]
        precision, recall = (100 * hits[number - 1] / whole for whole in (number, self._objects.sum()))
        first, second, third = ([round(float(each), 3) for each in some] for some in (scores, precision, recall))
        return first, second, third


def _average_precision(objects: np.ndarray, count: int) -> float:
    """AP of one class, 0..1.

    Args:
      objects: number of each detection's object, surest detection first.
      count: how many objects there are.
    """
    objects = objects[objects != _DIFFICULT]
    hits = np.cumsum(_first(objects))
    precision = hits / np.arange(1, len(hits) + 1)
    # Recalls of 0, 0.1, ... 1 as whole numbers, since 3 / 10 is less than 3 * 0.1.
    return float(np.mean([precision[10 * hits >= tenths * count].max(initial=0) for tenths in range(11)]))


def _first(objects: np.ndarray) -> np.ndarray:
    """bool[n]: which detections are right: the surest ones of their objects. Surest first."""
    right = np.zeros(len(objects), bool)
    right[np.unique(objects, return_index=True)[1]] = True
    return right & (objects != _NOTHING)


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """f64[n, 4], f64[m, 4] -> f64[n, m]."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = np.prod(np.maximum(high - low, 0), -1)
    areas = (np.prod(boxes[:, 2:] - boxes[:, :2], -1) for boxes in (a, b))
    return overlap / np.maximum(np.add.outer(*areas) - overlap, np.finfo(np.float64).tiny)
