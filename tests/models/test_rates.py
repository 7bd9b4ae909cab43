"""Learning rates by part: layer-wise decay, a factor for the backbone, a frozen one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from must_jax.config import ModelConfig, OptimizerConfig
from must_jax.engine.optimizers import build_optimizer
from must_jax.models import rates
from must_jax.models.api import build_model
from must_jax.models.heads import PooledLinearHead

MODEL = ModelConfig(backbone="resnet10", width=0.125, pyramid_channels=8, drop_path=0.5)
IMAGES = jax.random.uniform(jax.random.key(1), (4, 32, 32, 3)) * 255


def test_blocks_of_a_resnet() -> None:
    names = ["stem", "stem1", "stem1_norm", "stem_norm", "pool", "stage1_1", "stage1_2", "stage2_1", "stage10_1"]
    assert rates.shares_of_blocks(names, 0.5) == {
        **dict.fromkeys(names[:5], 0.5**5),
        "stage1_1": 0.5**4,
        "stage1_2": 0.125,
        "stage2_1": 0.25,
        "stage10_1": 0.5,
    }


def test_blocks_of_a_vit_and_of_a_convnext() -> None:
    vit = ["patch", "position", "class_token", "pre_norm", *(f"block{i}" for i in range(1, 13)), "norm", "pyramid"]
    found = rates.shares_of_blocks(vit, 0.9)
    assert found["patch"] == found["position"] == found["pre_norm"] == pytest.approx(0.9**13)
    assert (found["block2"], found["block12"], found["norm"], found["pyramid"]) == pytest.approx((0.9**11, 0.9, 1, 1))
    found = rates.shares_of_blocks(["stem", "stage1_1", "stage2_shrink", "stage2_1", "stage2_2"], 0.5)
    assert found == {"stem": 0.0625, "stage1_1": 0.125, "stage2_shrink": 0.25, "stage2_1": 0.25, "stage2_2": 0.5}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_each_part_moves_by_its_share(name: str) -> None:
    params = {
        "backbone": {"stem": {"kernel": jnp.ones((2, 2))}, "stage1_1": {"kernel": jnp.ones((2, 2))}},
        "fpn": {"kernel": jnp.ones((2, 2))},
    }
    grads = jax.tree.map(lambda x: 3 * x, params)

    def moved(**values: Any) -> Any:
        config = OptimizerConfig(name=name, weight_decay=0.1, **values)
        optimizer = build_optimizer(config, rates.shares_of(config))
        state = optimizer.update(grads, optimizer.init(params), params)
        return jax.tree.map(lambda d: float(d[0, 0]), optimizer.direction(state, params))

    whole, shared = moved(), moved(backbone_rate=0.5, layer_decay=0.25)
    assert rates.shares_of(OptimizerConfig(name=name)) is None
    assert shared["fpn"] == whole["fpn"]
    assert shared["backbone"]["stage1_1"]["kernel"] == pytest.approx(0.125 * whole["backbone"]["stage1_1"]["kernel"])
    assert shared["backbone"]["stem"]["kernel"] == pytest.approx(0.03125 * whole["backbone"]["stem"]["kernel"])


def test_a_frozen_backbone_stays_as_it_is_and_the_rest_learns() -> None:
    heads = {"classification": PooledLinearHead(5)}
    free, frozen = (build_model(MODEL, heads, is_frozen=each) for each in (False, True))
    variables = free.init(jax.random.key(0), (32, 32), identity_blocks=False)

    def loss(params: Any, model: Any) -> Any:
        outputs, stats = model.apply({**variables, "params": params}, IMAGES, train=True, rng=jax.random.key(2))
        return jnp.sum(outputs["classification"]["logits"] ** 2), stats

    for model in (free, frozen):
        grads, stats = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)(variables["params"], model)
        moves = any(np.any(leaf) for leaf in jax.tree.leaves(grads["backbone"]))
        same = jax.tree.map(np.array_equal, stats["backbone"], variables["stats"]["backbone"])
        assert moves == (model is free) and all(jax.tree.leaves(same)) == (model is frozen)
        assert all(np.any(leaf) for leaf in jax.tree.leaves(grads["heads"]))


def test_what_is_drawn_follows_the_key_alone() -> None:
    model = build_model(MODEL, {"classification": PooledLinearHead(5)})
    variables = model.init(jax.random.key(0), (32, 32), identity_blocks=False)

    @jax.jit
    def said(key: jax.Array) -> jax.Array:
        return model.apply(variables, IMAGES, train=True, rng=key)[0]["classification"]["logits"]

    first, again, other = said(jax.random.key(1)), said(jax.random.key(1)), said(jax.random.key(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
