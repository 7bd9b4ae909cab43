"""An ONNX graph while it is being written, and the arrays in it.

Axes are moved as late as possible: an array knows in which order its tensor stores them, so that a transposition is
free until an operator needs another order. A convolution's channels come second, and so do those of all that follows
it. In the same way an array that repeats itself along an axis is stored once, since operators broadcast.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, ValueInfoProto, helper

from must_jax.errors import UserError

Shape = Sequence[Any]  # of whole numbers, and of jax's symbolic ones


@dataclass(frozen=True)
class Known:
    """An array that does not depend on the images.

    Attributes:
      array: of the array's rank; an axis of length 1 may stand for any length.
      name: of the parameter that it comes from.
    """

    array: np.ndarray
    name: str = ""

    @property
    def rank(self) -> int:
        return self.array.ndim

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype


@dataclass(frozen=True)
class Tensor:
    """An array that the graph computes.

    Attributes:
      name: of the tensor that stores it.
      order: the array's axes, as the tensor stores them.
      shape: of the tensor; an axis of length 1 may stand for any length.
    """

    name: str
    order: tuple[int, ...]
    shape: tuple[Any, ...]
    dtype: np.dtype

    @property
    def rank(self) -> int:
        return len(self.order)

    def place(self, axis: int) -> int:
        """Where an axis of the array is stored."""
        return self.order.index(axis)

    def length(self, axis: int) -> Any:
        """What is stored of this axis of the array."""
        return self.shape[self.place(axis)]


Value = Known | Tensor


class Graph:
    """Nodes are written once: a second one that would compute the same is the first one.

    Attributes:
      opset: version of ONNX's operators.
      where: what is being computed, for the names of nodes.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.where = ""
        self._scopes: list[list[NodeProto]] = [[]]  # nodes, of the graph and of the loops that are open
        self._levels: dict[str, int] = {}  # tensors that are computed in loops, and how deep
        self._made: dict[Any, list[str]] = {}
        self._producers: dict[str, NodeProto] = {}
        self._constants: dict[Any, str] = {}
        self._initializers: dict[str, np.ndarray] = {}
        self._sizes: dict[str, str] = {}  # of symbolic dimensions: i64[1]
        self._names: dict[str, int] = {}
        self.summands: dict[str, int] = {}  # of sums

    def named(self, wish: str) -> str:
        """A name that nothing has yet."""
        count = self._names[wish] = self._names.get(wish, 0) + 1
        return wish if count == 1 else self.named(f"{wish}_{count}")

    def emit(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """The output of a node."""
        return self.emit_several(op, inputs, 1, **attributes)[0]

    def emit_several(self, op: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        """The outputs of a node. It is computed outside of all loops on which its inputs do not depend."""
        level = max((self._levels.get(name, 0) for name in inputs), default=0)
        inputs = [self._inside(name, level) for name in inputs]
        key = (op, tuple(inputs), count, repr(sorted(attributes.items())))
        if key not in self._made:
            outputs = [self.named(op.lower()) for _ in range(count)]
            name = self.named(f"{self.where}/{op}" if self.where else op)
            self._add(helper.make_node(op, inputs, outputs, name=name, **attributes), level)
            self._made[key] = outputs
        return self._made[key]

    def _inside(self, name: str, level: int) -> str:
        """A slice that is taken outside of a loop, taken again in it.

        onnxruntime warns where a loop reads both a slice and what it is a slice of.
        """
        node = self.maker(name, "Slice")
        if node is None or self._levels[name] == level:
            return name
        if (name, level) not in self._made:
            copy = NodeProto()
            copy.CopyFrom(node)
            copy.name, copy.output[0] = self.named(node.name), self.named(name)
            self._add(copy, level)
            self._made[name, level] = list(copy.output)
        return self._made[name, level][0]

    def _add(self, node: NodeProto, level: int) -> None:
        self._scopes[level].append(node)
        for name in node.output:
            self._levels[name] = level
            self._producers[name] = node

    def maker(self, name: str, op: str) -> NodeProto | None:
        """The node that computes a tensor, if it is of this operator."""
        node = self._producers.get(name)
        return node if node is not None and node.op_type == op else None

    def constant(self, array: Any, name: str = "") -> str:
        """An initializer."""
        array = np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array)
        key = (array.dtype.str, array.shape, hashlib.sha1(array.tobytes()).digest())
        if key not in self._constants:
            chosen = self.named(name or "constant")
            self._initializers[chosen] = array
            self._constants[key] = chosen
        return self._constants[key]

    def constant_of(self, name: str) -> np.ndarray | None:
        """The array of an initializer; None for other tensors."""
        return self._initializers.get(name)

    def number(self, name: str) -> float | None:
        """That of an initializer with one element; None for other tensors."""
        array = self.constant_of(name)
        return array.item() if array is not None and array.size == 1 else None

    def axes_of(self, name: str) -> list[int]:
        """The numbers of an initializer that says axes."""
        return list(map(int, self._initializers[name]))

    def reduced(self, op: str, name: str, places: Sequence[int]) -> str:
        """Over these axes of a tensor, which stay with a length of 1."""
        if self.opset < 18 and op != "ReduceSum":
            return self.emit(op, [name], axes=list(places), keepdims=1)
        return self.emit(op, [name, self.integers(*places)], keepdims=1)

    def integers(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def cast(self, name: str, dtype: Any) -> str:
        return self.emit("Cast", [name], to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def takes(self, name: str, shape: Shape, dtype: np.dtype) -> Tensor:
        """An input of the graph, which gives its symbolic dimensions their values."""
        self.named(name)
        for axis, size in enumerate(shape):
            if not is_number(size) and str(size) not in self._sizes:
                self._sizes[str(size)] = self.emit("Shape", [name], start=axis, end=axis + 1)
        return Tensor(name, tuple(range(len(shape))), tuple(shape), np.dtype(dtype))

    def size(self, number: Any) -> str:
        """i64[1], the value of a dimension.

        Raises:
          UserError: it is computed from symbolic ones.
        """
        if is_number(number):
            return self.integers(int(number))
        if str(number) not in self._sizes:
            raise UserError(f"a size of {number} cannot be written to ONNX; only the batch may be of any size")
        return self._sizes[str(number)]

    def placed(self, value: Value, order: Sequence[int] | None = None) -> str:
        """The tensor that stores a value's axes in this order, by default that of the array."""
        order = tuple(range(value.rank) if order is None else order)
        if isinstance(value, Known):
            return self.constant(value.array.transpose(order) if order else value.array, value.name)
        if order == value.order:
            return value.name
        return self.emit("Transpose", [value.name], perm=[value.place(axis) for axis in order])

    def whole(self, value: Value, shape: Shape, axes: Sequence[int] | None = None) -> Value:
        """The same with full lengths of these axes, by default all. `shape` is the array's."""
        axes = range(value.rank) if axes is None else axes
        if isinstance(value, Known):
            short = [axis for axis in axes if is_one(value.array.shape[axis]) and not is_one(shape[axis])]
            if not short:
                return value
            if all(is_number(shape[axis]) for axis in short):
                full = tuple(shape[axis] if axis in short else n for axis, n in enumerate(value.array.shape))
                return replace(value, array=np.broadcast_to(value.array, full))
            identity = tuple(range(value.rank))
            value = Tensor(self.placed(value), identity, value.array.shape, value.array.dtype)
        short = [axis for axis in axes if is_one(value.length(axis)) and not is_one(shape[axis])]
        if not short:
            return value
        full = tuple(shape[axis] if axis in short else value.length(axis) for axis in value.order)
        wanted = [shape[axis] if axis in short else 1 for axis in value.order]
        return replace(value, name=self.emit("Expand", [value.name, self.shape_of(wanted)]), shape=full)

    def plain(self, value: Value, shape: Shape) -> str:
        """The tensor that stores a value in full, in the order of the array."""
        return self.placed(self.whole(value, shape))

    def shape_of(self, shape: Shape) -> str:
        """i64[rank]."""
        if all(is_number(size) for size in shape):
            return self.integers(*map(int, shape))
        return self.emit("Concat", [self.size(size) for size in shape], axis=0)

    @contextmanager
    def loop(self) -> Iterator[list[NodeProto]]:
        """The nodes of a loop's body: what is emitted now and depends on the loop's own tensors."""
        self._scopes.append([])
        try:
            yield self._scopes[-1]
        finally:
            self._scopes.pop()

    def looping(self, wish: str) -> str:
        """A tensor of the innermost loop."""
        name = self.named(wish)
        self._levels[name] = len(self._scopes) - 1
        return name

    def returned(self, name: str, wish: str) -> str:
        """A copy of a tensor, computed in the innermost loop, under a name of its own."""
        chosen = self.named(wish)
        self._add(helper.make_node("Identity", [name], [chosen], name=chosen), len(self._scopes) - 1)
        return chosen

    def add_loop(self, inputs: Sequence[str], body: GraphProto, count: int) -> list[str]:
        """The outputs of a loop, whose body was left before."""
        level = max(self._levels.get(name, 0) for name in [*inputs, *_read(body)])
        outputs = [self.named("loop") for _ in range(count)]
        self._add(helper.make_node("Loop", list(inputs), outputs, name=self.named("Loop"), body=body), level)
        return outputs

    def written(
        self, inputs: Mapping[str, tuple[Shape, Any]], outputs: Mapping[str, tuple[str, Shape, Any]]
    ) -> tuple[GraphProto, dict[str, np.ndarray]]:
        """All that the outputs need, {name: (tensor, shape, dtype)}; inputs are {name: (shape, dtype)}.

        Returns:
          the graph without its initializers, and these.
        """
        for name, (tensor, _, _) in outputs.items():
            self._scopes[0].append(helper.make_node("Identity", [tensor], [name], name=self.named(f"out/{name}")))
        nodes = needed(self._scopes[0], outputs)
        graph = helper.make_graph(
            nodes,
            "must_jax",
            [information(name, *told) for name, told in inputs.items()],
            [information(name, shape, dtype) for name, (_, shape, dtype) in outputs.items()],
        )
        read = {name for node in nodes for name in _inputs(node)}
        return graph, {name: array for name, array in self._initializers.items() if name in read}


def needed(nodes: Sequence[NodeProto], outputs: Any) -> list[NodeProto]:
    """Those of the nodes that these outputs depend on, in their order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(_inputs(node))
    return kept[::-1]


def _inputs(node: NodeProto) -> list[str]:
    """With those of its subgraphs."""
    bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return [*node.input, *(name for body in bodies for name in _read(body))]


def _read(graph: GraphProto) -> list[str]:
    """What a subgraph takes from outside."""
    made = {name for node in graph.node for name in node.output} | {value.name for value in graph.input}
    read = [name for node in graph.node for name in _inputs(node)] + [value.name for value in graph.output]
    return [name for name in read if name not in made]


def information(name: str, shape: Shape, dtype: Any) -> ValueInfoProto:
    sizes = [int(size) if is_number(size) else str(size) for size in shape]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), sizes)


def is_number(size: Any) -> bool:
    return isinstance(size, int | np.integer)


def is_one(size: Any) -> bool:
    return is_number(size) and size == 1


def count(shape: Shape) -> int:
    """How many elements it has, for one image."""
    return math.prod(int(size) for size in shape if is_number(size))
