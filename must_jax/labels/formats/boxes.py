"""What formats of boxes share."""

from __future__ import annotations

import numpy as np

from must_jax.data.encodings import Label
from must_jax.labels.formats.base import PRESENT

_OUTSIDE_PX = 1.0  # rounding; more is a mistake


def to_fractions(boxes_px: np.ndarray, sizes_hw: np.ndarray) -> tuple[np.ndarray, int | None]:
    """Boxes f64[n, 4] (y0, x0, y1, x1) in pixels of images of these sizes -> f32[n, 4] fractions, clipped to the image.

    Also returns the row of the first box that lies more than a pixel outside, or None.
    """
    ends = np.tile(sizes_hw, 2)
    outside = np.any((boxes_px < -_OUTSIDE_PX) | (boxes_px > ends + _OUTSIDE_PX), axis=1)
    fractions = np.clip(boxes_px / ends, 0, 1).astype(np.float32)
    return fractions, int(np.argmax(outside)) if outside.any() else None


def boxes_label(boxes_yxyx: np.ndarray, classes: np.ndarray) -> Label:
    """True boxes: all valid, all certain. Those of which nothing lies inside of the image are left out."""
    inside = np.all(boxes_yxyx[:, 2:] > boxes_yxyx[:, :2], axis=1)
    boxes_yxyx, classes = boxes_yxyx[inside], classes[inside]
    ones = np.ones(len(classes), np.float32)
    values = {"boxes_yxyx": boxes_yxyx, "classes": classes, "scores": ones, "valid": ones, "ignore": 0 * ones}
    return values | {"present": PRESENT}
