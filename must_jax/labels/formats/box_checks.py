"""Shared by the formats of boxes: checks whether boxes are as declared, and makes the labels of their images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from must_jax.data.kinds import BoxesLabel, Label
from must_jax.errors import UserError
from must_jax.labels.formats.base import PRESENT, Placed
from must_jax.labels.formats.refusals import MOST_NAMED, refusal
from must_jax.progress import counted, say

Rows = slice | np.ndarray
OUTSIDE_PX = 1.0  # how far boxes may stick out because of rounding; more is a mistake
MOST = 0.5  # share of all boxes that counts as most of them
_TOGETHER = 2**17  # boxes whose numbers are worked on together
_FRACTION = 1.01  # largest possible fraction of an image, however it is rounded
_STRAY = 0.05  # up to this share of all boxes may really lie in the first pixel


def later(default: object) -> Any:
    """The field of an option that was added later: older columns count as made with the default."""
    return Field(exclude_if=lambda value: value == default)


@dataclass(frozen=True, slots=True)
class Boxes:
    """The boxes of all images, one per row: there may be many millions, so the numbers of some are asked for at a time.

    Attributes:
      corners: rows -> f64[n, 4] y0, x0, y1, x1, from the top left corner of the image.
      sizes: i32[m, 2], height and width of the images.
      image: i32[n], the number of the image.
      classes: i32[n].
      ignore: bool[n], neither an object nor background.
    """

    corners: Callable[[Rows], np.ndarray]
    sizes: np.ndarray
    image: np.ndarray
    classes: np.ndarray
    ignore: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    def hw(self, rows: Rows) -> np.ndarray:
        """i64[n, 2], height and width of the image of each."""
        return self.sizes[self.image[rows]].astype(np.int64)

    def parts(self) -> Iterator[slice]:
        """All rows, some at a time."""
        return (slice(start, min(start + _TOGETHER, len(self))) for start in range(0, len(self), _TOGETHER))


class ImageLabels(Sequence[Label]):
    """The labels of all images, in 21 bytes a box: all their boxes are valid and certain.

    Args:
      ends: i64[m], the number of boxes up to and including those of each image.
    """

    def __init__(self, boxes_yxyx: np.ndarray, classes: np.ndarray, ignore: np.ndarray, ends: np.ndarray) -> None:
        self._boxes_yxyx, self._classes, self._ignore = boxes_yxyx, classes, ignore
        self._ends = np.concatenate([[0], ends])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Label:  # type: ignore[override]
        rows = slice(self._ends[index], self._ends[index + 1])
        classes = self._classes[rows]
        ones = np.ones(len(classes), np.float32)
        values = {"boxes_yxyx": self._boxes_yxyx[rows], "classes": classes, "scores": ones, "valid": ones}
        return values | {"ignore": self._ignore[rows].astype(np.float32), "present": PRESENT}

    @property
    def kind(self) -> BoxesLabel:
        """At least one slot, even without boxes; boxes to ignore only if there are any."""
        return BoxesLabel(max(1, int(np.diff(self._ends).max(initial=0))), ignore=bool(self._ignore.any()))


class BoxesFormat(Placed):
    """A format of boxes. Boxes without area, and further copies of the same box, are left out and counted."""

    fractions: Annotated[bool, later(False)] = False
    """Coordinates are fractions of the image's width and height, not pixels."""
    clip: Annotated[bool, later(False)] = False
    """Boxes that stick out of their image are clipped to it, not refused."""

    def in_pixels(self, boxes: Boxes, where: str) -> Boxes:
        """Boxes as given -> in pixels.

        Raises:
          UserError: fractions and pixels are mixed up.
        """
        count, first, beyond, far_beyond, all_small, any_side = len(boxes), 0, 0, 0, True, False
        for rows in boxes.parts():
            corners, hw = boxes.corners(rows), boxes.hw(rows)
            sides = corners[:, 2:] - corners[:, :2]
            in_first = np.all(corners <= _FRACTION, axis=1) & (np.prod(sides, axis=1) > 0) & (hw.min(axis=1) > 2)
            first += int(np.count_nonzero(in_first))
            largest = corners.max(axis=1)
            beyond += int(np.count_nonzero(largest > _FRACTION))
            far_beyond += int(np.count_nonzero(largest > 2 * _FRACTION))
            all_small &= bool(np.all(sides < 1))
            any_side |= bool(np.any(sides > 0))
        if self.fractions:
            # Fractions whose numbers mean something else, for instance two corners, seem to reach up to 2.
            if count and far_beyond > MOST * count:
                raise UserError(
                    f"{where}: {beyond} of {counted(count, 'box')} reach beyond 1, so they are not "
                    "fractions of their images; remove the option fractions"
                )
            return replace(boxes, corners=lambda rows: boxes.corners(rows) * np.tile(boxes.hw(rows), 2))
        if first > _STRAY * count:
            raise UserError(
                f"{where}: {first} of {counted(count, 'box')} lie within the first pixel of their image, so "
                "they are fractions of it and not pixels; "
                + ("set the option fractions=true" if first == count else "give all of them in one unit")
            )
        if count and all_small and any_side:
            raise UserError(
                f"{where}: all {counted(count, 'box')} are smaller than a pixel, so nothing can be learnt "
                "from them; give them in pixels, or set the option fractions=true if they are fractions of their image"
            )
        return boxes

    def labels(self, boxes: Boxes, where: str, complaint: Callable[[int], str]) -> ImageLabels:
        """The labels of all images, from boxes in pixels.

        Args:
          complaint: returns what to say about a row whose box lies outside its image.

        Raises:
          UserError: boxes lie more than a pixel outside, and are not to be clipped; or no box is left.
        """
        if not self.clip:
            rows_outside = np.concatenate(
                [np.flatnonzero(_outside(boxes, rows)) + rows.start for rows in boxes.parts()] or [np.zeros(0, int)]
            )
            if len(rows_outside):
                raise refusal(list(map(complaint, rows_outside[:MOST_NAMED].tolist())), len(rows_outside))
        order = np.argsort(boxes.image, kind="stable")
        ends = np.cumsum(np.bincount(boxes.image, minlength=len(boxes.sizes)))
        made: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        left, told = np.zeros(len(boxes.sizes), np.int64), Counter[str]()
        for first, last in _of_whole_images(ends):
            rows = order[first:last]
            corners = boxes.corners(rows)
            has_area = np.all(corners[:, 2:] > corners[:, :2], axis=1)
            boxes_yxyx = np.clip(corners / np.tile(boxes.hw(rows), 2), 0, 1).astype(np.float32)
            is_inside = np.all(boxes_yxyx[:, 2:] > boxes_yxyx[:, :2], axis=1)
            classes, ignore = boxes.classes[rows], boxes.ignore[rows]
            copies = _copies(np.column_stack([boxes.image[rows], classes, ignore, corners])) & is_inside
            kept = is_inside & ~copies
            told["clipped to their image"] += int(np.count_nonzero(_outside(boxes, rows) & kept))
            told["dropped, because they lie outside their image"] += int(np.count_nonzero(has_area & ~is_inside))
            told["dropped, because they have no area"] += int(np.count_nonzero(~has_area))
            told["dropped as duplicates"] += int(np.count_nonzero(copies))
            left += np.bincount(boxes.image[rows[kept]], minlength=len(left))
            made.append((boxes_yxyx[kept], classes[kept], ignore[kept]))
        if parts := [f"{number} {what}" for what, number in told.items() if number]:
            say(f"{where}, of {counted(len(boxes), 'box')}: {', '.join(parts)}")
        if len(boxes) and not left.any():
            raise UserError(
                f"{where}: none of {counted(len(boxes), 'box')} is left, so nothing can be learnt from them; "
                "correct them"
            )
        nothing = (np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool))
        boxes_yxyx, classes, ignore = map(np.concatenate, zip(nothing, *made, strict=True))
        return ImageLabels(boxes_yxyx, classes, ignore, np.cumsum(left))


def _of_whole_images(ends: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last + 1 of some boxes at a time, sorted by image: those of an image are in one part."""
    first = 0
    while len(ends) and first < ends[-1]:
        one, many = np.searchsorted(ends, [first, first + _TOGETHER], "right")
        last = int(ends[max(one, many - 1)])
        yield first, last
        first = last


def _outside(boxes: Boxes, rows: Rows) -> np.ndarray:
    """bool[n]: whether a box with an area sticks out of its image, by more than rounding."""
    corners = boxes.corners(rows)
    has_area = np.all(corners[:, 2:] > corners[:, :2], axis=1)
    ends = np.tile(boxes.hw(rows), 2)
    return has_area & np.any((corners < -OUTSIDE_PX) | (corners > ends + OUTSIDE_PX), axis=1)


def _copies(keys: np.ndarray) -> np.ndarray:
    """bool[n]: whether a row equals an earlier one."""
    order = np.lexsort(keys.T)  # is stable
    copies = np.zeros(len(keys), bool)
    copies[order[1:]] = np.all(keys[order[1:]] == keys[order[:-1]], axis=1)
    return copies
