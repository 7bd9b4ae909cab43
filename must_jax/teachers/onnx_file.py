"""What an ONNX file says about itself: its other files, and its metadata, as Ultralytics writes it."""

from __future__ import annotations

import ast
import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from must_jax.errors import UserError

KIND_OF_TASK = {  # Ultralytics' name of a task -> the kind of task here; boxes are read of instances and of poses, too
    "detect": "detection",
    "segment": "detection",
    "pose": "detection",
    "classify": "classification",
}

# Where in a file names of other files may be: message -> number of a field -> the message in it (onnx.proto).
_INSIDE = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_GRAPH = 7
_VARINT, _LENGTH, _FIXED = 0, 2, {1: 8, 5: 4}  # types on the wire; the last ones have so many bytes


@dataclass(frozen=True)
class Metadata:
    """What is not said is empty.

    Attributes:
      task: as Ultralytics calls it.
      names: of the classes, by index.
      size: height and width of the input in pixels.
      end2end: whether its boxes have been through non-maximum suppression, or need none.
      keypoints: numbers that follow each box of a pose.
      is_rtdetr: whether it is an RT-DETR, which Ultralytics writes in the layouts of YOLO, but with boxes cx, cy, w, h
        as shares of an input that images are stretched to.
    """

    task: str = ""
    names: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    licence: str = ""
    end2end: bool | None = None
    keypoints: int = 0
    is_rtdetr: bool = False


def metadata(properties: Mapping[str, str]) -> Metadata:
    """From `metadata_props`; what is not written as expected is as if it were not there."""
    size, keypoints = (_integers(properties.get(key, "")) for key in ("imgsz", "kpt_shape"))
    arguments = _literal(properties.get("args", ""))
    suppressed = isinstance(arguments, Mapping) and arguments.get("nms") is True
    end2end = {"true": True, "false": False}.get(properties.get("end2end", "").lower())
    return Metadata(
        task=properties.get("task", ""),
        names=_names(_literal(properties.get("names", ""))),
        size=(size[0], size[-1]) if len(size) in (1, 2) else None,
        licence=properties.get("license", properties.get("licence", "")),
        end2end=True if suppressed else end2end,
        keypoints=math.prod(keypoints) if keypoints else 0,
        is_rtdetr="rtdetr" in (properties.get("head", "") + properties.get("description", "")).lower(),
    )


def _literal(text: str) -> Any:
    """A Python literal; None if it is none."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _integers(text: str) -> tuple[int, ...]:
    value = _literal(text)
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(values) if all(type(each) is int and each > 0 for each in values) else ()


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, Mapping):
        by_index = {str(index): name for index, name in value.items()}
        value = [by_index.get(str(index)) for index in range(len(by_index))]
    return tuple(value) if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value) else ()


def outside(path: Path) -> list[Path]:
    """The files in which an ONNX file keeps weights that are not in itself. Only its structure is read.

    Raises:
      UserError: one is missing; it is no ONNX file, or not a whole one.
    """
    has_graph, locations = False, set[str]()
    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        locations.update(_locations("model", data))
        has_graph = any(number == _GRAPH for number, _ in _fields(data))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; correct the path") from None
    except ValueError:  # it is empty, or in another format
        pass
    if not has_graph:
        raise UserError(f"{path} is no ONNX file, or not a whole one; export or copy it again")
    files = [path.parent / location for location in sorted(locations)]
    for each in files:
        if not each.is_file():
            raise UserError(f"{path} keeps its weights in {each.name}, which is not beside it; copy that file, too")
    return files


def _locations(message: str, data: memoryview) -> Iterator[str]:
    """Names of files in a message and in those inside it."""
    if message == "entry":
        entry = {number: bytes(value) for number, value in _fields(data)}
        if entry.get(1) == b"location":
            yield entry.get(2, b"").decode()
        return
    for number, value in _fields(data):
        if inside := _INSIDE[message].get(number):
            yield from _locations(inside, value)


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The numbers and contents of a message's fields, but for those that are mere numbers.

    Raises:
      ValueError: it is not in the wire format of Protocol Buffers.
    """
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == _LENGTH:
            length, at = _varint(data, at)
            yield tag >> 3, data[at : at + length]
            at += length
        elif wire == _VARINT:
            _, at = _varint(data, at)
        elif wire in _FIXED:
            at += _FIXED[wire]
        else:
            raise ValueError("no such type")
    if at > len(data):
        raise ValueError("truncated")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data):
            raise ValueError("truncated")
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
