"""Primitives of jax that compute each element by itself, as operators of ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from must_jax.errors import UserError
from must_jax.exporting import onnx_fusions
from must_jax.exporting.onnx_graph import Graph, Known, Tensor, Value, count, is_one

Rule = Callable[[Graph, Any, Sequence[Value]], Sequence[Value]]  # of an equation, from its inputs to its outputs


def join(graph: Graph, op: str, inputs: Sequence[Value], dtype: Any, **attributes: Any) -> Tensor:
    """An operator that broadcasts, on arrays of one rank or of none."""
    return compute(graph, lambda *names: graph.emit(op, names, **attributes), inputs, np.dtype(dtype))


def compute(graph: Graph, made: Callable[..., str], inputs: Sequence[Value], dtype: np.dtype) -> Tensor:
    """`made` takes names of tensors that broadcast, and returns that of the result."""
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    rank = max(value.rank for value in inputs)
    leaders = [value for value in tensors if value.rank == rank]
    order = max(leaders, key=lambda value: count(value.shape)).order if leaders else tuple(range(rank))
    names = [graph.placed(value, order if value.rank else ()) for value in inputs]
    shapes = [_shape(value, order) for value in inputs if value.rank]
    shape = tuple(next((size for size in sizes if not is_one(size)), 1) for sizes in zip(*shapes, strict=True))
    return Tensor(made(*names), order, shape, dtype)


def _shape(value: Value, order: Sequence[int]) -> tuple[Any, ...]:
    return tuple(value.array.shape[axis] if isinstance(value, Known) else value.length(axis) for axis in order)


def _rule(op: str, **attributes: Any) -> Rule:
    return lambda graph, equation, inputs: [join(graph, op, inputs, _dtype(equation), **attributes)]


def _dtype(equation: Any) -> np.dtype:
    return equation.outvars[0].aval.dtype


def _composed(made: Callable[..., str]) -> Rule:
    """Of `made(graph, dtype, *names)`."""

    def rule(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
        dtype = _dtype(equation)
        return [compute(graph, lambda *names: made(graph, dtype, *names), inputs, dtype)]

    return rule


def _not_equal(graph: Graph, dtype: np.dtype, a: str, b: str) -> str:
    return graph.emit("Not", [graph.emit("Equal", [a, b])])


def _rsqrt(graph: Graph, dtype: np.dtype, x: str) -> str:
    return graph.emit("Reciprocal", [graph.emit("Sqrt", [x])])


def _log1p(graph: Graph, dtype: np.dtype, x: str) -> str:
    """log(1 + x) / ((1 + x) - 1) * x, exact for small x too (Kahan)."""
    one = graph.constant(np.ones((), dtype))
    above = graph.emit("Add", [x, one])
    rounded = graph.emit("Sub", [above, one])
    small = graph.emit("Equal", [rounded, graph.constant(np.zeros((), dtype))])
    share = graph.emit("Div", [x, graph.emit("Where", [small, one, rounded])])
    return graph.emit("Where", [small, x, graph.emit("Mul", [graph.emit("Log", [above]), share])])


def _square(graph: Graph, dtype: np.dtype, x: str) -> str:
    return graph.emit("Mul", [x, x])


def _integer_pow(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    power, dtype = equation.params["y"], _dtype(equation)
    if power == 2:
        return [compute(graph, lambda x: _square(graph, dtype, x), inputs, dtype)]
    return [join(graph, "Pow", [*inputs, Known(np.asarray(power, dtype))], dtype)]


def _add(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    for value, other in (inputs, inputs[::-1]):
        if (fused := onnx_fusions.shifted_norm(graph, value, other)) is not None:
            return [fused]
    return [join(graph, "Add", inputs, _dtype(equation))]


def _multiply(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    """By the reciprocal of something: a quotient."""
    dtype = _dtype(equation)
    for value, other in (inputs, inputs[::-1]):
        if (fused := onnx_fusions.scaled_norm(graph, value, other)) is not None:
            return [fused]
        if isinstance(value, Tensor) and (node := graph.maker(value.name, "Reciprocal")):
            divisor = replace(value, name=node.input[0])
            if isinstance(other, Tensor) and (fused := onnx_fusions.layer_norm(graph, other, divisor)) is not None:
                return [fused]
            return [join(graph, "Div", [other, divisor], dtype)]
    if (fused := onnx_fusions.gelu(graph, inputs)) is not None:
        return [fused]
    return [join(graph, "Mul", inputs, dtype)]


def _divide(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    """A sum by the number of its summands is a mean."""
    value, divisor = inputs
    dtype = _dtype(equation)
    if isinstance(value, Tensor) and isinstance(divisor, Known) and divisor.array.size == 1 and dtype == np.float32:
        squeezed = graph.maker(value.name, "Squeeze")
        node = graph.maker(squeezed.input[0] if squeezed else value.name, "ReduceSum")
        if node is not None and graph.summands.get(node.output[0]) == divisor.array.item():
            mean = graph.reduced("ReduceMean", node.input[0], graph.axes_of(node.input[1]))
            return [replace(value, name=graph.emit("Squeeze", [mean, squeezed.input[1]]) if squeezed else mean)]
    if isinstance(value, Tensor) and isinstance(divisor, Tensor):
        fused = onnx_fusions.softmax(graph, value, divisor)
        return [join(graph, "Div", inputs, dtype) if fused is None else fused]
    return [join(graph, "Div", inputs, dtype)]


def _largest(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    dtype = _dtype(equation)
    for value, other in (inputs, inputs[::-1]):
        if isinstance(other, Known) and other.array.size == 1 and isinstance(value, Tensor) and dtype == np.float32:
            if other.array.item() == 0:
                return [join(graph, "Relu", [value], dtype)]
            if other.array.item() == -np.inf:
                return [value]
    fused = onnx_fusions.max_pool(graph, inputs)
    return [join(graph, "Max", inputs, dtype) if fused is None else fused]


def _select(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    which, *cases = inputs
    if which.dtype != np.bool_ or len(cases) != 2:
        raise UserError(
            f"select_n of {len(cases)} arrays by {which.dtype} cannot be written to ONNX, only of two by bool"
        )
    return [join(graph, "Where", [which, cases[1], cases[0]], _dtype(equation))]


def _clamp(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    low, value, high = inputs
    dtype = _dtype(equation)
    return [join(graph, "Min", [join(graph, "Max", [value, low], dtype), high], dtype)]


def _convert(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    dtype, (value,) = _dtype(equation), inputs
    if isinstance(value, Known):
        return [Known(value.array.astype(dtype), value.name)]
    return [value if value.dtype == dtype else compute(graph, lambda x: graph.cast(x, dtype), [value], dtype)]


def _same(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    return list(inputs)


def _logical(op: str) -> Rule:
    def rule(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
        if _dtype(equation) != np.bool_:
            raise UserError(f"{equation.primitive.name} of {_dtype(equation)} cannot be written to ONNX, only of bool")
        return [join(graph, op, inputs, np.bool_)]

    return rule


RULES: dict[str, Rule] = {
    **{
        name: _rule(op)
        for name, op in {
            "abs": "Abs",
            "ceil": "Ceil",
            "cos": "Cos",
            "eq": "Equal",
            "erf": "Erf",
            "exp": "Exp",
            "floor": "Floor",
            "ge": "GreaterOrEqual",
            "gt": "Greater",
            "le": "LessOrEqual",
            "log": "Log",
            "logistic": "Sigmoid",
            "lt": "Less",
            "min": "Min",
            "neg": "Neg",
            "pow": "Pow",
            "sign": "Sign",
            "sin": "Sin",
            "sqrt": "Sqrt",
            "sub": "Sub",
            "tanh": "Tanh",
        }.items()
    },
    "rem": _rule("Mod", fmod=1),  # of the dividend's sign
    "and": _logical("And"),
    "or": _logical("Or"),
    "not": _logical("Not"),
    "ne": _composed(_not_equal),
    "rsqrt": _composed(_rsqrt),
    "log1p": _composed(_log1p),
    "square": _composed(_square),
    "integer_pow": _integer_pow,
    "add": _add,
    "mul": _multiply,
    "div": _divide,
    "max": _largest,
    "select_n": _select,
    "clamp": _clamp,
    "convert_element_type": _convert,
    "copy": _same,
    "name": _same,
    "optimization_barrier": _same,
    "stop_gradient": _same,
}
