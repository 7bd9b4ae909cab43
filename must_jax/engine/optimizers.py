"""Optimisers with a learning rate of one, and the schedules of learning rate and moving average.

Both are arguments of the compiled step, so one program serves every schedule of a sweep.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax

from must_jax.config import OptimizerConfig


def build_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Gradients -> the direction to subtract, to be multiplied by the learning rate.

    sgd:   v <- momentum v + (g + weight_decay w), an L2 penalty as in the paper's framework.
    adamw: weight decay is decoupled from the moments.
    Clipping acts on the bare gradient. Only kernels decay.
    """
    decay = optax.add_decayed_weights(config.weight_decay, mask=decay_mask)
    update = [decay, optax.trace(config.momentum)] if config.name == "sgd" else [_adam(config.momentum), decay]
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    return optax.chain(*clip, *update)


def decay_mask(params: Any) -> Any:
    """True for the parameters named "kernel": those of convolutions and linear layers, not norms and biases."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def learning_rates(config: OptimizerConfig, steps: int) -> np.ndarray:
    """f32[steps]: linear warm-up from 0 to `learning_rate`, then cosine to 0 (reached after the last update)."""
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0, peak_value=config.learning_rate, warmup_steps=config.warmup_steps, decay_steps=steps
    )
    return np.asarray(jax.vmap(schedule)(np.arange(steps, dtype=np.float32)))


def schedules(config: OptimizerConfig, steps: int) -> dict[str, np.ndarray]:
    """What each update of a run of `steps` is handed: f32[steps] by name."""
    return {"learning_rate": learning_rates(config, steps), "ema_decay": ema_decays(config, steps)}


def ema_decays(config: OptimizerConfig, steps: int) -> np.ndarray:
    """f32[steps]: min(ema_decay, (1 + t) / (10 + t)) of update t, as `tf.train.ExponentialMovingAverage` has it.

    The constant decay alone would keep the random start in the average: 0.9998 is a third of it after 5,000 updates.
    """
    t = np.arange(steps)
    return np.minimum(config.ema_decay, (1 + t) / (10 + t)).astype(np.float32)


def _adam(momentum: float) -> optax.GradientTransformation:
    adam = optax.scale_by_adam(b1=momentum)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the power of an integer count
            return adam.update(updates, state, params)

    return optax.GradientTransformation(adam.init, update)
