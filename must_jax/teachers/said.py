"""What a model of others says about one image, and its way into the form of predictions that labelling expects."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from must_jax.data.fitting import Input, Placed
from must_jax.data.kinds import BoxesLabel, IdsLabel, ValuesLabel, VectorLabel
from must_jax.data.letterbox import Content
from must_jax.tasks.base import NumpyArrays, Task

Frame = Literal["input", "image"]  # what maps and boxes cover: the network's whole input, or the upright image alone
_UNCHANGED = np.eye(2, 3)
_ROUNDED = 0.999
_LEAST_NORM = 1e-3  # a mean of unit vectors that is shorter has no direction


@dataclass(frozen=True)
class Vector:
    """probs: f32[K]."""

    probs: np.ndarray


@dataclass(frozen=True)
class Boxes:
    """Boxes, best first or in any order.

    Attributes:
      boxes_yxyx: f[n, 4], in fractions of what `frame` names.
      classes: i32[n].
      scores: f32[n], 0..1, what the model calls its score.
    """

    boxes_yxyx: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    frame: Frame = "input"


@dataclass(frozen=True)
class Regions:
    """Classes of pixels: their probabilities, or ids and how sure they are.

    Attributes:
      probs: f32[h, w, K]; None if only `ids` are known.
      others: f32[h, w], the probability that it is none of them; where it is the largest, there is no label. None = 0.
      ids: i32[h, w]; -1 = no label.
      confidence: f32[h, w], 0..1; None = 1.
    """

    probs: np.ndarray | None = None
    others: np.ndarray | None = None
    ids: np.ndarray | None = None
    confidence: np.ndarray | None = None
    frame: Frame = "input"


@dataclass(frozen=True)
class Values:
    """A map of depths f32[h, w] or of unit vectors f32[h, w, 3] in our axes; `valid` f32[h, w], None = all."""

    values: np.ndarray
    valid: np.ndarray | None = None
    frame: Frame = "input"


Said = Vector | Boxes | Regions | Values


def cells_of(input_: Input, placed: Placed, map_hw: tuple[int, int]) -> tuple[int, int]:
    """How many of the rows and columns of a map the image takes up: whole ones."""
    sides = zip(map_hw, (placed.height, placed.width), (input_.height, input_.width), strict=True)
    height, width = (max(1, round(n * min(1.0, side / all_))) for n, side, all_ in sides)
    return height, width


def content_of(input_: Input, placed: Placed, map_hw: tuple[int, int]) -> Content:
    """The share of the rows and columns that the image takes up in predictions."""
    height, width = cells_of(input_, placed, map_hw)
    return height / map_hw[0], width / map_hw[1]


def predicted(task: Task, said: Said, input_: Input, placed: Placed, map_hw: tuple[int, int]) -> NumpyArrays:
    """One image's prediction, condensed, as `Teacher` describes it.

    Raises:
      ValueError: a shape that does not fit, or a class that is not in the list.
    """
    kind = task.answer
    hw = cells_of(input_, placed, map_hw)
    match kind, said:
        case VectorLabel(), Vector(probs):
            if probs.shape != (kind.size,):
                raise ValueError(f"{task.name}: probabilities of shape {list(probs.shape)} for {kind.size} classes")
            return {"probs": np.asarray(probs, np.float32)}
        case BoxesLabel(), Boxes():
            return _boxes(task, said, kind.max_boxes, input_, placed, content_of(input_, placed, map_hw))
        case IdsLabel(), Regions():
            ids, confidence = _regions(task, said, input_, placed, hw)
            unlabelled = np.where(ids < 0, kind.ignore_id, ids).astype(kind.type)
            return {"ids": _cornered(unlabelled, map_hw), "confidence": _cornered(confidence, map_hw)}
        case ValuesLabel(), Values():
            shape = kind.axes
            if said.values.ndim != 2 + len(shape) or said.values.shape[2:] != shape:
                raise ValueError(f"{task.name}: a map of shape {list(said.values.shape)}")
            values, valid = _values(said, input_, placed, hw, unit=bool(shape))
            return {kind.field: _cornered(values, map_hw), "valid": _cornered(valid, map_hw)}
    raise ValueError(f"{task.name}: {type(said).__name__} is no answer for a task of kind {task.kind}")


def shapes(task: Task, rows: int, map_hw: tuple[int, int]) -> dict[str, np.ndarray]:
    """Arrays like those of a batch of `predicted`, without any memory."""
    kind = task.answer
    like: dict[str, tuple[tuple[int, ...], Any]]
    match kind:
        case VectorLabel():
            like = {"probs": ((kind.size,), np.float32)}
        case BoxesLabel(n):
            like = {"boxes_yxyx": ((n, 4), np.float32), "classes": ((n,), np.int32)}
            like |= {name: ((n,), np.float32) for name in ("scores", "valid")}
        case IdsLabel():
            like = {"ids": (map_hw, kind.type), "confidence": (map_hw, np.float32)}
        case ValuesLabel():
            like = {kind.field: ((*map_hw, *kind.axes), np.float32), "valid": (map_hw, np.float32)}
    return {name: np.broadcast_to(np.zeros((), type_), (rows, *shape)) for name, (shape, type_) in like.items()}


def _boxes(task: Task, said: Boxes, slots: int, input_: Input, placed: Placed, content: Content) -> NumpyArrays:
    count = len(said.scores)
    if said.boxes_yxyx.shape != (count, 4) or said.classes.shape != (count,):
        told = [list(each.shape) for each in (said.boxes_yxyx, said.classes, said.scores)]
        raise ValueError(f"{task.name}: boxes, classes and scores of shapes {told}")
    if count and not 0 <= said.classes.min() <= said.classes.max() < len(task.classes):
        beyond = said.classes[(said.classes < 0) | (said.classes >= len(task.classes))][0]
        raise ValueError(f"{task.name}: class {beyond}, but there are {len(task.classes)} classes, numbered from 0")
    boxes = np.asarray(said.boxes_yxyx, np.float64)
    if said.frame == "input":
        low = np.array([placed.top, placed.left] * 2)
        size = np.array([placed.height, placed.width] * 2)
        boxes = (boxes * np.array([input_.height, input_.width] * 2) - low) / size
    boxes = np.clip(boxes, 0, 1) if np.isfinite(boxes).all() else boxes
    best = np.argsort(-said.scores, kind="stable")[:slots]
    out = {
        "boxes_yxyx": np.zeros((slots, 4), np.float32),
        "classes": np.zeros(slots, np.int32),
        "scores": np.zeros(slots, np.float32),
        "valid": np.zeros(slots, np.float32),
    }
    out["boxes_yxyx"][: len(best)] = boxes[best] * np.array(2 * content)
    out["classes"][: len(best)], out["scores"][: len(best)] = said.classes[best], said.scores[best]
    out["valid"][: len(best)] = 1
    return out


def _regions(
    task: Task, said: Regions, input_: Input, placed: Placed, hw: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """i32[*hw], -1 = no label, and f32[*hw]."""
    if said.probs is not None:
        if said.probs.ndim != 3 or said.probs.shape[2] != len(task.classes):
            raise ValueError(
                f"{task.name}: probabilities of shape {list(said.probs.shape)} for {len(task.classes)} classes"
            )
        return _most_likely(task, said, _Resampling.of(said.probs.shape, said.frame, input_, placed, hw))
    assert said.ids is not None
    if said.ids.ndim != 2 or not np.issubdtype(said.ids.dtype, np.integer):
        raise ValueError(f"{task.name}: ids of shape {list(said.ids.shape)} and type {said.ids.dtype}")
    rows, columns = _nearest(said.ids.shape, said.frame, input_, placed, hw)
    ids = said.ids[rows, columns].astype(np.int32)
    if ids.max() >= len(task.classes):
        raise ValueError(f"{task.name}: class {ids.max()}, but there are {len(task.classes)} classes, numbered from 0")
    confidence = np.ones(hw, np.float32) if said.confidence is None else said.confidence[rows, columns]
    return ids, np.where(ids < 0, np.float32(0), confidence)


def _most_likely(task: Task, said: Regions, resampling: _Resampling) -> tuple[np.ndarray, np.ndarray]:
    """i32[*hw], -1 where none of the classes is, and f32[*hw]: probabilities are resampled before the best is taken.

    Raises:
      FloatingPointError: they are not finite, somewhere in the image.
    """
    assert said.probs is not None
    planes = np.ascontiguousarray(np.moveaxis(said.probs, -1, 0), np.float32)
    part = resampling.part(planes)
    total = part.sum(0) if said.others is None else part.sum(0) + resampling.part(said.others)
    if not np.isfinite(total).all():  # no comparison would hold, and nothing would have a label
        raise FloatingPointError(f"its {task.name} has non-finite values")
    possible = np.flatnonzero(
        part.max((1, 2)) >= _ROUNDED * total.min() / (len(planes) + 1)
    )  # the best is at least that
    ids = np.full(resampling.hw, -1, np.int32)
    best = np.zeros(resampling.hw, np.float32) if said.others is None else resampling(said.others)
    for index in possible:
        probs = resampling(planes[index])
        better = probs > best
        ids[better] = index
        np.copyto(best, probs, where=better)
    return ids, best


def _values(
    said: Values, input_: Input, placed: Placed, hw: tuple[int, int], unit: bool
) -> tuple[np.ndarray, np.ndarray]:
    """f32[*hw(, 3)] and f32[*hw]: cells that are not wholly valid are not."""
    values = np.asarray(said.values, np.float32)
    resampling = _Resampling.of(values.shape, said.frame, input_, placed, hw)
    valid = np.ones(hw, np.float32)
    if said.valid is not None:
        known = np.asarray(said.valid > 0, np.float32)
        valid = (resampling(known) > 0.999).astype(np.float32)
        values = np.where(known.reshape(known.shape + (1,) * (values.ndim - 2)) > 0, values, np.float32(0))
    values = resampling(values)
    if unit:
        norm = np.linalg.norm(values, axis=-1, keepdims=True)
        valid = valid * (norm[..., 0] > _LEAST_NORM)
        values = values / np.maximum(norm, np.float32(_LEAST_NORM))
    return values, valid


@dataclass(frozen=True)
class _Resampling:
    """The image's part of a map -> f32[*hw].

    Linear, by means where it shrinks by two or more. Only cells whose centre lies in the image count, never padding.

    Attributes:
      rows, columns: of the map, that lie in the image.
      to_source: from places in the fine grid to indices in this part.
      fine: rows and columns of places whose means are the cells of the result.
    """

    rows: slice
    columns: slice
    to_source: np.ndarray
    fine: tuple[int, int]
    hw: tuple[int, int]

    @classmethod
    def of(
        cls, shape: tuple[int, ...], frame: Frame, input_: Input, placed: Placed, hw: tuple[int, int]
    ) -> _Resampling:
        (top, bottom), (left, right) = _spans(shape, frame, input_, placed)
        rows, columns = _inside(top, bottom, shape[0]), _inside(left, right, shape[1])
        step_y, step_x = (bottom - top) / hw[0], (right - left) / hw[1]
        places = max(1, math.floor(step_y)), max(1, math.floor(step_x))  # in each cell
        dy, dx = step_y / places[0], step_x / places[1]
        to_source = np.array([[dx, 0, left - columns.start + dx / 2 - 0.5], [0, dy, top - rows.start + dy / 2 - 0.5]])
        return cls(rows, columns, to_source, (hw[0] * places[0], hw[1] * places[1]), hw)

    def part(self, planes: np.ndarray) -> np.ndarray:
        """[..., h, w] -> its rows and columns that lie in the image."""
        return planes[..., self.rows, self.columns]

    def __call__(self, map_: np.ndarray) -> np.ndarray:
        """f32[h, w] or f32[h, w, up to 4] -> f32[*hw] or f32[*hw, ...]."""
        part: np.ndarray = np.ascontiguousarray(map_[self.rows, self.columns], np.float32)
        if part.shape[:2] != self.fine or not np.array_equal(self.to_source, _UNCHANGED):
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            part = cv2.warpAffine(part, self.to_source, self.fine[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
        if self.fine != self.hw:
            part = cv2.resize(part, self.hw[::-1], interpolation=cv2.INTER_AREA)
        return part


def _nearest(
    shape: tuple[int, ...], frame: Frame, input_: Input, placed: Placed, hw: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the rows and columns in which the centres of `hw` cells of the image lie."""
    found = []
    for (low, high), side, n in zip(_spans(shape, frame, input_, placed), shape[:2], hw, strict=True):
        inside = _inside(low, high, side)
        at = np.floor(low + (np.arange(n) + 0.5) * (high - low) / n).astype(np.intp)
        found.append(np.clip(at, inside.start, inside.stop - 1))
    return found[0][:, None], found[1][None]


def _spans(
    shape: tuple[int, ...], frame: Frame, input_: Input, placed: Placed
) -> tuple[tuple[float, float], tuple[float, float]]:
    """From where to where the image reaches in a map, in its rows and columns."""
    if frame == "image":
        return (0.0, float(shape[0])), (0.0, float(shape[1]))
    y, x = shape[0] / input_.height, shape[1] / input_.width
    return (
        (placed.top * y, (placed.top + placed.height) * y),
        (placed.left * x, (placed.left + placed.width) * x),
    )


def _inside(low: float, high: float, side: int) -> slice:
    """The cells whose centre lies between the two; at least one."""
    first = min(max(0, math.floor(low - 0.5) + 1), side - 1)
    return slice(first, max(first + 1, min(side, math.ceil(high - 0.5))))


def _cornered(map_: np.ndarray, map_hw: tuple[int, int]) -> np.ndarray:
    """The map in the top left corner of one of `map_hw` cells; the rest is 0."""
    out = np.zeros((*map_hw, *map_.shape[2:]), map_.dtype)
    out[: map_.shape[0], : map_.shape[1]] = map_
    return out
