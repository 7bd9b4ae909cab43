"""A column in a few additive numbers: enough to detect a teacher whose labels are useless."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pydantic

from must_jax.data.kinds import LabelKind
from must_jax.data.kinds.base import not_finite


class Summary(pydantic.BaseModel):
    """Sums over images; the summaries of two sets add up to that of both.

    Attributes:
      images: all images, including the absent ones.
      absent: images that could not be labelled (`present` = 0).
      empty: labelled images with nothing in them: no box, or no labelled pixel.
      images_with_class: per class, images in which it is the top class, has a box or has a pixel.
      confidence, confident: sum and number of confidences: top probabilities, or scores of boxes. Maps have none.
      covered: sum over images of the share of labelled pixels; maps only.
      not_finite: values that are NaN or infinite; images that have any are counted in `images`, but nowhere else.
    """

    images: int = 0
    absent: int = 0
    empty: int = 0
    images_with_class: list[int] = []
    confidence: float = 0.0
    confident: int = 0
    covered: float = 0.0
    not_finite: int = 0

    def add(self, other: Summary) -> Summary:
        sums = {
            name: getattr(self, name) + getattr(other, name) for name in type(self).model_fields if name != _BY_CLASS
        }
        longer, shorter = sorted((self.images_with_class, other.images_with_class), key=len, reverse=True)
        padded = shorter + [0] * (len(longer) - len(shorter))
        return Summary(**sums, images_with_class=[a + b for a, b in zip(longer, padded, strict=True)])

    def told_classes(self, kind: LabelKind, classes: tuple[str, ...]) -> str:
        """ "2 classes, images with each: cat 6, dog 6"; of many, the most frequent, and how many have no images."""
        counts = self.images_with_class + [0] * (len(classes) - len(self.images_with_class))
        pairs = list(zip(classes, counts, strict=False))
        never = [name for name, count in pairs if not count]
        few = len(classes) <= _MOST_CLASSES
        told = pairs if few else sorted(pairs, key=lambda pair: -pair[1])[:_MOST_CLASSES]
        listed = ", ".join(f"{name} {count:,}" for name, count in told)
        how_many = f"{len(classes)} classes" if len(classes) > 1 else "1 class"
        parts = [f"{how_many}, images with each: {listed}{'' if few else ', ...'}"]
        if never and not few:
            parts.append(f"{len(never)} without any: {', '.join(never[:5])}{', ...' * (len(never) > 5)}")
        if len(classes) - len(never) == 1 and not kind.one_class_teaches:
            parts.append("one class alone teaches nothing")
        if alike := _alike(classes):
            parts.append(f"{' and '.join(map(repr, alike))} are separate classes whose names are spelt nearly the same")
        return "; ".join(parts)

    def readable(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Shares in percent, for result.json and reports."""
        labelled = max(self.images - self.absent, 1)
        shares: dict[str, Any] = {
            "images": self.images,
            "absent": self.absent,
            "empty_share": 100 * self.empty / labelled,
        }
        if self.confident:
            shares["mean_confidence"] = self.confidence / self.confident
        if self.covered:
            shares["labelled_pixels_per_image"] = 100 * self.covered / labelled  # a mean of the images' shares
        if classes:
            counts = self.images_with_class + [0] * (len(classes) - len(self.images_with_class))
            shares["images_with_class"] = dict(zip(classes, counts, strict=True))
            shares["class_coverage"] = 100 * sum(count > 0 for count in counts) / len(classes)
        return shares


_BY_CLASS = "images_with_class"
_MOST_CLASSES = 20  # listed at most


def summarize(kind: LabelKind, label: Mapping[str, np.ndarray]) -> Summary:
    """The summary of one image's label."""
    if not label["present"]:
        return Summary(images=1, absent=1)
    if broken := not_finite(label):
        return Summary(images=1, not_finite=broken)
    contents = kind.contents(label)
    return Summary(
        images=1,
        empty=int(kind.is_empty(label)),
        images_with_class=_marked(contents.classes) if len(contents.classes) else [],
        confidence=float(contents.confidence.sum()),
        confident=len(contents.confidence),
        covered=float(contents.known.mean()) if contents.known is not None else 0.0,
    )


def _marked(classes: np.ndarray) -> list[int]:
    """Class indices to 0 or 1 per class: [2, 0, 2] -> [1, 0, 1]."""
    return np.minimum(np.bincount(np.asarray(classes, np.int64)), 1).tolist()


def _alike(classes: tuple[str, ...]) -> tuple[str, str] | None:
    """The first two names that differ only in case, or in spaces, hyphens and underscores between the same words."""
    seen: dict[str, str] = {}
    for name in classes:
        key = re.sub(r"[\s_-]+", " ", name.casefold()).strip()
        if seen.setdefault(key, name) != name:
            return seen[key], name
    return None
