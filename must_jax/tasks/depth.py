"""Depth: one distance per pixel, along the optical axis."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from must_jax.config import ModelConfig
from must_jax.data.kinds import ScalarsLabel
from must_jax.data.letterbox import whole_valid
from must_jax.data.units import INVERSE, METRES
from must_jax.models.heads import dense_head
from must_jax.tasks import drawing
from must_jax.tasks.base import Arrays, Curve, Details, NumpyArrays, Sums
from must_jax.tasks.chance import DISTANCES, FINE, best_depth, depth_bins, middle_of
from must_jax.tasks.maps import AnyArrays, MapMetrics, MapTask, Moments, bins, namespace, pairs, total
from must_jax.tasks.measures import masked_sum, resize_maps, valid_pixels

TYPICAL_M = 3.0  # the depth that an output of 0 stands for, so that training starts near the truth
NEAREST_M, FARTHEST_M = 0.01, 1000.0
_STEPS = 8  # between ratios of 1.25 ** n
_RATIOS = (1.25 ** (np.arange(1, 3 * _STEPS + 1) / _STEPS)).astype(np.float32)
TRIM = 0.2  # share of the residuals, the largest ones, that the affine-invariant loss leaves out


class Depth(MapTask):
    """Metric, relative or inverse depth; pseudo labels are the raw map (paper section 3)."""

    kind: ClassVar[str] = "depth"
    metric: ClassVar[str] = "delta1"
    errors: ClassVar[frozenset[str]] = frozenset({"abs_rel", "rmse"})
    counted: ClassVar[str] = "depth"

    depth_kind: Literal["metric_m", "relative", "inverse_relative"] = "metric_m"
    """`metric_m`: metres; the head gives log(depth / 3 m), and the loss is L1 of log depth. `relative`: known up to
    scale and shift; the head gives the map itself, and the loss is MiDaS's scale-and-shift-invariant one (both
    maps normalised by median and mean deviation, trimmed L1, half a gradient term). `inverse_relative`: the same of
    1 / depth, as MiDaS, DPT and Depth Anything give it: the larger, the nearer."""

    @property
    def label(self) -> ScalarsLabel:
        return ScalarsLabel("depth", METRES if self.depth_kind == "metric_m" else self.depth_kind)

    def head(self, model: ModelConfig) -> nn.Module:
        return dense_head(1, model)

    def loss(self, outputs: Arrays, labels: Arrays, input_hw: tuple[int, int]) -> Sums:
        truth, mask = labels["depth"], valid_pixels(labels)
        predicted = resize_maps(outputs["maps"], truth.shape[1:])[..., 0]
        if self.depth_kind != "metric_m":
            return _affine_invariant(predicted, truth, mask)
        log_ratio = predicted + math.log(TYPICAL_M) - jnp.log(jnp.maximum(truth, NEAREST_M))
        return {"log_l1": masked_sum(jnp.abs(log_ratio), mask)}

    def predict(self, outputs: Arrays, input_hw: tuple[int, int]) -> Arrays:
        depth = outputs["maps"][..., 0]
        if self.depth_kind == "metric_m":
            depth = jnp.exp(jnp.clip(depth + math.log(TYPICAL_M), math.log(NEAREST_M), math.log(FARTHEST_M)))
        return {"depth": depth}

    def truth(self, label: NumpyArrays) -> NumpyArrays:
        """{"depth": f32[h, w]}; where it is not above 0, it is not known.

        Inverse depth is divided by the smallest in the image, that of its farthest pixel, so that this one has 1.
        """
        depth = np.where(label["valid"] > 0, np.maximum(label["depth"], 0), np.float32(0))
        if self.depth_kind == "inverse_relative":
            depth = depth / depth.min(where=depth > 0, initial=np.float32(np.inf))
        return {"depth": depth}

    def moments(self) -> tuple[Moments, ...]:
        return () if self.depth_kind == "metric_m" else (_sums_of_both, _moments)

    def counts(self, predicted: Any, truth: AnyArrays, fit: AnyArrays) -> dict[str, Any]:
        """Pixels by distance and ratio, sums of the errors, and what the chance level is computed from.

        Of what is not metric, the prediction is fitted to the truth by its `moments`.
        """
        known, inverse = truth["depth"] > 0, self.depth_kind == "inverse_relative"
        true = _where(known, truth["depth"], 1)
        counts: dict[str, Any] = {}
        if fit:
            predicted = _fitted(predicted, fit)
            flat = _ratio(_where(known, _mean(fit, "truth").astype(np.float32) + 0 * true, 1), true)
            counts["flat"] = namespace(flat).sum(known & (flat < 1.25), dtype=np.int32)
        predicted = _at_least(_where(known, predicted, 1), 1 if inverse else 1e-6)
        distance, fine = depth_bins(true)
        if not fit:
            counts["depths"] = pairs(distance, fine, known, (DISTANCES, FINE))
        ratio = bins(_ratio(predicted, true), _RATIOS)
        counts["errors"] = pairs(distance, ratio, known, (DISTANCES, len(_RATIOS) + 1))
        counts["abs_rel"] = total(abs((true / predicted if inverse else predicted / true) - 1), known)
        if not inverse:
            counts["squared"] = total((predicted - true) ** 2, known)
        return counts

    def metrics(self) -> DepthMetrics:
        return DepthMetrics(self)

    def pseudo_label(self, prediction: NumpyArrays) -> dict[str, np.ndarray]:
        depth = np.asarray(prediction["depth"], np.float32)
        valid = prediction.get("valid", np.ones_like(depth))
        return whole_valid({"depth": depth, "valid": valid, "present": np.ones((), np.float32)})

    def draw(self, image: np.ndarray, label: NumpyArrays) -> np.ndarray:
        unit, inverse = " m" * (self.depth_kind == "metric_m"), self.depth_kind == "inverse_relative"
        return drawing.heat(drawing.canvas(image), label["depth"], label["valid"], unit, large_is_warm=inverse)

    def describe(self, label: NumpyArrays) -> dict[str, Any]:
        known = label["depth"][label["valid"] > 0]
        low, middle, high = np.percentile(known, (0, 50, 100)) if known.size else (0.0, 0.0, 0.0)
        values = {"min": low, "median": middle, "max": high, "valid": label["valid"].mean()}
        return {"unit": self.label.unit, **{key: round(float(value), 3) for key, value in values.items()}}


class DepthMetrics(MapMetrics):
    """Metrics over all valid pixels with a depth above 0, pooled over all images.

    `delta1`: percent with max(d / d*, d* / d) < 1.25. `abs_rel`: mean of |d - d*| / d*. `rmse`: root of the mean of
    (d - d*)^2, in the unit of the truth.

    Of relative depth, each prediction is first fitted to its truth by least squares (scale and shift).

    Inverse depth is fitted to 1 / d* in the same way, and then inverted, as by MiDaS and Depth Anything. What is then
    farther than the farthest true depth of the image, as a fitted value of 0 or less, counts as that depth; MiDaS takes
    the largest depth of the data set. There is no `rmse`. If the truth is inverse depth up to scale and shift, too, its
    0 is taken as infinitely far: ratios of inverse depths are those of depths. Pixels of 0 or less do not count.
    """

    @property
    def _errors(self) -> np.ndarray:
        """i64[DISTANCES, ratios]: pixels by distance and by the ratio of the depths."""
        return self._counts.get("errors", np.zeros((DISTANCES, len(_RATIOS) + 1), np.int64))

    def result(self) -> dict[str, float]:
        pixels = max(int(self._errors.sum()), 1)
        mean = {name: float(self._counts.get(name, 0)) / pixels for name in ("abs_rel", "squared")}
        result = {"delta1": _share_below(self._errors.sum(0), 1), "abs_rel": mean["abs_rel"]}
        return result if self._task.label.unit == INVERSE else result | {"rmse": math.sqrt(mean["squared"])}

    def details(self) -> Details:
        if not self._errors.any():
            return {}
        ratios, unit = self._errors.sum(0), self._task.label.unit
        below = (100 * ratios.cumsum()[:-1] / ratios.sum()).round(3).tolist()
        curves: list[Curve] = [
            {
                "title": "Pixels by the error of their depth",
                "x": "ratio of predicted and true depth, the larger one divided by the smaller one",
                "y": "pixels below it (%)",
                "series": {"share": ([round(float(ratio), 4) for ratio in _RATIOS], below)},
            }
        ]
        seen = np.flatnonzero(self._errors.sum(1))
        if unit == METRES:
            distances = [round(float(d), 4) for d in middle_of(seen)]
            shares = {
                f"below {1.25**power:.4g}": [round(_share_below(self._errors[row], power), 3) for row in seen]
                for power in (1, 2, 3)
            }
            curves.append(
                {
                    "title": "Errors by distance",
                    "x": "true depth (m)",
                    "y": "pixels below a ratio (%)",
                    "series": {name: (distances, values) for name, values in shares.items()},
                }
            )
        return {"curves": curves}

    def chance(self) -> float:
        if "flat" in self._counts:
            return float(100 * self._counts["flat"] / max(int(self._errors.sum()), 1))
        return best_depth(self._counts.get("depths", np.zeros((DISTANCES, 1), np.int64)))


def _ratio(a: Any, b: Any) -> Any:
    return namespace(a).maximum(a / b, b / a)


def _share_below(ratios: np.ndarray, power: int) -> float:
    """Percent of the pixels that are within a factor of 1.25 ** power."""
    return float(100 * ratios[: power * _STEPS].sum() / max(int(ratios.sum()), 1))


def _sums_of_both(predicted: Any, truth: AnyArrays, fit: AnyArrays) -> dict[str, Any]:
    known = truth["depth"] > 0
    kept = known.astype(np.float32)
    return {"pixels": kept, "predicted": _where(known, predicted, 0), "truth": truth["depth"] * kept}


def _moments(predicted: Any, truth: AnyArrays, fit: AnyArrays) -> dict[str, Any]:
    """Of the differences to the means, as far from which the values may lie."""
    known = truth["depth"] > 0
    apart = _where(known, predicted - _mean(fit, "predicted"), 0)
    return {"variance": apart * apart, "covariance": apart * (truth["depth"] - _mean(fit, "truth"))}


def _mean(fit: AnyArrays, name: str) -> Any:
    return fit[name] / _at_least(fit["pixels"], 1)


def _fitted(predicted: Any, fit: AnyArrays) -> Any:
    """The predicted values, scaled and shifted to the true ones by least squares."""
    scale = fit["covariance"] / _at_least(fit["variance"], 1e-30)
    fitted = (predicted - _mean(fit, "predicted")) * scale + _mean(fit, "truth")
    return fitted.astype(np.float32)


def _where(chosen: Any, values: Any, other: float) -> Any:
    return namespace(values).where(chosen, values, np.float32(other))


def _at_least(values: Any, least: float) -> Any:
    return namespace(values).maximum(values, np.float32(least))


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
