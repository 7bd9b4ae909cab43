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
_ROUNDING = 0.01  # by how much probabilities of 16 bits, or their sums, may be off
_FEW = 9
_FARTHEST_M = 1e9  # no camera sees farther; and squares of it are still numbers


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

    @property
    def outputs(self) -> int:
        """Classes that the model has outputs for, the background among them."""
        return len(self.mapping.given) + (self.declared.background is not None)

    @property
    def least_score(self) -> float:
        """Boxes with a lower score are left out."""
        return float(getattr(self.task, "min_score", 0.0))

    def vector(self, outputs: np.ndarray) -> Vector:
        """f32[K] -> probabilities of the classes, which add up to 1; that of what is no class here is spread evenly.

        Raises:
          ValueError: another shape, or values that cannot be what is declared.
        """
        if outputs.ndim != 1:
            raise ValueError(
                f"{self.task.name}: an answer of shape {list(outputs.shape)}; it should be [{self.outputs}], "
                "a number for each class"
            )
        probs, others = self._probs(outputs)
        if self._independent:  # what is left is that of none
            others = np.maximum(np.float32(1) - probs.sum(), np.float32(0)) * (others > 0)
        probs = probs + others / np.float32(probs.shape[-1])
        return Vector(probs / np.maximum(probs.sum(), np.float32(1e-12)))

    def boxes(
        self,
        boxes: np.ndarray,
        scores: np.ndarray,
        classes: np.ndarray,
        input_hw: tuple[int, int],
        frame: Frame = "input",
        are_indices: bool = True,
    ) -> Boxes:
        """Boxes f32[n, 4] as declared, f32[n] scores, i[n] the model's indices of classes.

        Args:
          input_hw: pixels of the frame, for boxes in pixels.
          are_indices: whether the background is still among the classes, and the first one has its index.

        Raises:
          ValueError: their shapes do not fit each other; scores or classes that cannot be.
          FloatingPointError: boxes or scores are not finite.
        """
        if boxes.shape != (len(boxes), 4) or not scores.shape == classes.shape == boxes.shape[:1]:
            told = [list(each.shape) for each in (boxes, scores, classes)]
            raise ValueError(f"{self.task.name}: boxes, scores and classes of shapes {told}, not [n, 4], [n], [n]")
        self._check_finite(boxes, scores)
        if len(scores) and not -_ROUNDING < scores.min() <= scores.max() < 1 + _ROUNDING:
            low, high = np.min(scores), np.max(scores)
            raise ValueError(f"{self.task.name}: scores from {low:.3g} to {high:.3g}; they should be from 0 to 1")
        yxyx = as_yxyx(np.asarray(boxes, np.float64), self.declared.boxes or "xyxy")
        if self.declared.box_unit != "fractions":
            yxyx = yxyx / np.array(2 * input_hw)
        if np.any(np.asarray(classes) < (self.declared.first_class or 0)):
            raise ValueError(f"{self.task.name}: class {np.min(classes)}, below first_class")
        here = self.mapping.ids(self._of_classes(np.asarray(classes, np.int64)) if are_indices else classes)
        kept = np.flatnonzero((here >= 0) & (scores >= self.least_score))
        kept = kept[np.argsort(-scores[kept], kind="stable")][:_MOST_CANDIDATES]
        if (iou := self.declared.nms_iou) is not None and iou < 1 and len(kept):
            y0, x0, y1, x1 = yxyx[kept].T
            xywh = np.stack([x0, y0, x1 - x0, y1 - y0], 1)
            chosen = cv2.dnn.NMSBoxesBatched(xywh.tolist(), scores[kept].tolist(), here[kept].tolist(), 0.0, iou)
            kept = kept[np.sort(np.asarray(chosen, np.intp))]
        return Boxes(yxyx[kept], here[kept], np.asarray(scores, np.float32)[kept], frame)

    def scored(
        self,
        boxes: np.ndarray,
        outputs: np.ndarray,
        input_hw: tuple[int, int],
        objectness: np.ndarray | None = None,
        frame: Frame = "input",
    ) -> Boxes:
        """Boxes f32[n, 4] with outputs for every class, f32[n, K], of which the best one counts.

        Args:
          objectness: f32[n], by which the scores of all classes are multiplied.
        """
        probs = self.class_scores(outputs)
        best = probs.max(-1) if objectness is None else probs.max(-1) * objectness
        self._check_finite(best)
        rows = np.flatnonzero(best >= self.least_score)
        return self.boxes(boxes[rows], best[rows], probs[rows].argmax(-1), input_hw, frame, are_indices=False)

    def paired(self, boxes: np.ndarray, outputs: np.ndarray, input_hw: tuple[int, int]) -> Boxes:
        """As `scored`, but a box may be several classes at once: of all pairs, the n best, as RT-DETR does it."""
        probs = self.class_scores(outputs)
        self._check_finite(probs)
        best = np.argsort(-probs, axis=None, kind="stable")[: len(boxes)]
        rows, classes = np.unravel_index(best, probs.shape)
        return self.boxes(boxes[rows], probs[rows, classes], classes, input_hw, are_indices=False)

    def class_scores(self, outputs: np.ndarray) -> np.ndarray:
        """f32[..., K] -> probabilities, without the background: of a detector's candidates."""
        return _without(self._probabilities(outputs), self.declared.background)[0]

    def regions(self, outputs: np.ndarray, frame: Frame = "input") -> Regions:
        """f32[h, w, K] logits or probabilities -> probabilities of the classes.

        A single channel is the probability of the last of two, whether the first is a class or the background.
        """
        if outputs.shape[-1] == 1 and self.outputs <= 2:
            probs = self._probabilities(outputs)
            single = self.outputs == 1
            probs, others = _without(np.concatenate([1 - probs, probs], -1), 0 if single else self.declared.background)
            probs, dropped = self.mapping.probs(probs, self._independent)
            return Regions(probs=probs, others=self._none(others, dropped), frame=frame)
        probs, others = self._probs(outputs)
        return Regions(probs=probs, others=others, frame=frame)

    def ids(self, ids: np.ndarray, confidence: np.ndarray | None = None, frame: Frame = "input") -> Regions:
        """i[h, w] the model's ids -> ids of the classes, -1 where there is none."""
        ids = np.asarray(ids, np.int64)
        none = ids == (self.declared.ignore if self.declared.ignore is not None else -1)
        here = self.mapping.ids(np.where(none, -1, self._of_classes(ids)))
        return Regions(ids=here, confidence=confidence, frame=frame)

    def _of_classes(self, indices: np.ndarray) -> np.ndarray:
        """The model's indices -> those of its classes: that of the background becomes -1, those after it move up."""
        first, background = self.declared.first_class or 0, self.declared.background
        places = indices - first
        if background is None:
            return places
        none = len(self.mapping.given) if background == -1 else background - first
        return np.where(places == none, -1, places - (places > none)) if none >= 0 else places

    def whole(self, indices: np.ndarray) -> np.ndarray:
        """Indices of classes, which may come as floats: i64.

        Raises:
          ValueError: they are no whole numbers.
        """
        if np.issubdtype(indices.dtype, np.integer):
            return indices.astype(np.int64)
        self._check_finite(indices)
        rounded = np.rint(indices)
        if not np.array_equal(rounded, indices):
            raise ValueError(
                f"{self.task.name}: indices of classes that are no whole numbers; is it read as it is meant?"
            )
        return rounded.astype(np.int64)

    def depth(self, values: np.ndarray, valid: np.ndarray | None = None, frame: Frame = "input") -> Values:
        """f32[h, w] -> metres, or as it is if it is relative."""
        values = _finite(self.task.name, values, valid)
        if self.declared.depth_kind == "metric_m":
            with np.errstate(over="ignore"):
                values = values * np.float32(self.declared.metres_per_unit)
            if (far := float(values.max(initial=0))) > _FARTHEST_M:
                raise ValueError(f"{self.task.name}: {far:.3g} m; correct its metres_per_unit or depth_kind")
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
        if outputs.shape[-1] != self.outputs:
            raise ValueError(
                f"{self.task.name}: {outputs.shape[-1]} outputs for {self.outputs} classes; say which is the "
                "background, if there is one"
            )
        probs, background = _without(self._probabilities(outputs), self.declared.background)
        here, dropped = self.mapping.probs(probs, self._independent)
        return here, self._none(dropped, background)

    def _none(self, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        return np.maximum(some, others) if self._independent else some + others

    @property
    def _independent(self) -> bool:
        """Whether several classes may be true at once, so that their probabilities do not add up."""
        return self.declared.scores == "sigmoid"

    def _probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """f32[..., K].

        Raises:
          ValueError: they cannot be what is declared.
        """
        outputs = np.asarray(outputs, np.float32)
        where = f"{self.task.name}: outputs that are"
        if self.declared.scores == "sigmoid":
            return 1 / (1 + np.exp(-np.clip(outputs, -80, 80)))
        if self.declared.scores == "softmax":
            free = outputs.size - outputs.size // max(outputs.shape[-1], 1)  # few numbers add up to 1 by chance
            if free >= _FEW and outputs.min() >= 0 and np.abs(outputs.sum(-1) - 1).max() < _ROUNDING:
                raise ValueError(f"{where} probabilities already, not logits; set its scores=probabilities")
            shifted = outputs - outputs.max(-1, keepdims=True)  # the only copy: maps of many classes are large
            np.exp(shifted, out=shifted)
            shifted /= shifted.sum(-1, keepdims=True)
            return shifted
        if outputs.size and not (outputs.min() > -_ROUNDING and outputs.max() < 1 + _ROUNDING):
            self._check_finite(outputs)
            low, high = outputs.min(), outputs.max()
            raise ValueError(f"{where} no probabilities: {low:.3g} to {high:.3g}; set its scores=sigmoid or softmax")
        return outputs

    def _check_finite(self, *arrays: np.ndarray) -> None:
        if not all(np.isfinite(each).all() for each in arrays):
            raise FloatingPointError(f"{self.task.name}: outputs that are not finite")


def _finite(name: str, values: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """f32 values; what is not valid becomes 1.

    Raises:
      FloatingPointError: valid ones are not finite.
      ValueError: `valid` is no map of the same rows and columns.
    """
    values = np.asarray(values, np.float32)
    if valid is not None:
        known = np.asarray(valid) > 0
        if known.shape != values.shape[:2]:
            raise ValueError(f"{name}: valid has shape {list(known.shape)}, its map {list(values.shape)}")
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


def _without(probs: np.ndarray, index: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The others, and that of the index; 0 without an index."""
    if index is None:
        return probs, np.zeros(probs.shape[:-1], np.float32)
    index %= probs.shape[-1]
    rest = probs[..., 1:] if index == 0 else probs[..., :-1]  # views of the usual ones
    return rest if index in (0, probs.shape[-1] - 1) else np.delete(probs, index, -1), probs[..., index]
