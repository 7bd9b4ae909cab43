"""How labels are stored: one TFDS sub-dict per label, which plain TFDS can read, too.

| label          | record                                                                                           |
|----------------|--------------------------------------------------------------------------------------------------|
| vector         | `probs` float16 [K], zlib; where only the k largest are kept, `classes` uint16 [k] (int32 beyond |
|                | 65,536 classes), `probs` float16 [k], largest first, and `rest` float32, the sum of all others   |
| boxes          | `boxes_yxyx` float32 [n, 4], fractions of the image; `classes` uint16 [n]; `scores` float16 [n]; |
|                | if some are to be ignored, `ignore` uint8 [n]                                                    |
| map of ids     | `<field>` 8-bit PNG, 255 = ignore, or, for more than 255 classes, 16-bit PNG, 65535 = ignore;    |
|                | if it is kept, `confidence` 8-bit PNG, 255 = 1                                                   |
| map of scalars | `<field>` lossless WebP; value = offset + scale * (256 R + G), R = G = 0: invalid;               |
|                | `scale`, `offset` float32                                                                        |
| map of vectors | `<field>` lossless WebP; R, G = 128 + 100 * octahedral u, v (see `pictures`), R = G = 0: invalid |

Each also has `present`: 1 labelled, 0 not labelled, in which case the rest is a placeholder (maps are 1x1).

docs/label_store.md has the measurements that these choices rest on. Older records (16-bit PNGs, RGB PNGs of three
components) can be read, too.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pydantic
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from must_jax.data import map_pictures
from must_jax.data.kinds import BoxesLabel, LabelKind, MapLabel, VectorLabel, largest
from must_jax.errors import UserError

Label = dict[str, Any]  # NumPy arrays, and `present`, an f32 scalar

_KINDS: dict[str, type[LabelKind]] = {"vector": VectorLabel, "boxes": BoxesLabel, "map": MapLabel}
NUMBERS = {"i": "int64_list", "u": "int64_list", "b": "int64_list", "f": "float_list"}  # by dtype.kind
# Steps in a scalar map's range: apart from float32's own rounding, no value is off by more than 1 / 65,535 of it, with
# a margin of 3.6 %. Twice as many would cost one bit per cell. Codes are steps plus one, as 0 means "invalid".
SCALAR_STEPS = 34_000
_MOST_CONFIDENT = np.float32(255)  # the code of a confidence of 1


def features(kind: LabelKind) -> dict[str, Any]:
    """TFDS features of one label's sub-dict; see the table above."""
    present = {"present": np.uint8}
    match kind:
        case VectorLabel(top_k=0):
            return {"probs": tfds.features.Tensor(shape=(kind.size,), dtype=np.float16, encoding="zlib")} | present
        case VectorLabel():
            top = {
                name: tfds.features.Tensor(shape=(kind.top_k,), dtype=dtype, encoding="bytes")
                for name, dtype in _top_types(kind).items()
            }
            return top | {"rest": np.float32} | present
        case BoxesLabel():
            ignore = {"ignore": tfds.features.Tensor(shape=(None,), dtype=np.uint8)} if kind.ignore else {}
            return {
                "boxes_yxyx": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
                "classes": tfds.features.Tensor(shape=(None,), dtype=np.uint16),
                "scores": tfds.features.Tensor(shape=(None,), dtype=np.float16),
            } | (ignore | present)
        case MapLabel(content="ids"):
            fields = [kind.field, "confidence"] if kind.confidence else [kind.field]
            types = {kind.field: np.uint16 if kind.wide else np.uint8, "confidence": np.uint8}
            return {
                field: tfds.features.Image(shape=(None, None, 1), dtype=types[field], encoding_format="png")
                for field in fields
            } | present
        case MapLabel(content="scalar"):
            webp = tfds.features.Image(shape=(None, None, 3), doc="offset + scale * (256 R + G); R = G = 0: invalid")
            return {kind.field: webp, "scale": np.float32, "offset": np.float32} | present
        case _:
            webp = tfds.features.Image(shape=(None, None, 3), doc=f"{map_pictures.DIRECTION}; R = G = 0: invalid")
            return {kind.field: webp} | present


def encode(kind: LabelKind, label: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A label -> the values that a builder with `features(kind)` takes. Missing fields count as 1, but `ignore` as 0.

    Raises:
      UserError: class ids that do not fit into 8 bits, or into 16 where the kind is `wide`.
      ValueError: a box is to be ignored, and `kind` does not store that.
    """
    present = int(label.get("present", 1))
    if not present:
        label = absent(kind, (1, 1)) | {"confidence": np.zeros((1, 1))}
    record: dict[str, Any] = {"present": present}
    match kind:
        case VectorLabel(top_k=0):
            record["probs"] = np.asarray(label["probs"], np.float16)
        case VectorLabel():
            probs = np.asarray(label["probs"])
            top = largest(probs, kind.top_k)
            kept = {"classes": top, "probs": probs[top]}
            record |= {name: kept[name].astype(dtype) for name, dtype in _top_types(kind).items()}
            record["rest"] = np.float32(np.delete(probs, top).sum(dtype=np.float64))
        case BoxesLabel():
            classes = np.asarray(label["classes"])
            real = np.asarray(label.get("valid", np.ones(classes.shape))) > 0
            record["boxes_yxyx"] = np.asarray(label["boxes_yxyx"], np.float32)[real]
            record["classes"] = classes[real].astype(np.uint16)
            record["scores"] = np.asarray(label.get("scores", np.ones(classes.shape)), np.float16)[real]
            ignore = np.asarray(label.get("ignore", np.zeros(classes.shape)))[real] > 0
            if kind.ignore:
                record["ignore"] = ignore.astype(np.uint8)
            elif ignore.any():
                raise ValueError(f"{kind} has no place for boxes to ignore")
        case MapLabel(content="ids"):
            ids = np.asarray(label[kind.field])
            if np.any((ids < 0) | (ids > kind.ignore_id)):
                raise UserError(
                    f"'{kind.field}' has ids from {ids.min()} to {ids.max()}; use 0 to {kind.ignore_id - 1}, "
                    f"{kind.ignore_id} for ignore"
                )
            record[kind.field] = map_pictures.png(ids, smooth=False, wide=kind.wide)
            if kind.confidence:
                record["confidence"] = map_pictures.png(_confidence_codes(label["confidence"]), smooth=True)
        case MapLabel(content="scalar"):
            values, valid = np.asarray(label[kind.field], np.float32), np.asarray(label["valid"]) > 0
            low, high = (values[valid].min(), values[valid].max()) if valid.any() else (np.float32(0), np.float32(0))
            scale = (high - low) / np.float32(SCALAR_STEPS)
            offset = low - scale  # so that code 1 is the lowest value
            steps = (values - low) / scale if scale > 0 else np.zeros_like(values)
            codes = np.where(valid, 1 + np.clip(np.rint(steps), 0, SCALAR_STEPS), 0).astype(np.uint16)
            record |= {kind.field: map_pictures.webp(codes), "scale": scale, "offset": offset}
        case MapLabel(content="vector"):
            codes = map_pictures.direction_codes(np.asarray(label[kind.field], np.float32))
            record[kind.field] = map_pictures.webp(np.where(np.asarray(label["valid"]) > 0, codes, 0))
    return record


def rounded(label: Mapping[str, np.ndarray]) -> Label:
    """The label with the confidence of its pixels, if it has one, rounded as it is when stored."""
    stored = {"confidence": _confidence_codes(label["confidence"]) / _MOST_CONFIDENT} if "confidence" in label else {}
    return {**label, **stored}


def _confidence_codes(confidence: np.ndarray) -> np.ndarray:
    """Whole numbers from 0 to 255."""
    return np.rint(np.clip(confidence, 0, 1) * _MOST_CONFIDENT)


def serialize(kind: LabelKind, record: Mapping[str, Any]) -> bytes:
    """What `encode` returns -> the bytes TFDS would store, in a fraction of its time; equal records, equal bytes."""
    match kind:
        case VectorLabel(top_k=0):
            record = {**record, "probs": zlib.compress(record["probs"].tobytes())}
        case VectorLabel():
            record = {**record, **{name: record[name].tobytes() for name in ("classes", "probs")}}
    example = tf_example_pb2.Example()
    for name, value in record.items():
        feature = example.features.feature[name]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
            continue
        array = np.asarray(value)
        values = getattr(feature, NUMBERS[array.dtype.kind])
        values.SetInParent()  # also where it is empty
        values.value.extend(array.ravel().tolist())
    return example.SerializeToString(deterministic=True)  # TFDS's own order follows the process's hash seed


def decode(kind: LabelKind, record: Mapping[str, Any], classes: int = 0) -> Label:
    """A sub-dict read with images left as bytes -> the label (see `kinds`): boxes un-padded, maps as stored.

    Values are 0 where invalid.

    Raises:
      UserError: a class id beyond the number of `classes` (0 = not known); it would make a loss NaN.
    """
    label: Label = {"present": np.float32(record["present"])}
    match kind:
        case VectorLabel(top_k=0):
            probs = record["probs"]
            if isinstance(probs, bytes):
                probs = np.frombuffer(_decompressed(probs, 2 * kind.size), np.float16)
            label["probs"] = np.asarray(probs, np.float32)
        case VectorLabel():
            top = {name: _numbers(record[name], dtype, kind.top_k) for name, dtype in _top_types(kind).items()}
            _check_ids(top["classes"], kind.size)
            each = np.float32(record["rest"]) / np.float32(kind.size - kind.top_k)
            label["probs"] = np.full(kind.size, each, np.float32)
            label["probs"][top["classes"]] = top["probs"]
        case BoxesLabel():
            label["boxes_yxyx"] = np.asarray(record["boxes_yxyx"], np.float32).reshape(-1, 4)
            label["classes"] = np.asarray(record["classes"], np.int32)
            label["scores"] = np.asarray(record["scores"], np.float32)
            label["valid"] = np.ones(label["classes"].shape, np.float32)
            label["ignore"] = np.asarray(record.get("ignore", np.zeros(label["classes"].shape)), np.float32)
            _check_ids(label["classes"], classes)
        case MapLabel(content="ids"):
            codes = map_pictures.pixels(record[kind.field])
            label[kind.field] = codes.astype(np.int32)
            _check_ids(codes[codes != kind.ignore_id], classes)
            if kind.confidence:
                label["confidence"] = map_pictures.pixels(record["confidence"]).astype(np.float32) / _MOST_CONFIDENT
        case MapLabel(content="scalar"):
            codes = map_pictures.codes(record[kind.field])
            valid = (codes > 0).astype(np.float32)
            scale, offset = np.float32(record["scale"]), np.float32(record["offset"])
            label |= {kind.field: (offset + scale * codes.astype(np.float32)) * valid, "valid": valid}
        case MapLabel(content="vector"):
            vectors, valid = map_pictures.directions(record[kind.field])
            label |= {kind.field: vectors, "valid": valid}
    return label


def _top_types(kind: VectorLabel) -> dict[str, Any]:
    """Of what is stored by class. TensorFlow cannot read uint32."""
    return {"classes": np.uint16 if kind.size <= 2**16 else np.int32, "probs": np.float16}


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


def absent(kind: LabelKind, map_hw: tuple[int, int]) -> Label:
    """The placeholder for a label that an image does not have: `present` 0, nothing valid."""
    label: Label = {"present": np.float32(0)}
    match kind:
        case VectorLabel():
            label["probs"] = np.zeros(kind.size, np.float32)
        case BoxesLabel():
            slots = kind.max_boxes
            label["boxes_yxyx"] = np.zeros((slots, 4), np.float32)
            label["classes"] = np.zeros(slots, np.int32)
            label |= {name: np.zeros(slots, np.float32) for name in ("scores", "valid", "ignore")}
        case MapLabel(content="ids"):
            label[kind.field] = np.full(map_hw, kind.ignore_id, np.int32)
        case MapLabel():
            channels = (3,) if kind.content == "vector" else ()
            label[kind.field] = np.zeros((*map_hw, *channels), np.float32)
            label["valid"] = np.zeros(map_hw, np.float32)
    return label


class Stored(NamedTuple):
    """A value of a record: where it is, its shape (-1 = whatever fits) and type."""

    path: tuple[str, ...]
    shape: list[int]
    dtype: np.dtype


def stored(features: tfds.features.FeaturesDict, names: Collection[str]) -> list[Stored]:
    """All values that records hold for these features."""
    info = features.get_serialized_info()
    return list(_leaves({name: info[name] for name in names}))


class Records:
    """Random access to the records of a TFDS ArrayRecord dataset, images left encoded; thread-safe.

    TFDS's own parser takes five times as long, which for small images would be a third of the pipeline's time.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, names: Collection[str]) -> None:
        """`names` are the features to read: images, texts, numbers, tensors, and dicts or sequences of them."""
        self._source = ArrayRecordDataSource(builder.info.splits[split].file_instructions)
        self.stored = stored(builder.info.features, names)
        self._fields = [
            (folders, name, "/".join((*folders, name)), NUMBERS.get(dtype.kind, "bytes_list"), shape, dtype)
            for (*folders, name), shape, dtype in self.stored
        ]

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Feature name -> its value, or the dict of its values. A malformed record can raise anything."""
        stored = tf_example_pb2.Example.FromString(self._source[index]).features.feature
        record: dict[str, Any] = {}
        for folders, name, key, proto_list, shape, dtype in self._fields:
            values = getattr(stored[key], proto_list).value
            inner = record
            for folder in folders:
                inner = inner.setdefault(folder, {})
            # As a list: NumPy takes longer to look into other sequences.
            inner[name] = np.array(values[:], dtype).reshape(shape) if shape else values[0]
        return record

    def canonical(self, index: int) -> bytes:
        """The bytes of a record with its fields in a fixed order; TFDS's own order differs between processes."""
        data = self._source[index]
        try:
            return tf_example_pb2.Example.FromString(data).SerializeToString(deterministic=True)
        except DecodeError:  # malformed
            return data


def _leaves(info: Mapping[str, Any], at: tuple[str, ...] = ()) -> Iterator[Stored]:
    for name, value in info.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*at, name))
        else:
            shape = [-1 if side is None else side for side in value.shape]
            yield Stored((*at, name), shape, np.dtype(value.np_dtype))


def kind_to_dict(kind: LabelKind) -> dict[str, Any]:
    """A kind as JSON values, for dataset metadata and manifests."""
    name = next(name for name, cls in _KINDS.items() if isinstance(kind, cls))
    values = dataclasses.asdict(kind)
    if not values.get("top_k", True):
        del values["top_k"]  # a column that keeps all is described as before there was a choice
    return {"kind": name} | values


def kind_from_dict(values: Mapping[str, Any]) -> LabelKind:
    """The inverse of `kind_to_dict`.

    Raises:
      ValueError: no kind is described like that.
    """
    cls = _KINDS.get(str(values.get("kind")))
    fields = {name: value for name, value in values.items() if name != "kind"}
    if cls is None or fields.keys() - {field.name for field in dataclasses.fields(cls)}:
        raise ValueError(f"{values} is not a kind of label")
    return pydantic.TypeAdapter(cls).validate_python(fields)


def _check_ids(ids: np.ndarray, classes: int) -> None:
    if classes and ids.size and ids.max() >= classes:
        raise UserError(f"a label has class id {ids.max()}, but its data lists {classes} classes; correct either")
