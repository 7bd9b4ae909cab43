"""How labels are stored: one TFDS sub-dict a label, which plain TFDS reads as well.

| label          | record                                                                                           |
|----------------|--------------------------------------------------------------------------------------------------|
| vector         | `probs` float16 [K]                                                                              |
| boxes          | `boxes_yxyx` float32 [n, 4], fractions of the image; `classes` uint16 [n]; `scores` float16 [n]  |
| map of ids     | `<field>` 8-bit PNG, 255 = ignore                                                                |
| map of scalars | `<field>` 16-bit PNG, value = offset + scale * code, 0 = invalid; `scale`, `offset` float32      |
| map of vectors | `<field>` 8-bit RGB PNG, (x, y, z) = (code - 128) / 127, (128, 128, 128) = invalid               |

Each also has `present`: 1 labelled, 0 not labelled, in which case the rest is a place holder (maps are 1x1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from must_jax.data.kinds import IGNORE_ID, BoxesLabel, LabelKind, MapLabel, VectorLabel
from must_jax.errors import UserError

Label = dict[str, Any]  # NumPy arrays, and `present`, an f32 scalar

_KINDS: dict[str, type[LabelKind]] = {"vector": VectorLabel, "boxes": BoxesLabel, "map": MapLabel}
_PROTO_LISTS = {"i": "int64_list", "u": "int64_list", "b": "int64_list", "f": "float_list"}  # by dtype.kind
_MAX_CODE = 65535  # of a scalar map; code 0 is taken by "invalid"
_ZERO, _UNIT = 128, 127  # codes of 0 and of a step to 1 in a vector map
_COMPONENTS = ((np.arange(256) - _ZERO) / _UNIT).astype(np.float32)  # code -> value
# The filter for smooth maps that is fastest to write and to read, and smallest as well.
_PNG_OPTIONS = (cv2.IMWRITE_PNG_COMPRESSION, 3, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)


def features(kind: LabelKind) -> dict[str, Any]:
    """TFDS features of one label's sub-dict; see the table above."""
    present = {"present": np.uint8}
    match kind:
        case VectorLabel():
            return {"probs": tfds.features.Tensor(shape=(kind.size,), dtype=np.float16)} | present
        case BoxesLabel():
            return {
                "boxes_yxyx": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
                "classes": tfds.features.Tensor(shape=(None,), dtype=np.uint16),
                "scores": tfds.features.Tensor(shape=(None,), dtype=np.float16),
            } | present
        case MapLabel(content="ids"):
            return {kind.field: _png_feature(np.uint8, 1)} | present
        case MapLabel(content="scalar"):
            return {kind.field: _png_feature(np.uint16, 1), "scale": np.float32, "offset": np.float32} | present
        case _:
            return {kind.field: _png_feature(np.uint8, 3)} | present


def encode(kind: LabelKind, label: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A label -> the values that a TFDS builder with `features(kind)` takes. Without `present` and `scores` they are 1.

    Raises:
      UserError: class ids that do not fit into 8 bits.
    """
    present = int(label.get("present", 1))
    if not present:
        label = absent(kind, (1, 1))
    record: dict[str, Any] = {"present": present}
    match kind:
        case VectorLabel():
            record["probs"] = np.asarray(label["probs"], np.float16)
        case BoxesLabel():
            classes = np.asarray(label["classes"])
            real = np.asarray(label.get("valid", np.ones(classes.shape))) > 0
            record["boxes_yxyx"] = np.asarray(label["boxes_yxyx"], np.float32)[real]
            record["classes"] = classes[real].astype(np.uint16)
            record["scores"] = np.asarray(label.get("scores", np.ones(classes.shape)), np.float16)[real]
        case MapLabel(content="ids"):
            ids = np.asarray(label[kind.field])
            if np.any((ids < 0) | (ids > IGNORE_ID)):
                raise UserError(f"'{kind.field}' has ids from {ids.min()} to {ids.max()}; use 0 to 254, 255 for ignore")
            record[kind.field] = _to_png(ids.astype(np.uint8))
        case MapLabel(content="scalar"):
            values, valid = np.asarray(label[kind.field], np.float32), np.asarray(label["valid"]) > 0
            low, high = (values[valid].min(), values[valid].max()) if valid.any() else (np.float32(0), np.float32(0))
            scale = (high - low) / np.float32(_MAX_CODE - 1)
            offset = low - scale  # so that code 1 is the lowest value
            steps = (values - low) / scale if scale > 0 else np.zeros_like(values)
            codes = np.where(valid, 1 + np.clip(np.rint(steps), 0, _MAX_CODE - 1), 0)
            record |= {kind.field: _to_png(codes.astype(np.uint16)), "scale": scale, "offset": offset}
        case MapLabel(content="vector"):
            codes = _ZERO + np.rint(np.clip(label[kind.field], -1, 1) * _UNIT)
            codes = np.where(np.asarray(label["valid"])[..., None] > 0, codes, _ZERO)
            record[kind.field] = _to_png(codes.astype(np.uint8)[..., ::-1])  # cv2 takes BGR, the file is RGB
    return record


def serialize(record: Mapping[str, Any]) -> bytes:
    """What `encode` returns, as TFDS stores it, in a fraction of its time; the same record has the same bytes."""
    example = tf_example_pb2.Example()
    for name, value in record.items():
        feature = example.features.feature[name]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
            continue
        array = np.asarray(value)
        values = getattr(feature, _PROTO_LISTS[array.dtype.kind])
        values.SetInParent()  # also where it is empty
        values.value.extend(array.ravel().tolist())
    return example.SerializeToString(deterministic=True)  # in which TFDS follows the process's hash seed


def decode(kind: LabelKind, record: Mapping[str, Any], classes: int = 0) -> Label:
    """A sub-dict read with PNGs left as bytes -> the label (see `kinds`): boxes un-padded, maps as stored.

    Values are 0 where invalid; vectors have unit length up to their 8 bits.

    Raises:
      UserError: a class id beyond the number of `classes` (0 = not known); a loss would become NaN from it.
    """
    label: Label = {"present": np.float32(record["present"])}
    match kind:
        case VectorLabel():
            label["probs"] = np.asarray(record["probs"], np.float32)
        case BoxesLabel():
            label["boxes_yxyx"] = np.asarray(record["boxes_yxyx"], np.float32).reshape(-1, 4)
            label["classes"] = np.asarray(record["classes"], np.int32)
            label["scores"] = np.asarray(record["scores"], np.float32)
            label["valid"] = np.ones(label["classes"].shape, np.float32)
            _check_ids(label["classes"], classes)
        case MapLabel(content="ids"):
            codes = _from_png(record[kind.field])
            label[kind.field] = codes.astype(np.int32)
            _check_ids(codes[codes != IGNORE_ID], classes)
        case MapLabel(content="scalar"):
            codes = _from_png(record[kind.field])
            valid = (codes > 0).astype(np.float32)
            scale, offset = np.float32(record["scale"]), np.float32(record["offset"])
            label |= {kind.field: (offset + scale * codes.astype(np.float32)) * valid, "valid": valid}
        case MapLabel(content="vector"):
            codes = _from_png(record[kind.field], cv2.IMREAD_COLOR_RGB)
            invalid = cv2.inRange(codes, (_ZERO, _ZERO, _ZERO), (_ZERO, _ZERO, _ZERO))
            label |= {kind.field: cv2.LUT(codes, _COMPONENTS), "valid": (invalid == 0).astype(np.float32)}
    return label


def absent(kind: LabelKind, map_hw: tuple[int, int]) -> Label:
    """The place holder of a label that an image does not have: `present` 0, nothing valid."""
    label: Label = {"present": np.float32(0)}
    match kind:
        case VectorLabel():
            label["probs"] = np.zeros(kind.size, np.float32)
        case BoxesLabel():
            slots = kind.max_boxes
            label["boxes_yxyx"] = np.zeros((slots, 4), np.float32)
            label["classes"] = np.zeros(slots, np.int32)
            label |= {name: np.zeros(slots, np.float32) for name in ("scores", "valid")}
        case MapLabel(content="ids"):
            label[kind.field] = np.full(map_hw, IGNORE_ID, np.int32)
        case MapLabel():
            channels = (3,) if kind.content == "vector" else ()
            label[kind.field] = np.zeros((*map_hw, *channels), np.float32)
            label["valid"] = np.zeros(map_hw, np.float32)
    return label


class Records:
    """Random access to the records of a TFDS ArrayRecord dataset, images left encoded; thread-safe.

    TFDS's own parser takes five times as long, which for small images would be a third of the pipeline's time.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, names: Collection[str]) -> None:
        """`names` are the features to read: images, texts, numbers, tensors, and dicts or sequences of them."""
        self._source = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        info = builder.info.features.get_serialized_info()
        self._fields = [
            (path, "/".join(path), _PROTO_LISTS.get(dtype.kind, "bytes_list"), shape, dtype)
            for path, shape, dtype in _leaves({name: info[name] for name in names})
        ]

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Feature name -> its value, or the dict of its values. A malformed record raises whatever it does."""
        stored = tf_example_pb2.Example.FromString(self._source[index]).features.feature
        record: dict[str, Any] = {}
        for path, key, proto_list, shape, dtype in self._fields:
            values = getattr(stored[key], proto_list).value
            inner = record
            for name in path[:-1]:
                inner = inner.setdefault(name, {})
            inner[path[-1]] = np.array(values, dtype).reshape(shape) if shape else values[0]
        return record

    def raw(self, index: int) -> bytes:
        """The bytes of a record."""
        return self._source[index]


def _leaves(info: Mapping[str, Any], at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[int], np.dtype]]:
    """Path, shape (-1 = whatever fits) and type of all that is stored."""
    for name, value in info.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*at, name))
        else:
            yield (*at, name), [-1 if side is None else side for side in value.shape], np.dtype(value.np_dtype)


def kind_to_dict(kind: LabelKind) -> dict[str, Any]:
    """A kind as JSON values, for dataset metadata and manifests."""
    name = next(name for name, cls in _KINDS.items() if isinstance(kind, cls))
    return {"kind": name} | dataclasses.asdict(kind)


def kind_from_dict(values: Mapping[str, Any]) -> LabelKind:
    """The inverse of `kind_to_dict`."""
    fields = dict(values)
    return _KINDS[fields.pop("kind")](**fields)


def _check_ids(ids: np.ndarray, classes: int) -> None:
    if classes and ids.size and ids.max() >= classes:
        raise UserError(f"a label has class id {ids.max()}, but its data lists {classes} classes; correct either")


def _png_feature(dtype: type[np.generic], channels: int) -> tfds.features.Image:
    return tfds.features.Image(shape=(None, None, channels), dtype=dtype, encoding_format="png")


def _to_png(codes: np.ndarray) -> bytes:
    ok, png = cv2.imencode(".png", np.ascontiguousarray(codes), _PNG_OPTIONS)
    if not ok:
        raise ValueError(f"OpenCV cannot encode an array of shape {codes.shape} and type {codes.dtype} as PNG")
    return png.tobytes()  # from encoded images TFDS writes records without TensorFlow


def _from_png(png: bytes, flags: int = cv2.IMREAD_UNCHANGED) -> np.ndarray:
    codes = cv2.imdecode(np.frombuffer(png, np.uint8), flags)
    if codes is None:
        raise ValueError("a label's PNG cannot be decoded")
    return codes
