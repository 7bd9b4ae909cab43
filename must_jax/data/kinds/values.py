"""Maps of values: one number, or one unit vector, per pixel."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
import tensorflow_datasets as tfds

from must_jax.data import map_pictures
from must_jax.data.augment import Geometry, means, samples
from must_jax.data.kinds.base import NOTHING, Contents, Label, LabelKind
from must_jax.data.kinds.maps import TOP, WHOLE, MapLabel, MapValues
from must_jax.data.kinds.statistics import Bars, Statistics
from must_jax.data.letterbox import Content, resampled, whole_valid
from must_jax.data.units import METRES, RELATIVE
from must_jax.progress import rounded

# Steps in a scalar map's range: apart from float32's own rounding, no value is off by more than 1 / 65,535 of it, with
# a margin of 3.6 %. Twice as many would cost one bit per cell. Codes are steps plus one, as 0 means "invalid".
SCALAR_STEPS = 34_000
MILLIMETRES = "mm"
FARTHEST_M = 65.535  # in a PNG
QUANTILES = (0.01, 0.05, 0.5, 0.95, 0.99)
_SLIVER = 1e-3  # a mean of unit vectors shorter than this counts as none
_FLAT = 1e-3  # a map that varies by no more than this share of its median counts as constant
_AWAY = 0.5  # z of a normal: a visible surface faces its ray, which is mostly within 30 degrees of the optical axis
_TURNED = 0.1  # minimum component of the mean normal that counts as a direction


class ValuesLabel(MapLabel):
    """`{field: f32[h, w, ...], "valid": f32[h, w]}`, 0 where invalid; linear sampling."""

    axes: ClassVar[tuple[int, ...]] = ()  # of a value

    @property
    def invalid(self) -> str:
        return "code 0"

    @property
    def has_confidence(self) -> bool:
        return False

    def absent(self, map_hw: tuple[int, int]) -> Label:
        return {
            "present": np.float32(0),
            self.field: np.zeros((*map_hw, *self.axes), np.float32),
            "valid": np.zeros(map_hw, np.float32),
        }

    def most_bytes(self, map_hw: tuple[int, int]) -> int:
        return 2 * map_hw[0] * map_hw[1]

    def placed(self, geometry: Geometry, label: Label, map_hw: tuple[int, int]) -> Label:
        """Means over each cell's footprint of what is valid there; a cell with nothing valid in it is invalid.

        Where a cell is smaller than a pixel, values are interpolated linearly between the valid pixels around it.
        """
        valid = label["valid"]
        y, x = map(samples, geometry, valid.shape, map_hw)
        weight = means(valid, y, x)
        known = weight > 0
        if not valid.all():
            below = valid.take(y.below, 0).take(x.below, 1)
            known &= cv2.resize(below, (len(x.nearest), len(y.nearest)), interpolation=cv2.INTER_AREA) > 0
        values, known = self._mean(means(label[self.field], y, x), weight, known, geometry.x.flip)
        out = self.absent(map_hw) | {"present": label["present"]}
        out[self.field][y.where, x.where] = values
        out["valid"][y.where, x.where] = known
        return out

    def _mean(
        self, sums: np.ndarray, weight: np.ndarray, known: np.ndarray, flip: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sums of weighted values -> their means, and where there are any."""
        return sums * known / np.where(known, weight, 1), known

    def on_image(self, prediction: Mapping[str, np.ndarray], content: Content, hw: tuple[int, int]) -> Label:
        return resampled(prediction, content, hw)

    def cut_padding(self, label: Label, content: Content) -> Label:
        return whole_valid(self.on_image(label, content, self._content_hw(label, content)))

    def turned(self, label: Label, transposed: bool, reversed_y: bool, reversed_x: bool) -> Label:
        maps = (name for name in (self.field, "valid") if name in label)
        return label | {name: self._turned(label[name], transposed, reversed_y, reversed_x) for name in maps}

    def known(self, label: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.asarray(label["valid"] > 0)

    def contents(self, label: Mapping[str, np.ndarray]) -> Contents:
        return Contents(NOTHING, NOTHING, self.known(label))

    def rank(self, label: Mapping[str, np.ndarray]) -> float | None:
        known = label[self.field][label["valid"] > 0]
        return self._variety(known) if len(known) else None

    @abc.abstractmethod
    def _variety(self, values: np.ndarray) -> float: ...

    def _count(self, label: Mapping[str, np.ndarray], into: Statistics) -> None:
        super()._count(label, into)
        if (known := self.known(label)).any():
            self._count_values(label[self.field][known], into)

    @abc.abstractmethod
    def _count_values(self, values: np.ndarray, into: Statistics) -> None: ...

    def readable(self, statistics: Statistics, classes: Sequence[str]) -> dict[str, Any]:
        values = super().readable(statistics, classes)
        if not statistics.known:
            return values
        return {**values, "one_value_only": 100 * statistics.flat / statistics.labelled}

    def told(self, statistics: Statistics, classes: Sequence[str]) -> list[str]:
        if not statistics.known:
            return ["no pixel with a label"]
        return [*self._told(statistics), f"valid: {100 * statistics.known / max(statistics.pixels, 1):.3g} %"]

    @abc.abstractmethod
    def _told(self, statistics: Statistics) -> list[str]: ...

    def compared(self, label: Label, truth: Label) -> tuple[Label, Label]:
        label = whole_valid(self.on_image(label, WHOLE, self.map_hw(truth)))
        return label, truth | {"valid": truth["valid"] * label["valid"]}

    def as_array(self, label: Mapping[str, np.ndarray]) -> MapValues:
        known = self.known(label).reshape(*label["valid"].shape, *[1] * len(self.axes))
        values = np.where(known, label[self.field], np.float32(np.nan))
        return MapValues(values.astype(np.float32), self._meaning())

    @abc.abstractmethod
    def _meaning(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class ScalarsLabel(ValuesLabel):
    """`{field: f32[h, w], "valid": f32[h, w]}`.

    Stored as `<field>`, a lossless WebP; value = offset + scale * (256 R + G), R = G = 0: invalid; `scale`, `offset`
    float32. docs/label_store.md has the measurements that this rests on. Older records are 16-bit PNGs.
    """

    field: str
    unit: str = ""

    MARKS: ClassVar[Mapping[str, str]] = {"kind": "map", "content": "scalar"}
    content: ClassVar[str] = "scalar"
    called: ClassVar[str] = "map of scalars"

    def layout(self) -> LabelKind:
        return dataclasses.replace(self, unit="")

    def in_unit(self, unit: str) -> LabelKind:
        return dataclasses.replace(self, unit=unit)

    def as_found(self, unit: str, classes: int) -> MapLabel:
        return dataclasses.replace(self, unit=unit)

    def converted(self, label: Label, unit: str) -> Label:
        """A depth of 0 or less has no inverse and becomes invalid."""
        if self.unit in (unit, RELATIVE) or not label["present"]:
            return label
        valid = label["valid"] * (label[self.field] > 0)
        inverse = valid / np.where(valid > 0, label[self.field], np.float32(1))
        return {**label, self.field: inverse.astype(np.float32), "valid": valid.astype(np.float32)}

    def features(self) -> dict[str, Any]:
        webp = tfds.features.Image(shape=(None, None, 3), doc="offset + scale * (256 R + G); R = G = 0: invalid")
        return {self.field: webp, "scale": np.float32, "offset": np.float32, "present": np.uint8}

    def _encoded(self, label: Mapping[str, np.ndarray]) -> dict[str, Any]:
        values, valid = np.asarray(label[self.field], np.float32), np.asarray(label["valid"]) > 0
        low, high = (values[valid].min(), values[valid].max()) if valid.any() else (np.float32(0), np.float32(0))
        scale = (high - low) / np.float32(SCALAR_STEPS)
        offset = low - scale  # so that code 1 is the lowest value
        steps = (values - low) / scale if scale > 0 else np.zeros_like(values)
        codes = np.where(valid, 1 + np.clip(np.rint(steps), 0, SCALAR_STEPS), 0).astype(np.uint16)
        return {self.field: map_pictures.webp(codes), "scale": scale, "offset": offset}

    def _decoded(self, record: Mapping[str, Any], classes: int) -> dict[str, Any]:
        codes = map_pictures.codes(record[self.field])
        valid = (codes > 0).astype(np.float32)
        scale, offset = np.float32(record["scale"]), np.float32(record["offset"])
        return {self.field: (offset + scale * codes.astype(np.float32)) * valid, "valid": valid}

    def rank_name(self, statistics: Statistics) -> str:
        return "range of values over their median"

    def _variety(self, values: np.ndarray) -> float:
        low, middle, high = np.percentile(values, (5, 50, 95))
        return float((high - low) / max(abs(middle), 1e-6))

    def _count_values(self, values: np.ndarray, into: Statistics) -> None:
        into.spread(values)
        into.total += float(values.sum(dtype=np.float64))
        into.flat += bool(np.ptp(values) <= _FLAT * abs(float(np.median(values))))

    def readable(self, statistics: Statistics, classes: Sequence[str]) -> dict[str, Any]:
        values = super().readable(statistics, classes)
        if not statistics.known:
            return values
        mean = float(statistics.total[0] / statistics.known)
        quantiles = {f"{share:g}": statistics.quantile(share) for share in QUANTILES}
        return {**values, "min": statistics.low, "max": statistics.high, "mean": mean, "quantiles": quantiles}

    def _told(self, statistics: Statistics) -> list[str]:
        low, high = rounded(statistics.low), rounded(statistics.high)
        middle, unit = rounded(statistics.quantile(0.5), 2), f" {self.unit}" if self.unit else ""
        return [f"{self.field} from {low} over about {middle} (median) to {high}{unit}"]

    def histograms(self, statistics: Statistics) -> list[Bars]:
        found = super().histograms(statistics)
        if statistics.values.any():
            title = f"pixels by {self.field} ({self.unit})"
            found.append(Bars(title, *statistics.histogram_of_values(), logarithmic=True))
        return found

    def as_picture(self, label: Mapping[str, np.ndarray]) -> MapValues:
        values, known = label[self.field], self.known(label)
        if self.unit == METRES:
            beyond = known & (values > FARTHEST_M)
            codes = np.rint(1000 * values.astype(np.float64)) * (known & ~beyond)
            return MapValues(codes, {"unit": MILLIMETRES, "invalid": 0, "beyond": int(np.count_nonzero(beyond))})
        low, high = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 0.0)
        scale = (high - low) / (TOP - 1) or 1.0
        codes = (1 + np.rint((values - low) / scale)) * known
        return MapValues(codes, {"unit": self.unit, "scale": scale, "offset": low - scale, "invalid": 0})

    def _meaning(self) -> dict[str, Any]:
        return {"unit": self.unit}


@dataclass(frozen=True)
class DirectionsLabel(ValuesLabel):
    """`{field: f32[h, w, 3], "valid": f32[h, w]}`, unit vectors in the camera frame: x right, y down, z forward.

    They are normalised again wherever they are averaged; a horizontal flip negates x.

    Stored as `<field>`, a lossless WebP; R, G = 128 + 100 * octahedral u, v (see `map_pictures`), R = G = 0: invalid.
    Older records are RGB PNGs of three components.
    """

    field: str

    MARKS: ClassVar[Mapping[str, str]] = {"kind": "map", "content": "vector"}
    content: ClassVar[str] = "vector"
    called: ClassVar[str] = "map of vectors"
    axes: ClassVar[tuple[int, ...]] = (3,)

    def features(self) -> dict[str, Any]:
        webp = tfds.features.Image(shape=(None, None, 3), doc=f"{map_pictures.DIRECTION}; R = G = 0: invalid")
        return {self.field: webp, "present": np.uint8}

    def _encoded(self, label: Mapping[str, np.ndarray]) -> dict[str, Any]:
        codes = map_pictures.direction_codes(np.asarray(label[self.field], np.float32))
        return {self.field: map_pictures.webp(np.where(np.asarray(label["valid"]) > 0, codes, 0))}

    def _decoded(self, record: Mapping[str, Any], classes: int) -> dict[str, Any]:
        vectors, valid = map_pictures.directions(record[self.field])
        return {self.field: vectors, "valid": valid}

    def _mean(
        self, sums: np.ndarray, weight: np.ndarray, known: np.ndarray, flip: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        norm = np.sqrt(np.einsum("hwc,hwc->hw", sums, sums))
        known = known & (norm > _SLIVER * weight)  # opposite directions have no mean
        vectors = sums * (known / np.where(known, norm, 1))[..., None]
        if flip:
            vectors[..., 0] *= -1
        return vectors, known

    def on_image(self, prediction: Mapping[str, np.ndarray], content: Content, hw: tuple[int, int]) -> Label:
        found = super().on_image(prediction, content, hw)
        x, y, z = np.moveaxis(found[self.field], -1, 0)  # takes a third of the time of `np.linalg.norm`
        length = np.maximum(np.sqrt(x * x + y * y + z * z), np.float32(1e-6))
        return found | {self.field: np.stack([x / length, y / length, z / length], -1)}

    def turned(self, label: Label, transposed: bool, reversed_y: bool, reversed_x: bool) -> Label:
        turned = super().turned(label, transposed, reversed_y, reversed_x)
        vectors = turned[self.field][..., [1, 0, 2]] if transposed else turned[self.field]
        signs = np.array([-1 if reversed_x else 1, -1 if reversed_y else 1, 1], np.float32)
        return turned | {self.field: vectors * signs}

    def rank_name(self, statistics: Statistics) -> str:
        return "variety of directions"

    def _variety(self, values: np.ndarray) -> float:
        return float(1 - np.linalg.norm(values.mean(0)))

    def _count_values(self, values: np.ndarray, into: Statistics) -> None:
        mean = values.mean(0, dtype=np.float64)
        into.total += len(values) * mean
        into.flat += bool(np.linalg.norm(mean) > 1 - _FLAT)
        into.away += int(np.count_nonzero(values[:, 2] > _AWAY))
        lengths = np.sqrt(np.einsum("ij,ij->i", values, values))  # takes a tenth of the time of `np.linalg.norm`
        into.off_unit += int(np.count_nonzero(np.abs(lengths - 1) > 0.1))

    def readable(self, statistics: Statistics, classes: Sequence[str]) -> dict[str, Any]:
        values = super().readable(statistics, classes)
        if not statistics.known:
            return values
        return {
            **values,
            "mean_vector": (statistics.total / statistics.known).tolist(),
            "away": 100 * statistics.away / statistics.known,
            "not_of_length_1": 100 * statistics.off_unit / statistics.known,
        }

    def _told(self, statistics: Statistics) -> list[str]:
        mean = statistics.total / statistics.known
        names = zip(("left", "up", "towards the camera"), ("right", "down", "away from the camera"), strict=True)
        words = [
            positive if value > 0 else negative
            for value, (negative, positive) in zip(mean, names, strict=True)
            if abs(value) > _TURNED
        ]
        listed = ", ".join(f"{value:.2f}" for value in mean + 0.0)
        return [
            f"mean of {self.field} (x right, y down, z away from the camera): ({listed}), "
            f"so they point {' and '.join(words) or 'nowhere in particular'}"
        ]

    def as_picture(self, label: Mapping[str, np.ndarray]) -> MapValues:
        codes = np.rint((np.clip(label[self.field], -1, 1) + 1) * (TOP / 2)) * self.known(label)[..., None]
        return MapValues(codes, {"scale": 2 / TOP, "offset": -1, "invalid": 0, **self._meaning()})

    def _meaning(self) -> dict[str, Any]:
        return {"axes": "x,y,z"}
