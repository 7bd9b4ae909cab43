"""Image classification: one distribution over classes per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import numpy as np
import optax
from pydantic import Field

from must_jax.config import ModelConfig
from must_jax.config.base import MAX_COUNT
from must_jax.data.kinds import VectorLabel, largest
from must_jax.models.heads import PooledLinearHead
from must_jax.tasks import drawing
from must_jax.tasks.base import Arrays, Details, NumpyArrays, Sums, Task
from must_jax.tasks.chance import most_frequent
from must_jax.tasks.confusion import Confusion, confused
from must_jax.tasks.measures import log_sums, masked_sum


class Classification(Task):
    """Softmax cross-entropy against soft vectors; pseudo labels are soft, since soft beat hard (paper section 3)."""

    kind: ClassVar[str] = "classification"
    metric: ClassVar[str] = "top1"
    has_classes: ClassVar[bool] = True

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each target that is spread evenly over all classes."""
    top_k: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 0
    """A pseudo label keeps the k largest probabilities and spreads the rest evenly; 0 = keeps all. Columns store only
    these k then: 4 bytes each."""

    @property
    def label(self) -> VectorLabel:
        return VectorLabel(len(self.classes))

    @property
    def answer(self) -> VectorLabel:
        """Stored by class where that takes less: each that is kept takes four bytes, and each of all two."""
        return VectorLabel(len(self.classes), self.top_k if 2 * self.top_k <= len(self.classes) else 0)

    def head(self, model: ModelConfig) -> nn.Module:
        return PooledLinearHead(len(self.classes))

    def loss(self, outputs: Arrays, labels: Arrays, input_hw: tuple[int, int]) -> Sums:
        targets = optax.smooth_labels(labels["probs"], self.label_smoothing)
        entropy = optax.softmax_cross_entropy(outputs["logits"], targets)
        return {"cross_entropy": masked_sum(entropy, labels["present"])}

    def predict(self, outputs: Arrays, input_hw: tuple[int, int]) -> Arrays:
        return {"probs": jax.nn.softmax(outputs["logits"])}

    def merged(self, outputs: Arrays, index: np.ndarray) -> Arrays:
        """Probabilities add up; that of what belongs to no class is spread evenly."""
        return {"logits": log_sums(outputs["logits"], index, len(self.classes))}

    def metrics(self) -> ClassificationMetrics:
        return ClassificationMetrics(self.classes)

    def pseudo_label(self, prediction: NumpyArrays) -> dict[str, np.ndarray]:
        probs = np.asarray(prediction["probs"], np.float32)
        if 0 < self.top_k < probs.size:
            rest = np.ones(probs.size, bool)
            rest[largest(probs, self.top_k)] = False
            probs = np.where(rest, probs[rest].mean(), probs)
        return {"probs": probs, "present": np.ones((), np.float32)}

    def draw(self, image: np.ndarray, label: NumpyArrays) -> np.ndarray:
        return drawing.bars(drawing.canvas(image), list(self._top(label, 3).items()), rows=min(3, len(self.classes)))

    def describe(self, label: NumpyArrays) -> dict[str, Any]:
        """The `top_k` most likely classes, by default five, with their probabilities."""
        return {name: round(probability, 3) for name, probability in self._top(label, self.top_k or 5).items()}

    def _top(self, label: NumpyArrays, count: int) -> dict[str, float]:
        order = np.argsort(-label["probs"], kind="stable")[:count]
        return {self.classes[i]: float(label["probs"][i]) for i in order}


class ClassificationMetrics:
    """`top1`: percent of images whose most probable class is the true one."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes, self._counts = classes, dict[str, np.ndarray]()

    def update(self, prediction: NumpyArrays, label: NumpyArrays) -> None:
        truth, predicted = (np.array([each["probs"].argmax()]) for each in (label, prediction))
        self._add(confused(truth, predicted, np.array([label["present"] > 0]), len(self._classes)))

    def merge(self, other: ClassificationMetrics) -> None:
        self._add(other._counts)

    def result(self) -> dict[str, float]:
        return {"top1": self._confusion.accuracy}

    def details(self) -> Details:
        confusion = self._confusion
        columns = {"recall": confusion.recall, "precision": confusion.precision, "images": confusion.truth}
        return confusion.details(columns)

    def chance(self) -> float:
        return most_frequent(self._confusion.truth)

    @property
    def _confusion(self) -> Confusion:
        return Confusion(self._classes, self._counts)

    def _add(self, counts: NumpyArrays) -> None:
        self._counts = {name: self._counts.get(name, 0) + value for name, value in counts.items()}
