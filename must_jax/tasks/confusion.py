"""What was taken for what: counts of pairs of a true and a predicted class, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from must_jax.tasks.base import Details
from must_jax.tasks.maps import histogram, namespace, pairs

MOST = 200  # classes; of more, only what was right is counted, since the pairs would be millions


def confused(truth: Any, predicted: Any, known: Any, classes: int) -> dict[str, Any]:
    """Counts the known elements.

    Args:
      truth: the true class of each element.
      predicted: the predicted one; a number that is no class is "none".

    Returns:
      "confusion" i[K, K + 1], the last column for none; of more than `MOST` classes "truth", "predicted" and "hits",
      i[K + 1] each.
    """
    predicted = namespace(predicted).minimum(predicted, classes)
    if classes <= MOST:
        return {"confusion": pairs(truth, predicted, known, (classes, classes + 1))}
    return {
        "truth": histogram(truth, known, classes + 1),
        "predicted": histogram(predicted, known, classes + 1),
        "hits": histogram(truth, known & (truth == predicted), classes + 1),
    }


class Confusion:
    """What follows from sums of `confused`.

    Attributes:
      truth, predicted, hits: i64[K], the number of elements by class.
    """

    def __init__(self, classes: Sequence[str], counts: Mapping[str, np.ndarray]) -> None:
        self._classes, count = list(classes), len(classes)
        self._pairs = None if count > MOST else counts.get("confusion", np.zeros((count, count + 1), np.int64))
        if self._pairs is not None:
            self.truth, self.predicted = self._pairs.sum(1), self._pairs.sum(0)[:-1]
            self.hits = np.diagonal(self._pairs).copy()
        else:
            nothing = np.zeros(count + 1, np.int64)
            self.truth, self.predicted, self.hits = (
                counts.get(name, nothing)[:-1] for name in ("truth", "predicted", "hits")
            )

    @property
    def accuracy(self) -> float:
        """Percent of all elements whose class is right; 0 without any."""
        return float(100 * self.hits.sum() / max(int(self.truth.sum()), 1))

    @property
    def recall(self) -> np.ndarray:
        """f64[K], percent of a class's elements that are recognised; NaN = it has none."""
        return _percent(self.hits, self.truth)

    @property
    def precision(self) -> np.ndarray:
        """f64[K], percent right of what is taken for a class; NaN = nothing is."""
        return _percent(self.hits, self.predicted)

    @property
    def iou(self) -> np.ndarray:
        """f64[K], intersection over union in percent; NaN = neither occurs."""
        return _percent(self.hits, self.truth + self.predicted - self.hits)

    def details(self, columns: Mapping[str, np.ndarray]) -> Details:
        """Table of these columns, each [K], and the pairs, if they are counted."""
        details: Details = {"per_class": {"classes": self._classes, "columns": plain(columns)}}
        if self._pairs is not None:
            details["confusion"] = {"classes": self._classes, "counts": self._pairs.tolist()}
        return details


def plain(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """JSON values: None for NaN, two digits after the point."""
    return {
        name: values.tolist()
        if np.issubdtype(values.dtype, np.integer)
        else [None if np.isnan(value) else round(float(value), 2) for value in values]
        for name, values in columns.items()
    }


def _percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, 100 * part / np.maximum(whole, 1), np.nan)
