"""Depth: one distance per pixel, along the optical axis."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from must_jax.config import ModelConfig
from must_jax.data.kinds import MapLabel
from must_jax.models.heads import DenseHead
from must_jax.tasks import drawing
from must_jax.tasks.base import AnyArray, Arrays, Details, NumpyArrays, Sums, Task
from must_jax.tasks.chance import Depths
from must_jax.tasks.measures import Means, masked_sum, resize_maps, valid_pixels

TYPICAL_M = 3.0  # the depth that an output of 0 stands for, so that training starts near the truth
NEAREST_M, FARTHEST_M = 0.01, 1000.0
TRIM = 0.2  # share of the residuals, the largest ones, that the affine-invariant loss leaves out


class Depth(Task):
    """Metric or relative depth; pseudo labels are the raw map (paper section 3)."""

    name: ClassVar[str] = "depth"
    metric: ClassVar[str] = "delta1"

    kind: Literal["metric_m", "relative"] = "metric_m"
    """`metric_m`: metres; the head gives log(depth / 3 m), and the loss is L1 of log depth. `relative`: known up to
    scale and shift; the head gives the map itself, and the loss is MiDaS's scale-and-shift-invariant one (paper
    facts 7.3: both maps normalised by median and mean deviation, trimmed L1, half a gradient term)."""

    @property
    def label(self) -> MapLabel:
        return MapLabel("depth", "scalar", "m" if self.kind == "metric_m" else "relative")

    def head(self, model: ModelConfig) -> nn.Module:
        return DenseHead(1, model.head_convs, model.head_channels, model.batch_norm_momentum)

    def loss(self, outputs: Arrays, labels: Arrays) -> Sums:
        truth, mask = labels["depth"], valid_pixels(labels)
        predicted = resize_maps(outputs["maps"], truth.shape[1:])[..., 0]
        if self.kind == "relative":
            return _affine_invariant(predicted, truth, mask)
        log_ratio = predicted + math.log(TYPICAL_M) - jnp.log(jnp.maximum(truth, NEAREST_M))
        return {"log_l1": masked_sum(jnp.abs(log_ratio), mask)}

    def predict(self, outputs: Arrays, image_size: int) -> Arrays:
        depth = outputs["maps"][..., 0]
        if self.kind == "metric_m":
            depth = jnp.exp(jnp.clip(depth + math.log(TYPICAL_M), math.log(NEAREST_M), math.log(FARTHEST_M)))
        return {"depth": depth, "valid": jnp.ones_like(depth)}

    def condense(self, predictions: Mapping[str, AnyArray]) -> Mapping[str, AnyArray]:
        return {"depth": predictions["depth"]}

    def metrics(self) -> DepthMetrics:
        return DepthMetrics(align=self.kind == "relative")

    def pseudo_label(self, prediction: NumpyArrays) -> dict[str, np.ndarray]:
        depth = np.asarray(prediction["depth"], np.float32)
        return {"depth": depth, "valid": np.ones_like(depth), "present": np.ones((), np.float32)}

    def draw(self, image: np.ndarray, label: NumpyArrays) -> np.ndarray:
        unit = " m" if self.kind == "metric_m" else ""
        return drawing.heat(drawing.canvas(image), label["depth"], label["valid"], unit)

    def describe(self, label: NumpyArrays) -> dict[str, Any]:
        known = label["depth"][label["valid"] > 0]
        low, middle, high = np.percentile(known, (0, 50, 100)) if known.size else (0.0, 0.0, 0.0)
        values = {"min": low, "median": middle, "max": high, "valid": label["valid"].mean()}
        return {"unit": self.label.unit, **{key: round(float(value), 3) for key, value in values.items()}}


class DepthMetrics:
    """Metrics over all valid pixels with a depth above 0, pooled over all images.

    `delta1`: percent with max(d / d*, d* / d) < 1.25. `abs_rel`: mean of |d - d*| / d*. `rmse`: root of the mean of
    (d - d*)^2, in the unit of the truth.

    With `align`, which is for relative depth, each prediction is first fitted to its truth by least squares (scale and
    shift).
    """

    def __init__(self, align: bool):
        self._align = align
        self._means = Means("delta1", "abs_rel", "squared")
        self._depths, self._flat = Depths(), Means("delta1")  # of the truth; of constants fitted to it

    def update(self, prediction: NumpyArrays, label: NumpyArrays) -> None:
        known = (label["valid"] > 0) & (label["depth"] > 0) & (label["present"] > 0)
        predicted, truth = prediction["depth"][known], label["depth"][known]
        if self._align:
            predicted = _fit(predicted, truth)
            self._flat.add("delta1", _delta1(_fit(np.ones_like(truth), truth) / truth))
        else:
            self._depths.add(truth)
        predicted = np.maximum(predicted, 1e-6)
        ratio = predicted / truth
        self._means.add("delta1", _delta1(ratio))
        self._means.add("abs_rel", np.abs(ratio - 1))
        self._means.add("squared", np.square(predicted - truth))

    def merge(self, other: DepthMetrics) -> None:
        self._means.merge(other._means)
        self._depths.merge(other._depths)
        self._flat.merge(other._flat)

    def result(self) -> dict[str, float]:
        means = self._means.result()
        return means | {"rmse": math.sqrt(means.pop("squared"))}

    def details(self) -> Details:
        return {}

    def chance(self) -> float:
        return self._flat.result()["delta1"] if self._align else self._depths.best()


def _delta1(ratio: np.ndarray) -> np.ndarray:
    """100 where the depths are within a factor of 1.25 of each other, else 0."""
    return 100.0 * (np.maximum(ratio, 1 / ratio) < 1.25)


def _fit(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The predicted values, scaled and shifted to the true ones by least squares."""
    if not predicted.size:
        return predicted
    design = np.stack([predicted, np.ones_like(predicted)], -1).astype(np.float64)
    (scale, shift), *_ = np.linalg.lstsq(design, truth.astype(np.float64), rcond=None)
    return scale * predicted + shift


def _affine_invariant(predicted: jax.Array, truth: jax.Array, mask: jax.Array) -> Sums:
    residual = (_normalise(predicted, mask) - _normalise(truth, mask)) * mask
    size = jnp.sum(mask, (1, 2))
    # A sort over the image: invalid pixels, set to -1, come first, so the last `size` entries are the valid ones.
    ranked = jnp.sort(jnp.where(mask > 0, jnp.abs(residual), -1.0).reshape(len(residual), -1), -1)
    limit = jnp.take_along_axis(ranked, _last(ranked) - jnp.floor(TRIM * size).astype(jnp.int32)[:, None], -1)
    kept = jnp.where(jnp.abs(residual) <= jax.lax.stop_gradient(limit)[:, :, None], mask, 0.0)

    gradient = jnp.zeros(())
    for stride in (1, 2, 4, 8):
        coarse, known = residual[:, ::stride, ::stride], mask[:, ::stride, ::stride]
        for axis in (1, 2):
            both = jax.lax.slice_in_dim(known, 1, None, axis=axis) * jax.lax.slice_in_dim(known, 0, -1, axis=axis)
            gradient += masked_sum(jnp.abs(jnp.diff(coarse, axis=axis)), both)[0]
    pixels = jnp.sum(mask)
    return {
        "affine_invariant": (0.5 * masked_sum(jnp.abs(residual), kept)[0], pixels),
        "gradient": (0.5 * gradient, pixels),
    }


def _normalise(map_: jax.Array, mask: jax.Array) -> jax.Array:
    """Shifts and scales each image's valid pixels to median 0 and mean absolute deviation 1."""
    size = jnp.sum(mask, (1, 2))
    ranked = jnp.sort(jnp.where(mask > 0, map_, -jnp.inf).reshape(len(map_), -1), -1)
    middle = jnp.take_along_axis(ranked, _last(ranked) - jnp.floor(size / 2).astype(jnp.int32)[:, None], -1)
    centered = jnp.where(mask > 0, map_ - jnp.where(size[:, None] > 0, middle, 0.0)[:, :, None], 0.0)
    deviation = jnp.sum(jnp.abs(centered), (1, 2)) / jnp.maximum(size, 1)
    return centered / jnp.maximum(deviation, 1e-6)[:, None, None]


def _last(ranked: jax.Array) -> int:
    return ranked.shape[-1] - 1
