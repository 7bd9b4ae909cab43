"""Surface normals: one unit vector per pixel in the camera frame (x right, y down, z forward)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from must_jax.config import ModelConfig
from must_jax.data.kinds import MapLabel
from must_jax.models.heads import DenseHead
from must_jax.tasks import drawing
from must_jax.tasks.base import AnyArray, Arrays, Details, NumpyArrays, Sums, Task
from must_jax.tasks.chance import Directions
from must_jax.tasks.measures import Means, masked_sum, resize_maps, valid_pixels

_WITHIN_DEG = {"within_11_25": 11.25, "within_22_5": 22.5, "within_30": 30.0}


class Normals(Task):
    """Loss 1 - cosine of the angle between prediction and truth; pseudo labels are the raw vectors."""

    name: ClassVar[str] = "normals"
    metric: ClassVar[str] = "within_11_25"

    @property
    def label(self) -> MapLabel:
        return MapLabel("normals", "vector")

    def head(self, model: ModelConfig) -> nn.Module:
        return DenseHead(3, model.head_convs, model.head_channels, model.batch_norm_momentum)

    def loss(self, outputs: Arrays, labels: Arrays) -> Sums:
        truth = labels["normals"]
        predicted = _unit(resize_maps(outputs["maps"], truth.shape[1:3]))
        return {"one_minus_cosine": masked_sum(1 - jnp.sum(predicted * truth, -1), valid_pixels(labels))}

    def predict(self, outputs: Arrays, image_size: int) -> Arrays:
        normals = _unit(outputs["maps"])
        return {"normals": normals, "valid": jnp.ones(normals.shape[:3], jnp.float32)}

    def condense(self, predictions: Mapping[str, AnyArray]) -> Mapping[str, AnyArray]:
        return {"normals": predictions["normals"]}

    def metrics(self) -> NormalsMetrics:
        return NormalsMetrics()

    def pseudo_label(self, prediction: NumpyArrays) -> dict[str, np.ndarray]:
        normals = np.asarray(prediction["normals"], np.float32)
        return {"normals": normals, "valid": np.ones(normals.shape[:2], np.float32), "present": np.ones((), np.float32)}

    def draw(self, image: np.ndarray, label: NumpyArrays) -> np.ndarray:
        return drawing.directions(drawing.canvas(image), label["normals"], label["valid"])

    def describe(self, label: NumpyArrays) -> dict[str, Any]:
        known = label["normals"][label["valid"] > 0]
        mean = known.mean(0) if len(known) else np.zeros(3)
        return {"mean_normal_xyz": [round(float(v), 3) for v in mean], "valid": round(float(label["valid"].mean()), 3)}


class NormalsMetrics:
    """Metrics over all valid pixels, pooled over all images.

    `within_11_25`, `within_22_5`, `within_30`: percent whose error is below that many degrees. `mean_angle_deg`: the
    mean error.
    """

    def __init__(self) -> None:
        self._means = Means(*_WITHIN_DEG, "mean_angle_deg")
        self._directions = Directions()  # of the truth

    def update(self, prediction: NumpyArrays, label: NumpyArrays) -> None:
        known = (label["valid"] > 0) & (label["present"] > 0)
        cosine = np.einsum("nc,nc->n", prediction["normals"][known], label["normals"][known])
        angle_deg = np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))
        for name, limit_deg in _WITHIN_DEG.items():
            self._means.add(name, 100.0 * (angle_deg < limit_deg))
        self._means.add("mean_angle_deg", angle_deg)
        self._directions.add(label["normals"][known])

    def merge(self, other: NormalsMetrics) -> None:
        self._means.merge(other._means)
        self._directions.merge(other._directions)

    def result(self) -> dict[str, float]:
        return self._means.result()

    def details(self) -> Details:
        return {}

    def chance(self) -> float:
        return self._directions.best(11.25)


def _unit(vectors: jnp.ndarray) -> jnp.ndarray:
    # The constant inside the root keeps the gradient finite at the zero vector.
    return vectors / jnp.sqrt(jnp.sum(vectors**2, -1, keepdims=True) + 1e-12)
