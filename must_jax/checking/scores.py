"""How well an answer about one image fits another one, 0 to 1, and whether a reading is better beyond chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats

from must_jax.data.kinds import BoxesLabel, IdsLabel, Label, LabelKind, MapLabel, VectorLabel, objects
from must_jax.data.kinds.maps import WHOLE
from must_jax.data.letterbox import Content, nearest, whole_valid
from must_jax.tasks.base import NumpyArrays, Task

LONGEST_CELLS = 128  # of a map that is compared
LEAST_IMAGES = 10  # that differ, to call anything better
SURE, LIKELY = 0.01, 0.1  # probability that any of the readings tried seems so much better by chance
_LEAST_GAIN, _LEAST_SHARE = 0.01, 0.1  # of the score, and in proportion to it
_LEAST_REST = 1 / 3  # of what is missing to a perfect score
_IOUS = (0.3, 0.5, 0.7)

Score = Callable[[NumpyArrays, NumpyArrays], float | None]


@dataclass(frozen=True)
class Comparison:
    """A reading against another one, on the same images.

    Attributes:
      gain: of the mean score.
      p: the probability of such differences by chance, times the number of readings tried.
      is_large, is_telling: the gain, in proportion to the other score, and to what that misses.
    """

    gain: float
    p: float
    images: int
    is_large: bool
    is_telling: bool = False

    @property
    def is_sure(self) -> bool:
        return self.is_large and self.p < SURE

    @property
    def is_likely(self) -> bool:
        return self.is_large and self.p < LIKELY

    @property
    def is_slight(self) -> bool:
        """Surely better, by so little that the reading may still be right; it is where most images cannot tell."""
        return self.is_telling and not self.is_large and self.p < SURE


def compare(scores: Sequence[float], others: Sequence[float], tried: int) -> Comparison:
    """Whether `scores` are better than `others`, image by image; `tried` readings have been compared."""
    first, second = np.asarray(scores, np.float64), np.asarray(others, np.float64)
    differences = first - second
    gain = float(differences.mean()) if len(differences) else 0.0
    score = float(second.mean()) if len(second) else 0.0
    large, telling = gain >= max(_LEAST_GAIN, _LEAST_SHARE * score), gain >= max(_LEAST_GAIN, _LEAST_REST * (1 - score))
    return Comparison(gain, min(1.0, tried * sign_rank(differences)), len(differences), large, telling)


def sign_rank(differences: np.ndarray) -> float:
    """Wilcoxon's one-sided test: the probability that such differences are above 0 by chance."""
    apart = differences[np.abs(differences) > 1e-9]
    if len(apart) < LEAST_IMAGES:
        return 1.0
    exact = len(apart) <= 50 and len(np.unique(np.abs(apart))) == len(apart)
    return float(scipy.stats.wilcoxon(apart, alternative="greater", method="exact" if exact else "approx").pvalue)


def comparable(kind: LabelKind, prediction: NumpyArrays, content: Content, hw: tuple[int, int]) -> Label:
    """A condensed prediction -> of the image alone, maps with `hw` rows and columns."""
    match kind:
        case VectorLabel():
            return {"probs": prediction["probs"]}
        case BoxesLabel():
            return kind.on_image(prediction, content, hw)
        case IdsLabel(field):
            return {field: nearest(prediction[field], content, hw).astype(np.int32)}
    assert isinstance(kind, MapLabel)
    valid = prediction.get("valid", np.ones(prediction[kind.field].shape[:2], np.float32))
    values = {kind.field: prediction[kind.field], "valid": valid}
    return whole_valid(kind.on_image(values, content, hw))


def cells_of(hw: tuple[int, int]) -> tuple[int, int]:
    """The size at which maps of an image or a label of so many pixels are compared."""
    factor = min(1.0, LONGEST_CELLS / max(hw))
    return max(1, round(hw[0] * factor)), max(1, round(hw[1] * factor))


def coarse(kind: LabelKind, label: Label, hw: tuple[int, int]) -> Label:
    """A label with its maps at `hw`: every cell has the value of the pixel in its middle."""
    if not isinstance(kind, MapLabel):
        return label
    return {name: nearest(map_, WHOLE, hw) if map_.ndim else map_ for name, map_ in label.items()}


def score_of(task: Task) -> Score:
    """(prediction, label), both comparable -> 0..1; None if the label says nothing."""
    match task.label:
        case VectorLabel():
            return _of_vector
        case BoxesLabel():
            return _of_boxes
    return lambda prediction, label: _of_ids(task, prediction, label)


def _of_vector(prediction: NumpyArrays, label: NumpyArrays) -> float:
    """1 / the rank of the true class: finer than whether it is the first."""
    probs, true = prediction["probs"], int(label["probs"].argmax())
    above = int(np.count_nonzero(probs > probs[true]))
    ties = int(np.count_nonzero(probs == probs[true])) - 1
    return 1 / (1 + above + ties / 2)


def _of_ids(task: Task, prediction: NumpyArrays, label: NumpyArrays) -> float | None:
    """The task's own headline metric, of this image."""
    assert isinstance(task.label, IdsLabel)
    if np.all(label[task.label.field] == task.label.ignore_id):
        return None
    metrics = task.metrics()
    metrics.update(prediction, label)
    return metrics.result()[task.metric] / 100


def _of_boxes(prediction: NumpyArrays, label: NumpyArrays) -> float | None:
    """The mean, over three IoUs, of the average precision of the boxes of all classes together in this image."""
    real = objects(label)
    if not real.any():
        return None
    found = np.flatnonzero(prediction["valid"] > 0)
    found = found[np.argsort(-prediction["scores"][found], kind="stable")]
    iou = iou_of(prediction["boxes_yxyx"][found], label["boxes_yxyx"][real])
    iou *= prediction["classes"][found][:, None] == label["classes"][real]
    return float(np.mean([_average_precision(iou, least) for least in _IOUS]))


def _average_precision(iou: np.ndarray, least: float) -> float:
    """f64[detections, objects], 0 for other classes, surest detections first -> area under precision by recall."""
    free, hits = np.ones(iou.shape[1], bool), np.zeros(len(iou), bool)
    for row, overlaps in enumerate(iou):
        best = int(np.argmax(overlaps * free))
        if free[best] and overlaps[best] >= least:
            hits[row], free[best] = True, False
    if not hits.any():
        return 0.0
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float(highest[hits].sum() / iou.shape[1])


def iou_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """f[n, 4], f[m, 4], y0, x0, y1, x1 -> f64[n, m]."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = np.prod(np.maximum(high - low, 0), -1)
    areas = (np.prod(boxes[:, 2:] - boxes[:, :2], -1) for boxes in (a, b))
    return overlap / np.maximum(np.add.outer(*areas) - overlap, np.finfo(np.float64).tiny)
