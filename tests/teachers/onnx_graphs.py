"""ONNX models without weights, whose answers follow the picture and are known from it.

The detectors find for each of `COLOURS` the one rectangle of that colour, to a fraction of a pixel; the others compute
their answers from the colours of pixels. An image that is handed over wrongly (other order or range of the channels,
other geometry) therefore changes what they say. `Input` says how an image must be handed over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

COLOURS = ("red", "green", "blue")
LAYOUTS = ("yolov5", "yolov8", "end2end", "detr", "rtdetr", "torchvision", "raw")
FOUND = 0.5  # a rectangle's colour exceeds the other channels by at least that; nothing else in a picture may
ULTRALYTICS_LICENCE = "AGPL-3.0 License (https://ultralytics.com/license)"
_OPSET, _IR = 17, 8  # what the oldest onnxruntime that is allowed reads, too
_STRIDES = (8, 16, 32)


@dataclasses.dataclass(frozen=True)
class Input:
    """How an image is handed over; by default as f32 [B, 3, height, width], RGB, 0..1."""

    height: int | str = 640  # a name: any
    width: int | str = 640
    batch: int | str = "batch"
    order: str = "rgb"
    nhwc: bool = False
    dtype: int = TensorProto.FLOAT  # or UINT8
    most: float = 1.0  # the value of white, before mean and std
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    name: str = "images"


class Graph:
    """Nodes are added one after the other: `graph("Add", a, b)` -> the name of the sum. Arrays become constants."""

    def __init__(self, input: Input) -> None:
        axes = (input.height, input.width)
        shape = (input.batch, *axes, 3) if input.nhwc else (input.batch, 3, *axes)
        self._inputs = [helper.make_tensor_value_info(input.name, input.dtype, shape)]
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[TensorProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        x = self("Cast", input.name, to=TensorProto.FLOAT)
        if input.nhwc:
            x = self("Transpose", x, perm=[0, 3, 1, 2])
        x = self("Add", self("Mul", x, _channels(input.std)), _channels(input.mean))
        if input.order == "bgr":
            x = self("Gather", x, np.array([2, 1, 0]), axis=1)
        self.rgb = self("Div", x, _f32(input.most))  # f32 [B, 3, height, width], 0..1

    def __call__(self, kind: str, *inputs: str | np.ndarray, **attributes: object) -> str:
        name = f"v{len(self._nodes)}"
        names = [each if isinstance(each, str) else self._constant(each) for each in inputs]
        self._nodes.append(helper.make_node(kind, names, [name], **attributes))
        return name

    def _constant(self, value: np.ndarray) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(value, name))
        return name

    def output(self, value: str, name: str, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> None:
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def save(self, file: Path, metadata: Mapping[str, object] | None = None) -> Path:
        graph = helper.make_graph(self._nodes, "planted", self._inputs, self._outputs, self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
        helper.set_model_props(model, {key: str(value) for key, value in (metadata or {}).items()})
        onnx.checker.check_model(model, full_check=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, file)
        return file


def ultralytics(task: str, size: int = 640, names: Sequence[str] = COLOURS, **more: object) -> dict[str, object]:
    """What Ultralytics writes into the metadata of a model; every value is a text there."""
    return {
        "description": f"Ultralytics YOLO {task}",
        "author": "Ultralytics",
        "license": ULTRALYTICS_LICENCE,
        "version": "8.3.0",
        "task": task,
        "stride": 32,
        "batch": 1,
        "imgsz": [size, size],
        "names": dict(enumerate(names)),
        **more,
    }


def detector(
    file: Path,
    layout: str,
    input: Input = Input(),
    classes: Sequence[int] = (0, 1, 2),
    count: int = 3,
    metadata: Mapping[str, object] | None = None,
) -> Path:
    """Finds the red, the green and the blue rectangle. Its score is how much the colour exceeds the other channels.

    Args:
      layout: one of `LAYOUTS`. yolov5 and yolov8 report every rectangle twice: moved by 3 pixels with 0.9 of the score.
      classes: the class of red, green, blue; of torchvision, whose labels begin at 1, without the background.
      count: of classes. detr has one more, "no object", and torchvision as well, the background.
    """
    graph = Graph(input)
    centre, side, score = _rectangles(graph)
    _LAYOUT[layout](graph, input, centre, side, score, np.array(classes), count)
    return graph.save(file, metadata)


def _rectangles(graph: Graph) -> tuple[str, str, str]:
    """Centres x, y and sides x, y in input pixels, f32 [B, 3, 2], and scores f32 [B, 3]; 0 where there is none."""
    rgb = graph.rgb
    others = graph("Max", *(graph("Gather", rgb, np.array(order), axis=1) for order in ([1, 2, 0], [2, 0, 1])))
    excess = graph("Sub", rgb, others)
    peak = graph("ReduceMax", excess, axes=[2, 3], keepdims=1)
    found = graph("Cast", graph("GreaterOrEqual", peak, _f32(FOUND)), to=TensorProto.FLOAT)
    share = graph("Div", excess, graph("Max", peak, _f32(FOUND)))
    covered = graph("Clip", graph("Mul", graph("Sub", share, _f32(0.25)), _f32(2)), _f32(0), _f32(1))
    covered = graph("Mul", covered, found)
    centres, sides = [], []
    for axis, across in ((3, 2), (2, 3)):
        line = graph("ReduceMax", covered, axes=[across], keepdims=0)  # [B, 3, side]
        length = graph("Gather", graph("Shape", rgb), np.array(axis), axis=0)
        places = graph("Range", np.array(0), length, np.array(1))
        places = graph("Add", graph("Cast", places, to=TensorProto.FLOAT), _f32(0.5))
        size = graph("ReduceSum", line, np.array([2]), keepdims=1)
        moment = graph("ReduceSum", graph("Mul", line, places), np.array([2]), keepdims=1)
        centres.append(graph("Div", moment, graph("Max", size, _f32(1e-6))))
        sides.append(size)
    score = graph("Clip", graph("Squeeze", graph("Mul", peak, found), np.array([2, 3])), _f32(0), _f32(1))
    return graph("Concat", *centres, axis=2), graph("Concat", *sides, axis=2), score


def _corners(graph: Graph, centre: str, side: str) -> str:
    half = graph("Div", side, _f32(2))
    return graph("Concat", graph("Sub", centre, half), graph("Add", centre, half), axis=2)


def _class_scores(graph: Graph, score: str, classes: np.ndarray, count: int) -> str:
    """f32 [B, 3] -> f32 [B, 3, count], 0 for the other classes."""
    return graph("Mul", graph("Unsqueeze", score, np.array([2])), np.eye(count, dtype=np.float32)[classes])


def _padded(graph: Graph, rows: str, of: int, to: int) -> str:
    """[B, of, n] -> [B, to, n], by rows of zeros."""
    return graph("Pad", rows, np.array([0, 0, 0, 0, to - of, 0]))


def _twice(graph: Graph, centre: str, side: str, score: str, join: object) -> str:
    moved = graph("Add", centre, _f32(3))
    weaker = graph("Mul", score, _f32(0.9))
    return graph("Concat", *(join(*each) for each in ((moved, side, weaker), (centre, side, score))), axis=1)  # type: ignore[operator]


def _cells(input: Input) -> int:
    assert isinstance(input.height, int) and isinstance(input.width, int), "the rows of a YOLO follow from its size"
    return sum((input.height // stride) * (input.width // stride) for stride in _STRIDES)


def _yolov5(graph: Graph, input: Input, centre: str, side: str, score: str, classes: np.ndarray, count: int) -> None:
    """[B, rows, 5 + count]: cx, cy, w, h, objectness, classes; the score is the product of the last two."""

    def rows(centre: str, side: str, score: str) -> str:
        some = graph("Unsqueeze", graph("Sqrt", score), np.array([2]))
        return graph("Concat", centre, side, some, _class_scores(graph, graph("Sqrt", score), classes, count), axis=2)

    total = 3 * _cells(input)
    both = _padded(graph, _twice(graph, centre, side, score, rows), 6, total)
    graph.output(both, "output0", (input.batch, total, 5 + count))


def _yolov8(graph: Graph, input: Input, centre: str, side: str, score: str, classes: np.ndarray, count: int) -> None:
    """[B, 4 + count, rows]: cx, cy, w, h, classes."""

    def rows(centre: str, side: str, score: str) -> str:
        return graph("Concat", centre, side, _class_scores(graph, score, classes, count), axis=2)

    total = _cells(input)
    both = _padded(graph, _twice(graph, centre, side, score, rows), 6, total)
    graph.output(graph("Transpose", both, perm=[0, 2, 1]), "output0", (input.batch, 4 + count, total))


def _end2end(graph: Graph, input: Input, centre: str, side: str, score: str, classes: np.ndarray, count: int) -> None:
    """[B, 300, 6]: x0, y0, x1, y1, score, class; rows without a box are 0."""
    found = graph("Unsqueeze", graph("Cast", graph("Greater", score, _f32(0)), to=TensorProto.FLOAT), np.array([2]))
    label = graph("Mul", found, classes.astype(np.float32)[:, None])
    rows = graph("Concat", _corners(graph, centre, side), graph("Unsqueeze", score, np.array([2])), label, axis=2)
    graph.output(_padded(graph, rows, 3, 300), "output0", (input.batch, 300, 6))


def _detr_boxes(graph: Graph, input: Input, centre: str, side: str) -> None:
    size = graph("Cast", graph("Gather", graph("Shape", graph.rgb), np.array([3, 2]), axis=0), to=TensorProto.FLOAT)
    boxes = graph("Concat", graph("Div", centre, size), graph("Div", side, size), axis=2)
    graph.output(_padded(graph, boxes, 3, 100), "pred_boxes", (input.batch, 100, 4))


def _detr(graph: Graph, input: Input, centre: str, side: str, score: str, classes: np.ndarray, count: int) -> None:
    """logits [B, 100, count + 1] of a softmax, the last is "no object"; boxes cx, cy, w, h, shares of the input."""
    none = graph("Unsqueeze", graph("Sub", _f32(1), score), np.array([2]))
    probs = graph("Concat", _class_scores(graph, score, classes, count), none, axis=2)
    rest = np.tile(np.eye(count + 1, dtype=np.float32)[count], (1, 97, 1))
    shape = graph("Concat", graph("Shape", score, start=0, end=1), np.array([97, count + 1]), axis=0)
    probs = graph("Concat", probs, graph("Expand", rest, shape), axis=1)
    logits = graph("Add", graph("Log", graph("Max", probs, _f32(1e-9))), _f32(2))  # a softmax ignores what is added
    graph.output(logits, "logits", (input.batch, 100, count + 1))
    _detr_boxes(graph, input, centre, side)


def _rtdetr(graph: Graph, input: Input, centre: str, side: str, score: str, classes: np.ndarray, count: int) -> None:
    """logits [B, 100, count] of sigmoids; boxes cx, cy, w, h, shares of the input."""
    probs = _padded(graph, _class_scores(graph, score, classes, count), 3, 100)
    probs = graph("Clip", probs, _f32(1e-6), _f32(1 - 1e-6))
    logits = graph("Log", graph("Div", probs, graph("Sub", _f32(1), probs)))
    graph.output(logits, "logits", (input.batch, 100, count))
    _detr_boxes(graph, input, centre, side)


def _torchvision(
    graph: Graph, input: Input, centre: str, side: str, score: str, classes: np.ndarray, count: int
) -> None:
    """Of one image: boxes f32 [N, 4] x0, y0, x1, y1, labels i64 [N] from 1, scores f32 [N], the best one first."""
    assert input.batch == 1
    score = graph("Squeeze", score, np.array([0]))
    some = graph("NonZero", graph("Greater", score, _f32(0)))
    some = graph("Squeeze", some, np.array([0]))
    order = graph("Gather", some, _sorted(graph, graph("Gather", score, some, axis=0)), axis=0)
    boxes = graph("Squeeze", _corners(graph, centre, side), np.array([0]))
    graph.output(graph("Gather", boxes, order, axis=0), "boxes", ("n", 4))
    graph.output(graph("Gather", classes + 1, order, axis=0), "labels", ("n",), TensorProto.INT64)
    graph.output(graph("Gather", score, order, axis=0), "scores", ("n",))


def _sorted(graph: Graph, values: str) -> str:
    graph._nodes.append(helper.make_node("TopK", [values, graph("Shape", values)], ["_best", "_order"], axis=0))
    return "_order"


def _raw(graph: Graph, input: Input, centre: str, side: str, score: str, classes: np.ndarray, count: int) -> None:
    """What YOLO v5's heads say before their boxes are decoded: three grids [B, 3, rows, columns, 5 + count]."""
    assert isinstance(input.height, int) and isinstance(input.width, int)
    mean = graph("ReduceMean", score, axes=[1], keepdims=1)
    mean = graph("Unsqueeze", mean, np.array([2, 3, 4]))
    for stride in _STRIDES:
        cells = np.zeros((1, 3, input.height // stride, input.width // stride, 5 + count), np.float32)
        graph.output(graph("Add", mean, cells), f"output{stride}", (input.batch, *cells.shape[1:]))


_LAYOUT = {
    "yolov5": _yolov5,
    "yolov8": _yolov8,
    "end2end": _end2end,
    "detr": _detr,
    "rtdetr": _rtdetr,
    "torchvision": _torchvision,
    "raw": _raw,
}


def classifier(
    file: Path,
    input: Input = Input(height=64, width=64),
    probs: bool = False,
    metadata: Mapping[str, object] | None = None,
) -> Path:
    """Logits, or probabilities, f32 [B, 3] of `COLOURS`: 8 times the mean of each channel."""
    graph = Graph(input)
    logits = graph("Mul", graph("ReduceMean", graph.rgb, axes=[2, 3], keepdims=0), _f32(8))
    graph.output(
        graph("Softmax", logits, axis=1) if probs else logits, "probs" if probs else "logits", (input.batch, 3)
    )
    return graph.save(file, metadata)


def classifier_answer(rgb: np.ndarray) -> np.ndarray:
    """u8 [H, W, 3] -> the probabilities f32 [3], if the whole image and nothing else is handed over."""
    values = np.exp(8 * rgb.reshape(-1, 3).mean(0) / 255)
    return (values / values.sum()).astype(np.float32)


def segmenter(
    file: Path,
    input: Input = Input(height=64, width=64),
    ids: bool = False,
    stride: int = 1,
    metadata: Mapping[str, object] | None = None,
) -> Path:
    """Logits f32 [B, 4, h, w] of background and `COLOURS`, at 1/stride of the input's resolution.

    Args:
      ids: says i64 [B, h, w], the best class of each pixel, instead.
    """
    graph = Graph(input)
    rgb = graph.rgb
    others = graph("Max", *(graph("Gather", rgb, np.array(order), axis=1) for order in ([1, 2, 0], [2, 0, 1])))
    excess = graph("Sub", rgb, others)
    background = graph("Add", graph("Mul", graph("Gather", excess, np.array([0]), axis=1), _f32(0)), _f32(0.5))
    logits = graph("Mul", graph("Concat", background, excess, axis=1), _f32(10))
    if stride > 1:
        logits = graph("AveragePool", logits, kernel_shape=[stride, stride], strides=[stride, stride])
    hw = [side // stride if isinstance(side, int) else side for side in (input.height, input.width)]
    if ids:
        best = graph("ArgMax", logits, axis=1, keepdims=0)
        graph.output(best, "ids", (input.batch, *hw), TensorProto.INT64)
    else:
        graph.output(logits, "logits", (input.batch, 4, *hw))
    return graph.save(file, metadata)


def segmenter_answer(rgb: np.ndarray) -> np.ndarray:
    """u8 [H, W, 3] -> i32 [H, W]: 0, or 1 + the channel that exceeds the other two by more than half."""
    x = rgb.astype(np.float32) / 255
    excess = x - np.maximum(x[..., [1, 2, 0]], x[..., [2, 0, 1]])
    return np.where(excess.max(-1) > FOUND, 1 + excess.argmax(-1), 0).astype(np.int32)


def depth(
    file: Path,
    input: Input = Input(height=64, width=64),
    inverse: bool = False,
    channel: bool = False,
    metadata: Mapping[str, object] | None = None,
) -> Path:
    """f32 [B, h, w], or [B, 1, h, w] with `channel`: 1 + 9 times the mean of the channels, metres, or 1 over that."""
    graph = Graph(input)
    value = graph("ReduceMean", graph.rgb, axes=[1], keepdims=int(channel))
    value = graph("Add", graph("Mul", value, _f32(9)), _f32(1))
    if inverse:
        value = graph("Reciprocal", value)
    shape = (input.batch, *([1] if channel else []), input.height, input.width)
    graph.output(value, "predicted_depth", shape)
    return graph.save(file, metadata)


def depth_answer(rgb: np.ndarray) -> np.ndarray:
    """u8 [H, W, 3] -> metres f32 [H, W]."""
    return 1 + 9 * rgb.astype(np.float32).mean(-1) / 255


def normals(
    file: Path,
    input: Input = Input(height=64, width=64),
    axes: Sequence[float] = (1, 1, 1),
    metadata: Mapping[str, object] | None = None,
) -> Path:
    """f32 [B, 3, h, w]: unit vectors along 2 * colour - 1, each of whose components is multiplied by `axes`."""
    graph = Graph(input)
    vector = graph("Sub", graph("Mul", graph.rgb, _f32(2)), _f32(1))
    length = graph("ReduceL2", vector, axes=[1], keepdims=1)
    unit = graph("Div", vector, graph("Max", length, _f32(1e-6)))
    graph.output(graph("Mul", unit, _channels(axes)), "normals", (input.batch, 3, input.height, input.width))
    return graph.save(file, metadata)


def normals_answer(rgb: np.ndarray) -> np.ndarray:
    """u8 [H, W, 3] -> unit vectors f32 [H, W, 3], with axes (1, 1, 1)."""
    vector = 2 * rgb.astype(np.float32) / 255 - 1
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-6)


def muted(rgb: np.ndarray) -> np.ndarray:
    """The photograph with a third of its colour, so that nothing in it is taken for a rectangle."""
    grey = rgb.astype(np.float32).mean(-1, keepdims=True)
    return np.round(grey + 0.3 * (rgb - grey)).astype(np.uint8)


def planted(rgb: np.ndarray, boxes: Mapping[str, Sequence[int]], strength: float = 1.0) -> np.ndarray:
    """`muted`, with a rectangle of each colour named, at pixels y0, x0, y1, x1. A score comes out as `strength`."""
    image = muted(rgb)
    for colour, (y0, x0, y1, x1) in boxes.items():
        image[y0:y1, x0:x1] = np.round((1 - strength) * 255)
        image[y0:y1, x0:x1, COLOURS.index(colour)] = 255
    return image


def _f32(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def _channels(values: Sequence[float]) -> np.ndarray:
    return np.array(values, np.float32)[:, None, None]
