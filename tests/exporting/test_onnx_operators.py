"""Each primitive of jax that networks are made of, as a graph in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from onnx_run import check

from must_jax.exporting.onnx_equations import RULES
from must_jax.models.attention import attention
from must_jax.models.layers import LayerNorm, gelu
from must_jax.models.resnet import _max_pool as pooled

NORM = {"params": {name: np.float32([1.5, -2, 0.5]) for name in ("scale", "bias")}}
SHAPE = (5, 4, 6, 3)
MATRIX, VECTOR = (np.random.default_rng(1).normal(size=size).astype(np.float32) for size in ((3, 7), 3))
KERNEL, CUBE = (np.random.default_rng(1).normal(size=size).astype(np.float32) for size in ((3, 3, 3, 4), (2, 5, 3)))
CHANNELS_FIRST = ("NHWC", "HWIO", "NHWC")


def images(low: float = -3, high: float = 3) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, SHAPE).astype(np.float32)


def convolved(x: jax.Array, stride: int = 1, groups: int = 1, **options: object) -> jax.Array:
    kernel = jnp.asarray(KERNEL[:, :, : 3 // groups, : 3 if groups > 1 else 4])
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((1, 1), (0, 2)),
        dimension_numbers=CHANNELS_FIRST,
        feature_group_count=groups,
        **options,
    )


def whole(x: jax.Array) -> jax.Array:
    return jnp.floor(4 * x).astype(jnp.int32)


def added(state: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
    return state * 0.5 + row, jnp.tanh(state).sum(-1)


ELEMENTS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "arithmetic": lambda x: (x + 1) * x - x / (2 + x * x) + jnp.abs(x) - jnp.maximum(x, 0.5) * jnp.minimum(-x, 1),
    "powers": lambda x: (
        x**2 + x**3 + jnp.square(x) + jnp.sqrt(jnp.abs(x)) + lax.rsqrt(jnp.abs(x) + 1) + lax.pow(jnp.abs(x), 1.5)
    ),
    "functions": lambda x: jnp.exp(x) + jnp.log(jnp.abs(x) + 1) + lax.erf(x) + jnp.tanh(x) + jnp.sin(x) + jnp.cos(x),
    "probabilities": lambda x: jax.nn.softmax(x) + jax.nn.sigmoid(x) + jax.nn.softplus(x) + jax.nn.relu(x),
    "small_logarithms": lambda x: jnp.log1p(1e-6 * jnp.abs(x)),
    "comparisons": lambda x: ((x > 0.5) & (x <= 2) | (x < -1) | ~(x >= -2)) & (jnp.sign(x) != 0) | (jnp.floor(x) == 1),
    "choices": lambda x: jnp.where(x > 0, x, jnp.clip(x, -1, 1)) + lax.clamp(-1.0, x, 2.0) + jnp.ceil(x),
    "whole_numbers": lambda x: whole(x) // 3 + whole(x) % 5 + lax.rem(whole(x), jnp.int32(3)) - jnp.abs(whole(x)),
    "types": lambda x: (whole(x) > 2).astype(jnp.uint8) + jnp.abs(whole(x)).astype(jnp.uint8),
    "barriers": lambda x: lax.optimization_barrier(lax.stop_gradient(x)) + checkpoint_name(jnp.array(x), "x"),
}
AXES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "transpose": lambda x: x.transpose(0, 3, 1, 2) + x.transpose(0, 3, 1, 2)[:, :, ::-1],
    "reshape": lambda x: x.reshape(-1, 2, 2, 18).reshape(x.shape[0] * 4, 18).reshape(x.shape[0], 72),
    "ones": lambda x: x[:, None, :, :, None].reshape(x.shape[0], 4, 1, 6, 3) + x.mean(1)[:, None, None],
    "broadcast": lambda x: jnp.broadcast_to(x[:, :1], x.shape) + jnp.broadcast_to(jnp.asarray(VECTOR), x.shape),
    "slices": lambda x: x[:, 1:3, ::2] + x[:, -2:, 1::2] + lax.slice_in_dim(x, 1, -1, 1, 1)[:, :, :3],
    "one_place": lambda x: x[:, 2, ..., 1] + x[:, -1, ..., 0],
    "places": lambda x: x[:, jnp.asarray([2, 0, 0]), 1:3][:, :, :, jnp.asarray([1, 2])],
    "pad": lambda x: (
        jnp.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0))) + jnp.pad(x, ((0, 0), (0, 1), (2, 0), (0, 0)), mode="edge")
    ),
    "concatenate": lambda x: jnp.concatenate([x, jnp.ones_like(x[:, :1]), 2 * x], 1),
    "stack": lambda x: jnp.stack([x[..., 0], jnp.zeros_like(x[..., 0]), x[..., 1]], 2),
    "split": lambda x: (
        jnp.split(x, 2, 2)[1] * jnp.split(x, [1, 4], 2)[1][:, :, :3] + jnp.unstack(x, axis=2)[1][:, :, None]
    ),
    "iota": lambda x: (
        x + lax.broadcasted_iota(jnp.float32, x.shape, 2) + jnp.arange(3, dtype=jnp.float32)[None, None, None]
    ),
    "update": lambda x: (
        lax.dynamic_update_slice(jnp.zeros((x.shape[0], 6, 9, 3)), x, (0, 1, 3, 0))
        + lax.dynamic_update_slice(jnp.pad(x, ((0, 0), (1, 1), (3, 0), (0, 0))), 2 * x[:, :2], (0, 1, 9, 0))
    ),
    "dynamic_slice": lambda x: lax.dynamic_slice_in_dim(x, jnp.int32(2), 2, 1),
    "best_places": lambda x: jnp.take_along_axis(x, jnp.argmax(x, 1, keepdims=True), 1, mode="clip"),
    "batched_places": lambda x: jax.vmap(lambda x, i: x[i], (0, 0))(x, whole(jnp.abs(x[:, 0, 0])) % 4),
    "batch_size": lambda x: x * jnp.float32(1) + jnp.zeros(x.shape, jnp.float32) * jnp.asarray(x.shape[0], jnp.float32),
}
PRODUCTS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "sums": lambda x: x.sum((1, 3)) + x.max((1, 3)) - x.min((1, 3)) + x.mean((1, 3)) + jnp.prod(x, (1, 3)),
    "all_and_any": lambda x: (x > 0).all(3) | (x > 2.9).any(3),
    "arg": lambda x: x.argmax(-1) + 4 * x.argmin(-1),
    "top": lambda x: jnp.concatenate(
        [each.astype(jnp.float32) for each in lax.top_k(jnp.floor(x.reshape(-1, 72)), 9)], 1
    ),
    "matrix": lambda x: x @ jnp.asarray(MATRIX) + jnp.einsum("bhwc,cd->bhwd", x, jnp.asarray(MATRIX[:, :4]))[..., :1],
    "matrix_of_rows": lambda x: jnp.einsum("bhwc,Hh->bHwc", x.transpose(0, 3, 2, 1), jnp.asarray(MATRIX.T)),
    "matrix_of_columns": lambda x: jnp.einsum("bhwc,Ww->bhWc", x.transpose(0, 1, 3, 2), jnp.asarray(MATRIX.T[:, :3])),
    "cube": lambda x: jnp.einsum("bhwc,ijc->bhiwj", x, jnp.asarray(CUBE)).reshape(x.shape[0], 8, 30),
    "batched": lambda x: jnp.einsum("bqhc,bkhc->bhqk", x, 2 * x) + jnp.einsum("bqhc,bkhc->bhqk", x, x[:, ::-1]),
    "outer": lambda x: jnp.einsum("bhwc,bhqc->bwq", x, x[:, :, ::2]),
    "attention": lambda x: jax.nn.dot_product_attention(x, 2 * x, x + 1),
    "convolution": convolved,
    "strides": partial(convolved, stride=2),
    "groups": partial(convolved, groups=3),
    "dilation": partial(convolved, rhs_dilation=(1, 2)),
    "one_cell": lambda x: lax.conv_general_dilated(
        x * 2, jnp.asarray(MATRIX[None, None]), (1, 1), "VALID", dimension_numbers=CHANNELS_FIRST
    ),
    "one_cell_after_another": lambda x: lax.conv_general_dilated(
        convolved(x),
        jnp.asarray(MATRIX[None, None, :, :4].repeat(4, 2)[:, :, :4]),
        (2, 2),
        "VALID",
        dimension_numbers=CHANNELS_FIRST,
    ),
    "norms": lambda x: jax.nn.standardize(convolved(x), -1) + jax.nn.standardize(convolved(x), (1, 2)),
}
PROGRAMS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "known": lambda x: (
        x
        + jnp.linalg.norm(jnp.asarray(MATRIX) @ jnp.asarray(MATRIX.T))
        * jax.nn.gelu(jnp.asarray(VECTOR))[None, None, None]
    ),
    "nested": lambda x: jax.checkpoint(jax.jit(jax.nn.silu))(x) + attention(x, x, x),
    "platforms": lambda x: lax.platform_dependent(x, cpu=lambda x: x * 1, default=lambda x: x + 0),
    "loop": lambda x: lax.scan(added, x[:, 1] + x[:, 0], jnp.moveaxis(x, 2, 0)[:, :, :1])[1].transpose(1, 0, 2),
    "loop_without_steps": lambda x: lax.fori_loop(0, 3, lambda _, c: c / 2 + x, x),
}
ALL = ELEMENTS | AXES | PRODUCTS | PROGRAMS


@pytest.mark.parametrize("name", ALL)
def test_a_primitive_computes_the_same(name: str, tmp_path: Path) -> None:
    check(lambda x: {"y": ALL[name](x)}, images(), tmp_path / "it.onnx")


def test_every_rule_is_tested_here() -> None:
    found: set[str] = set()

    def collect(program: Any) -> None:
        for equation in getattr(program, "jaxpr", program).eqns:
            found.add(equation.primitive.name)
            for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
                if hasattr(value, "eqns"):
                    collect(value)

    for function in ALL.values():
        collect(jax.make_jaxpr(function)(images()))
    assert RULES.keys() - found <= {
        "dim_as_value",
        "stack",
        "unstack",
    }  # of sizes that are open; of newer versions of jax


@pytest.mark.parametrize(
    ("function", "operators"),
    [
        (lambda x: LayerNorm().apply(NORM, x), ["LayerNormalization"]),
        (lambda x: LayerNorm().apply(NORM, convolved(x)[..., :3]), ["Conv", "Slice", "LayerNormalization"]),
        (lambda x: jax.nn.softmax(x, 2), ["Softmax"]),
        (gelu, ["Gelu"]),
        (lambda x: jax.nn.relu(convolved(jax.nn.relu(convolved(x, groups=3)))), ["Conv", "Relu"] * 2),
        (lambda x: x.mean((1, 2), keepdims=True), ["ReduceMean"]),
        (lambda x: pooled(pooled(jax.nn.relu(convolved(x)), 1), 2), ["Conv", "Relu", "MaxPool"]),
        (lambda x: pooled(jax.nn.relu(convolved(x)), 2), ["Conv", "Relu", "MaxPool"]),
        # Of what may be below 0, the padding can be the largest.
        (lambda x: pooled(convolved(x), 1), ["Conv", *["Slice"] * 3, "Pad", "Max", "Max"]),
    ],
)
def test_networks_are_written_in_operators_that_runtimes_know(
    function: Callable[[jax.Array], jax.Array], operators: list[str], tmp_path: Path
) -> None:
    check(lambda x: {"y": function(x)}, images(), tmp_path / "it.onnx", opset=20)
    nodes = [node.op_type for node in onnx.load(tmp_path / "it.onnx").graph.node]
    assert sorted(name for name in nodes if name not in ("Identity", "Transpose")) == sorted(operators)
    assert nodes.count("Transpose") <= 2
