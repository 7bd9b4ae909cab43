"""One vector per image: probabilities of classes."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from must_jax.data.augment import Geometry
from must_jax.data.confidence import Least, sure
from must_jax.data.kinds.base import Contents, Label, LabelKind, check_ids
from must_jax.data.kinds.statistics import Statistics
from must_jax.data.letterbox import Content
from must_jax.errors import UserError

_KEPT = 4 + 2  # bytes: class and probability


@dataclass(frozen=True)
class VectorLabel(LabelKind):
    """`{"probs": f32[K]}`. No geometric transform changes it.

    Stored as `probs` float16 [K], zlib; where only the k largest are kept, as `classes` uint16 [k] (int32 beyond 65,536
    classes), `probs` float16 [k], largest first, and `rest` float32, the sum of all others.

    Attributes:
      top_k: only the k largest numbers are stored, and the sum of all others, which are then equal; 0 = all. This is
        about storage, not meaning.
    """

    size: int
    top_k: int = dataclasses.field(default=0, compare=False)

    MARKS: ClassVar[Mapping[str, str]] = {"kind": "vector"}
    called: ClassVar[str] = "vector"
    things: ClassVar[str] = "images"
    sure_by: ClassVar[str] = "top probability"

    def __post_init__(self) -> None:
        if self.top_k and not 0 < self.top_k < self.size:
            raise ValueError(f"{self.top_k} of {self.size} numbers cannot be kept alone")

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()
        if not self.top_k:
            del values["top_k"]  # a column that keeps all is described as before there was a choice
        return values

    def features(self) -> dict[str, Any]:
        if not self.top_k:
            probs = tfds.features.Tensor(shape=(self.size,), dtype=np.float16, encoding="zlib")
            return {"probs": probs, "present": np.uint8}
        top = {
            name: tfds.features.Tensor(shape=(self.top_k,), dtype=dtype, encoding="bytes")
            for name, dtype in self._top_types.items()
        }
        return {**top, "rest": np.float32, "present": np.uint8}

    def absent(self, map_hw: tuple[int, int]) -> Label:
        return {"present": np.float32(0), "probs": np.zeros(self.size, np.float32)}

    def most_bytes(self, map_hw: tuple[int, int]) -> int:
        return _KEPT * self.top_k if self.top_k else 2 * self.size

    def _encoded(self, label: Mapping[str, np.ndarray]) -> dict[str, Any]:
        probs = np.asarray(label["probs"])
        if not self.top_k:
            return {"probs": probs.astype(np.float16)}
        top = largest(probs, self.top_k)
        kept = {"classes": top, "probs": probs[top]}
        rest = np.float32(np.delete(probs, top).sum(dtype=np.float64))
        return {**{name: kept[name].astype(dtype) for name, dtype in self._top_types.items()}, "rest": rest}

    def _packed(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self.top_k:
            return {**record, "probs": zlib.compress(record["probs"].tobytes())}
        return {**record, **{name: record[name].tobytes() for name in self._top_types}}

    def _decoded(self, record: Mapping[str, Any], classes: int) -> dict[str, Any]:
        if not self.top_k:
            probs = record["probs"]
            if isinstance(probs, bytes):
                probs = np.frombuffer(_decompressed(probs, 2 * self.size), np.float16)
            return {"probs": np.asarray(probs, np.float32)}
        top = {name: _numbers(record[name], dtype, self.top_k) for name, dtype in self._top_types.items()}
        check_ids(top["classes"], self.size)
        probs = np.full(self.size, np.float32(record["rest"]) / np.float32(self.size - self.top_k), np.float32)
        probs[top["classes"]] = top["probs"]
        return {"probs": probs}

    @property
    def _top_types(self) -> dict[str, Any]:
        """Of what is stored by class. TensorFlow cannot read uint32."""
        return {"classes": np.uint16 if self.size <= 2**16 else np.int32, "probs": np.float16}

    def placed(self, geometry: Geometry, label: Label, map_hw: tuple[int, int]) -> Label:
        return dict(label)

    def on_image(self, prediction: Mapping[str, np.ndarray], content: Content, hw: tuple[int, int]) -> Label:
        return dict(prediction)

    def _confident(self, label: Label, least: Least) -> Label:
        probs = label["probs"]
        return label | {"present": np.float32(sure(probs.max(), probs.argmax(), least))}

    def is_empty(self, label: Mapping[str, np.ndarray]) -> bool:
        return False

    def contents(self, label: Mapping[str, np.ndarray]) -> Contents:
        top = np.argmax(label["probs"], keepdims=True)
        return Contents(top, label["probs"][top])

    def rank(self, label: Mapping[str, np.ndarray]) -> float | None:
        return float(label["probs"].max())

    def rank_name(self, statistics: Statistics) -> str:
        return self.sure_by


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """i64[count]: the indices of the largest of f[K], the largest first; of equal ones, those that come first."""
    # Negative, since selecting the last ones takes ten times as long where all others are equal.
    candidates = np.flatnonzero(-values <= np.partition(-values, count - 1)[count - 1])
    return candidates[np.argsort(-values[candidates], kind="stable")[:count]]


def _numbers(value: bytes | np.ndarray, dtype: Any, count: int) -> np.ndarray:
    numbers = np.frombuffer(value, dtype) if isinstance(value, bytes) else np.asarray(value, dtype)
    if len(numbers) != count:
        raise UserError(f"a label of {count} numbers has {len(numbers)}")
    return numbers


def _decompressed(data: bytes, size: int) -> bytes:
    """Decompresses to exactly `size` bytes, or raises UserError without producing much more than that."""
    decompressor = zlib.decompressobj()
    found = decompressor.decompress(data, size + 1)
    if len(found) != size or not decompressor.eof:
        raise UserError(f"a label of {size // 2} numbers does not have that many when it is decompressed")
    return found
