"""Surface normals: one unit vector per pixel in the camera frame (x right, y down, z forward)."""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from must_jax.config import ModelConfig
from must_jax.data.kinds import DirectionsLabel
from must_jax.data.letterbox import whole_valid
from must_jax.models.heads import dense_head
from must_jax.tasks import drawing
from must_jax.tasks.base import Arrays, Curve, Details, NumpyArrays, Sums
from must_jax.tasks.chance import DIRECTIONS, best_direction, direction_bins
from must_jax.tasks.maps import AnyArrays, MapMetrics, MapTask, histogram, namespace, pairs, total
from must_jax.tasks.measures import masked_sum, resize_maps, valid_pixels

_STEP_DEG = np.float32(1.25)
_ANGLES_DEG = np.arange(1, 73, dtype=np.float32) * _STEP_DEG
_WITHIN_DEG = {"within_11_25": 11.25, "within_22_5": 22.5, "within_30": 30.0}


class Normals(MapTask):
    """Loss 1 - cosine of the angle between prediction and truth; pseudo labels are the raw vectors."""

    kind: ClassVar[str] = "normals"
    metric: ClassVar[str] = "within_11_25"
    errors: ClassVar[frozenset[str]] = frozenset({"mean_angle_deg"})
    counted: ClassVar[str] = "normals"

    @property
    def label(self) -> DirectionsLabel:
        return DirectionsLabel("normals")

    def head(self, model: ModelConfig) -> nn.Module:
        return dense_head(3, model)

    def loss(self, outputs: Arrays, labels: Arrays, input_hw: tuple[int, int]) -> Sums:
        truth = labels["normals"]
        predicted = _unit(resize_maps(outputs["maps"], truth.shape[1:3]))
        return {"one_minus_cosine": masked_sum(1 - jnp.sum(predicted * truth, -1), valid_pixels(labels))}

    def predict(self, outputs: Arrays, input_hw: tuple[int, int]) -> Arrays:
        return {"normals": _unit(outputs["maps"])}

    def truth(self, label: NumpyArrays) -> NumpyArrays:
        """{"normals": f32[h, w, 3]}; vectors of length 0 are not known."""
        return {"normals": np.where(label["valid"][..., None] > 0, label["normals"], np.float32(0))}

    def counts(self, predicted: Any, truth: AnyArrays, fit: AnyArrays) -> dict[str, Any]:
        """Pixels by their error, the sum of the errors, and what the chance level is computed from."""
        xp, true = namespace(predicted), truth["normals"]
        known = (true != 0).any(-1)
        length = xp.sqrt((predicted * predicted).sum(-1))
        cosine = (predicted * true).sum(-1) / xp.maximum(length, np.float32(1e-6))
        angle_deg = xp.rad2deg(xp.arccos(xp.clip(cosine, -1, 1)))
        angle = xp.where(angle_deg < _ANGLES_DEG[-1], xp.floor(angle_deg / _STEP_DEG), np.float32(len(_ANGLES_DEG)))
        return {
            "errors": histogram(angle.astype(np.int32), known, len(_ANGLES_DEG) + 1),
            "angle_deg": total(angle_deg, known),
            "directions": pairs(*direction_bins(true), known, DIRECTIONS),
        }

    def metrics(self) -> NormalsMetrics:
        return NormalsMetrics(self)

    def pseudo_label(self, prediction: NumpyArrays) -> dict[str, np.ndarray]:
        normals = np.asarray(prediction["normals"], np.float32)
        valid = prediction.get("valid", np.ones(normals.shape[:2], np.float32))
        return whole_valid({"normals": normals, "valid": valid, "present": np.ones((), np.float32)})

    def draw(self, image: np.ndarray, label: NumpyArrays) -> np.ndarray:
        return drawing.directions(drawing.canvas(image), label["normals"], label["valid"])

    def describe(self, label: NumpyArrays) -> dict[str, Any]:
        known = label["normals"][label["valid"] > 0]
        mean = known.mean(0) if len(known) else np.zeros(3)
        return {"mean_normal_xyz": [round(float(v), 3) for v in mean], "valid": round(float(label["valid"].mean()), 3)}


class NormalsMetrics(MapMetrics):
    """Metrics over all valid pixels, pooled over all images.

    `within_11_25`, `within_22_5`, `within_30`: percent whose error is below that many degrees. `mean_angle_deg`: the
    mean error.
    """

    @property
    def _errors(self) -> np.ndarray:
        """i64[angles]: pixels by their error."""
        return self._counts.get("errors", np.zeros(len(_ANGLES_DEG) + 1, np.int64))

    def result(self) -> dict[str, float]:
        errors = self._errors
        pixels = max(int(errors.sum()), 1)
        below = {
            name: float(100 * errors[: np.searchsorted(_ANGLES_DEG, limit_deg) + 1].sum() / pixels)
            for name, limit_deg in _WITHIN_DEG.items()
        }
        return below | {"mean_angle_deg": float(self._counts.get("angle_deg", 0)) / pixels}

    def details(self) -> Details:
        errors = self._errors
        if not errors.any():
            return {}
        below = (100 * errors.cumsum()[:-1] / errors.sum()).round(3).tolist()
        curve: Curve = {
            "title": "Pixels by the error of their direction",
            "x": "angle (degrees)",
            "y": "pixels below it (%)",
            "series": {"share": (_ANGLES_DEG.tolist(), below)},
        }
        return {"curves": [curve]}

    def chance(self) -> float:
        return best_direction(self._counts.get("directions", np.zeros(DIRECTIONS, np.int64)), 11.25)


def _unit(vectors: jnp.ndarray) -> jnp.ndarray:
    # The constant inside the root keeps the gradient finite at the zero vector.
    return vectors / jnp.sqrt(jnp.sum(vectors**2, -1, keepdims=True) + 1e-12)
