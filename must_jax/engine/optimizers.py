"""Optimisers with a learning rate of one, and the schedules of learning rate and moving average.

Their values are arguments of the compiled step, so one program serves every schedule of a sweep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from must_jax.config import OptimizerConfig

_ADAM_B2, _ADAM_EPSILON = 0.999, 1e-8
_LARS_TRUST = 0.001


class Optimizer(NamedTuple):
    """An update in two parts, so that the step can decide in between whether it takes place.

    Attributes:
      init: parameters -> state.
      update: gradients, state, parameters -> new state.
      direction: new state, parameters -> what to subtract from them, to be multiplied by the learning rate.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], Any]
    direction: Callable[[Any, Any], Any]


def build_optimizer(config: OptimizerConfig, shares: Callable[[Any], Any] | None = None) -> Optimizer:
    """The optimizer of a config, made of optax's parts.

    sgd:   v <- momentum v + (g + weight_decay w), an L2 penalty as in the paper's framework.
    lars:  as sgd, and for kernels (g + weight_decay w) is scaled to 0.001 of the norm of w (You et al. 2017).
    adamw: weight decay is decoupled from the moments.
    Clipping acts on the bare gradient. Only kernels decay.

    Args:
      shares: parameters -> a tree like them, of the share of the learning rate that each has; None = all of it.
    """
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    decay = optax.add_decayed_weights(config.weight_decay, mask=decay_mask)
    adam = optax.scale_by_adam(config.momentum, _ADAM_B2, _ADAM_EPSILON)
    trust = optax.masked(optax.scale_by_trust_ratio(trust_coefficient=_LARS_TRUST), decay_mask)
    trace = optax.trace(config.momentum)
    parts = {"sgd": [decay, trace], "lars": [decay, trust, trace], "adamw": [adam, decay]}[config.name]
    chain = optax.chain(*clip, *parts)

    def update(grads: Any, state: Any, params: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the power of an integer count
            return chain.update(grads, state, params)[1]

    def momentum_of(state: Any, _: Any) -> Any:
        return state[-1].trace

    def adam_of(state: Any, params: Any) -> Any:
        moments, of_decay = state[-2:]
        with jax.numpy_dtype_promotion("standard"):
            mean = optax.tree.bias_correction(moments.mu, config.momentum, moments.count)
            square = optax.tree.bias_correction(moments.nu, _ADAM_B2, moments.count)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + _ADAM_EPSILON), mean, square)
        return decay.update(updates, of_decay, params)[0]

    direction = adam_of if config.name == "adamw" else momentum_of

    def shared(state: Any, params: Any) -> Any:
        if shares is None:
            return direction(state, params)
        return jax.tree.map(lambda d, share: d if share == 1 else share * d, direction(state, params), shares(params))

    return Optimizer(chain.init, update, shared)


def decay_mask(params: Any) -> Any:
    """True for the parameters named "kernel": those of convolutions and linear layers, not norms and biases."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def schedule(config: OptimizerConfig, steps: int, seed: int, update: int) -> dict[str, np.ndarray]:
    """What update number `update`, from 0, of a run of `steps` depends on: f32 scalars by name, and "rng".

    They are computed when needed, since a run may have more updates than fit into memory.
    """
    t = np.asarray(update)
    return {
        "learning_rate": learning_rates(config, steps, t),
        "ema_decay": ema_decays(config, t),
        "rng": np.array([seed, update], np.uint32),  # a key for (seed, update)
    }


def learning_rates(config: OptimizerConfig, steps: int, updates: np.ndarray) -> np.ndarray:
    """f32, for these `updates`: linear warm-up from 0 to `learning_rate`, then cosine to 0 (after the last update)."""
    warm = config.warmup_steps
    rising = updates / max(warm, 1)
    falling = (1 + np.cos(np.pi * (updates - warm) / (steps - warm))) / 2
    return np.asarray(config.learning_rate * np.where(updates < warm, rising, falling), np.float32)


def ema_decays(config: OptimizerConfig, updates: np.ndarray) -> np.ndarray:
    """f32, for these `updates`: min(ema_decay, (1 + t) / (10 + t)), as in `tf.train.ExponentialMovingAverage`.

    A constant decay alone would keep the random start in the average: at 0.9998, it still makes up a third after 5,000
    updates.
    """
    return np.asarray(np.minimum(config.ema_decay, (1 + updates) / (10 + updates)), np.float32)
