"""How the outputs of a model of others are read, by kind of task: pure functions of arrays and a declaration.

Everything that can be read wrongly is here, in one place: the check of a teacher tries other values of the same keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from must_jax.config.teachers import BoxFormat, TeacherTaskConfig
from must_jax.data.axes import Axes
from must_jax.tasks.base import Task
from must_jax.teachers.mapping import ClassMapping
from must_jax.teachers.said import Boxes, Frame, Regions, Values, Vector

_MOST_CANDIDATES = 30_000  # boxes that enter non-maximum suppression, the best ones, as in Ultralytics


@dataclass(frozen=True)
class Reading:
    """One task of a teacher, and how its outputs are read.

    Attributes:
      task: with the classes that its labels have.
      declared: with no none left where it matters for this kind.
      mapping: from the model's classes to the task's.
      axes: of normals, as they come.
    """

    task: Task
    declared: TeacherTaskConfig
    mapping: ClassMapping
    axes: Axes | None = None

    def vector(self, outputs: np.ndarray) -> Vector:
        """f32[K] -> probabilities of the classes; what is no class here is left out, and the rest adds up to 1."""
        probs, _ = self._probs(outputs)
        return Vector(probs / np.maximum(probs.sum(), np.float32(1e-12)))

    def boxes(
        self,
        boxes: np.ndarray,
        scores: np.ndarray,
        classes: np.ndarray,
        input_hw: tuple[int, int],
        frame: Frame = "input",
    ) -> Boxes:
        """Boxes f32[n, 4] as declared, f32[n] scores, i[n] the model's indices of classes.

        Args:
          input_hw: pixels of the frame, for boxes in pixels.
        """
        if not np.isfinite(boxes).all() or not np.isfinite(scores).all():
            raise FloatingPointError(f"{self.task.name}: boxes or scores that are not finite")
        yxyx = as_yxyx(np.asarray(boxes, np.float32), self.declared.boxes or "xyxy")
        if self.declared.box_unit != "fractions":
            yxyx = yxyx / np.array(2 * input_hw, np.float32)
        here = self.mapping.ids(np.asarray(classes, np.int64) - (self.declared.first_class or 0))
        if np.any(np.asarray(classes) < (self.declared.first_class or 0)):
            raise ValueError(f"{self.task.name}: class {np.min(classes)}, below first_class")
        kept = np.flatnonzero((here >= 0) & (scores >= getattr(self.task, "min_score", 0.0)))
        kept = kept[np.argsort(-scores[kept], kind="stable")][:_MOST_CANDIDATES]
        if (iou := self.declared.nms_iou) is not None and iou < 1 and len(kept):
            y0, x0, y1, x1 = yxyx[kept].T
            xywh = np.stack([x0, y0, x1 - x0, y1 - y0], 1)
            chosen = cv2.dnn.NMSBoxesBatched(xywh.tolist(), scores[kept].tolist(), here[kept].tolist(), 0.0, iou)
            kept = kept[np.sort(np.asarray(chosen, np.intp))]
        return Boxes(yxyx[kept], here[kept], np.asarray(scores, np.float32)[kept], frame)

    def class_scores(self, outputs: np.ndarray) -> np.ndarray:
        """f32[..., K] -> probabilities, without the background: of a detector's candidates."""
        probs = _probabilities(outputs, self.declared.scores)
        return _without(probs, self.declared.background)[0]

    def regions(self, outputs: np.ndarray, frame: Frame = "input") -> Regions:
        """f32[h, w, K] logits or probabilities -> probabilities of the classes."""
        probs, others = self._probs(outputs)
        return Regions(probs=probs, others=others, frame=frame)

    def ids(self, ids: np.ndarray, confidence: np.ndarray | None = None, frame: Frame = "input") -> Regions:
        """i[h, w] the model's ids -> ids of the classes, -1 where there is none."""
        ids = np.asarray(ids, np.int64)
        none = ids == (self.declared.ignore if self.declared.ignore is not None else -1)
        if self.declared.background is not None and self.declared.background >= 0:
            none |= ids == self.declared.background
        here = self.mapping.ids(np.where(none, -1, ids - (self.declared.first_class or 0)))
        return Regions(ids=here, confidence=confidence, frame=frame)

    def depth(self, values: np.ndarray, valid: np.ndarray | None = None, frame: Frame = "input") -> Values:
        """f32[h, w] -> metres, or as it is if it is relative."""
        values = _finite(self.task.name, values, valid)
        if self.declared.depth_kind == "metric_m":
            values = values * np.float32(self.declared.metres_per_unit)
            known = values > 0
            valid = known if valid is None else known & (valid > 0)
        return Values(values, None if valid is None else np.asarray(valid, np.float32), frame)

    def normals(self, vectors: np.ndarray, valid: np.ndarray | None = None, frame: Frame = "input") -> Values:
        """f32[h, w, 3] in the declared axes, of any length -> unit vectors in ours."""
        assert self.axes
        ours = self.axes.to_ours(_finite(self.task.name, vectors, valid))
        norm = np.linalg.norm(ours, axis=-1, keepdims=True)
        known = norm[..., 0] > 1e-6
        valid = known if valid is None else known & (valid > 0)
        return Values(ours / np.maximum(norm, np.float32(1e-6)), np.asarray(valid, np.float32), frame)

    def _probs(self, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """f32[..., K] -> those of the classes here, and of all that is none of them."""
        probs, background = _without(_probabilities(outputs, self.declared.scores), self.declared.background)
        if probs.shape[-1] != len(self.mapping.given):
            raise ValueError(
                f"{self.task.name}: {probs.shape[-1]} outputs for {len(self.mapping.given)} classes; say which is the "
                "background, if there is one"
            )
        here, dropped = self.mapping.probs(probs)
        return here, dropped + background


def _finite(name: str, values: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """f32 values; what is not valid becomes 1.

    Raises:
      FloatingPointError: valid ones are not finite.
    """
    values = np.asarray(values, np.float32)
    if valid is not None:
        known = np.asarray(valid) > 0
        values = np.where(known.reshape(known.shape + (1,) * (values.ndim - known.ndim)), values, np.float32(1))
    if not np.isfinite(values).all():
        raise FloatingPointError(f"its {name} has non-finite values")
    return values


def as_yxyx(boxes: np.ndarray, format_: BoxFormat) -> np.ndarray:
    """f32[n, 4] in one of the formats -> (y0, x0, y1, x1)."""
    a, b, c, d = boxes.T
    match format_:
        case "yxyx":
            corners = a, b, c, d
        case "xyxy":
            corners = b, a, d, c
        case "xywh":
            corners = b, a, b + d, a + c
        case _:
            corners = b - d / 2, a - c / 2, b + d / 2, a + c / 2
    return np.stack(corners, 1)


def _probabilities(outputs: np.ndarray, scores: str | None) -> np.ndarray:
    outputs = np.asarray(outputs, np.float32)
    if scores == "sigmoid":
        return 1 / (1 + np.exp(-np.clip(outputs, -80, 80)))
    if scores == "softmax":
        shifted = np.exp(outputs - outputs.max(-1, keepdims=True))
        return shifted / shifted.sum(-1, keepdims=True)
    return outputs


def _without(probs: np.ndarray, index: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The others, and that of the index; 0 without an index."""
    if index is None:
        return probs, np.zeros(probs.shape[:-1], np.float32)
    return np.delete(probs, index, -1), probs[..., index]
