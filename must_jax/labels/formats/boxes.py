"""Shared by the formats of boxes: checks whether boxes are as declared, and makes the labels of their images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from must_jax.data.encodings import Label
from must_jax.data.kinds import BoxesLabel
from must_jax.errors import UserError
from must_jax.labels.formats.base import PRESENT, Placed
from must_jax.labels.formats.refusals import MOST_NAMED, refusal
from must_jax.progress import counted, say

OUTSIDE_PX = 1.0  # how far boxes may stick out because of rounding; more is a mistake
MOST = 0.5  # share of all boxes that counts as most of them
_FRACTION = 1.01  # largest possible fraction of an image, however it is rounded
_STRAY = 0.05  # up to this share of all boxes may really lie in the first pixel


def later(default: object) -> Any:
    """The field of an option that was added later: older columns count as made with the default."""
    return Field(exclude_if=lambda value: value == default)


class Boxes(NamedTuple):
    """The boxes of all images, one per row.

    Attributes:
      boxes_px: f64[n, 4] y0, x0, y1, x1 in pixels from the top left corner of the image.
      hw: i64[n, 2], height and width of the image.
      image: i64[n], the number of the image.
      classes: i32[n].
      ignore: bool[n], neither an object nor background.
    """

    boxes_px: np.ndarray
    hw: np.ndarray
    image: np.ndarray
    classes: np.ndarray
    ignore: np.ndarray


class BoxesFormat(Placed):
    """A format of boxes. Boxes without area, and further copies of the same box, are left out and counted."""

    fractions: Annotated[bool, later(False)] = False
    """Coordinates are fractions of the image's width and height, not pixels."""
    clip: Annotated[bool, later(False)] = False
    """Boxes that stick out of their image are clipped to it, not refused."""

    def in_pixels(self, corners: np.ndarray, hw: np.ndarray, where: str) -> np.ndarray:
        """Corners f64[n, 4] (y0, x0, y1, x1) as given, in images of these sizes -> in pixels.

        Raises:
          UserError: fractions and pixels are mixed up.
        """
        count, area = len(corners), np.prod(corners[:, 2:] - corners[:, :2], axis=1)
        in_first = np.all(corners <= _FRACTION, axis=1) & (area > 0)
        if self.fractions:
            # Fractions whose numbers mean something else, for instance two corners, seem to reach up to 2.
            if count and np.mean(np.any(corners > 2 * _FRACTION, axis=1)) > MOST:
                beyond = int(np.count_nonzero(np.any(corners > _FRACTION, axis=1)))
                raise UserError(
                    f"{where}: {beyond} of {counted(count, 'box')} reach beyond 1, so they are not "
                    "fractions of their images; remove the option fractions"
                )
            return corners * np.tile(hw, 2)
        first = int(np.count_nonzero(in_first & (hw.min(axis=1) > 2)))
        if first > _STRAY * count:
            raise UserError(
                f"{where}: {first} of {counted(count, 'box')} lie within the first pixel of their image, so "
                "they are fractions of it and not pixels; "
                + ("set the option fractions=true" if first == count else "give all of them in one unit")
            )
        sides = corners[:, 2:] - corners[:, :2]
        if count and np.all(sides < 1) and np.any(sides > 0):
            raise UserError(
                f"{where}: all {counted(count, 'box')} are smaller than a pixel, so nothing can be learnt "
                "from them; give them in pixels, or set the option fractions=true if they are fractions of their image"
            )
        return corners

    def labels(self, boxes: Boxes, images: int, where: str, complaint: Callable[[int], str]) -> list[Label]:
        """The labels of this many images: all their boxes are valid and certain.

        Args:
          complaint: returns what to say about a row whose box lies outside its image.

        Raises:
          UserError: boxes lie more than a pixel outside, and are not to be clipped; or no box is left.
        """
        ends = np.tile(boxes.hw, 2)
        has_area = np.all(boxes.boxes_px[:, 2:] > boxes.boxes_px[:, :2], axis=1)
        outside = has_area & np.any((boxes.boxes_px < -OUTSIDE_PX) | (boxes.boxes_px > ends + OUTSIDE_PX), axis=1)
        if outside.any() and not self.clip:
            rows = np.flatnonzero(outside)
            raise refusal(list(map(complaint, rows[:MOST_NAMED].tolist())), len(rows))
        boxes_yxyx = np.clip(boxes.boxes_px / ends, 0, 1).astype(np.float32)
        is_inside = np.all(boxes_yxyx[:, 2:] > boxes_yxyx[:, :2], axis=1)
        copies = _copies(boxes) & is_inside
        kept = is_inside & ~copies
        _say_left_out(
            where,
            {
                "clipped to their image": outside & kept,
                "dropped, because they lie outside their image": has_area & ~is_inside,
                "dropped, because they have no area": ~has_area,
                "dropped as duplicates": copies,
            },
        )
        if len(kept) and not kept.any():
            raise UserError(
                f"{where}: none of {counted(len(kept), 'box')} is left, so nothing can be learnt from them; "
                "correct them"
            )
        order = np.flatnonzero(kept)[np.argsort(boxes.image[kept], kind="stable")]
        starts = np.searchsorted(boxes.image[order], np.arange(images + 1))
        slices = (order[start:stop] for start, stop in itertools.pairwise(starts.tolist()))
        return [_label(boxes_yxyx[rows], boxes.classes[rows], boxes.ignore[rows]) for rows in slices]


def kind_of(labels: Sequence[Label]) -> BoxesLabel:
    """The kind of these labels: at least one slot, even without boxes; boxes to ignore only if there are any."""
    most = max([1, *(len(label["classes"]) for label in labels)])
    return BoxesLabel(most, ignore=any(label["ignore"].any() for label in labels))


def _label(boxes_yxyx: np.ndarray, classes: np.ndarray, ignore: np.ndarray) -> Label:
    ones = np.ones(len(classes), np.float32)
    values = {"boxes_yxyx": boxes_yxyx, "classes": classes, "scores": ones, "valid": ones}
    return values | {"ignore": ignore.astype(np.float32), "present": PRESENT}


def _copies(boxes: Boxes) -> np.ndarray:
    """bool[n]: whether a box equals an earlier one on the same image, of the same class."""
    keys = np.column_stack([boxes.image, boxes.classes, boxes.ignore, boxes.boxes_px])
    order = np.lexsort(keys.T)  # is stable
    copies = np.zeros(len(keys), bool)
    copies[order[1:]] = np.all(keys[order[1:]] == keys[order[:-1]], axis=1)
    return copies


def _say_left_out(where: str, which: dict[str, np.ndarray]) -> None:
    told = [f"{np.count_nonzero(rows)} {what}" for what, rows in which.items() if rows.any()]
    if told:
        count = len(next(iter(which.values())))
        say(f"{where}, of {counted(count, 'box')}: {', '.join(told)}")
