"""Primitives of jax that move elements and compute none, as operators of ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jax.lax import GatherScatterMode

from must_jax.errors import UserError
from must_jax.exporting.onnx_elementwise import Rule, join
from must_jax.exporting.onnx_graph import Graph, Known, Tensor, Value, count, is_number, is_one

_END = 2**63 - 1


def without(graph: Graph, value: Value, axes: Sequence[int]) -> Value:
    """Without these axes of length 1."""
    if not axes:
        return value
    if isinstance(value, Known):
        return replace(value, array=np.squeeze(value.array, tuple(axes)))
    places = sorted(value.place(axis) for axis in axes)
    unsqueeze = graph.maker(value.name, "Unsqueeze")
    if unsqueeze is not None and graph.axes_of(unsqueeze.input[1]) == places:
        name = unsqueeze.input[0]
    else:
        name = graph.emit("Squeeze", [value.name, graph.integers(*places)])
    rest = [axis for axis in value.order if axis not in axes]
    order = tuple(sorted(rest).index(axis) for axis in rest)
    shape = tuple(size for place, size in enumerate(value.shape) if place not in places)
    return Tensor(name, order, shape, value.dtype)


def with_ones(graph: Graph, value: Value, axes: Sequence[int]) -> Value:
    """With new axes of length 1, at these places of the new array."""
    if not axes:
        return value
    if isinstance(value, Known):
        return replace(value, array=np.expand_dims(value.array, tuple(axes)))
    rank = value.rank + len(axes)
    old = [axis for axis in range(rank) if axis not in axes]  # where the axes come to lie
    squeeze = graph.maker(value.name, "Squeeze")
    if squeeze is not None and len(places := graph.axes_of(squeeze.input[1])) == len(axes):
        name = squeeze.input[0]
    else:
        in_order = value.order == tuple(range(value.rank))
        places = sorted(axes) if in_order else list(range(value.rank, rank))
        name = graph.emit("Unsqueeze", [value.name, graph.integers(*places)])
    fresh, moved = iter(sorted(axes)), iter(zip(value.order, value.shape, strict=True))
    order, shape = [], []
    for place in range(rank):
        axis, size = (next(fresh), 1) if place in places else next(moved, (0, 0))
        order.append(axis if place in places else old[axis])
        shape.append(size)
    return Tensor(name, tuple(order), tuple(shape), value.dtype)


def transposed(value: Value, permutation: Sequence[int]) -> Value:
    permutation = [int(axis) for axis in permutation]
    if isinstance(value, Known):
        return replace(value, array=value.array.transpose(permutation))
    return replace(value, order=tuple(permutation.index(axis) for axis in value.order))


def reshaped(graph: Graph, value: Value, old: Sequence[Any], new: Sequence[Any]) -> Value:
    """From an array of shape `old` to one of shape `new`."""
    ones = [[axis for axis, size in enumerate(shape) if is_one(size)] for shape in (old, new)]
    if _same([size for size in old if not is_one(size)], [size for size in new if not is_one(size)]):
        return with_ones(graph, without(graph, value, ones[0]), ones[1])
    if isinstance(value, Known) and all(map(is_number, new)):
        return replace(value, array=np.broadcast_to(value.array, tuple(old)).reshape(tuple(new)))
    unknown = [axis for axis, size in enumerate(new) if not is_number(size)]
    if len(unknown) == 1:
        shape = graph.integers(*(int(size) if is_number(size) else -1 for size in new))
    else:
        shape = graph.shape_of(new)
    name = graph.emit("Reshape", [graph.plain(value, old), shape])
    return Tensor(name, tuple(range(len(new))), tuple(new), value.dtype)


def _same(some: Sequence[Any], other: Sequence[Any]) -> bool:
    return len(some) == len(other) and all(
        is_number(a) == is_number(b) and (a == b if is_number(a) else str(a) == str(b))
        for a, b in zip(some, other, strict=True)
    )


def sliced(
    graph: Graph, value: Value, shape: Sequence[Any], start: Sequence[Any], end: Sequence[Any], step: Sequence[int]
) -> Value:
    """`value[start:end:step]` along each axis; a negative step is that of a whole axis."""
    axes = [
        axis
        for axis, size in enumerate(shape)
        if step[axis] != 1 or not (is_number(start[axis]) and start[axis] == 0 and _same([end[axis]], [size]))
    ]
    value = graph.whole(value, shape, [axis for axis in axes if is_number(shape[axis])])
    if isinstance(value, Known):
        index = tuple(
            slice(int(start[axis]), int(end[axis]), step[axis]) if axis in axes else slice(None)
            for axis in range(value.rank)
        )
        return replace(value, array=value.array[index])
    if not axes:
        return value
    numbers = [[_bound(each[axis], shape[axis]) for axis in axes] for each in (start, end, step)]
    places = [value.place(axis) for axis in axes]
    starts, ends, steps = (graph.integers(*each) for each in numbers)
    name = graph.emit("Slice", [value.name, starts, ends, graph.integers(*places), steps])
    lengths = {
        place: shape[axis] if step[axis] < 0 else -(-(end[axis] - start[axis]) // step[axis])
        for place, axis in zip(places, axes, strict=True)
    }
    return replace(value, name=name, shape=tuple(lengths.get(place, size) for place, size in enumerate(value.shape)))


def _bound(number: Any, size: Any) -> int:
    """Where a slice begins or ends: if that depends on the size, it is counted from the end."""
    if is_number(number):
        return int(number)
    before_end = size - number
    if not is_number(before_end):
        raise UserError(f"a slice that begins or ends at {number} cannot be written to ONNX")
    return -int(before_end) if before_end else _END


def padded(
    graph: Graph, value: Value, shape: Sequence[Any], fill: Value, before: Sequence[int], after: Sequence[int]
) -> Tensor:
    """With this many more elements along each axis."""
    value = graph.whole(value, shape, [axis for axis in range(len(shape)) if before[axis] or after[axis]])
    if isinstance(value, Known):
        value = Tensor(graph.placed(value), tuple(range(value.rank)), value.array.shape, value.array.dtype)
    pads = [each[axis] for each in (before, after) for axis in value.order]
    name = graph.emit("Pad", [value.name, graph.integers(*pads), graph.placed(fill)])
    grown = [size + before[axis] + after[axis] for axis, size in zip(value.order, value.shape, strict=True)]
    return replace(value, name=name, shape=tuple(grown))


def joined(graph: Graph, values: Sequence[Value], shapes: Sequence[Sequence[Any]], axis: int) -> Value:
    """Along an axis."""
    parts = [each for each in zip(values, shapes, strict=True) if not _same(each[1][axis : axis + 1], [0])]
    if len(parts) == 1:
        return parts[0][0]
    whole = [graph.whole(value, shape) for value, shape in parts]
    tensors = [value for value in whole if isinstance(value, Tensor)]
    order = max(tensors, key=lambda value: count(value.shape)).order if tensors else tuple(range(len(shapes[0])))
    name = graph.emit("Concat", [graph.placed(value, order) for value in whole], axis=order.index(axis))
    total = sum(shape[axis] for shape in shapes)
    return Tensor(name, order, tuple(total if a == axis else shapes[0][a] for a in order), whole[0].dtype)


def _shapes(equation: Any) -> list[tuple[Any, ...]]:
    return [variable.aval.shape for variable in equation.invars]


def _broadcast(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    kept = [int(axis) for axis in equation.params["broadcast_dimensions"]]
    return [with_ones(graph, inputs[0], [a for a in range(len(equation.params["shape"])) if a not in kept])]


def _reshape(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    if equation.params["dimensions"] is not None:
        raise UserError("reshape with an order of its own cannot be written to ONNX")
    return [reshaped(graph, inputs[0], _shapes(equation)[0], equation.params["new_sizes"])]


def _squeeze(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    return [without(graph, inputs[0], [int(axis) for axis in equation.params["dimensions"]])]


def _transpose(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    return [transposed(inputs[0], equation.params["permutation"])]


def _slice(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    params, (shape,) = equation.params, _shapes(equation)
    step = params["strides"] or (1,) * len(shape)
    return [sliced(graph, inputs[0], shape, params["start_indices"], params["limit_indices"], step)]


def _rev(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    (shape,), axes = _shapes(equation), equation.params["dimensions"]
    start = [int(shape[axis]) - 1 if axis in axes else 0 for axis in range(len(shape))]
    end = [-int(size) - 1 if axis in axes else size for axis, size in enumerate(shape)]
    value = graph.whole(inputs[0], shape, axes)
    if isinstance(value, Known):
        return [replace(value, array=np.flip(value.array, axes))]
    step = [-1 if axis in axes else 1 for axis in range(len(shape))]
    return [sliced(graph, value, shape, start, end, step)]


def _pad(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    before, after, between = (list(each) for each in zip(*equation.params["padding_config"], strict=True))
    if any(between) or min(*before, *after) < 0:
        raise UserError("pad with gaps, or by fewer than no elements, cannot be written to ONNX")
    return [padded(graph, inputs[0], _shapes(equation)[0], inputs[1], before, after)]


def _concatenate(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    return [joined(graph, inputs, _shapes(equation), equation.params["dimension"])]


def _stack(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    axis = equation.params["axis"]
    values = [with_ones(graph, value, [axis]) for value in inputs]
    return [joined(graph, values, [(*shape[:axis], 1, *shape[axis:]) for shape in _shapes(equation)], axis)]


def _unstack(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    axis, (shape,) = equation.params["axis"], _shapes(equation)
    return [taken(graph, inputs[0], shape, axis, index) for index in range(shape[axis])]


def taken(graph: Graph, value: Value, shape: Sequence[Any], axis: int, index: int) -> Value:
    """`value[index]` along an axis."""
    if isinstance(value, Known) or is_one(value.length(axis)):
        start, end = [0] * len(shape), list(shape)
        if isinstance(value, Known) and value.array.shape[axis] > 1:
            start[axis], end[axis] = index, index + 1
            value = sliced(graph, value, shape, start, end, [1] * len(shape))
        return without(graph, value, [axis])
    name = graph.emit("Gather", [value.name, graph.constant(np.int64(index))], axis=value.place(axis))
    rest = [other for other in value.order if other != axis]
    shape = tuple(size for place, size in enumerate(value.shape) if place != value.place(axis))
    return Tensor(name, tuple(sorted(rest).index(other) for other in rest), shape, value.dtype)


def _split(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    axis, sizes, (shape,) = equation.params["axis"], equation.params["sizes"], _shapes(equation)
    ends, parts = np.cumsum(sizes).tolist(), []
    for size, last in zip(sizes, ends, strict=True):
        start, end = [0] * len(shape), list(shape)
        start[axis], end[axis] = last - size, last
        parts.append(sliced(graph, inputs[0], shape, start, end, [1] * len(shape)))
    return parts


def _iota(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    shape, axis = equation.params["shape"], equation.params["dimension"]
    if not is_number(shape[axis]):
        raise UserError(f"iota of {shape[axis]} elements cannot be written to ONNX; only the batch may be of any size")
    numbers = np.arange(int(shape[axis])).astype(equation.params["dtype"])
    return [Known(numbers.reshape([-1 if a == axis else 1 for a in range(len(shape))]))]


def _known_indices(equation: Any, indices: Sequence[Value], shape: Sequence[Any], size: Sequence[Any]) -> list[int]:
    """Where a slice begins, as jax clamps it."""
    if not all(isinstance(index, Known) for index in indices):
        raise UserError(f"{equation.primitive.name} at places that depend on the images cannot be written to ONNX")
    return [
        int(np.clip(index.array.item(), 0, shape[axis] - size[axis])) if is_number(shape[axis]) else 0
        for axis, index in enumerate(indices)
        if isinstance(index, Known)
    ]


def _dynamic_slice(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    shape, size = _shapes(equation)[0], equation.params["slice_sizes"]
    start = _known_indices(equation, inputs[1:], shape, size)
    end = [size[axis] if start[axis] == 0 else start[axis] + size[axis] for axis in range(len(shape))]
    return [sliced(graph, inputs[0], shape, start, end, [1] * len(shape))]


def _dynamic_update_slice(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    """The update, padded, where it lies; the rest is what was there."""
    operand, update, *indices = inputs
    shape, size = _shapes(equation)[:2]
    start = _known_indices(equation, indices, shape, size)
    rest = [0 if _same([n], [m]) else int(n - m - begin) for n, m, begin in zip(shape, size, start, strict=True)]
    dtype = equation.outvars[0].aval.dtype
    moved = padded(graph, update, size, Known(np.zeros((), dtype)), start, rest)
    if isinstance(operand, Known) and not operand.array.any():
        return [moved]
    inside = np.zeros([int(n) if begin or more else 1 for n, begin, more in zip(shape, start, rest, strict=True)], bool)
    inside[tuple(slice(b, n - more) for n, b, more in zip(inside.shape, start, rest, strict=True))] = True
    return [join(graph, "Where", [Known(inside), moved, operand], dtype)]


def _gather(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    """Of axes of the operand that are indexed, one element; of those that are not, all."""
    (operand, indices), (shape, index_shape), params = inputs, _shapes(equation), equation.params
    numbers, sizes, mode = params["dimension_numbers"], params["slice_sizes"], params["mode"]
    if mode not in (GatherScatterMode.CLIP, GatherScatterMode.PROMISE_IN_BOUNDS):
        raise UserError("gather with a value for places outside cannot be written to ONNX")
    if isinstance(indices, Known) and len(index_shape) == 1:
        return [_one_slice(graph, equation, operand, indices.array)]
    if isinstance(indices, Known):
        operand, shape = _cut(graph, operand, shape, indices.array, equation)
    batch, index_batch = list(numbers.operand_batching_dims), list(numbers.start_indices_batching_dims)
    columns = {axis: column for column, axis in enumerate(numbers.start_index_map)}
    indexed = [axis for axis in columns if not _same([shape[axis]], [sizes[axis]]) or is_one(shape[axis])]
    rest = [axis for axis in range(len(shape)) if axis not in [*batch, *indexed]]
    if any(not is_one(sizes[axis]) for axis in indexed) or any(not _same([shape[a]], [sizes[a]]) for a in rest):
        raise UserError("gather of parts of an axis cannot be written to ONNX, only of elements or of all of it")
    chosen = _columns(graph, indices, index_shape, [columns[axis] for axis in indexed])
    if mode == GatherScatterMode.CLIP:
        last = np.array([int(shape[axis]) - 1 for axis in indexed], np.int32).reshape(
            (1,) * (len(index_shape) - 1) + (-1,)
        )
        chosen = join(graph, "Min", [join(graph, "Max", [chosen, Known(0 * last)], np.int32), Known(last)], np.int32)
    index_rest = [axis for axis in range(len(index_shape) - 1) if axis not in index_batch]
    order = (*index_batch, *index_rest, len(index_shape) - 1)
    places = graph.cast(graph.placed(graph.whole(chosen, (*index_shape[:-1], len(indexed))), order), np.int64)
    data = graph.placed(graph.whole(operand, shape), (*batch, *indexed, *rest))
    name = graph.emit("GatherND", [data, places], batch_dims=len(batch))
    # Where the axes of the indices, and those of the slices, lie in the result.
    out = equation.outvars[0].aval
    offset = list(numbers.offset_dims)
    from_indices = [axis for axis in range(len(out.shape)) if axis not in offset]
    of_slices = [axis for axis in range(len(shape)) if axis not in [*batch, *numbers.collapsed_slice_dims]]
    stored = [from_indices[axis] for axis in order[:-1]] + [offset[of_slices.index(axis)] for axis in rest]
    in_order = sorted(stored)
    value = Tensor(name, tuple(map(in_order.index, stored)), tuple(out.shape[axis] for axis in stored), out.dtype)
    return [with_ones(graph, value, [axis for axis in range(len(out.shape)) if axis not in stored])]


def _cut(
    graph: Graph, operand: Value, shape: Sequence[Any], indices: np.ndarray, equation: Any
) -> tuple[Value, tuple[Any, ...]]:
    """The operand of a gather, and its shape, without what no slice takes of an axis of which each takes a part."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    start, end = [0] * len(shape), list(shape)
    for column, axis in enumerate(numbers.start_index_map):
        places = np.unique(indices[..., column])
        if not is_one(sizes[axis]) and is_number(shape[axis]) and len(places) == 1:
            start[axis], end[axis] = int(places[0]), int(places[0]) + int(sizes[axis])
    cut = tuple(n if b == 0 else n - b for n, b in zip(end, start, strict=True))
    return sliced(graph, operand, shape, start, end, [1] * len(shape)), cut


def _one_slice(graph: Graph, equation: Any, operand: Value, index: np.ndarray) -> Value:
    """A gather at one known place: what jax makes of `x[:, 2]` and `x[:, 2:5]`."""
    shape, params = equation.invars[0].aval.shape, equation.params
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    start, end = [0] * len(shape), list(shape)
    for axis, place in zip(numbers.start_index_map, index.tolist(), strict=True):
        if not _same([shape[axis]], [sizes[axis]]):
            start[axis] = int(np.clip(place, 0, shape[axis] - sizes[axis]))
            end[axis] = start[axis] + int(sizes[axis])
    value = sliced(graph, operand, shape, start, end, [1] * len(shape))
    return without(graph, value, [int(axis) for axis in numbers.collapsed_slice_dims])


def _columns(graph: Graph, indices: Value, shape: Sequence[Any], columns: list[int]) -> Value:
    """These of the indices' columns, which are their last axis."""
    if columns == list(range(int(shape[-1]))):
        return graph.whole(indices, shape, [len(shape) - 1])
    axis = len(shape) - 1
    parts = [with_ones(graph, taken(graph, indices, shape, axis, column), [axis]) for column in columns]
    return parts[0] if len(parts) == 1 else joined(graph, parts, [(*shape[:-1], 1)] * len(parts), axis)


RULES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "slice": _slice,
    "rev": _rev,
    "pad": _pad,
    "concatenate": _concatenate,
    "stack": _stack,
    "unstack": _unstack,
    "split": _split,
    "iota": _iota,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
}
