"""Object detection: boxes with classes, one stage (FCOS, Tian et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

from must_jax.config import ModelConfig
from must_jax.config.base import MaxBoxes, ShareByClass
from must_jax.data.confidence import sure
from must_jax.data.kinds import BoxesLabel
from must_jax.models.heads import DetectorHead, detector_points
from must_jax.progress import counted
from must_jax.tasks import box_geometry, drawing
from must_jax.tasks.base import Arrays, Details, NumpyArrays, Sums, Task
from must_jax.tasks.chance import same_boxes
from must_jax.tasks.coco_ap import Coco
from must_jax.tasks.confusion import plain
from must_jax.tasks.measures import masked_sum
from must_jax.tasks.voc_ap import Voc07

CANDIDATES = 1000  # the best-scoring (cell, class) pairs of each level, which enter non-maximum suppression

_Share = Annotated[float, Field(ge=0, le=1)]


class Detection(Task):
    """Focal loss on classes, GIoU on boxes, cross-entropy on centerness. Pseudo labels are hard (paper section 3).

    The score of a box is the geometric mean of class probability and centerness.
    """

    kind: ClassVar[str] = "detection"
    metric: ClassVar[str] = "ap50"
    has_classes: ClassVar[bool] = True
    threshold: ClassVar[str] = "score_threshold"

    score_threshold: _Share = 0.5
    """A pseudo label keeps boxes with at least this score; below `min_score` there are none."""
    score_thresholds: ShareByClass = Field(default_factory=dict)
    """Class -> a `score_threshold` of its own."""
    max_detections: MaxBoxes = 100
    """The most boxes predicted per image; COCO's measures look at 100."""
    nms_iou: _Share = 0.5
    """Of two boxes of one class that overlap more than this, the better one is kept."""
    min_score: _Share = 0.05
    """Boxes with a lower score are never predicted; the average precision is over all others."""
    focal_alpha: _Share = 0.25
    """Of the focal loss; the default as in the paper's code base."""
    focal_gamma: Annotated[float, Field(ge=0, le=100)] = 1.5
    """Of the focal loss; the default as in the paper's code base."""

    @property
    def label(self) -> BoxesLabel:
        return BoxesLabel(self.max_boxes)

    @property
    def answer(self) -> BoxesLabel:
        return BoxesLabel(self.max_detections)

    @property
    def asks(self) -> str:
        return "score_threshold" if self.score_threshold > self.min_score else "min_score" * (self.min_score > 0)

    def head(self, model: ModelConfig) -> nn.Module:
        return DetectorHead(len(self.classes), model.head_convs, model.head_channels)

    def loss(self, outputs: Arrays, labels: Arrays, input_hw: tuple[int, int]) -> Sums:
        """Sums over cells, all divided by the number of cells that have a box, counted as at least one per image.

        That number adds up over the parts of a batch, and is not 0 even if there are no boxes.
        A cell that has no box, and whose centre lies in a box to ignore, is not taught a class.
        """
        centers, strides = map(jnp.asarray, detector_points(input_hw))
        present = labels["present"]
        valid, ignore = labels["valid"] * present[:, None], labels["ignore"]
        boxes_px = labels["boxes_yxyx"] * _yxyx(input_hw)
        positive, slot = jax.vmap(box_geometry.assign, (0, 0, None, None))(
            boxes_px, valid * (1 - ignore), centers, strides
        )
        unknown = jax.vmap(box_geometry.covered, (0, 0, None))(boxes_px, valid * ignore, centers) & ~positive
        truth_px = jnp.take_along_axis(boxes_px, slot[:, :, None], 1)
        truth_class = jnp.take_along_axis(labels["classes"], slot, 1)

        mask = positive.astype(jnp.float32)
        classes = jax.nn.one_hot(truth_class, len(self.classes), dtype=jnp.float32) * mask[:, :, None]
        focal = optax.sigmoid_focal_loss(
            outputs["class_logits"], classes, alpha=self.focal_alpha, gamma=self.focal_gamma
        )
        overlap = box_geometry.giou(_decode(outputs["box_ltrb"], centers, strides), truth_px)
        target = _centerness(truth_px, centers, strides)
        centerness = optax.sigmoid_binary_cross_entropy(outputs["centerness"], target)

        weight = jnp.sum(jnp.maximum(mask.sum(-1), present))
        return {
            "focal": (masked_sum(focal.sum(-1), jnp.where(unknown, 0.0, present[:, None]))[0], weight),
            "giou": (masked_sum(1 - overlap, mask)[0], weight),
            "centerness": (masked_sum(centerness, mask)[0], weight),
        }

    def predict(self, outputs: Arrays, input_hw: tuple[int, int]) -> Arrays:
        """The `max_detections` best boxes per image in label form, best first; `valid` is 0 in empty slots."""
        centers, strides = detector_points(input_hw)
        boxes_px = _decode(outputs["box_ltrb"], jnp.asarray(centers), jnp.asarray(strides))
        boxes_yxyx = jnp.clip(boxes_px / _yxyx(input_hw), 0, 1)
        scores = jnp.sqrt(jax.nn.sigmoid(outputs["class_logits"]) * jax.nn.sigmoid(outputs["centerness"])[..., None])
        scores = jnp.where(scores >= self.min_score, scores, 0.0)
        ends = np.cumsum(np.unique(strides, return_counts=True)[1])[:-1].tolist()  # fine to coarse, as strides rise
        levels = zip(jnp.split(boxes_yxyx, ends, 1), jnp.split(scores, ends, 1), strict=True)
        candidates = [jax.vmap(_best)(*level) for level in levels]
        return jax.vmap(self._select)(*(jnp.concatenate(each, 1) for each in zip(*candidates, strict=True)))

    def merged(self, outputs: Arrays, index: np.ndarray) -> Arrays:
        """A box is as surely of a class as of the likeliest one that belongs to it; those that belong to none go."""
        logits, kept = outputs["class_logits"], np.flatnonzero(index >= 0)
        never = jnp.full((*logits.shape[:-1], len(self.classes)), -jnp.inf, logits.dtype)
        return {**outputs, "class_logits": never.at[..., index[kept]].max(logits[..., kept])}

    def _select(self, boxes_yxyx: jax.Array, classes: jax.Array, scores: jax.Array) -> Arrays:
        """One image's candidates, f32[k, 4], i32[k], f32[k] -> a label."""
        chosen, scores = box_geometry.non_maximum_suppression(
            boxes_yxyx, classes, scores, self.nms_iou, self.max_detections
        )
        real = scores > 0
        return {
            "boxes_yxyx": jnp.where(real[:, None], boxes_yxyx[chosen], 0.0),
            "classes": jnp.where(real, classes[chosen], 0),
            "scores": scores,
            "valid": real.astype(jnp.float32),
        }

    def metrics(self) -> DetectionMetrics:
        return DetectionMetrics(self.classes)

    def pseudo_label(self, prediction: NumpyArrays) -> dict[str, np.ndarray]:
        least = self.min_confidence.least(self.classes)
        keep = (prediction["valid"] > 0) & sure(prediction["scores"], prediction["classes"], least)
        return {
            "boxes_yxyx": np.where(keep[:, None], prediction["boxes_yxyx"], 0).astype(np.float32),
            "classes": np.where(keep, prediction["classes"], 0).astype(np.int32),
            "scores": np.where(keep, prediction["scores"], 0).astype(np.float32),
            "valid": keep.astype(np.float32),
            "ignore": np.zeros(keep.shape, np.float32),
            "present": np.ones((), np.float32),
        }

    def draw(self, image: np.ndarray, label: NumpyArrays) -> np.ndarray:
        real = label["valid"] > 0
        classes = label["classes"][real]
        notes = np.where(label["ignore"][real] > 0, "ignored", [f"{score:.2f}" for score in label["scores"][real]])
        names = [f"{self.classes[c]} {note}" for c, note in zip(classes, notes, strict=True)]
        return drawing.rectangles(drawing.canvas(image), label["boxes_yxyx"][real], classes, names)

    def describe(self, label: NumpyArrays) -> dict[str, Any]:
        found = [
            {
                "class": self.classes[label["classes"][i]],
                "score": round(float(label["scores"][i]), 3),
                "box_yxyx": [round(float(v), 4) for v in label["boxes_yxyx"][i]],
            }
            | ({"ignore": True} if label["ignore"][i] else {})
            for i in np.flatnonzero(label["valid"])
        ]
        return {"boxes": found}


class DetectionMetrics:
    """Average precision in percent: COCO's `ap50` at IoU 0.5 and `ap` over 0.5 to 0.95; VOC's `ap50_voc07`.

    All are means over the classes that occur in the truth, 0 if none do. COCO treats a box to ignore as a crowd: a
    detection of its class is not counted at all if the share of its own area inside the crowd reaches the required IoU.
    """

    def __init__(self, classes: Sequence[str]):
        self._classes = list(classes)
        self._coco, self._voc07 = Coco(len(classes)), Voc07(len(classes))
        self._by_class: np.ndarray | None = None  # of all that is added, since it takes long

    def update(self, prediction: NumpyArrays, label: NumpyArrays) -> None:
        if label["present"]:
            self._by_class = None
            self._coco.update(prediction, label)
            self._voc07.update(prediction, label)

    def merge(self, other: DetectionMetrics) -> None:
        self._by_class = None
        self._coco.merge(other._coco)
        self._voc07.merge(other._voc07)

    def result(self) -> dict[str, float]:
        precision = self._precision()
        occurring = precision[~np.isnan(precision[:, 0])]
        ap50, ap = occurring.mean(0).tolist() if len(occurring) else (0.0, 0.0)
        return {"ap50": ap50, "ap": ap, "ap50_voc07": self._voc07.result()}

    def details(self) -> Details:
        ap50, ap = self._precision().T
        count = np.bincount(self._coco.truth[1], minlength=len(self._classes))
        details: Details = {
            "per_class": {"classes": self._classes, "columns": plain({"AP50": ap50, "AP": ap, "boxes": count})}
        }
        scores, precision, recall = self._voc07.by_score()
        if len(scores):
            details["curves"] = [
                {
                    "title": "Boxes of at least a score, at IoU 0.5",
                    "x": "least score",
                    "y": "%",
                    "series": {"precision": (scores, precision), "recall": (scores, recall)},
                }
            ]
        if count.any() and not self._coco.found:
            details["remark"] = (
                f"no box at all is predicted, where {counted(self._coco.images, 'image')} have {count.sum():,}"
            )
        return details

    def chance(self) -> float:
        xywh, classes, images = self._coco.truth
        low, size = np.split(xywh, 2, axis=1)
        boxes = np.concatenate([low, low + size], 1)  # x before y, which makes no difference here
        return same_boxes(boxes, classes, images, self._coco.images)

    def _precision(self) -> np.ndarray:
        if self._by_class is None:
            self._by_class = self._coco.result()
        return self._by_class


def _best(boxes_yxyx: jax.Array, scores: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One level of one image: boxes f32[cells, 4], scores f32[cells, K] -> candidates: boxes, i32 classes, scores."""
    best, pair = jax.lax.top_k(scores.reshape(-1), min(CANDIDATES, scores.size))
    cell, classes = jnp.divmod(pair.astype(jnp.int32), scores.shape[1])
    return boxes_yxyx[cell], classes, best


def _decode(ltrb: jax.Array, centers_px: jax.Array, strides: jax.Array) -> jax.Array:
    """Distances to left, top, right, bottom in strides, f32[B, A, 4] -> boxes (y0, x0, y1, x1) in pixels."""
    left, top, right, bottom = jnp.moveaxis(ltrb * strides[None, :, None], -1, 0)
    y, x = centers_px[None, :, 0], centers_px[None, :, 1]
    return jnp.stack([y - top, x - left, y + bottom, x + right], -1)


def _centerness(boxes_px: jax.Array, centers_px: jax.Array, strides: jax.Array) -> jax.Array:
    """f32[B, A] in 0..1: 1 in the middle of the box, 0 at its edge and outside.

    sqrt(min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom)), as in FCOS, of the box enlarged to
    at least two cells per side: the best cell of a small box may lie on its edge, and would give it a score of 0.
    """
    low, high = boxes_px[..., :2], boxes_px[..., 2:]
    half = jnp.maximum((high - low) / 2, strides[None, :, None])
    offset = jnp.abs(centers_px[None] - (low + high) / 2)
    return jnp.sqrt(jnp.prod(jnp.maximum((half - offset) / (half + offset), 0.0), -1))


def _yxyx(input_hw: tuple[int, int]) -> np.ndarray:
    """f32[1, 1, 4]: pixels in which fractions of the input are measured, for the four sides of a box."""
    return np.array([[[*input_hw, *input_hw]]], np.float32)
