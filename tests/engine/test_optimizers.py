from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

from must_jax.config import OptimizerConfig
from must_jax.engine.optimizers import build_optimizer, decay_mask, ema_decays, learning_rates, schedule
from must_jax.engine.step import SCHEDULE_SHAPES

TWO, HALF = np.full(2, 2.0, np.float32), np.full(2, 0.5, np.float32)
PARAMS = {"conv": {"kernel": TWO}, "norm": {"scale": TWO, "bias": TWO}}
GRADS = {"conv": {"kernel": HALF}, "norm": {"scale": HALF, "bias": HALF}}


def update(config: OptimizerConfig, times: int = 1) -> dict[str, dict[str, float]]:
    optimizer = build_optimizer(config)
    state = optimizer.init(PARAMS)
    for _ in range(times):
        state = optimizer.update(GRADS, state, PARAMS)
    updates = optimizer.direction(state, PARAMS)
    return {part: {name: float(x[0]) for name, x in leaves.items()} for part, leaves in updates.items()}


def test_only_kernels_decay():
    assert decay_mask(PARAMS) == {"conv": {"kernel": True}, "norm": {"scale": False, "bias": False}}


def test_sgd_adds_the_penalty_to_the_gradient_before_the_momentum():
    updates = update(OptimizerConfig(momentum=0.9, weight_decay=0.1), times=2)
    assert updates["conv"]["kernel"] == pytest.approx((0.5 + 0.1 * 2) * (1 + 0.9))
    assert updates["norm"] == pytest.approx({"scale": 0.5 * 1.9, "bias": 0.5 * 1.9})


def test_adamw_decays_apart_from_the_moments():
    updates = update(OptimizerConfig(name="adamw", weight_decay=0.1), times=2)
    assert updates["conv"]["kernel"] == pytest.approx(1 + 0.1 * 2, rel=1e-4)  # a constant gradient is normalised to 1
    assert updates["norm"] == pytest.approx({"scale": 1.0, "bias": 1.0}, rel=1e-4)


def test_adamw_is_that_of_optax():
    ours = build_optimizer(OptimizerConfig(name="adamw", weight_decay=0.1))
    theirs = optax.chain(optax.scale_by_adam(0.9), optax.add_decayed_weights(0.1, mask=decay_mask))
    state, other = ours.init(PARAMS), theirs.init(PARAMS)
    for scale in (1.0, -3.0, 0.2):
        grads = jax.tree.map(lambda g: scale * g, GRADS)  # noqa: B023
        state = ours.update(grads, state, PARAMS)
        with jax.numpy_dtype_promotion("standard"):
            updates, other = theirs.update(grads, other, PARAMS)
    jax.tree.map(np.testing.assert_array_equal, ours.direction(state, PARAMS), updates)


def test_lars_is_that_of_optax():
    config = OptimizerConfig(name="lars", weight_decay=0.1)
    theirs = optax.lars(1.0, 0.1, decay_mask, trust_ratio_mask=decay_mask, momentum=config.momentum)
    state = theirs.init(PARAMS)
    for _ in range(2):
        updates, state = theirs.update(GRADS, state, PARAMS)
    theirs_by_part = {part: {name: -float(x[0]) for name, x in leaves.items()} for part, leaves in updates.items()}
    assert update(config, times=2)["conv"] == pytest.approx(theirs_by_part["conv"])
    assert update(config, times=2)["norm"] == pytest.approx(theirs_by_part["norm"])


def test_clipping_is_by_the_norm_of_all_gradients_without_the_penalty():
    config = OptimizerConfig(momentum=0.0, weight_decay=0.1, clip_norm=0.1)
    norm = np.sqrt(6 * 0.5**2)
    assert update(config)["norm"]["bias"] == pytest.approx(0.5 * 0.1 / norm)
    assert update(config)["conv"]["kernel"] == pytest.approx(0.5 * 0.1 / norm + 0.1 * 2)
    assert update(config.model_copy(update={"clip_norm": 10.0}))["norm"]["bias"] == pytest.approx(0.5)


def test_warm_up_then_cosine():
    rates = learning_rates(OptimizerConfig(learning_rate=0.4, warmup_steps=4), 12, np.arange(12))
    assert rates.shape == (12,)
    assert rates.dtype == np.float32
    np.testing.assert_allclose(rates[:5], [0, 0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    cosine = 0.4 * (1 + np.cos(np.pi * (np.arange(4, 12) - 4) / 8)) / 2
    np.testing.assert_allclose(rates[4:], cosine, rtol=1e-5)


def test_what_an_update_is_handed_does_not_depend_on_how_many_there_are():
    config = OptimizerConfig(learning_rate=0.4, ema_decay=0.9)
    handed = schedule(config, 10**9, 3, 10**9 // 2)  # for all of them there would be no memory
    assert {name: (value.shape, value.dtype) for name, value in handed.items()} == {
        name: (shape.shape, shape.dtype) for name, shape in SCHEDULE_SHAPES.items()
    }
    assert handed["rng"].tolist() == [3, 10**9 // 2]
    assert handed["learning_rate"] == pytest.approx(0.2)


def test_without_warm_up_the_first_rate_is_the_peak():
    assert learning_rates(OptimizerConfig(learning_rate=0.4), 5, np.arange(5))[0] == pytest.approx(0.4)


def test_the_moving_average_warms_up():
    """(1 + t) / (10 + t) until that exceeds the decay, as `tf.train.ExponentialMovingAverage` has it."""
    decays = ema_decays(OptimizerConfig(ema_decay=0.9), np.arange(200))
    assert decays[:3] == pytest.approx([1 / 10, 2 / 11, 3 / 12])
    assert decays[80] == pytest.approx(0.9) and decays[79] < 0.9 and set(decays[81:]) == {np.float32(0.9)}
    late = ema_decays(OptimizerConfig(ema_decay=0.9998), np.arange(1000))
    assert late.prod() < 1e-9  # what is left of the random start; the constant decay would leave 82 %
    assert not ema_decays(OptimizerConfig(), np.arange(10)).any()
