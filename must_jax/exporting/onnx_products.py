"""Primitives of jax that compute sums, products and extremes over axes, as operators of ONNX."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from must_jax.errors import UserError
from must_jax.exporting.onnx_axes import with_ones, without
from must_jax.exporting.onnx_elementwise import Rule
from must_jax.exporting.onnx_graph import Graph, Known, Tensor, Value, count, is_number, is_one


def _convolution(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    """On channels first; a kernel of one cell on channels that lie last is a matrix product."""
    params, (images, kernel) = equation.params, inputs
    numbers, shapes = params["dimension_numbers"], [variable.aval.shape for variable in equation.invars]
    if any(n != 1 for n in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        raise UserError("a convolution with dilated inputs, or groups of the batch, cannot be written to ONNX")
    images, kernel = graph.whole(images, shapes[0]), graph.whole(kernel, shapes[1])
    out_shape, dtype = equation.outvars[0].aval.shape, equation.outvars[0].aval.dtype
    lhs, rhs, out = (tuple(map(int, spec)) for spec in numbers)
    groups, sides = params["feature_group_count"], [shapes[1][axis] for axis in rhs[2:]]
    is_product = all(n == 1 for n in (*sides, groups, *params["window_strides"])) and not np.any(params["padding"])
    if is_product and isinstance(images, Tensor) and images.order[-1] == lhs[1] and isinstance(kernel, Known):
        matrix = Known(kernel.array.transpose(rhs).reshape(shapes[1][rhs[0]], -1).T, kernel.name)
        name = graph.emit("MatMul", [images.name, graph.placed(matrix)])
        order = tuple(out[lhs.index(axis)] for axis in images.order)
    else:
        pads = [int(pair[side]) for side in (0, 1) for pair in params["padding"]]
        name = graph.emit(
            "Conv",
            [graph.placed(images, lhs), graph.placed(kernel, rhs)],
            pads=pads,
            strides=list(map(int, params["window_strides"])),
            dilations=list(map(int, params["rhs_dilation"])),
            group=int(groups),
            kernel_shape=list(map(int, sides)),
        )
        order = out
    return [Tensor(name, order, tuple(out_shape[axis] for axis in order), dtype)]


def _dot(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    """Axes of the result: those of the batch, those of the first factor alone, those of the second alone."""
    shapes, out = [variable.aval.shape for variable in equation.invars], equation.outvars[0].aval
    contracted, batch = ([tuple(map(int, axes)) for axes in each] for each in equation.params["dimension_numbers"])
    free = [
        tuple(axis for axis in range(len(shape)) if axis not in (*summed, *shared))
        for shape, summed, shared in zip(shapes, contracted, batch, strict=True)
    ]
    values = [graph.whole(value, shape) for value, shape in zip(inputs, shapes, strict=True)]
    if any(value.dtype != out.dtype for value in values):
        raise UserError(f"a product with a result in {out.dtype} of other numbers cannot be written to ONNX")
    side = next((side for side, value in enumerate(values) if isinstance(value, Known)), 0)
    known, other = values[side], values[1 - side]
    is_along_one_axis = len(contracted[0]) == 1 and not batch[0] and len(free[side]) > 0
    if is_along_one_axis and isinstance(known, Known) and isinstance(other, Tensor):
        return [_by_matrix(graph, known, other, side, contracted, free, out.shape)]
    # Axes of length 1 make no product; attention has one, of the queries that share a key.
    short = [[axis for axis in free[side] if is_one(shapes[side][axis])] for side in (0, 1)]
    if len(contracted[0]) == 1 and all(len(free[side]) - len(short[side]) == 1 for side in (0, 1)):
        names = []
        for side, value in enumerate(values):
            (row,) = (axis for axis in free[side] if axis not in short[side])
            order = (*batch[side], *((row, contracted[0][0]) if side == 0 else (contracted[1][0], row)))
            names.append(
                graph.placed(without(graph, value, short[side]), [sorted(order).index(axis) for axis in order])
            )
        axes = [(0, axis) for axis in (*batch[0], *free[0])] + [(1, axis) for axis in free[1]]
        new = [place for place, (side, axis) in enumerate(axes) if axis in short[side]]
        shape = tuple(size for place, size in enumerate(out.shape) if place not in new)
        product = Tensor(graph.emit("MatMul", names), tuple(range(len(shape))), shape, out.dtype)
        return [with_ones(graph, product, new)]
    return [_einsum(graph, values, contracted, batch, free, out)]


def _einsum(
    graph: Graph,
    values: Sequence[Value],
    contracted: Sequence[Sequence[int]],
    batch: Sequence[Sequence[int]],
    free: Sequence[Sequence[int]],
    out: Any,
) -> Tensor:
    letters = iter(string.ascii_lowercase)
    marks: list[dict[int, str]] = [{}, {}]
    for axes in (*zip(*batch, strict=True), *zip(*contracted, strict=True)):
        letter = next(letters)
        for side, axis in enumerate(axes):
            marks[side][axis] = letter
    for side in (0, 1):
        marks[side].update({axis: next(letters) for axis in free[side]})
    result = [marks[0][axis] for axis in (*batch[0], *free[0])] + [marks[1][axis] for axis in free[1]]
    orders = [value.order if isinstance(value, Tensor) else tuple(range(value.rank)) for value in values]
    terms = ["".join(marks[side][axis] for axis in orders[side]) for side in (0, 1)]
    names = [graph.placed(value, order) for value, order in zip(values, orders, strict=True)]
    name = graph.emit("Einsum", names, equation=f"{','.join(terms)}->{''.join(result)}")
    return Tensor(name, tuple(range(len(out.shape))), tuple(out.shape), out.dtype)


def _by_matrix(
    graph: Graph,
    known: Value,
    tensor: Tensor,
    side: int,
    contracted: Sequence[Sequence[int]],
    free: Sequence[Sequence[int]],
    out_shape: Sequence[Any],
) -> Tensor:
    """Along one axis, wherever it is stored: the factor at `side` is a matrix of parameters."""
    assert isinstance(known, Known)
    axis, matrix_free = contracted[1 - side][0], list(free[side])
    sizes = [known.array.shape[a] for a in matrix_free]
    array = known.array.transpose([contracted[side][0], *matrix_free])
    array = array.reshape(array.shape[0], -1)
    place = tensor.place(axis)
    if place == tensor.rank - 2 and len(sizes) == 1:
        name = graph.emit("MatMul", [graph.constant(array.T, known.name), tensor.name])
        stored = tensor.order
    else:
        stored = (*(a for a in tensor.order if a != axis), axis)
        name = graph.emit("MatMul", [graph.placed(tensor, stored), graph.constant(array, known.name)])
    # In the result, axes of the first factor come first.
    others = [a for a in sorted(tensor.order) if a != axis]
    of_tensor = {a: index + (len(sizes) if side == 0 else 0) for index, a in enumerate(others)}
    of_matrix = [index + (0 if side == 0 else len(others)) for index in range(len(sizes))]
    order = tuple(o for a in stored for o in (of_matrix if a == axis else [of_tensor[a]]))
    shape = tuple(out_shape[a] for a in order)
    if len(sizes) > 1:
        name = graph.emit("Reshape", [name, graph.integers(*(int(n) if is_number(n) else -1 for n in shape))])
    return Tensor(name, order, shape, tensor.dtype)


def reduced(graph: Graph, op: str, value: Value, shape: Sequence[Any], axes: Sequence[int]) -> Value:
    axes = [int(axis) for axis in axes]
    value = graph.whole(value, shape, axes)
    if isinstance(value, Known):
        value = Tensor(graph.placed(value), tuple(range(value.rank)), value.array.shape, value.array.dtype)
    places = sorted(value.place(axis) for axis in axes)
    name = graph.reduced(op, value.name, places)
    if all(is_number(shape[axis]) for axis in axes):
        graph.summands[name] = count([shape[axis] for axis in axes])
    stored = tuple(1 if place in places else size for place, size in enumerate(value.shape))
    return without(graph, Tensor(name, value.order, stored, value.dtype), axes)


def _reduce(op: str) -> Rule:
    def rule(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
        return [reduced(graph, op, inputs[0], equation.invars[0].aval.shape, equation.params["axes"])]

    return rule


def _reduce_logical(op: str) -> Rule:
    def rule(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
        shape = equation.invars[0].aval.shape
        value = graph.whole(inputs[0], shape, equation.params["axes"])
        order = value.order if isinstance(value, Tensor) else tuple(range(value.rank))
        stored = value.shape if isinstance(value, Tensor) else value.array.shape
        numbers = Tensor(graph.cast(graph.placed(value, order), np.int32), order, stored, np.dtype(np.int32))
        result = reduced(graph, op, numbers, shape, equation.params["axes"])
        assert isinstance(result, Tensor)
        return [Tensor(graph.cast(result.name, np.bool_), result.order, result.shape, np.dtype(np.bool_))]

    return rule


def _arg(op: str) -> Rule:
    """The first place of the largest or smallest element."""

    def rule(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
        (axis,), shape = equation.params["axes"], equation.invars[0].aval.shape
        value = graph.whole(inputs[0], shape, [axis])
        assert isinstance(value, Tensor)
        name = graph.emit(op, [value.name], axis=value.place(axis), keepdims=0)
        rest = [other for other in value.order if other != axis]
        order = tuple(sorted(rest).index(other) for other in rest)
        sizes = tuple(value.length(other) for other in rest)
        dtype = np.dtype(equation.params["index_dtype"])
        return [Tensor(graph.cast(name, dtype), order, sizes, dtype)]

    return rule


def _top_k(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    """Of equal ones, those before: both say so."""
    axis, k, shape = equation.params["axis"], equation.params["k"], equation.invars[0].aval.shape
    value = graph.whole(inputs[0], shape, [axis])
    assert isinstance(value, Tensor)
    names = graph.emit_several("TopK", [value.name, graph.integers(k)], 2, axis=value.place(axis))
    sizes = tuple(k if place == value.place(axis) else size for place, size in enumerate(value.shape))
    dtypes = [variable.aval.dtype for variable in equation.outvars]
    return [
        Tensor(names[0], value.order, sizes, dtypes[0]),
        Tensor(graph.cast(names[1], dtypes[1]), value.order, sizes, dtypes[1]),
    ]


RULES: dict[str, Rule] = {
    "conv_general_dilated": _convolution,
    "dot_general": _dot,
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_prod": _reduce("ReduceProd"),
    "reduce_and": _reduce_logical("ReduceMin"),
    "reduce_or": _reduce_logical("ReduceMax"),
    "argmax": _arg("ArgMax"),
    "argmin": _arg("ArgMin"),
    "top_k": _top_k,
}
