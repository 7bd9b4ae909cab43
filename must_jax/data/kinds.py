"""The three kinds of label that data can carry. Data code knows kinds; it never knows a task by name.

A *label* is a dict of NumPy arrays for one image; a task says which kind its labels are. Shape legend:
`K` classes, `N` box slots, `h w` map rows and columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

IGNORE_ID, WIDE_IGNORE_ID = 255, 65535  # codes of "no label" in 8-bit and 16-bit maps of ids


@dataclass(frozen=True)
class VectorLabel:
    """One vector per image: `{"probs": f32[K]}`. No geometric transform changes it.

    Attributes:
      top_k: only the k largest numbers are stored, and the sum of all others, which are then equal; 0 = all. This is
        about storage, not meaning.
    """

    size: int
    top_k: int = dataclasses.field(default=0, compare=False)

    def __post_init__(self) -> None:
        if self.top_k and not 0 < self.top_k < self.size:
            raise ValueError(f"{self.top_k} of {self.size} numbers cannot be kept alone")


@dataclass(frozen=True)
class BoxesLabel:
    """Boxes in padded slots.

    `{"boxes_yxyx": f32[N, 4], "classes": i32[N], "scores": f32[N], "valid": f32[N], "ignore": f32[N]}`; coordinates
    are fractions (0..1) of the whole image, `valid` is 1 for a real box. Ground truth has scores of 1. A valid box with
    `ignore` 1 is neither an object nor background: a crowd (COCO), an object marked difficult (VOC).

    Attributes:
      ignore: whether `ignore` is stored; if not, no stored box has it. This is about storage, not meaning.
    """

    max_boxes: int
    ignore: bool = dataclasses.field(default=False, compare=False)


@dataclass(frozen=True)
class MapLabel:
    """A dense map, `{field: array, ["valid": f32[h, w]]}`, over the whole image.

    Attributes:
      content:
        "ids":    `{field: i32[h, w]}`, `ignore_id` where there is no label; nearest-neighbour sampling.
        "scalar": `{field: f32[h, w], "valid": f32[h, w]}`; linear sampling.
        "vector": `{field: f32[h, w, 3], "valid": f32[h, w]}`, unit vectors in the camera frame (x right, y down,
                  z forward); linear sampling then renormalised; a horizontal flip negates x.
      confidence: for "ids" only: ids are stored everywhere, with `"confidence": f32[h, w]`, 0..1, beside them, and
        whoever reads them applies a threshold. This is about storage, not meaning. Batches never have it.
      wide: for "ids" only: 16-bit ids, for more than 255 classes.
    """

    field: str
    content: Literal["ids", "scalar", "vector"]
    unit: str = ""
    confidence: bool = dataclasses.field(default=False, compare=False)
    wide: bool = False

    @property
    def ignore_id(self) -> int:
        """The id of pixels without a label."""
        return WIDE_IGNORE_ID if self.wide else IGNORE_ID


LabelKind = VectorLabel | BoxesLabel | MapLabel


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """i64[count]: the indices of the largest of f[K], the largest first; of equal ones, those that come first."""
    # Negative, since selecting the last ones takes ten times as long where all others are equal.
    candidates = np.flatnonzero(-values <= np.partition(-values, count - 1)[count - 1])
    return candidates[np.argsort(-values[candidates], kind="stable")[:count]]


def objects(boxes: Mapping[str, np.ndarray]) -> np.ndarray:
    """bool[N]: which slots of a boxes label hold an object, not padding or a box to ignore."""
    return (boxes["valid"] > 0) & (boxes["ignore"] == 0)


def is_empty(kind: LabelKind, label: Mapping[str, np.ndarray]) -> bool:
    """Whether a label says nothing, because nothing was found or sure enough: no box, no pixel with a class."""
    match kind:
        case BoxesLabel():
            return not objects(label).any()
        case MapLabel(content="ids"):
            return bool(np.all(label[kind.field] == kind.ignore_id))
    return False


def without_empty_slots(kind: LabelKind, label: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The label as it is, but boxes without the rows that only fill slots."""
    if not isinstance(kind, BoxesLabel):
        return dict(label)
    real = label["valid"] > 0
    return {name: values[real] if np.ndim(values) else values for name, values in label.items()}
