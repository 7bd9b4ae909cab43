"""Chance level: the score of the best prediction that ignores the image, computed from the truth a metric has seen.

A model that is hardly better has not learnt its task. Depths, directions and boxes differ so much between data sets
that this cannot be a number in the code.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

_LOG_BINS = 64  # bins between a depth d and 1.25 d
_DIRECTION_BINS = 64  # bins of a unit vector's component between 0 and 1: 0.9 degrees each
_CANDIDATES = 128  # number of directions, or of boxes of a class, that are tried


class Depths:
    """`delta1` of the best single depth: percent of pixels within a factor of 1.25 of it."""

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()

    def add(self, depth: np.ndarray) -> None:
        """f[n] > 0, in any unit."""
        _count(self._bins, np.floor(np.log(depth) * (_LOG_BINS / math.log(1.25))).astype(np.int64))

    def merge(self, other: Depths) -> None:
        self._bins.update(other._bins)

    def best(self) -> float:
        """In percent; 0 if nothing was added."""
        bins, counts = _arrays(self._bins)
        total = np.concatenate([[0], counts.cumsum()])
        within = total[np.searchsorted(bins, bins + 2 * _LOG_BINS)] - total[:-1]
        return float(100 * within.max(initial=0) / max(counts.sum(), 1))


class Directions:
    """Percent of pixels whose normal is within an angle of the best single direction."""

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()

    def add(self, normals: np.ndarray) -> None:
        """f[n, 3], unit vectors."""
        x, y, z = np.rint(normals.T * _DIRECTION_BINS).astype(np.int64) + _DIRECTION_BINS
        _count(self._bins, (x * _SIDE + y) * _SIDE + z)

    def merge(self, other: Directions) -> None:
        self._bins.update(other._bins)

    def best(self, within_deg: float) -> float:
        """In percent, with the angle accurate to about a degree; 0 if nothing was added."""
        bins, counts = _arrays(self._bins)
        xyz = np.stack([bins // _SIDE**2, bins // _SIDE % _SIDE, bins % _SIDE], -1) - float(_DIRECTION_BINS)
        unit = xyz / np.maximum(np.linalg.norm(xyz, axis=-1, keepdims=True), 1.0)
        tried = unit[np.argsort(-counts, kind="stable")[:_CANDIDATES]]
        within = (tried @ unit.T > math.cos(math.radians(within_deg))) @ counts
        return float(100 * within.max(initial=0) / max(counts.sum(), 1))


def most_frequent(counts: np.ndarray) -> float:
    """The share of the most frequent class, in percent, from the counts of all classes; 0 if there are none."""
    return float(100 * counts.max(initial=0) / max(counts.sum(), 1))


def same_boxes(boxes: np.ndarray, classes: Sequence[int], images: Sequence[int], image_count: int) -> float:
    """AP50 in percent of predicting the same box of each class, the best one, on every image; 0 without boxes.

    A box that hits `hits` of a class's `n` boxes, each on a different image, has recall hits / n at a precision of
    hits / images, and their product is about the average precision. It is large if all pictures show one object in
    one place.

    Args:
      boxes: f[n, 4], (y0, x0, y1, x1) or (x0, y0, x1, y1), all in the same unit.
      classes, images: the class and the image of each box.
      image_count: number of images, including those without a box.
    """
    of_class, of_image = np.asarray(classes), np.asarray(images)
    precisions = []
    for chosen in np.unique(of_class):
        own, where = boxes[of_class == chosen], of_image[of_class == chosen]
        by_size = own[np.argsort(_areas(own), kind="stable")]
        spread = np.linspace(0, len(own) - 1, min(len(own), _CANDIDATES)).astype(int)
        best = 0.0
        for box in (np.median(own, 0), *by_size[spread]):
            hits = len(np.unique(where[_ious(box, own) >= 0.5]))
            best = max(best, hits / len(own) * hits / image_count)
        precisions.append(best)
    return float(100 * np.mean(precisions)) if precisions else 0.0


_SIDE = 2 * _DIRECTION_BINS + 1


def _count(bins: Counter[int], values: np.ndarray) -> None:
    numbers, counts = np.unique(values, return_counts=True)
    bins.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))


def _arrays(bins: Counter[int]) -> tuple[np.ndarray, np.ndarray]:
    """The bins' numbers, ascending, and their counts."""
    numbers = np.array(sorted(bins), np.int64)
    return numbers, np.array([bins[number] for number in numbers.tolist()], np.int64)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0), -1)


def _ious(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    overlap = _areas(np.concatenate([np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])], -1))
    return overlap / np.maximum(_areas(box) + _areas(boxes) - overlap, 1e-12)
