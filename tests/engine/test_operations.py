"""Counted operations, against their definition and against XLA, which counts those of programs for a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from must_jax.compiling.programs import programs
from must_jax.config import TrainConfig
from must_jax.engine.mesh import make_mesh
from must_jax.engine.operations import operations

SMALL = {"backbone": "resnet10", "width": 0.25, "pyramid_channels": 16, "head_channels": 16, "head_convs": 1}


def counted(function: Callable[..., Any], *arguments: Any) -> int:
    return operations(jax.jit(function).trace(*arguments).jaxpr.jaxpr)


def of_xla(function: Callable[..., Any], *arguments: Any) -> float:
    return float(jax.jit(function).lower(*arguments).cost_analysis()["flops"])


@pytest.mark.parametrize(
    "options",
    [
        {"window_strides": (1, 1), "padding": "SAME"},
        {"window_strides": (2, 3), "padding": "SAME"},
        {"window_strides": (1, 1), "padding": "VALID", "rhs_dilation": (2, 1)},
        {"window_strides": (1, 1), "padding": [(3, 1), (0, 2)], "lhs_dilation": (2, 3)},
        {"window_strides": (2, 2), "padding": "SAME", "feature_group_count": 4},
    ],
)
def test_convolutions_and_their_gradients_are_counted_as_xla_does(options: dict[str, Any]):
    image = jnp.ones((2, 11, 14, 8))
    kernel = jnp.ones((3, 5, 8 // options.get("feature_group_count", 1), 12))

    def convolved(image: jax.Array, kernel: jax.Array) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(image, kernel, dimension_numbers=numbers, **options)

    def gradients(image: jax.Array, kernel: jax.Array) -> Any:
        return jax.vjp(convolved, image, kernel)[1](jnp.ones(jax.eval_shape(convolved, image, kernel).shape))

    for function in (convolved, gradients):
        assert counted(function, image, kernel) == pytest.approx(of_xla(function, image, kernel), rel=0.01)


def test_a_convolution_by_hand():
    """Three outputs of three products each, of which the first and the last have one with padding."""
    image, kernel = jnp.ones((1, 3, 1)), jnp.ones((3, 1, 1))
    numbers = ("NWC", "WIO", "NWC")
    assert counted(
        lambda x, w: jax.lax.conv_general_dilated(x, w, (1,), "SAME", None, None, numbers), image, kernel
    ) == (2 * (2 + 3 + 2))


def test_products_with_batch_axes():
    assert counted(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), jnp.ones((3, 4, 5)), jnp.ones((3, 5, 6))) == (
        2 * 3 * 4 * 5 * 6
    )


def test_loops_count_as_often_as_they_run_and_branches_by_the_longest():
    w, once = jnp.ones((4, 4)), 2 * 4**3

    def loop(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=7)[0]

    def branches(x: jax.Array) -> jax.Array:
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ w @ w, lambda x: x @ w, x)

    def open_ended(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ w, x)

    assert [counted(each, w) for each in (loop, branches, open_ended)] == [7 * once, 2 * once, once]


def test_what_no_result_depends_on_does_not_count():
    def wasteful(x: jax.Array) -> jax.Array:
        unused, used = jax.jit(lambda x: (x @ x @ x, x @ x))(x)
        del unused
        return used

    assert counted(wasteful, jnp.ones((4, 4))) == 2 * 4**3


@pytest.mark.parametrize("devices", [1, 2])
def test_a_student_counts_the_same_however_its_batch_is_processed(devices: int):
    """XLA counts the body of the loop over parts once, and some operations beside products, about one percent."""
    found = {}
    for parts in (1, 2, 4):
        config = TrainConfig.model_validate(
            {
                "train": [{"images": "scenes/unlabelled:train"}],
                "tasks": {name: {} for name in ("classification", "detection", "segmentation", "depth", "normals")},
                "image_size": 64,
                "model": SMALL,
                "batch_size": 8,
                "accumulate": parts,
            }
        )
        classes = {"classification": 5, "detection": 5, "segmentation": 5}
        step = next(iter(programs(config, make_mesh(devices), classes)))
        traced = step.function.trace(*step.arguments)
        found[parts] = operations(traced.jaxpr.jaxpr)
        if parts == 1:
            assert np.isclose(found[1], traced.lower().cost_analysis()["flops"], rtol=0.05)
    assert len(set(found.values())) == 1
