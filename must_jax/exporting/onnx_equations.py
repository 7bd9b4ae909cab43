"""Equations of jax, one after the other, as an ONNX graph: those that are known, and those that call others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from onnx import helper

from must_jax.errors import UserError
from must_jax.exporting import onnx_axes, onnx_elementwise, onnx_products
from must_jax.exporting.onnx_elementwise import Rule
from must_jax.exporting.onnx_graph import Graph, Known, Tensor, Value, information, is_number, needed


def run(graph: Graph, jaxpr: Jaxpr, consts: Sequence[Value], inputs: Sequence[Value], where: str = "") -> list[Value]:
    """The outputs of a program for these inputs.

    Raises:
      UserError: it needs something that is not known here; the message names it.
    """
    values: dict[Any, Value] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

    def read(variable: Any) -> Value:
        if isinstance(variable, Literal):
            aval: Any = variable.aval
            return Known(np.asarray(variable.val, aval.dtype))
        return values[variable]

    for equation in jaxpr.eqns:
        graph.where = "/".join(part for part in (where, str(equation.source_info.name_stack)) if part)
        given = [read(variable) for variable in equation.invars]
        values.update(zip(equation.outvars, _results(graph, equation, given), strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _results(graph: Graph, equation: Any, inputs: Sequence[Value]) -> Sequence[Value]:
    name = equation.primitive.name
    rule = RULES.get(name)
    if rule is None:
        raise UserError(f"'{name}' has no form in ONNX here; the known ones are those of must_jax's own networks")
    for variable in equation.outvars:
        if np.dtype(variable.aval.dtype).name == "bfloat16":
            raise UserError("ONNX files compute in float32; give a function that does so, too")
    known = [value for value in inputs if isinstance(value, Known)]
    if name in _NEVER_FOLDED or len(known) < len(inputs) or not inputs:
        return rule(graph, equation, inputs)
    if name in onnx_elementwise.RULES:
        arrays = list(np.broadcast_arrays(*(value.array for value in known)))
    else:
        shapes = [variable.aval.shape for variable in (*equation.invars, *equation.outvars)]
        if not all(is_number(size) for shape in shapes for size in shape):
            return rule(graph, equation, inputs)
        arrays = [np.broadcast_to(v.array, var.aval.shape) for v, var in zip(known, equation.invars, strict=True)]
    results = equation.primitive.bind(*map(np.asarray, arrays), **equation.params)
    source = next((value.name for value in known if value.name), "")
    several = results if equation.primitive.multiple_results else [results]
    return [Known(np.asarray(array), source) for array in several]


def _call(graph: Graph, program: Any, inputs: Sequence[Value]) -> list[Value]:
    """A program within: its equations become those of the graph."""
    if isinstance(program, ClosedJaxpr):
        return run(graph, program.jaxpr, [Known(np.asarray(x)) for x in program.consts], inputs, graph.where)
    return run(graph, program, [], inputs, graph.where)


def _calls(parameter: str) -> Rule:
    return lambda graph, equation, inputs: _call(graph, equation.params[parameter], inputs)


def _cond(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    """A choice that is made already; of what differs between platforms, what is for all of them."""
    which, *rest = inputs
    platforms, branches = equation.params.get("branches_platforms"), equation.params["branches"]
    if platforms is not None:
        index = platforms.index(None)
    elif isinstance(which, Known):
        index = int(np.clip(int(which.array), 0, len(branches) - 1))
    else:
        raise UserError("a choice that depends on the images (cond) cannot be written to ONNX")
    return _call(graph, branches[index], rest)


def _platform_index(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    return [Known(np.asarray(equation.params["platforms"].index(None), np.int32))]


def _dim_as_value(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    dtype = equation.outvars[0].aval.dtype
    size = graph.emit("Squeeze", [graph.size(equation.params["dim"]), graph.integers(0)])
    return [Tensor(graph.cast(size, dtype), (), (), dtype)]


def _scan(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    """A loop. What its body computes without its own state is computed before it."""
    params = equation.params
    if params["reverse"]:
        raise UserError("a loop that runs backwards (scan) cannot be written to ONNX")
    constants, carries = params["num_consts"], params["num_carry"]
    body, where = params["jaxpr"], graph.where
    state = body.in_avals[constants : constants + carries]
    steps = list(zip(inputs[constants + carries :], body.in_avals[constants + carries :], strict=True))
    start = [
        graph.plain(value, aval.shape)
        for value, aval in zip(inputs[constants : constants + carries], state, strict=True)
    ]
    rows = [graph.plain(value, (params["length"], *aval.shape)) for value, aval in steps]
    with graph.loop() as nodes:
        turn, go_on = graph.looping("turn"), graph.looping("go_on")
        carried = [_tensor(graph.looping("state"), aval) for aval in state]
        picked = [
            _tensor(graph.emit("Gather", [name, turn], axis=0), aval)
            for name, (_, aval) in zip(rows, steps, strict=True)
        ]
        consts = [Known(np.asarray(x)) for x in body.consts]
        results = run(graph, body.jaxpr, consts, [*inputs[:constants], *carried, *picked], where)
        outputs = [graph.returned(go_on, "goes_on")]
        for value, aval in zip(results, body.out_avals, strict=True):
            outputs.append(graph.returned(graph.plain(value, aval.shape), "new"))
    taken = [information(turn, (), np.int64), information(go_on, (), np.bool_)]
    taken += [information(tensor.name, aval.shape, aval.dtype) for tensor, aval in zip(carried, state, strict=True)]
    given = [information(outputs[0], (), np.bool_)]
    given += [information(n, aval.shape, aval.dtype) for n, aval in zip(outputs[1:], body.out_avals, strict=True)]
    inner = helper.make_graph(needed(nodes, outputs), graph.named("body"), taken, given)
    turns = graph.constant(np.int64(params["length"]))
    names = graph.add_loop([turns, "", *start], inner, len(body.out_avals))
    return [_tensor(name, variable.aval) for name, variable in zip(names, equation.outvars, strict=True)]


def _tensor(name: str, aval: Any) -> Tensor:
    return Tensor(name, tuple(range(len(aval.shape))), tuple(aval.shape), np.dtype(aval.dtype))


_CALLS: dict[str, Rule] = {
    "jit": _calls("jaxpr"),
    "custom_jvp_call": _calls("call_jaxpr"),
    "custom_vjp_call": _calls("call_jaxpr"),
    "remat2": _calls("jaxpr"),
    "cond": _cond,
    "platform_index": _platform_index,
    "dim_as_value": _dim_as_value,
    "scan": _scan,
}
RULES: Mapping[str, Rule] = {**onnx_elementwise.RULES, **onnx_axes.RULES, **onnx_products.RULES, **_CALLS}
# They keep what is known as short as it is.
_NEVER_FOLDED = {*_CALLS, "broadcast_in_dim", "convert_element_type", "iota", "transpose", "slice", "squeeze"}
