"""Maps of class ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from must_jax.data import map_pictures
from must_jax.data.augment import Geometry, Samples, samples
from must_jax.data.confidence import Least, sure
from must_jax.data.kinds.base import NOTHING, Contents, Label, check_ids
from must_jax.data.kinds.maps import WHOLE, MapLabel, MapValues
from must_jax.data.kinds.statistics import Statistics, histogram
from must_jax.data.letterbox import Content, nearest, resampled
from must_jax.errors import UserError
from must_jax.progress import rounded

IGNORE_ID, WIDE_IGNORE_ID = 255, 65535  # codes of "no label" in 8-bit and 16-bit maps of ids
_MOST_CONFIDENT = np.float32(255)  # the code of a confidence of 1
_GATHERED = 2**22  # pixels that are gathered at a time
_MOST_CLASSES = 20  # listed at most


@dataclass(frozen=True)
class IdsLabel(MapLabel):
    """`{field: i32[h, w]}`, `ignore_id` where there is no label; nearest-neighbour sampling.

    Stored as `<field>`, an 8-bit PNG, 255 = ignore, or, for more than 255 classes, a 16-bit PNG, 65535 = ignore; if it
    is kept, `confidence`, an 8-bit PNG, 255 = 1.

    Attributes:
      confidence: ids are stored everywhere, with `"confidence": f32[h, w]`, 0..1, beside them, and whoever reads them
        applies a threshold. This is about storage, not meaning. Batches never have it.
      wide: 16-bit ids, for more than 255 classes.
    """

    field: str
    confidence: bool = dataclasses.field(default=False, compare=False)
    wide: bool = False

    MARKS: ClassVar[Mapping[str, str]] = {"kind": "map", "content": "ids"}
    content: ClassVar[str] = "ids"
    called: ClassVar[str] = "map of ids"
    can_keep_confidence: ClassVar[bool] = True

    @property
    def ignore_id(self) -> int:
        """The id of pixels without a label."""
        return WIDE_IGNORE_ID if self.wide else IGNORE_ID

    def as_found(self, unit: str, classes: int) -> MapLabel:
        return dataclasses.replace(self, wide=classes > IGNORE_ID)

    @property
    def invalid(self) -> str:
        return str(self.ignore_id)

    @property
    def type(self) -> Any:
        """The smallest type that holds the ids."""
        return np.uint16 if self.wide else np.uint8

    def features(self) -> dict[str, Any]:
        types = {self.field: self.type} | ({"confidence": np.uint8} if self.confidence else {})
        pictures = {
            name: tfds.features.Image(shape=(None, None, 1), dtype=dtype, encoding_format="png")
            for name, dtype in types.items()
        }
        return {**pictures, "present": np.uint8}

    def absent(self, map_hw: tuple[int, int]) -> Label:
        return {"present": np.float32(0), self.field: np.full(map_hw, self.ignore_id, np.int32)}

    def most_bytes(self, map_hw: tuple[int, int]) -> int:
        return (1 + self.confidence) * map_hw[0] * map_hw[1]

    def as_stored(self, label: Mapping[str, np.ndarray]) -> Label:
        if "confidence" not in label:
            return dict(label)
        return {**label, "confidence": _confidence_codes(label["confidence"]) / _MOST_CONFIDENT}

    def _placeholder(self) -> Label:
        return self.absent((1, 1)) | {"confidence": np.zeros((1, 1))}

    def _encoded(self, label: Mapping[str, np.ndarray]) -> dict[str, Any]:
        ids = np.asarray(label[self.field])
        if np.any((ids < 0) | (ids > self.ignore_id)):
            raise UserError(
                f"'{self.field}' has ids from {ids.min()} to {ids.max()}; use 0 to {self.ignore_id - 1}, "
                f"{self.ignore_id} for ignore"
            )
        record = {self.field: map_pictures.png(ids, smooth=False, wide=self.wide)}
        if self.confidence:
            record["confidence"] = map_pictures.png(_confidence_codes(label["confidence"]), smooth=True)
        return record

    def _decoded(self, record: Mapping[str, Any], classes: int) -> dict[str, Any]:
        codes = map_pictures.pixels(record[self.field])
        check_ids(codes[codes != self.ignore_id], classes)
        label: dict[str, Any] = {self.field: codes.astype(np.int32)}
        if self.confidence:
            label["confidence"] = map_pictures.pixels(record["confidence"]).astype(np.float32) / _MOST_CONFIDENT
        return label

    def placed(self, geometry: Geometry, label: Label, map_hw: tuple[int, int]) -> Label:
        """The id at each cell's centre; where that is ignored, the nearest id within the cell's footprint, if any."""
        ids = label[self.field]
        y, x = map(samples, geometry, ids.shape, map_hw)
        out = np.full(map_hw, self.ignore_id, np.int32)
        sampled = ids[y.nearest[:, None], x.nearest[None]]
        rows, columns = np.nonzero(sampled == self.ignore_id)
        if len(rows) and max(len(y.around), len(x.around)) > 1:
            for some, found in self._nearest_known(ids, y, x, rows, columns):
                sampled[rows[some], columns[some]] = found
        out[y.where, x.where] = sampled
        return {self.field: out, "present": label["present"]}

    def _nearest_known(self, ids: np.ndarray, y: Samples, x: Samples, rows: np.ndarray, columns: np.ndarray) -> Any:
        """Yields, of some of these cells at a time, the nearest id within their footprint."""
        offsets = np.stack(np.meshgrid(y.around, x.around, indexing="ij"), -1).reshape(-1, 2)
        offsets = offsets[np.argsort(np.square(offsets).sum(1), kind="stable")]  # nearest first
        for start in range(0, len(rows), most := max(1, _GATHERED // len(offsets))):
            some = slice(start, start + most)
            places = zip((y, x), (rows[some], columns[some]), offsets.T, strict=True)
            at = [axis.within(cells, offset) for axis, cells, offset in places]
            candidates = ids[at[0], at[1]]
            first = np.argmax(candidates != self.ignore_id, axis=1)
            yield some, candidates[np.arange(len(first)), first]

    def on_image(self, prediction: Mapping[str, np.ndarray], content: Content, hw: tuple[int, int]) -> Label:
        return resampled(prediction, content, hw)

    def cut_padding(self, label: Label, content: Content) -> Label:
        return _at(label, content, self._content_hw(label, content))

    def turned(self, label: Label, transposed: bool, reversed_y: bool, reversed_x: bool) -> Label:
        return label | {self.field: self._turned(label[self.field], transposed, reversed_y, reversed_x)}

    @property
    def has_confidence(self) -> bool:
        return self.confidence

    @property
    def keeps_confidence(self) -> bool:
        return self.confidence

    def _confident(self, label: Label, least: Least) -> Label:
        ids = label[self.field]
        ids = np.where(sure(label["confidence"], ids, least), ids, self.ignore_id)
        return label | {self.field: ids.astype(np.int32)}

    def known(self, label: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.asarray(label[self.field] != self.ignore_id)

    def contents(self, label: Mapping[str, np.ndarray]) -> Contents:
        known = self.known(label)
        return Contents(label[self.field][known], NOTHING, known)

    def rank(self, label: Mapping[str, np.ndarray]) -> float | None:
        return float(np.mean(label["confidence"] if "confidence" in label else self.known(label)))

    def rank_name(self, statistics: Statistics) -> str:
        return "mean confidence" if statistics.confidence.any() else "share of labelled pixels"

    def _count(self, label: Mapping[str, np.ndarray], into: Statistics) -> None:
        super()._count(label, into)
        if "confidence" in label:
            into.confidence += histogram(label["confidence"])

    def told(self, statistics: Statistics, classes: Sequence[str]) -> list[str]:
        if not statistics.known:
            return ["no pixel with a label"]
        shares = 100 * statistics.class_amount / statistics.known
        listed = np.argsort(-shares, kind="stable")[:_MOST_CLASSES]
        of_classes = ", ".join(f"{classes[index]} {shares[index]:.3g} %" for index in listed if shares[index])
        unknown = 100 * (1 - statistics.known / max(statistics.pixels, 1))
        return [f"of the pixels {of_classes}", f"without label: {rounded(unknown, 2)} %"]

    def compared(self, label: Label, truth: Label) -> tuple[Label, Label]:
        label = _at(label, WHOLE, self.map_hw(truth))
        seen = np.where(self.known(label), truth[self.field], np.int32(self.ignore_id))
        return label, truth | {self.field: seen}

    def as_picture(self, label: Mapping[str, np.ndarray]) -> MapValues:
        return MapValues(label[self.field], {"ignore": self.ignore_id}, smooth=False, wide=self.wide)

    def as_array(self, label: Mapping[str, np.ndarray]) -> MapValues:
        return MapValues(label[self.field].astype(self.type), {"ignore": self.ignore_id})


def _at(label: Label, content: Content, hw: tuple[int, int]) -> Label:
    """The label at another resolution, by nearest neighbour."""
    return {name: nearest(map_, content, hw) if map_.ndim else map_ for name, map_ in label.items()}


def _confidence_codes(confidence: np.ndarray) -> np.ndarray:
    """Whole numbers from 0 to 255."""
    return np.rint(np.clip(confidence, 0, 1) * _MOST_CONFIDENT)
