"""Image classification: one distribution over classes per image."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import numpy as np
import optax
from pydantic import Field

from must_jax.config import ModelConfig
from must_jax.config.base import MAX_COUNT
from must_jax.data.kinds import VectorLabel
from must_jax.models.heads import PooledLinearHead
from must_jax.tasks import drawing
from must_jax.tasks.base import Arrays, Details, NumpyArrays, Sums, Task
from must_jax.tasks.chance import most_frequent
from must_jax.tasks.measures import Means, masked_sum


class Classification(Task):
    """Softmax cross-entropy against soft vectors; pseudo labels are soft, since soft beat hard (paper section 3)."""

    name: ClassVar[str] = "classification"
    metric: ClassVar[str] = "top1"
    has_classes: ClassVar[bool] = True

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each target that is spread evenly over all classes."""
    top_k: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 0
    """A pseudo label keeps the k largest probabilities and spreads the rest evenly; 0 = keeps all."""

    @property
    def label(self) -> VectorLabel:
        return VectorLabel(len(self.classes))

    def head(self, model: ModelConfig) -> nn.Module:
        return PooledLinearHead(len(self.classes))

    def loss(self, outputs: Arrays, labels: Arrays) -> Sums:
        targets = optax.smooth_labels(labels["probs"], self.label_smoothing)
        entropy = optax.softmax_cross_entropy(outputs["logits"], targets)
        return {"cross_entropy": masked_sum(entropy, labels["present"])}

    def predict(self, outputs: Arrays, image_size: int) -> Arrays:
        return {"probs": jax.nn.softmax(outputs["logits"])}

    def metrics(self) -> ClassificationMetrics:
        return ClassificationMetrics()

    def pseudo_label(self, prediction: NumpyArrays) -> dict[str, np.ndarray]:
        probs = np.asarray(prediction["probs"], np.float32)
        if 0 < self.top_k < probs.size:
            rest = np.argsort(-probs, kind="stable")[self.top_k :]
            probs = probs.copy()
            probs[rest] = probs[rest].mean()
        return {"probs": probs, "present": np.ones((), np.float32)}

    def draw(self, image: np.ndarray, label: NumpyArrays) -> np.ndarray:
        return drawing.bars(drawing.canvas(image), list(self._top(label, 3).items()), rows=min(3, len(self.classes)))

    def describe(self, label: NumpyArrays) -> dict[str, Any]:
        return {name: round(probability, 3) for name, probability in self._top(label, 5).items()}

    def _top(self, label: NumpyArrays, count: int) -> dict[str, float]:
        order = np.argsort(-label["probs"], kind="stable")[:count]
        return {self.classes[i]: float(label["probs"][i]) for i in order}


class ClassificationMetrics:
    """`top1`: percent of images whose most probable class is the true one."""

    def __init__(self) -> None:
        self._means = Means("top1")
        self._classes: Counter[int] = Counter()  # of the truth

    def update(self, prediction: NumpyArrays, label: NumpyArrays) -> None:
        truth = int(label["probs"].argmax())
        self._means.add("top1", np.array(100.0 * (prediction["probs"].argmax() == truth)), label["present"])
        if label["present"]:
            self._classes[truth] += 1

    def merge(self, other: ClassificationMetrics) -> None:
        self._means.merge(other._means)
        self._classes.update(other._classes)

    def result(self) -> dict[str, float]:
        return self._means.result()

    def details(self) -> Details:
        return {}

    def chance(self) -> float:
        return most_frequent(np.array([*self._classes.values()]))
