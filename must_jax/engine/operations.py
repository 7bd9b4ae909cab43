"""Counts the floating-point operations of a program, on every platform alike.

Before compilation, XLA counts them on CPUs only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr


def operations(program: Jaxpr) -> int:
    """Multiplications and additions of dense products and convolutions, which are nearly all that networks do.

    Those of all devices together (inside a `shard_map`, of one), and only what the results depend on. A loop over a
    known number of parts counts as often as it runs, any other loop once, and of several branches the longest counts.
    Of a convolution, products with padding or with zeros between the values of its input do not count.
    """
    needed, _ = dce_jaxpr(program, [True] * len(program.outvars))
    return _count(needed)


def _count(program: Jaxpr) -> int:
    total = 0
    for equation in program.eqns:
        inner, name = [_count(each) for each in _programs(equation.params.values())], equation.primitive.name
        match name:
            case "dot_general":
                total += _of_product(equation)
            case "conv_general_dilated":
                total += _of_convolution(equation)
            case "scan":
                total += equation.params["length"] * sum(inner)
            case "cond":
                total += max(inner)
            case _:
                total += sum(inner)
    return total


def _programs(values: Iterable[Any]) -> Iterator[Jaxpr]:
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _programs(value)


def _of_product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, result = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2 * math.prod(result) * math.prod(left[axis] for axis in contracted)


def _of_convolution(equation: Any) -> int:
    options: Mapping[str, Any] = equation.params
    numbers, (image, kernel) = options["dimension_numbers"], (each.aval.shape for each in equation.invars)
    result = equation.outvars[0].aval.shape
    batch = result[numbers.out_spec[0]]
    outputs, inputs, *_ = (kernel[axis] for axis in numbers.rhs_spec)
    axes = zip(
        (image[axis] for axis in numbers.lhs_spec[2:]),
        (kernel[axis] for axis in numbers.rhs_spec[2:]),
        (result[axis] for axis in numbers.out_spec[2:]),
        options["window_strides"],
        options["padding"],
        options["lhs_dilation"],
        options["rhs_dilation"],
        strict=True,
    )
    return 2 * batch * outputs * inputs * math.prod(_pairs(*axis) for axis in axes)


def _pairs(
    image: int, kernel: int, result: int, stride: int, padding: tuple[int, int], spread: int, kernel_spread: int
) -> int:
    """Along one axis, pairs of an output and a kernel position at which there is a value of the image."""
    at = np.arange(result)[:, None] * stride + np.arange(kernel)[None] * kernel_spread - padding[0]
    return int(np.count_nonzero((at >= 0) & (at <= (image - 1) * spread) & (at % spread == 0)))
