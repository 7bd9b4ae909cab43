"""Maps as files for other programs: PNG, as `labels/formats` reads it, or NumPy's NPY."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from must_jax.data import map_pictures
from must_jax.data.kinds import MapLabel
from must_jax.data.kinds.maps import TOP, MapValues

FileFormat = Literal["png", "npy"]


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
    found = {task: kind.as_picture(label) if file_format == "png" else kind.as_array(label)}
    if "confidence" in label:
        confidence, name = np.asarray(label["confidence"], np.float32), f"{task}_confidence"
        picture = MapValues(np.rint(np.clip(confidence, 0, 1) * TOP), {"scale": 1 / TOP})
        found[name] = picture if file_format == "png" else MapValues(confidence, {})
    return {name: MapFile(_bytes(values, file_format), values.meaning) for name, values in found.items()}


def _bytes(values: MapValues, file_format: FileFormat) -> bytes:
    if file_format == "png":
        return map_pictures.png(values.codes, smooth=values.smooth, wide=values.wide)
    np.save(out := io.BytesIO(), values.codes)
    return out.getvalue()
