"""How labels are stored: one TFDS sub-dict a label, which plain TFDS reads as well.

| label          | record                                                                                           |
|----------------|--------------------------------------------------------------------------------------------------|
| vector         | `probs` float16 [K], zlib                                                                        |
| boxes          | `boxes_yxyx` float32 [n, 4], fractions of the image; `classes` uint16 [n]; `scores` float16 [n]  |
| map of ids     | `<field>` 8-bit PNG, 255 = ignore; where it is kept, `confidence` 8-bit PNG, 255 = 1             |
| map of scalars | `<field>` lossless WebP; value = offset + scale * (256 R + G), R = G = 0: invalid;               |
|                | `scale`, `offset` float32                                                                        |
| map of vectors | `<field>` lossless WebP; (R, G) = 128 + 100 * the octahedral (u, v), R = G = 0: invalid          |

Each also has `present`: 1 labelled, 0 not labelled, in which case the rest is a place holder (maps are 1x1).

A unit vector becomes two numbers by projection onto the octahedron |x| + |y| + |z| = 1, which is unfolded around its
corner -z, where the normals of all visible surfaces lie (Cigolle et al. 2014, "Survey of efficient representations for
independent unit vectors"). docs/label_store.md has the measurements that these choices rest on. Records of must_jax 0.1
had PNGs in place of WebPs, and are read as well.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import cv2
import numpy as np
import PIL.Image
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from must_jax.data.kinds import IGNORE_ID, BoxesLabel, LabelKind, MapLabel, VectorLabel
from must_jax.errors import UserError

Label = dict[str, Any]  # NumPy arrays, and `present`, an f32 scalar

_KINDS: dict[str, type[LabelKind]] = {"vector": VectorLabel, "boxes": BoxesLabel, "map": MapLabel}
_PROTO_LISTS = {"i": "int64_list", "u": "int64_list", "b": "int64_list", "f": "float_list"}  # by dtype.kind
_MAX_CODE = 65535  # of a scalar map; code 0 is taken by "invalid"
_ZERO, _UNIT = 128, 100  # codes of 0 and of a step to 1 in a vector map; a finer one is larger for 0.1 degrees less
_VALUE, _INVALID = "offset + scale * (256 R + G)", "R = G = 0: invalid"
_OCTAHEDRAL = f"octahedral u = (R - {_ZERO}) / {_UNIT}, v = (G - {_ZERO}) / {_UNIT} around -z"
_RLE = cv2.IMWRITE_PNG_STRATEGY_RLE
_PNG_OPTIONS = {  # of the options that write fast, those with the smallest files
    "ids": (cv2.IMWRITE_PNG_COMPRESSION, 6, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE),
    "confidence": (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS, cv2.IMWRITE_PNG_STRATEGY, _RLE),
}
_WEBP_OPTIONS = {"format": "WEBP", "lossless": True, "quality": 0, "method": 1}
_PNG_START = b"\x89PNG"


def features(kind: LabelKind) -> dict[str, Any]:
    """TFDS features of one label's sub-dict; see the table above."""
    present = {"present": np.uint8}
    match kind:
        case VectorLabel():
            return {"probs": tfds.features.Tensor(shape=(kind.size,), dtype=np.float16, encoding="zlib")} | present
        case BoxesLabel():
            return {
                "boxes_yxyx": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
                "classes": tfds.features.Tensor(shape=(None,), dtype=np.uint16),
                "scores": tfds.features.Tensor(shape=(None,), dtype=np.float16),
            } | present
        case MapLabel(content="ids"):
            fields = [kind.field, "confidence"] if kind.confidence else [kind.field]
            png = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
            return dict.fromkeys(fields, png) | present
        case MapLabel(content="scalar"):
            webp = tfds.features.Image(shape=(None, None, 3), doc=f"{_VALUE}; {_INVALID}")
            return {kind.field: webp, "scale": np.float32, "offset": np.float32} | present
        case _:
            webp = tfds.features.Image(shape=(None, None, 3), doc=f"{_OCTAHEDRAL}; {_INVALID}")
            return {kind.field: webp} | present


def encode(kind: LabelKind, label: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A label -> the values that a TFDS builder with `features(kind)` takes. Without `present` and `scores` they are 1.

    Raises:
      UserError: class ids that do not fit into 8 bits.
    """
    present = int(label.get("present", 1))
    if not present:
        label = absent(kind, (1, 1)) | {"confidence": np.zeros((1, 1))}
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
            record[kind.field] = _to_png(ids, "ids")
            if kind.confidence:
                record["confidence"] = _to_png(np.rint(np.clip(label["confidence"], 0, 1) * 255), "confidence")
        case MapLabel(content="scalar"):
            values, valid = np.asarray(label[kind.field], np.float32), np.asarray(label["valid"]) > 0
            low, high = (values[valid].min(), values[valid].max()) if valid.any() else (np.float32(0), np.float32(0))
            scale = (high - low) / np.float32(_MAX_CODE - 1)
            offset = low - scale  # so that code 1 is the lowest value
            steps = (values - low) / scale if scale > 0 else np.zeros_like(values)
            codes = np.where(valid, 1 + np.clip(np.rint(steps), 0, _MAX_CODE - 1), 0).astype(np.uint16)
            record |= {kind.field: _to_webp(codes >> 8, codes & 255), "scale": scale, "offset": offset}
        case MapLabel(content="vector"):
            codes = _ZERO + np.rint(_UNIT * _to_octahedral(np.asarray(label[kind.field], np.float32)))
            codes = np.where(np.asarray(label["valid"])[..., None] > 0, codes, 0)
            record[kind.field] = _to_webp(codes[..., 0], codes[..., 1])
    return record


def decode(kind: LabelKind, record: Mapping[str, Any], classes: int = 0) -> Label:
    """A sub-dict read with images left as bytes -> the label (see `kinds`): boxes un-padded, maps as stored.

    Values are 0 where invalid.

    Raises:
      UserError: a class id beyond the number of `classes` (0 = not known); a loss would become NaN from it.
    """
    label: Label = {"present": np.float32(record["present"])}
    match kind:
        case VectorLabel():
            probs = record["probs"]
            if isinstance(probs, bytes):
                probs = np.frombuffer(zlib.decompress(probs), np.float16)
            label["probs"] = np.asarray(probs, np.float32)
        case BoxesLabel():
            label["boxes_yxyx"] = np.asarray(record["boxes_yxyx"], np.float32).reshape(-1, 4)
            label["classes"] = np.asarray(record["classes"], np.int32)
            label["scores"] = np.asarray(record["scores"], np.float32)
            label["valid"] = np.ones(label["classes"].shape, np.float32)
            _check_ids(label["classes"], classes)
        case MapLabel(content="ids"):
            codes = _pixels(record[kind.field])
            label[kind.field] = codes.astype(np.int32)
            _check_ids(codes[codes != IGNORE_ID], classes)
            if kind.confidence:
                label["confidence"] = _pixels(record["confidence"]).astype(np.float32) / np.float32(255)
        case MapLabel(content="scalar"):
            codes = _pairs(record[kind.field])
            valid = (codes > 0).astype(np.float32)
            scale, offset = np.float32(record["scale"]), np.float32(record["offset"])
            label |= {kind.field: (offset + scale * codes.astype(np.float32)) * valid, "valid": valid}
        case MapLabel(content="vector") if record[kind.field].startswith(_PNG_START):
            components = (_pixels(record[kind.field])[..., ::-1].astype(np.float32) - 128) / 127
            label |= {kind.field: components, "valid": np.any(components, axis=-1).astype(np.float32)}
        case MapLabel(content="vector"):
            codes = _pairs(record[kind.field])
            label |= {kind.field: np.take(_directions(), codes, axis=0), "valid": (codes > 0).astype(np.float32)}
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


def _to_octahedral(vectors: np.ndarray) -> np.ndarray:
    """[..., 3] of any length -> [..., 2] in -1..1; -z is at (0, 0), and +z in the corners."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    size = np.maximum(np.abs(x) + np.abs(y) + np.abs(z), np.float32(1e-6))
    u, v = x / size, y / size
    away = z > 0
    folded = np.copysign(1 - np.abs(v), u), np.copysign(1 - np.abs(u), v)
    return np.stack([np.where(away, folded[0], u), np.where(away, folded[1], v)], -1)


@functools.cache
def _directions() -> np.ndarray:
    """f32[65536, 3]: by code (256 R + G), the unit vector; 0 for that of an invalid pixel."""
    u, v = (np.indices((256, 256)).reshape(2, -1) - _ZERO) / _UNIT
    z = np.abs(u) + np.abs(v) - 1
    behind = np.maximum(z, 0)  # what is folded over belongs on the other side of the edge
    vectors = np.stack([u - np.copysign(behind, u), v - np.copysign(behind, v), z], -1)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    vectors[0] = 0
    return vectors.astype(np.float32)


def _to_webp(high: np.ndarray, low: np.ndarray) -> bytes:
    """Two 8-bit planes -> a picture with these as red and green.

    In planes of its own the high half is smooth; WebP predicts both from their neighbours, and PNG only bytes.
    """
    out = io.BytesIO()
    codes = np.stack([high, low, np.zeros_like(low)], -1).astype(np.uint8)
    PIL.Image.fromarray(codes).save(out, **_WEBP_OPTIONS)
    return out.getvalue()  # from encoded images TFDS writes records without TensorFlow


def _pairs(data: bytes) -> np.ndarray:
    """A picture of `_to_webp`, or a 16-bit PNG -> u16[h, w], red * 256 + green."""
    codes = _pixels(data)
    return codes if codes.ndim == 2 else codes[..., 2].astype(np.uint16) << 8 | codes[..., 1]  # cv2 gives BGR


def _to_png(codes: np.ndarray, options: str) -> bytes:
    ok, png = cv2.imencode(".png", np.ascontiguousarray(codes, np.uint8), _PNG_OPTIONS[options])
    if not ok:
        raise ValueError(f"OpenCV cannot encode an array of shape {codes.shape} as PNG")
    return png.tobytes()


def _pixels(data: bytes) -> np.ndarray:
    codes = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if codes is None:
        raise ValueError("a label's picture cannot be decoded")
    return codes
