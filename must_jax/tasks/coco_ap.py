"""Average precision as COCO measures it, class by class, from arrays."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from must_jax.tasks.base import NumpyArrays

_TOGETHER = 50_000  # boxes that are evaluated at a time, if they are of several classes: COCO has about 1.5 kB for each
_MOST_FOUND = 100  # detections of an image that count
_IMAGE, _CLASS, _SCORE, _CROWD, _BOX = 0, 1, 2, 3, slice(4, 8)  # columns of the stored boxes; a box is x, y, w, h


class Coco:
    """AP at IoU 0.5 and over 0.5 to 0.95 of every class. 64 bytes a box, except for the classes being evaluated."""

    def __init__(self, classes: int) -> None:
        self._classes, self.images = classes, 0
        self._truth: list[np.ndarray] = []  # f64[n, 8] per image
        self._found: list[np.ndarray] = []

    def update(self, prediction: NumpyArrays, label: NumpyArrays) -> None:
        """Adds one image's boxes, in fractions of it."""
        self.images += 1
        self._truth.append(_rows(label, self.images))
        self._found.append(_rows(prediction, self.images))

    def merge(self, other: Coco) -> None:
        shift = self.images * (np.arange(8) == _IMAGE)
        self._truth += [rows + shift for rows in other._truth]
        self._found += [rows + shift for rows in other._found]
        self.images += other.images

    @property
    def truth(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The boxes that are no crowds: f64[n, 4] x, y, width, height in thousandths; their classes; their images."""
        truth = _all(self._truth)
        truth = truth[truth[:, _CROWD] == 0]
        return truth[:, _BOX], truth[:, _CLASS].astype(np.int64), truth[:, _IMAGE].astype(np.int64)

    @property
    def found(self) -> int:
        """The number of predicted boxes."""
        return sum(map(len, self._found))

    def result(self) -> np.ndarray:
        """f64[K, 2], in percent: AP at IoU 0.5, and the mean over 0.5 to 0.95; NaN for a class without objects."""
        truth, found = _all(self._truth), _all(self._found)
        objects = np.bincount(self.truth[1], minlength=self._classes)
        result = np.where(objects[:, None] > 0, 0.0, np.full((self._classes, 2), np.nan))
        sizes = [np.bincount(rows[:, _CLASS].astype(np.int64), minlength=self._classes) for rows in (truth, found)]
        evaluated = np.flatnonzero((objects > 0) & (sizes[1] > 0))
        for classes in _groups(evaluated, sizes[0] + sizes[1]):
            result[classes] = _average_precision(*(rows[np.isin(rows[:, _CLASS], classes)] for rows in (truth, found)))
        return result


def _average_precision(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """f64[classes, 2] of boxes, [n, 8] each, of the classes that occur in them, all of which have an object."""
    images = np.union1d(truth[:, _IMAGE], found[:, _IMAGE])
    with _uncollected():
        real = COCO(
            {
                "images": [{"id": int(image)} for image in images],
                "categories": [{"id": int(index), "name": str(index)} for index in np.unique(truth[:, _CLASS])],
                "annotations": [{"id": number, **each} for number, each in enumerate(_as_records(truth), 1)],
            }
        )
        evaluation = COCOeval_faster(real, real.loadRes(_as_records(found)), "bbox")
        parameters = evaluation.params
        parameters.areaRng, parameters.areaRngLbl = parameters.areaRng[:1], parameters.areaRngLbl[:1]
        parameters.maxDets = [_MOST_FOUND]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = 100 * evaluation.eval["precision"][..., 0, 0]  # [IoU, recall, class]
    return np.stack([precision[0].mean(0), precision.mean((0, 1))], -1)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection: a dict for each box would have it search all that jax holds, which takes as long."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _groups(classes: np.ndarray, sizes: np.ndarray) -> Iterator[np.ndarray]:
    """Classes whose boxes can be evaluated together."""
    group: list[int] = []
    for each in classes.tolist():
        if group and sizes[[*group, each]].sum() > _TOGETHER:
            yield np.array(group)
            group = []
        group.append(each)
    if group:
        yield np.array(group)


def _all(rows: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros((0, 8)), *rows])


def _rows(label: NumpyArrays, image: int) -> np.ndarray:
    real = label["valid"] > 0
    # COCO's arithmetic has an absolute epsilon, so these are thousandths of the image instead of fractions.
    y0, x0, y1, x1 = 1000.0 * label["boxes_yxyx"][real].T.astype(np.float64)
    ones = np.ones(len(y0))
    crowd = label["ignore"][real] if "ignore" in label else 0 * ones
    return np.stack([image * ones, label["classes"][real], label["scores"][real], crowd, x0, y0, x1 - x0, y1 - y0], -1)


def _as_records(rows: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "image_id": int(row[_IMAGE]),
            "category_id": int(row[_CLASS]),
            "score": row[_SCORE],
            "iscrowd": int(row[_CROWD]),
            "bbox": row[_BOX],
            "area": row[6] * row[7],
        }
        for row in rows.tolist()
    ]
