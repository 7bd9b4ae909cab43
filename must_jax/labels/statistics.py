"""Statistics of a column's labels in one pass over them: sums, histograms and the most extreme images."""

from __future__ import annotations

import heapq
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from must_jax.data.kinds import BoxesLabel, LabelKind, MapLabel, VectorLabel, objects

BINS = 20  # of a histogram over 0..1
MOST_BOXES = 50  # in one image; an image with more counts as having this many
SHOWN = 8  # images at each end of a ranking
A_DECADE, _DECADES = 80, (-3, 4)  # bins per decade of a scalar's histogram and its range, logarithmic, for each sign
AWAY = 0.5  # z of a normal: a visible surface faces its ray, which is mostly within 30 degrees of the optical axis
_SAMPLED = 2**16  # values of a map that are put into the histogram, evenly spread
FLAT = 1e-3  # a map that varies by no more than this share of its median counts as constant

_MAGNITUDES = np.logspace(*_DECADES, A_DECADE * (_DECADES[1] - _DECADES[0]) + 1)
QUANTILES = (0.01, 0.05, 0.5, 0.95, 0.99)
VALUE_EDGES = np.concatenate([-_MAGNITUDES[::-1], _MAGNITUDES])  # edges of the bins of `Statistics.values`
_SIDE = len(_MAGNITUDES) - 1  # bins of each sign; between them is one more, around 0
_COARSE = np.array([*range(0, _SIDE, A_DECADE // 20), _SIDE, *range(_SIDE + 1, 2 * _SIDE + 2, A_DECADE // 20)])

Ranked = list[tuple[float, int]]  # (value, position of the image)


class Statistics:
    """Statistics of labels of one kind. Which attributes are filled depends on the kind.

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
      away: vectors that point forward, away from the camera, by more than AWAY.
      off_unit: vectors whose length is not 1.
      most, least: the images at both ends of the ranking (see `rank`), most extreme first.
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

    def add(self, kind: LabelKind, position: int, label: Mapping[str, np.ndarray]) -> None:
        """Adds the label of the image at `position`."""
        self.images += 1
        if not label["present"]:
            self.absent += 1
            return
        broken = sum(int(np.count_nonzero(~np.isfinite(values))) for values in label.values())
        if broken:  # nothing else can be said about it
            self.not_finite += broken
            return
        match kind:
            case VectorLabel():
                top = int(np.argmax(label["probs"]))
                self._count(np.array([top]))
                self.confidence += _histogram(label["probs"][top])
            case BoxesLabel():
                self._add_boxes(label)
            case MapLabel(content="ids"):
                ids = label[kind.field]
                self._cover(ids != kind.ignore_id)
                self._count(ids[ids != kind.ignore_id])
                if "confidence" in label:
                    self.confidence += _histogram(label["confidence"])
            case MapLabel():
                known = label["valid"] > 0
                self._cover(known)
                if known.any():
                    (self._add_scalars if kind.content == "scalar" else self._add_vectors)(label[kind.field][known])
        if (value := rank(kind, label)) is not None:
            self.most = heapq.nlargest(SHOWN, [*self.most, (value, position)])
            self.least = heapq.nsmallest(SHOWN, [*self.least, (value, position)])

    def rank_name(self, kind: LabelKind) -> str:
        """What `rank` means for labels like these."""
        match kind:
            case VectorLabel():
                return "top probability"
            case BoxesLabel():
                return "mean score"
            case MapLabel(content="ids"):
                return "mean confidence" if self.confidence.any() else "share of labelled pixels"
            case MapLabel():
                return "variety of directions" if kind.content == "vector" else "range of values over their median"

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

    def readable(self, kind: LabelKind, classes: Sequence[str]) -> dict[str, Any]:
        """The statistics as JSON values, shares in percent; only those that labels of this kind have."""
        labelled = max(self.images - self.absent - self.unreadable, 1)
        values: dict[str, Any] = {
            "images": self.images,
            "absent": self.absent,
            "unreadable": self.unreadable,
            "not_finite": self.not_finite,
            "empty_share": 100 * self.empty / labelled,
        }
        if self.confidence.any():
            values["confidence"] = self.confidence.tolist()
        if len(classes):
            counts = zip(classes, self.class_images.tolist(), self.class_amount.tolist(), strict=True)
            values["classes"] = {name: {"images": images, "labels": amount} for name, images, amount in counts}
        match kind:
            case BoxesLabel():
                values["boxes_an_image"] = float(self.boxes @ np.arange(MOST_BOXES + 1)) / labelled
                values |= {"images_by_boxes": self.boxes.tolist(), "box_side": self.box_side.tolist()}
            case MapLabel():
                values["labelled_pixels"] = 100 * self.known / max(self.pixels, 1)
                values["images_by_labelled_pixels"] = self.known_share.tolist()
        if isinstance(kind, MapLabel) and kind.content != "ids" and self.known:
            values["one_value_only"] = 100 * self.flat / labelled
            if kind.content == "scalar":
                values |= {"min": self.low, "max": self.high, "mean": float(self.total[0] / self.known)}
                values["quantiles"] = {f"{share:g}": self.quantile(share) for share in QUANTILES}
            else:
                values["mean_vector"] = (self.total / self.known).tolist()
                values |= {"away": 100 * self.away / self.known, "not_of_length_1": 100 * self.off_unit / self.known}
        return values

    def _count(self, classes: np.ndarray) -> None:
        amount = np.bincount(classes, minlength=len(self.class_amount))[: len(self.class_amount)]
        self.class_amount += amount
        self.class_images += amount > 0

    def _cover(self, known: np.ndarray) -> None:
        self.pixels += known.size
        self.known += (count := int(np.count_nonzero(known)))
        self.empty += not count
        self.known_share += _histogram(count / known.size)

    def _add_boxes(self, label: Mapping[str, np.ndarray]) -> None:
        real = objects(label)
        self.empty += not real.any()
        self.boxes[min(int(np.count_nonzero(real)), MOST_BOXES)] += 1
        self._count(label["classes"][real])
        self.confidence += _histogram(label["scores"][real])
        low, high = label["boxes_yxyx"][real, :2], label["boxes_yxyx"][real, 2:]
        sides = np.sqrt(np.prod(np.maximum(high - low, 0), axis=1))
        self.box_side += _histogram(sides)
        self.ignored += int(np.count_nonzero((label["valid"] > 0) & ~real))
        if real.any():
            self._spread(sides)
            self.reach_yx = np.maximum(self.reach_yx, high.max(axis=0))

    def _spread(self, values: np.ndarray) -> None:
        step = max(1, len(values) // _SAMPLED)
        bins = np.clip(np.searchsorted(VALUE_EDGES, values[::step]) - 1, 0, len(self.values) - 1)
        self.values += step * np.bincount(bins, minlength=len(self.values))
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def _add_scalars(self, values: np.ndarray) -> None:
        self._spread(values)
        self.total += float(values.sum(dtype=np.float64))
        self.flat += bool(np.ptp(values) <= FLAT * abs(float(np.median(values))))

    def _add_vectors(self, vectors: np.ndarray) -> None:
        mean = vectors.mean(0, dtype=np.float64)
        self.total += len(vectors) * mean
        self.flat += bool(np.linalg.norm(mean) > 1 - FLAT)
        self.away += int(np.count_nonzero(vectors[:, 2] > AWAY))
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))  # takes a tenth of the time of `np.linalg.norm`
        self.off_unit += int(np.count_nonzero(np.abs(lengths - 1) > 0.1))


def rank(kind: LabelKind, label: Mapping[str, np.ndarray]) -> float | None:
    """How sure a label is, or how varied or complete if it has no confidence; None if there is nothing to rank."""
    match kind:
        case VectorLabel():
            return float(label["probs"].max())
        case BoxesLabel():
            scores = label["scores"][objects(label)]
            return float(scores.mean()) if scores.size else None
        case MapLabel(content="ids"):
            return float(np.mean(label["confidence"] if "confidence" in label else label[kind.field] != kind.ignore_id))
        case MapLabel():
            known = label[kind.field][label["valid"] > 0]
            if not len(known):
                return None
            if kind.content == "vector":
                return float(1 - np.linalg.norm(known.mean(0)))
            low, middle, high = np.percentile(known, (5, 50, 95))
            return float((high - low) / max(abs(middle), 1e-6))


def _histogram(shares: Any) -> np.ndarray:
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
