"""The two compiled programs: one update, and one batch of predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from clu.metrics import Average
from jax.sharding import Mesh

from must_jax.engine.mesh import replicated, split
from must_jax.engine.state import State, Variables

Batch = Mapping[str, Any]
# (variables, batch, train) -> (outputs by task, new stats). What of the batch is the input is the forward's business:
# images for a whole model, cached features for heads on a frozen backbone.
Forward = Callable[[Variables, Batch, bool], tuple[Mapping[str, Any], Any]]
Averages = dict[str, Average]  # "loss" and "task/term" -> (sum, weight), divided after merging
TrainStep = Callable[[State, Batch, jax.Array], tuple[State, Averages]]
PredictStep = Callable[[Variables, Batch], Mapping[str, Any]]


class Task(Protocol):
    """What the engine asks of a task; see `tasks/base.py`."""

    def loss(self, outputs: Any, labels: Any) -> Mapping[str, tuple[jax.Array, jax.Array]]: ...

    def predict(self, outputs: Any, image_size: int) -> Mapping[str, jax.Array]: ...

    def condense(self, predictions: Any) -> Mapping[str, jax.Array]: ...

    def metrics(self) -> Any: ...


def make_train_step(
    forward: Forward,
    tasks: Mapping[str, Task],
    weights: Mapping[str, float],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    ema_decay: float = 0.0,
) -> TrainStep:
    """`step(state, batch, learning_rate) -> (state, averages)`; the state it is given is consumed.

    Loss: sum over tasks of weight * sum over the task's terms of sum / weight (paper section 3). A task without a
    label in the batch adds nothing. Compiled once for all initial parameters, seeds and learning rates.
    """

    def loss_fn(params: Any, stats: Any, batch: Batch) -> tuple[jax.Array, tuple[Any, Averages]]:
        outputs, new_stats = forward({"params": params, "stats": stats}, batch, True)
        loss, averages = jnp.float32(0), {}
        for name, task in tasks.items():
            for term, (total, count) in task.loss(outputs[name], batch["labels"][name]).items():
                loss += weights[name] * total / jnp.where(count > 0, count, 1.0)
                averages[f"{name}/{term}"] = Average(total=total, count=count)
        averages["loss"] = Average(total=loss, count=jnp.float32(1))
        return loss, (new_stats, averages)

    def step(state: State, batch: Batch, learning_rate: jax.Array) -> tuple[State, Averages]:
        params = state["params"]
        grads, (stats, averages) = jax.grad(loss_fn, has_aux=True)(params, state["stats"], batch)
        updates, opt_state = optimizer.update(grads, state["opt_state"], params)
        params = jax.tree.map(lambda p, u: p - learning_rate * u, params, updates)
        ema = {}
        if ema_decay:
            new = {"params": params, "stats": stats}
            ema = jax.tree.map(lambda old, new: ema_decay * old + (1 - ema_decay) * new, state["ema"], new)
        return {"params": params, "stats": stats, "opt_state": opt_state, "ema": ema}, averages

    everywhere = replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(everywhere, split(mesh), everywhere),
        out_shardings=(everywhere, everywhere),
        donate_argnums=0,
    )


def make_predict_step(
    forward: Forward, tasks: Mapping[str, Task], image_size: int, mesh: Mesh, *, condense: bool = False
) -> jax.stages.Wrapped:
    """`predict(variables, batch) -> {task: predictions}`, in inference mode, split over the mesh like the batch.

    Args:
      condense: whether only what pseudo labels need comes out.
    """

    def predict(variables: Variables, batch: Batch) -> Mapping[str, Any]:
        outputs, _ = forward(variables, batch, False)
        predictions = {name: task.predict(outputs[name], image_size) for name, task in tasks.items()}
        return {name: task.condense(predictions[name]) for name, task in tasks.items()} if condense else predictions

    return jax.jit(predict, in_shardings=(replicated(mesh), split(mesh)), out_shardings=split(mesh))
