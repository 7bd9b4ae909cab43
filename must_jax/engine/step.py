"""The two compiled programs: one update, and one batch of predictions."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from clu.metrics import Average
from jax.sharding import Mesh

from must_jax.engine.mesh import replicated, split, state_shardings
from must_jax.engine.optimizers import Optimizer
from must_jax.engine.state import State, Variables
from must_jax.models.api import Model

Batch = Mapping[str, Any]
# (variables, batch, train) -> (outputs by task, new stats). The forward decides what part of the batch is its input:
# images for a whole model, cached features for heads on a frozen backbone. In training, the batch has RNG, too.
Forward = Callable[[Variables, Batch, bool], tuple[Mapping[str, Any], Any]]
RNG = "rng"  # a key, of what is drawn in an update; in a schedule u32[2], its data
SCHEDULE_SHAPES = {
    **{name: jax.ShapeDtypeStruct((), jnp.float32) for name in ("learning_rate", "ema_decay")},
    RNG: jax.ShapeDtypeStruct((2,), jnp.uint32),
}
Schedule = Mapping[str, jax.Array]  # further inputs of an update: those of SCHEDULE_SHAPES
Averages = dict[str, Average]  # "loss" and "task/term" -> (sum, weight), divided after merging
TrainStep = Callable[[State, Batch, Schedule], tuple[State, Averages]]
PredictStep = Callable[[Variables, Batch], Mapping[str, Any]]


HOST = frozenset({"labels", "mask", "index", "content_hw"})  # parts of an evaluation batch that predictions do not need
# LLVM's higher levels take longer and gain nothing that can be measured, since convolutions are library functions:
# benchmarks/optimization_level.py.
CPU_OPTIONS: dict[str, Any] = {"xla_backend_optimization_level": 1}
STOP = "stop"  # in a batch: 1 in the rows of a process that was told to stop; in averages: whether any was


class Task(Protocol):
    """What the engine needs from a task; see `tasks/base.py`."""

    def loss(
        self, outputs: Any, labels: Any, input_hw: tuple[int, int]
    ) -> Mapping[str, tuple[jax.Array, jax.Array]]: ...

    def predict(self, outputs: Any, input_hw: tuple[int, int]) -> Mapping[str, jax.Array]: ...

    def condense(self, predictions: Any) -> Mapping[str, jax.Array]: ...

    def in_frame_of(self, label: Any, prediction: Any, content: tuple[float, float]) -> Any: ...

    def metrics(self) -> Any: ...

    @property
    def counted(self) -> str: ...


class MapTask(Task, Protocol):
    """A task whose predictions are maps, which are compared with the truth on the devices; see `tasks/maps.py`."""

    def __hash__(self) -> int: ...

    def truth(self, label: Any) -> Mapping[str, Any]: ...

    def moments(self) -> tuple[Callable[[Any, Any, Any], dict[str, jax.Array]], ...]: ...

    def counts(self, predicted: Any, truth: Any, fit: Any) -> dict[str, jax.Array]: ...


def image_forward(model: Model) -> Forward:
    """The forward of a whole model, from the batch's images."""

    def forward(variables: Variables, batch: Batch, train: bool) -> tuple[Mapping[str, Any], Any]:
        return model.apply(variables, batch["image"], train=train, rng=batch.get(RNG))

    return forward


def key_of(schedule: Mapping[str, Any]) -> jax.Array:
    """The key of what is drawn in an update."""
    return jax.random.wrap_key_data(jnp.asarray(schedule[RNG]), impl="threefry2x32")


def make_gradients(
    forward: Forward,
    tasks: Mapping[str, Task],
    input_hw: tuple[int, int],
    weights: Mapping[str, float],
    accumulate: int = 1,
) -> Callable[..., tuple[Any, Any, Averages]]:
    """`gradients(params, stats, batch, key=None) -> (gradients, new stats, averages)`, to be compiled.

    The key is for what the network draws; None = nothing. See `make_train_step`.
    """

    def parts_of(batch: Batch) -> Batch:
        # Part i has every `accumulate`-th example from i on, so that each device works on its own share of each part.
        return jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)

    def sums(params: Any, stats: Any, batch: Batch) -> tuple[dict[str, Average], Any]:
        outputs, new_stats = forward({"params": params, "stats": stats}, batch, True)
        terms = {name: task.loss(outputs[name], batch["labels"][name], input_hw) for name, task in tasks.items()}
        named = {f"{name}/{term}": Average(*sum_) for name in terms for term, sum_ in terms[name].items()}
        return named, new_stats

    def loss_fn(params: Any, stats: Any, batch: Batch, counts: Averages) -> tuple[jax.Array, tuple[Any, Averages]]:
        averages, new_stats = sums(params, stats, batch)
        loss = jnp.float32(0)
        for name, average in averages.items():
            count = counts[name].count if counts else average.count
            loss += weights[name.split("/")[0]] * average.total / jnp.where(count > 0, count, 1.0)
        return loss, (new_stats, averages | {"loss": Average(loss, jnp.float32(1))})

    def gradients(params: Any, stats: Any, batch: Batch, key: jax.Array | None = None) -> tuple[Any, Any, Averages]:
        grad = jax.grad(loss_fn, has_aux=True)
        if accumulate == 1:
            grads, (new_stats, averages) = grad(params, stats, {**batch, RNG: key}, {})
            return grads, new_stats, averages
        parts = parts_of(batch)
        # How many labels each term has over all parts; the compiler drops everything else that this computes.
        counted = jax.vmap(lambda part: sums(params, stats, {**part, RNG: None})[0])(parts)
        counts = jax.tree.map(lambda x: x.sum(0), counted)
        keys = None if key is None else jax.random.split(key, accumulate)

        def of_part(part: Batch, key: jax.Array | None) -> tuple[Any, Any, Averages]:
            grads, (new_stats, averages) = grad(params, stats, {**part, RNG: key}, counts)
            return grads, jax.tree.map(lambda x: x / accumulate, new_stats), averages

        shapes = jax.eval_shape(of_part, *jax.tree.map(lambda x: x[0], (parts, keys)))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (grads, new_stats, averages), _ = jax.lax.scan(
            lambda so_far, part: (jax.tree.map(jnp.add, so_far, of_part(*part)), None), zeros, (parts, keys)
        )
        return grads, new_stats, averages | {"loss": Average(averages["loss"].total, jnp.float32(1))}

    return gradients


def make_train_step(
    forward: Forward,
    tasks: Mapping[str, Task],
    input_hw: tuple[int, int],
    weights: Mapping[str, float],
    optimizer: Optimizer,
    mesh: Mesh,
    *,
    accumulate: int = 1,
) -> jax.stages.Wrapped:
    """`step(state, batch, schedule) -> (state, averages)`; the given state is consumed.

    Loss: sum over tasks of weight * sum over the task's terms of sum / weight (paper section 3). A task without a
    label in the batch adds nothing. Compiled once for all initial parameters, seeds and schedules. The moving
    average is updated if the state has one.

    An update whose loss, gradient or batch statistics are not finite changes nothing; the average "skipped" says so.

    Args:
      accumulate: number of parts to split the batch into, processed one after the other, each with its own batch
        statistics. The terms are still means over the whole batch.
    """

    gradients = make_gradients(forward, tasks, input_hw, weights, accumulate)

    def whole(tree: Any) -> Any:
        return jax.lax.with_sharding_constraint(tree, replicated(mesh))

    def spread(tree: Any) -> Any:
        return jax.lax.with_sharding_constraint(tree, state_shardings(mesh, tree))

    return _jit(
        mesh,
        _make_update(gradients, optimizer, whole, spread),
        in_shardings=(None, split(mesh), replicated(mesh)),  # the state's: as given
        out_shardings=(None, replicated(mesh)),
        donate_argnums=0,
    )


def make_side_by_side_step(
    forward: Forward,
    tasks: Mapping[str, Task],
    input_hw: tuple[int, int],
    weights: Mapping[str, float],
    optimizer: Optimizer,
    mesh: Mesh,
) -> jax.stages.Wrapped:
    """Like `make_train_step`, but of as many trainings as the mesh has devices, each of them on its own device.

    State, batch, schedule and averages have one more leading axis, with one entry for each training. Each device
    computes as if it were alone, and waits for no other within an update.
    """
    update = _make_update(make_gradients(forward, tasks, input_hw, weights), optimizer)

    def own(state: State, batch: Batch, schedule: Schedule) -> tuple[State, Averages]:
        alone = jax.tree.map(lambda x: x[0], (state, batch, schedule))
        return jax.tree.map(lambda x: x[None], update(*alone))

    each = split(mesh)
    # Nothing is a sum over devices, so there is nothing for jax to check.
    side_by_side = jax.shard_map(own, mesh=mesh, in_specs=each.spec, out_specs=each.spec, check_vma=False)
    return _jit(
        mesh, side_by_side, in_shardings=(each, each, replicated(mesh)), out_shardings=(each, each), donate_argnums=0
    )


def _as_it_is(tree: Any) -> Any:
    return tree


def _make_update(
    gradients: Callable[..., tuple[Any, Any, Averages]],
    optimizer: Optimizer,
    whole: Callable[[Any], Any] = _as_it_is,
    spread: Callable[[Any], Any] = _as_it_is,
) -> Callable[[State, Batch, Schedule], tuple[State, Averages]]:
    """One update, to be compiled.

    Args:
      whole: lays out parameters for the computation of gradients.
      spread: lays out gradients and states for what the optimizer does.
    """

    def step(state: State, batch: Batch, schedule: Schedule) -> tuple[State, Averages]:
        key = key_of(schedule)
        grads, stats, averages = gradients(whole(state["params"]), state["stats"], batch, key)
        params = state["params"]
        grads = spread(grads)
        finite = jnp.isfinite(optax.tree.norm(grads)) & jnp.isfinite(averages["loss"].total)
        for leaf in jax.tree.leaves(stats):  # a variance can overflow where nothing else does
            finite &= jnp.all(jnp.isfinite(leaf))

        def chosen(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)

        # Everything is derived from what was chosen before it: else XLA would copy the arrays that it overwrites.
        new = {
            "stats": chosen(stats, state["stats"]),
            "opt_state": chosen(optimizer.update(grads, state["opt_state"], params), state["opt_state"]),
        }
        rate, decay = schedule["learning_rate"], schedule["ema_decay"]
        direction = optimizer.direction(new["opt_state"], params)
        new["params"] = chosen(jax.tree.map(lambda p, d: p - rate * d, params, direction), params)
        averaged = {name: new[name] for name in state["ema"]}
        mean = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state["ema"], averaged)
        new["ema"] = chosen(mean, state["ema"])
        averages = chosen(averages, jax.tree.map(jnp.zeros_like, averages))
        averages["skipped"] = Average(1 - finite.astype(jnp.float32), jnp.float32(1))
        if STOP in batch:
            averages[STOP] = Average(jnp.max(batch[STOP]), jnp.float32(1))
        return spread(new), averages

    return step


def make_predict_step(
    forward: Forward, tasks: Mapping[str, Task], input_hw: tuple[int, int], mesh: Mesh, *, condense: bool = False
) -> jax.stages.Wrapped:
    """`predict(variables, batch) -> {task: predictions}`, in inference mode, split over the mesh like the batch.

    Args:
      condense: whether to return only what pseudo labels need.
    """

    def predict(variables: Variables, batch: Batch) -> Mapping[str, Any]:
        outputs, _ = forward(variables, batch, False)
        predictions = {name: task.predict(outputs[name], input_hw) for name, task in tasks.items()}
        return {name: task.condense(predictions[name]) for name, task in tasks.items()} if condense else predictions

    return _jit(mesh, predict, in_shardings=(replicated(mesh), split(mesh)), out_shardings=split(mesh))


def _jit(mesh: Mesh, function: Callable[..., Any], **options: Any) -> jax.stages.Wrapped:
    """`function`, to be compiled for the devices of the mesh. On CPUs, XLA_FLAGS go before `CPU_OPTIONS`."""
    wanted = CPU_OPTIONS if mesh.devices.flat[0].platform == "cpu" else {}
    flags = os.environ.get("XLA_FLAGS", "")
    unset = {name: value for name, value in wanted.items() if f"--{name}=" not in flags}
    return jax.jit(function, compiler_options=unset or None, **options)


def shapes_of(tree: Any) -> Any:
    """`jax.ShapeDtypeStruct`s for the arrays of a tree."""
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), tree)


class PendingProgram:
    """`function` for arguments like these, `jax.ShapeDtypeStruct`s; `compiler` begins now, and a call waits for it.

    What goes wrong with the compilation is raised by the call.
    """

    def __init__(self, compiler: Executor, function: jax.stages.Wrapped, arguments: tuple[Any, ...]) -> None:
        self._traced = compiler.submit(lambda: function.trace(*arguments))
        self._compiled = compiler.submit(lambda: self._traced.result().lower().compile())

    def trace(self, *_: Any) -> jax.stages.Traced:
        """Like `jax.stages.Wrapped.trace`, for the arguments that are known already."""
        return self._traced.result()

    def __call__(self, *arguments: Any) -> Any:
        return self._compiled.result()(*arguments)
