"""Maps as files for other programs: PNG, as `labels/formats` reads it, or NumPy's NPY."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from must_jax.data import map_pictures
from must_jax.data.kinds import MapLabel

FileFormat = Literal["png", "npy"]
MILLIMETRES = "mm"
FARTHEST_M = 65.535  # in a PNG
_TOP = 65535  # largest code of 16 bits


class MapFile(NamedTuple):
    """A file's contents, and what its values mean, as JSON values."""

    data: bytes
    meaning: dict[str, Any]


def encode(task: str, kind: MapLabel, label: Mapping[str, np.ndarray], file_format: FileFormat) -> dict[str, MapFile]:
    """The files of one label: under the task's name the map and, where it has one, its confidence: "NAME_confidence".

    | map                | PNG                                                           | NPY                      |
    |--------------------|---------------------------------------------------------------|--------------------------|
    | ids                | 8 bits, for more than 255 classes 16; the largest code: ignore | u8 or u16, likewise      |
    | scalars in metres  | 16 bits, millimetres; 0: invalid, or beyond FARTHEST_M        | f32[h, w], NaN: invalid  |
    | scalars, relative  | 16 bits, value = offset + scale * code; 0: invalid            | f32[h, w], NaN: invalid  |
    | unit vectors x y z | 16-bit RGB, component = 2 * code / 65535 - 1; 0: invalid      | f32[h, w, 3], likewise   |
    | confidence         | 16 bits, value = code / 65535                                 | f32[h, w]                |
    """
    found = {task: (_png if file_format == "png" else _npy)(kind, label)}
    if "confidence" in label:
        confidence = np.asarray(label["confidence"], np.float32)
        if file_format == "png":
            data = map_pictures.png(np.rint(np.clip(confidence, 0, 1) * _TOP), smooth=True, wide=True)
            found[f"{task}_confidence"] = MapFile(data, {"scale": 1 / _TOP})
        else:
            found[f"{task}_confidence"] = MapFile(_npy_bytes(confidence), {})
    return found


def _png(kind: MapLabel, label: Mapping[str, np.ndarray]) -> MapFile:
    values = label[kind.field]
    if kind.content == "ids":
        return MapFile(map_pictures.png(values, smooth=False, wide=kind.wide), {"ignore": kind.ignore_id})
    known = label["valid"] > 0
    meaning: dict[str, Any]
    if kind.content == "vector":
        codes = np.rint((np.clip(values, -1, 1) + 1) * (_TOP / 2)) * known[..., None]
        meaning = {"scale": 2 / _TOP, "offset": -1, "invalid": 0, "axes": "x,y,z"}
    elif kind.unit == "m":
        beyond = known & (values > FARTHEST_M)
        codes = np.rint(1000 * values.astype(np.float64)) * (known & ~beyond)
        meaning = {"unit": MILLIMETRES, "invalid": 0, "beyond": int(np.count_nonzero(beyond))}
    else:
        low, high = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 0.0)
        scale = (high - low) / (_TOP - 1) or 1.0
        codes = (1 + np.rint((values - low) / scale)) * known
        meaning = {"unit": kind.unit, "scale": scale, "offset": low - scale, "invalid": 0}
    return MapFile(map_pictures.png(codes, smooth=True, wide=True), meaning)


def _npy(kind: MapLabel, label: Mapping[str, np.ndarray]) -> MapFile:
    values = label[kind.field]
    if kind.content == "ids":
        ids = values.astype(np.uint16 if kind.wide else np.uint8)
        return MapFile(_npy_bytes(ids), {"ignore": kind.ignore_id})
    known = label["valid"] > 0
    known = known[..., None] if values.ndim == 3 else known
    meaning = {"axes": "x,y,z"} if kind.content == "vector" else {"unit": kind.unit}
    return MapFile(_npy_bytes(np.where(known, values, np.float32(np.nan)).astype(np.float32)), meaning)


def _npy_bytes(values: np.ndarray) -> bytes:
    np.save(out := io.BytesIO(), values)
    return out.getvalue()
