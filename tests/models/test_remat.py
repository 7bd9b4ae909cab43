"""Rematerialisation: less is kept for the gradient, and everything comes out the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from must_jax.config import REMAT, ModelConfig
from must_jax.models.api import Variables, build_model
from must_jax.models.heads import DenseHead, PooledLinearHead

CONFIG = ModelConfig(backbone="resnet10", width=0.125, pyramid_channels=8)
HEADS = {"classes": PooledLinearHead(5), "pixels": DenseHead(2, 1, 8)}
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)


def loss_of(*remat: str) -> Callable[[Variables], Any]:
    model = build_model(CONFIG, HEADS, remat)

    def loss(params: Any, stats: Any) -> Any:
        outputs, stats = model.apply({"params": params, "stats": stats}, jnp.asarray(IMAGES), train=True)
        return sum(jnp.square(x).mean() for x in jax.tree.leaves(outputs)), stats

    return loss


@pytest.fixture(scope="module")
def variables() -> Variables:
    return build_model(CONFIG, HEADS).init(jax.random.key(0), (32, 32))


def kept_bytes(loss: Callable[..., Any], variables: Variables) -> int:
    """What the forward pass hands to the backward pass."""

    def backward(params: Any) -> Any:
        return jax.vjp(lambda params: loss(params, variables["stats"])[0], params)[1]

    residuals = jax.eval_shape(backward, variables["params"])
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))


def test_variables_do_not_depend_on_it(variables: Variables):
    shapes = build_model(CONFIG, HEADS, REMAT).shapes((32, 32))
    assert jax.tree.map(lambda x: x.shape, shapes) == jax.tree.map(np.shape, variables)


def test_loss_statistics_and_gradients_are_the_same(variables: Variables):
    def values(*remat: str) -> Any:
        return jax.jit(jax.value_and_grad(loss_of(*remat), has_aux=True))(variables["params"], variables["stats"])

    (loss, stats), grads = values()
    (again, stats_again), grads_again = values(*REMAT)
    np.testing.assert_allclose(again, loss, rtol=1e-6)

    def assert_same(a: Any, b: Any) -> None:
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * float(np.abs(b).max()))

    jax.tree.map(assert_same, (stats_again, grads_again), (stats, grads))


@pytest.mark.parametrize("part", REMAT)
def test_every_part_keeps_less(part: str, variables: Variables):
    assert kept_bytes(loss_of(part), variables) < kept_bytes(loss_of(), variables)
