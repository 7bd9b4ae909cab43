"""Statistics of a column's labels in one pass over them: sums, histograms and the most extreme images."""

from __future__ import annotations

import heapq
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import numpy as np

BINS = 20  # of a histogram over 0..1
MOST_BOXES = 50  # in one image; an image with more counts as having this many
SHOWN = 8  # images at each end of a ranking
A_DECADE, _DECADES = 80, (-3, 4)  # bins per decade of a scalar's histogram and its range, logarithmic, for each sign
_SAMPLED = 2**16  # values of a map that are put into the histogram, evenly spread

_MAGNITUDES = np.logspace(*_DECADES, A_DECADE * (_DECADES[1] - _DECADES[0]) + 1)
VALUE_EDGES = np.concatenate([-_MAGNITUDES[::-1], _MAGNITUDES])  # edges of the bins of `Statistics.values`
_SIDE = len(_MAGNITUDES) - 1  # bins of each sign; between them is one more, around 0
_COARSE = np.array([*range(0, _SIDE, A_DECADE // 20), _SIDE, *range(_SIDE + 1, 2 * _SIDE + 2, A_DECADE // 20)])

Ranked = list[tuple[float, int]]  # (value, position of the image)


class Bars(NamedTuple):
    """A histogram: counts between edges."""

    title: str
    edges: list[float]
    counts: list[int]
    logarithmic: bool = False

    @classmethod
    def of_shares(cls, title: str, counts: np.ndarray) -> Self:
        """One over 0..1, as `histogram` makes it."""
        return cls(title, np.linspace(0, 1, BINS + 1).tolist(), counts.tolist())


class Statistics:
    """Statistics of labels of one kind, which fills them (`LabelKind.count`); which attributes depends on the kind.

    Attributes:
      images, absent, empty: as in `labels.summary.Summary`.
      unreadable: images whose label could not be decoded.
      not_finite: values that are NaN or infinite.
      confidence: histogram over 0..1 of top probabilities, scores of boxes, or confidences of pixels.
      class_images: per class, images in which it is the top class, has a box or has a pixel.
      class_amount: per class, images, boxes or pixels.
      boxes: number of images by their number of boxes.
      ignored: boxes that are to be ignored; they are counted nowhere else.
      reach_yx: the farthest that a box reaches, as shares of the image's height and width.
      box_side: histogram over 0..1 of boxes by the root of their share of the image.
      pixels, known: all pixels of maps, and those that are labelled.
      known_share: histogram over 0..1 of images by their share of labelled pixels.
      values: histogram of a scalar map's values, or of boxes by the root of their share of the image, between
        VALUE_EDGES; values outside are counted in the first and last bins.
      low, high: the smallest and the largest of these values.
      total: sum of a map's scalars or vectors.
      flat: maps with (nearly) one value everywhere.
      away: vectors that point forward, away from the camera, by more than half of their length.
      off_unit: vectors whose length is not 1.
      most, least: the images at both ends of the ranking (see `LabelKind.rank`), most extreme first.
    """

    def __init__(self, classes: int) -> None:
        """Starts without images, for labels with this many classes."""
        self.images = self.absent = self.empty = self.unreadable = self.not_finite = 0
        self.class_images, self.class_amount = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
        self.confidence, self.box_side, self.known_share = (np.zeros(BINS, np.int64) for _ in range(3))
        self.boxes = np.zeros(MOST_BOXES + 1, np.int64)
        self.ignored, self.reach_yx = 0, np.zeros(2)
        self.pixels = self.known = self.flat = self.away = self.off_unit = 0
        self.values = np.zeros(len(VALUE_EDGES) - 1, np.int64)
        self.low, self.high, self.total = np.inf, -np.inf, np.zeros(3)
        self.most: Ranked = []
        self.least: Ranked = []

    def merge(self, other: Statistics) -> None:
        """Adds the statistics of other images."""
        for name, value in vars(other).items():
            setattr(self, name, _MERGE.get(name, operator.add)(getattr(self, name), value))

    @property
    def labelled(self) -> int:
        """Images whose label can be read; at least 1."""
        return max(self.images - self.absent - self.unreadable, 1)

    def count(self, classes: np.ndarray) -> None:
        """Adds the classes of one image, i[n]."""
        amount = np.bincount(classes, minlength=len(self.class_amount))[: len(self.class_amount)]
        self.class_amount += amount
        self.class_images += amount > 0

    def cover(self, known: np.ndarray) -> None:
        """Adds the labelled pixels of one image, bool[h, w]."""
        self.pixels += known.size
        self.known += (count := int(np.count_nonzero(known)))
        self.known_share += histogram(count / known.size)

    def spread(self, values: np.ndarray) -> None:
        """Adds values, f[n], of which there are some."""
        step = max(1, len(values) // _SAMPLED)
        bins = np.clip(np.searchsorted(VALUE_EDGES, values[::step]) - 1, 0, len(self.values) - 1)
        self.values += step * np.bincount(bins, minlength=len(self.values))
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def ranked(self, value: float, position: int) -> None:
        """Adds an image to the ranking."""
        self.most = heapq.nlargest(SHOWN, [*self.most, (value, position)])
        self.least = heapq.nsmallest(SHOWN, [*self.least, (value, position)])

    def quantile(self, share: float) -> float:
        """The quantile of `values`, accurate to half a bin (1.5 %); 0 if there are none."""
        below = np.cumsum(self.values)
        if not below[-1]:
            return 0.0
        index = int(np.searchsorted(below, share * below[-1]))
        return float(np.clip(VALUE_EDGES[index : index + 2].mean(), self.low, self.high))

    def histogram_of_values(self) -> tuple[list[float], list[int]]:
        """Edges and counts of `values` in coarser bins, without empty ones at the ends."""
        counts = np.add.reduceat(self.values, _COARSE[:-1])
        filled = np.flatnonzero(counts)
        first, last = (int(filled[0]), int(filled[-1])) if filled.size else (0, len(counts) - 1)
        return VALUE_EDGES[_COARSE[first : last + 2]].tolist(), counts[first : last + 1].tolist()


def histogram(shares: Any) -> np.ndarray:
    """i64[BINS], the histogram of values in 0..1."""
    index = np.clip((np.atleast_1d(shares) * BINS).astype(np.int64), 0, BINS - 1)
    return np.bincount(index.ravel(), minlength=BINS)


_MERGE: Mapping[str, Callable[[Any, Any], Any]] = {
    "low": min,
    "high": max,
    "reach_yx": np.maximum,
    "most": lambda a, b: heapq.nlargest(SHOWN, [*a, *b]),
    "least": lambda a, b: heapq.nsmallest(SHOWN, [*a, *b]),
}
