"""Boxes in padded slots."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from must_jax.data.augment import Geometry, moved
from must_jax.data.confidence import Least, sure
from must_jax.data.kinds.base import Contents, Label, LabelKind, check_ids
from must_jax.data.kinds.statistics import MOST_BOXES, Bars, Statistics, histogram
from must_jax.data.letterbox import Content
from must_jax.progress import counted, rounded

_MIN_VISIBLE = 0.25  # share of a box's area that must remain
_BOX = 4 * 4 + 2 + 4  # bytes: corners, class and score as TFDS stores them
_MANY, _FAR = 20, 0.6  # of this many boxes, at least one should reach farther than this share of its image


@dataclass(frozen=True)
class BoxesLabel(LabelKind):
    """`{"boxes_yxyx": f32[N, 4], "classes": i32[N], "scores": f32[N], "valid": f32[N], "ignore": f32[N]}`.

    Coordinates are fractions (0..1) of the whole image, `valid` is 1 for a real box. Ground truth has scores of 1. A
    valid box with `ignore` 1 is neither an object nor background: a crowd (COCO), an object marked difficult (VOC).

    Stored as `boxes_yxyx` float32 [n, 4], `classes` uint16 [n], `scores` float16 [n] and, if some are to be ignored,
    `ignore` uint8 [n].

    Attributes:
      ignore: whether `ignore` is stored; if not, no stored box has it. This is about storage, not meaning.
    """

    max_boxes: int
    ignore: bool = dataclasses.field(default=False, compare=False)

    MARKS: ClassVar[Mapping[str, str]] = {"kind": "boxes"}
    called: ClassVar[str] = "boxes"
    things: ClassVar[str] = "boxes"
    sure_by: ClassVar[str] = "score"
    one_class_teaches: ClassVar[bool] = True

    def layout(self) -> LabelKind:
        return dataclasses.replace(self, max_boxes=0)

    def features(self) -> dict[str, Any]:
        ignore = {"ignore": tfds.features.Tensor(shape=(None,), dtype=np.uint8)} if self.ignore else {}
        return {
            "boxes_yxyx": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
            "classes": tfds.features.Tensor(shape=(None,), dtype=np.uint16),
            "scores": tfds.features.Tensor(shape=(None,), dtype=np.float16),
            **ignore,
            "present": np.uint8,
        }

    def absent(self, map_hw: tuple[int, int]) -> Label:
        slots = self.max_boxes
        return {
            "present": np.float32(0),
            "boxes_yxyx": np.zeros((slots, 4), np.float32),
            "classes": np.zeros(slots, np.int32),
            **{name: np.zeros(slots, np.float32) for name in ("scores", "valid", "ignore")},
        }

    def most_bytes(self, map_hw: tuple[int, int]) -> int:
        return (_BOX + self.ignore) * self.max_boxes

    def _encoded(self, label: Mapping[str, np.ndarray]) -> dict[str, Any]:
        classes = np.asarray(label["classes"])
        real = np.asarray(label.get("valid", np.ones(classes.shape))) > 0
        record = {
            "boxes_yxyx": np.asarray(label["boxes_yxyx"], np.float32)[real],
            "classes": classes[real].astype(np.uint16),
            "scores": np.asarray(label.get("scores", np.ones(classes.shape)), np.float16)[real],
        }
        ignore = np.asarray(label.get("ignore", np.zeros(classes.shape)))[real] > 0
        if self.ignore:
            record["ignore"] = ignore.astype(np.uint8)
        elif ignore.any():
            raise ValueError(f"{self} has no place for boxes to ignore")
        return record

    def _decoded(self, record: Mapping[str, Any], classes: int) -> dict[str, Any]:
        ids = np.asarray(record["classes"], np.int32)
        check_ids(ids, classes)
        return {
            "boxes_yxyx": np.asarray(record["boxes_yxyx"], np.float32).reshape(-1, 4),
            "classes": ids,
            "scores": np.asarray(record["scores"], np.float32),
            "valid": np.ones(ids.shape, np.float32),
            "ignore": np.asarray(record.get("ignore", np.zeros(ids.shape)), np.float32),
        }

    def placed(self, geometry: Geometry, label: Label, map_hw: tuple[int, int]) -> Label:
        """Boxes are clipped to the input, and dropped if less than a quarter of their area remains, or a thin sliver.

        Boxes to ignore are dropped only if nothing remains of them. The largest ones fill the slots, before any box to
        ignore.
        """
        whole = moved(geometry, label["boxes_yxyx"])
        clipped = np.minimum(np.maximum(whole, 0), 1)
        height, width = (clipped[:, 2:] - clipped[:, :2]).T
        area = height * width
        thick = np.minimum(height * geometry.y.out, width * geometry.x.out) >= 1
        ignore = label["ignore"] > 0
        seen = area >= _MIN_VISIBLE * (whole[:, 2] - whole[:, 0]) * (whole[:, 3] - whole[:, 1])
        kept = np.flatnonzero(thick & (ignore | seen))
        if len(kept) > self.max_boxes:
            kept = np.sort(kept[np.lexsort((-area[kept], ignore[kept]))[: self.max_boxes]])
        out = self.absent((0, 0)) | {"present": label["present"]}
        for name in ("boxes_yxyx", "classes", "scores", "valid", "ignore"):
            out[name][: len(kept)] = (clipped if name == "boxes_yxyx" else label[name])[kept]
        return out

    def on_image(self, prediction: Mapping[str, np.ndarray], content: Content, hw: tuple[int, int]) -> Label:
        boxes = np.clip(prediction["boxes_yxyx"] / np.tile(np.array(content, np.float32), 2), 0, 1)
        inside = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
        return {**prediction, "boxes_yxyx": boxes, "valid": prediction["valid"] * inside}

    def turned(self, label: Label, transposed: bool, reversed_y: bool, reversed_x: bool) -> Label:
        corners = label["boxes_yxyx"].reshape(-1, 2, 2)  # the first and the second corner; y and x
        corners = corners[..., ::-1] if transposed else corners
        turned = np.where((reversed_y, reversed_x), 1 - corners[:, ::-1], corners)
        return label | {"boxes_yxyx": turned.reshape(-1, 4)}

    def without_empty_slots(self, label: Mapping[str, np.ndarray]) -> Label:
        real = label["valid"] > 0
        return {name: values[real] if np.ndim(values) else values for name, values in label.items()}

    def _confident(self, label: Label, least: Least) -> Label:
        kept = sure(label["scores"], label["classes"], least)
        return label | {name: label[name][kept] for name in label if name != "present"}

    def is_empty(self, label: Mapping[str, np.ndarray]) -> bool:
        return not objects(label).any()

    def contents(self, label: Mapping[str, np.ndarray]) -> Contents:
        real = objects(label)
        return Contents(label["classes"][real], label["scores"][real])

    def rank(self, label: Mapping[str, np.ndarray]) -> float | None:
        scores = label["scores"][objects(label)]
        return float(scores.mean()) if scores.size else None

    def rank_name(self, statistics: Statistics) -> str:
        return "mean score"

    def _count(self, label: Mapping[str, np.ndarray], into: Statistics) -> None:
        super()._count(label, into)
        real = objects(label)
        into.boxes[min(int(np.count_nonzero(real)), MOST_BOXES)] += 1
        into.ignored += int(np.count_nonzero((label["valid"] > 0) & ~real))
        low, high = label["boxes_yxyx"][real, :2], label["boxes_yxyx"][real, 2:]
        sides = np.sqrt(np.prod(np.maximum(high - low, 0), axis=1))
        into.box_side += histogram(sides)
        if real.any():
            into.spread(sides)
            into.reach_yx = np.maximum(into.reach_yx, high.max(axis=0))

    def readable(self, statistics: Statistics, classes: Sequence[str]) -> dict[str, Any]:
        return {
            **super().readable(statistics, classes),
            "boxes_an_image": float(statistics.boxes @ np.arange(MOST_BOXES + 1)) / statistics.labelled,
            "images_by_boxes": statistics.boxes.tolist(),
            "box_side": statistics.box_side.tolist(),
        }

    def told(self, statistics: Statistics, classes: Sequence[str]) -> list[str]:
        boxes, labelled = int(statistics.class_amount.sum()), max(statistics.images - statistics.absent, 1)
        filled = np.flatnonzero(statistics.boxes)
        most = f"{filled[-1]}{' or more' * (int(filled[-1]) == MOST_BOXES)}" if filled.size else "0"
        parts = [f"{counted(boxes, 'box')}, {boxes / labelled:.3g} per image, at most {most}"]
        if statistics.ignored:
            parts.append(f"{counted(statistics.ignored, 'box')} to ignore")
        if not boxes:
            return parts
        low, middle, high = (100 * side for side in (statistics.low, statistics.quantile(0.5), statistics.high))
        down, across = 100 * statistics.reach_yx
        parts.append(
            f"size (root of the area) from {rounded(low, 2)} over about {rounded(middle, 2)} (median) to "
            f"{rounded(high)} % of the image's, reaching to {across:.0f} % of the width and {down:.0f} % of the height"
        )
        if boxes >= _MANY and statistics.reach_yx.max() < _FAR:
            parts.append("no box in the right or lower part of an image: are they in pixels of images of this size?")
        return parts

    def histograms(self, statistics: Statistics) -> list[Bars]:
        last = int(np.max(np.flatnonzero(statistics.boxes), initial=0))
        edges = (np.arange(last + 2) - 0.5).tolist()
        return [
            *super().histograms(statistics),
            Bars("images by number of boxes", edges, statistics.boxes[: last + 1].tolist()),
            Bars.of_shares("boxes by size (root of the share of the image)", statistics.box_side),
        ]


def objects(boxes: Mapping[str, np.ndarray]) -> np.ndarray:
    """bool[N]: which slots of a boxes label hold an object, not padding or a box to ignore."""
    return (boxes["valid"] > 0) & (boxes["ignore"] == 0)
