"""Several operators that are one of ONNX's own: what runtimes have a kernel for, and people recognise in the graph.

What they replace stays in the graph until it turns out that nothing needs it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from must_jax.exporting.onnx_graph import Graph, Known, Tensor, Value, is_number, is_one

_GELU_OPSET = 20  # the first that has it


def softmax(graph: Graph, value: Tensor, divisor: Tensor) -> Tensor | None:
    """exp(x - its largest) / its sum."""
    exp, total = graph.maker(value.name, "Exp"), graph.maker(divisor.name, "ReduceSum")
    if exp is None or total is None or total.input[0] != value.name or divisor.order != value.order:
        return None
    difference = graph.maker(exp.input[0], "Sub")
    largest = difference and graph.maker(difference.input[1], "ReduceMax")
    places = graph.axes_of(total.input[1])
    if difference is None or not largest or len(places) != 1 or largest.input[0] != difference.input[0]:
        return None
    if graph.reduced("ReduceMax", largest.input[0], places) != largest.output[0]:
        return None
    return replace(value, name=graph.emit("Softmax", [difference.input[0]], axis=places[0]))


def layer_norm(graph: Graph, value: Tensor, divisor: Tensor) -> Tensor | None:
    """x less its mean, divided by the root of the mean of its square and a small number, along one axis."""
    root, difference = graph.maker(divisor.name, "Sqrt"), graph.maker(value.name, "Sub")
    above = root and graph.maker(root.input[0], "Add")
    if difference is None or not above or divisor.order != value.order:
        return None
    epsilon = graph.number(above.input[1])
    places = [place for place, size in enumerate(divisor.shape) if is_one(size) and not is_one(value.shape[place])]
    if epsilon is None or len(places) != 1 or not is_number(value.shape[places[0]]):
        return None
    x, place = difference.input[0], places[0]
    variance = graph.reduced("ReduceMean", graph.emit("Mul", [value.name, value.name]), [place])
    if [above.input[0], difference.input[1]] != [variance, graph.reduced("ReduceMean", x, [place])]:
        return None
    axis = value.order[place]
    order = (*(other for other in value.order if other != axis), axis)
    ones = graph.constant(np.ones(value.shape[place], value.dtype))
    inputs = [graph.placed(replace(value, name=x), order), ones]
    shape = tuple(value.length(other) for other in order)
    name = graph.emit("LayerNormalization", inputs, axis=-1, epsilon=epsilon)
    return Tensor(name, order, shape, value.dtype)


def scaled_norm(graph: Graph, value: Value, factor: Value) -> Tensor | None:
    return _with_vector(graph, value, factor, 2)


def shifted_norm(graph: Graph, value: Value, summand: Value) -> Tensor | None:
    return _with_vector(graph, value, summand, 3)


def _with_vector(graph: Graph, value: Value, vector: Value, count: int) -> Tensor | None:
    """A layer norm that has up to `count` inputs, the last of which is this vector."""
    if not isinstance(value, Tensor) or not isinstance(vector, Known) or vector.rank != value.rank:
        return None
    norm = graph.maker(value.name, "LayerNormalization")
    others = [size for axis, size in enumerate(vector.array.shape) if axis != value.order[-1]]
    if norm is None or vector.array.size != value.shape[-1] or any(size != 1 for size in others):
        return None
    is_scaled = bool(np.any(graph.constant_of(norm.input[1]) != np.float32(1)))
    if len(norm.input) != 2 or (count == 2 and is_scaled):
        return None
    given = graph.constant(vector.array.reshape(-1), vector.name)
    inputs = [norm.input[0], given] if count == 2 else [*norm.input, given]
    epsilon = next(attribute.f for attribute in norm.attribute if attribute.name == "epsilon")
    return replace(value, name=graph.emit("LayerNormalization", inputs, axis=-1, epsilon=epsilon))


def gelu(graph: Graph, inputs: Sequence[Value]) -> Tensor | None:
    """x / 2 * (1 + erf(x / sqrt(2)))."""
    if graph.opset < _GELU_OPSET or not all(isinstance(value, Tensor) for value in inputs):
        return None
    for half, above in (inputs, inputs[::-1]):
        assert isinstance(half, Tensor) and isinstance(above, Tensor)
        halved, added = graph.maker(half.name, "Mul"), graph.maker(above.name, "Add")
        erf = added and graph.maker(added.input[1], "Erf")
        shrunk = erf and graph.maker(erf.input[0], "Mul")
        if halved is None or not added or not shrunk or shrunk.input[1] != halved.input[1]:
            continue
        if [graph.number(node.input[0]) for node in (halved, added, shrunk)] == [0.5, 1, np.float32(math.sqrt(0.5))]:
            return replace(half, name=graph.emit("Gelu", [halved.input[1]]))
    return None


def max_pool(graph: Graph, inputs: Sequence[Value]) -> Tensor | None:
    """The largest of 3 cells at every second place along an axis, padded by a 0, of what is not below it.

    Networks write it as slices. Along two axes, one after the other, it is one operator.
    """
    for pair, padded in (inputs, inputs[::-1]):
        if not isinstance(pair, Tensor) or not isinstance(padded, Tensor) or pair.order != padded.order:
            return None
        largest, pad = graph.maker(pair.name, "Max"), graph.maker(padded.name, "Pad")
        slices = [graph.maker(name, "Slice") for name in (*largest.input, pad.input[0])] if largest and pad else []
        taken = [(node.input[0], [graph.axes_of(name) for name in node.input[1:]]) for node in slices if node]
        if not pad or len(taken) < 3 or pair.rank != 4 or len({name for name, _ in taken}) > 1:
            continue
        (x, (_, (size,), (place,), _)), *_ = taken
        bounds = [[[start], [end], [place], [2]] for start, end in ((0, size), (1, size), (1, size - 1))]
        pads = [int(index == place) for index in range(2 * pair.rank)]
        if place < 2 or size != 2 * pair.shape[place] or [told for _, told in taken] != bounds:
            continue
        if graph.axes_of(pad.input[1]) != pads or graph.number(pad.input[2]) != 0:
            continue
        before = graph.maker(x, "MaxPool")
        if before is None and not graph.maker(x, "Relu"):
            continue
        sides = [3 if index == place else 1 for index in (2, 3)]
        if before is not None:
            first = next(list(attribute.ints) for attribute in before.attribute if attribute.name == "kernel_shape")
            if first == sides or first == [3, 3]:
                continue
            x, sides = before.input[0], [3, 3]
        strides = [2 if side == 3 else 1 for side in sides]
        edges = [*(side // 2 for side in sides), 0, 0]
        return replace(pair, name=graph.emit("MaxPool", [x], kernel_shape=sides, strides=strides, pads=edges))
    return None
