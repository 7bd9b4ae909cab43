"""Chance level: the score of the best prediction that ignores the image, computed from the truth a metric has seen.

A model that is hardly better has not learnt its task. Depths, directions and boxes differ so much between data sets
that this cannot be a number in the code.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

DISTANCES = 83  # bins by a factor of 1.25 each, for depths from 0.001 to 100,000
FINE = 64  # bins between a depth d and 1.25 d
DIRECTIONS = (256, 256)  # of an octahedron unfolded into a square: about 0.7 degrees each
_NEAREST = 1e-3
_CANDIDATES = 128  # number of directions, or of boxes of a class, that are tried


def depth_bins(depth: Any) -> tuple[Any, Any]:
    """i32, i32: for each depth above 0 its bin by distance, of `DISTANCES`, and within that its bin of `FINE`."""
    xp = depth.__array_namespace__()
    logarithm = xp.log(depth / np.float32(_NEAREST)) * np.float32(FINE / math.log(1.25))
    index = xp.clip(xp.floor(logarithm), 0, DISTANCES * FINE - 1).astype(np.int32)
    return index // FINE, index % FINE


def middle_of(distances: np.ndarray) -> np.ndarray:
    """f64: the depths in the middle of bins by distance."""
    return _NEAREST * 1.25 ** (distances + 0.5)


def best_depth(counts: np.ndarray) -> float:
    """`delta1` of the best single depth: percent of pixels within a factor of 1.25 of it; 0 without pixels.

    Args:
      counts: i[DISTANCES, FINE], pixels by `depth_bins`.
    """
    total = np.concatenate([[0], counts.cumsum()])
    first = np.arange(counts.size)
    within = total[np.minimum(first + 2 * FINE, counts.size)] - total[first]
    return float(100 * within.max(initial=0) / max(int(counts.sum()), 1))


def direction_bins(normals: Any) -> tuple[Any, Any]:
    """i32, i32: the bin of `DIRECTIONS` for each unit vector, f32[..., 3]."""
    xp = normals.__array_namespace__()
    x, y, z = (normals[..., axis] for axis in range(3))
    size = xp.maximum(abs(x) + abs(y) + abs(z), np.float32(1e-6))
    x, y = x / size, y / size
    folded = z < 0  # the four faces behind are turned outwards
    u = xp.where(folded, (1 - abs(y)) * _sign(x), x)
    v = xp.where(folded, (1 - abs(x)) * _sign(y), y)
    bins = (
        xp.clip((each + 1) * np.float32(side / 2), 0, side - 1) for each, side in zip((u, v), DIRECTIONS, strict=True)
    )
    first, second = (each.astype(np.int32) for each in bins)
    return first, second


def best_direction(counts: np.ndarray, within_deg: float) -> float:
    """Percent of pixels within an angle, accurate to about a degree, of the best single direction; 0 without pixels.

    Args:
      counts: i[DIRECTIONS], pixels by `direction_bins`.
    """
    bins = np.nonzero(counts)
    number = counts[bins]
    u, v = ((each + 0.5) * (2 / side) - 1 for each, side in zip(bins, counts.shape, strict=True))
    z = 1 - abs(u) - abs(v)
    outside = np.maximum(-z, 0)
    xyz = np.stack([u - _sign(u) * outside, v - _sign(v) * outside, z], -1)
    unit = xyz / np.linalg.norm(xyz, axis=-1, keepdims=True)
    tried = unit[np.argsort(-number, kind="stable")[:_CANDIDATES]]
    within = (tried @ unit.T > math.cos(math.radians(within_deg))) @ number
    return float(100 * within.max(initial=0) / max(int(number.sum()), 1))


def _sign(values: Any) -> Any:
    """1 or -1."""
    xp = values.__array_namespace__()
    return xp.where(values < 0, xp.ones_like(values) * -1, xp.ones_like(values))


def most_frequent(counts: np.ndarray) -> float:
    """The share of the most frequent class, in percent, from the counts of all classes; 0 if there are none."""
    return float(100 * counts.max(initial=0) / max(counts.sum(), 1))


def same_boxes(boxes: np.ndarray, classes: np.ndarray, images: np.ndarray, image_count: int) -> float:
    """AP50 in percent of predicting the same box of each class, the best one, on every image; 0 without boxes.

    A box that hits `hits` of a class's `n` boxes, each on a different image, has recall hits / n at a precision of
    hits / images, and their product is about the average precision. It is large if all pictures show one object in
    one place.

    Args:
      boxes: f[n, 4], (y0, x0, y1, x1) or (x0, y0, x1, y1), all in the same unit.
      classes, images: i[n], the class and the image of each box.
      image_count: number of images, including those without a box.
    """
    precisions = []
    for chosen in np.unique(classes):
        own, where = boxes[classes == chosen], images[classes == chosen]
        by_size = own[np.argsort(_areas(own), kind="stable")]
        spread = np.linspace(0, len(own) - 1, min(len(own), _CANDIDATES)).astype(int)
        best = 0.0
        for box in (np.median(own, 0), *by_size[spread]):
            hits = len(np.unique(where[_ious(box, own) >= 0.5]))
            best = max(best, hits / len(own) * hits / image_count)
        precisions.append(best)
    return float(100 * np.mean(precisions)) if precisions else 0.0


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0), -1)


def _ious(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    overlap = _areas(np.concatenate([np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])], -1))
    return overlap / np.maximum(_areas(box) + _areas(boxes) - overlap, 1e-12)
