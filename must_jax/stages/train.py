"""Training: teachers, the student, fine-tuning and heads on frozen features all go through `fit`, the one loop."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping
from functools import reduce
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from must_jax import trained
from must_jax.config import OptimizerConfig, TrainConfig
from must_jax.data.pipeline import eval_batches, train_batches
from must_jax.engine.checkpoint import Checkpoints, check_same, check_space
from must_jax.engine.clock import Clock
from must_jax.engine.evaluate import evaluate
from must_jax.engine.mesh import put_batch, put_replicated
from must_jax.engine.optimizers import build_optimizer, learning_rates
from must_jax.engine.state import State, count_parameters, digest, init_state, trained_variables
from must_jax.engine.step import Averages, Batch, TrainStep, make_predict_step, make_train_step
from must_jax.engine.writer import VALIDATION, MetricWriter
from must_jax.errors import UserError, nearest
from must_jax.files import write_json
from must_jax.models.api import build_model, transfer
from must_jax.progress import Progress, say
from must_jax.stages import gate, inputs
from must_jax.stages.workdir import RESULT_FILE, check, claim


def fit(
    step: TrainStep,
    state: State,
    batches: Iterator[Batch],
    optimizer: OptimizerConfig,
    steps: int,
    *,
    mesh: Mesh,
    batch_size: int,
    start: int = 0,
    clock: Clock | None = None,
    progress: Progress | None = None,
    writer: MetricWriter | None = None,
    log_every: int = 0,
    checkpoints: Checkpoints | None = None,
    checkpoint_every: int = 0,
) -> State:
    """Updates number `start` to `steps` - 1: exactly `steps` in all, over however many restarts.

    Args:
      step: compiled once; runs with other initial parameters, data and learning rates may share it.
      state: after `start` updates; it is consumed.
      batches: the next one is that of update `start`.
      clock: takes the time (and goes into the checkpoints).
      log_every, checkpoint_every: every so many updates and after the last one; 0 = never.

    Raises:
      UserError: the loss is no number any more.
    """
    clock = clock or Clock()
    rates = learning_rates(optimizer, steps)
    running: Averages | None = None  # of the update that the devices work on
    window: list[Averages] = []  # of the updates since the last log
    extra: dict[str, float] = {}
    since = clock.state()
    for k in range(start, steps):
        # The devices still work on update k - 1 while the next batch is fetched. If they are through when it is here,
        # they may have waited all that time: `waited` is an upper bound.
        asked = time.perf_counter()
        batch = put_batch(mesh, next(batches))
        if running is not None and running["loss"].total.is_ready():
            clock.waited += time.perf_counter() - asked

        called = time.perf_counter()
        rate = put_replicated(mesh, rates[k])
        with jax.transfer_guard("disallow"):  # nothing goes back and forth unseen
            state, averages = step(state, batch, rate)
        if running is None:  # the first call compiles, which is no time of training
            extra = {"compile_seconds": time.perf_counter() - called}
            jax.block_until_ready(averages)
            clock.start()
        else:
            jax.block_until_ready(running)  # at most one update waits behind the running one
            clock.tick()
        running = averages
        if log_every:
            window.append(averages)
        if progress:
            progress.advance()

        done, last = k + 1, k + 1 == steps
        if log_every and (done % log_every == 0 or last):
            row = _means(window)
            _check_finite(row["loss"], done)
            row |= {"learning_rate": float(rates[k]), **clock.rates(batch_size, since), **extra}
            window, since, extra = [], clock.state(), {}
            if writer:
                writer.write(done, row)
            if progress:
                progress.note(f"loss {row['loss']:.4g}, {100 * row['data_wait_share']:.0f} % waiting for data")
        if checkpoints and checkpoint_every and (done % checkpoint_every == 0 or last):
            checkpoints.save(done, state, {"clock": clock.state()})  # before the next batch is drawn
    return state


def run(config: TrainConfig, workdir: Path) -> None:
    """Trains into `workdir`, or continues there, or says that it is finished.

    Writes config.json, metrics.jsonl, event files, checkpoints/, model.json (all that `trained.load` needs) and, last,
    result.json.

    Raises:
      UserError: anything in config or data that cannot work, before any work; a workdir of another config; a finished
        model that does not reach `config.minimum` (it stays loadable).
    """
    check(workdir, config)
    finished = (workdir / trained.MODEL_FILE).exists()
    if not finished:
        _train(config, workdir)
    description = json.loads((workdir / trained.MODEL_FILE).read_text(encoding="utf-8"))
    _check_minimum(config, workdir, description["metrics"])
    write_json(workdir / RESULT_FILE, {"metrics": description["metrics"], **description["training"]})
    say(f"{workdir}: {config.steps} steps, {_listed(description['metrics'])}" + finished * "; finished, nothing to do")


def _train(config: TrainConfig, workdir: Path) -> None:
    # What can be wrong is found out first.
    inputs.check(config)
    mesh = inputs.mesh_of(config)
    start_from = trained.load(config.init) if config.init else None
    sources = [inputs.open_source(source, config.data_dir, config.tasks) for source in config.train]
    sources, options = inputs.choose(config.columns, sources, config.tasks)
    checked = [inputs.open_source(config.validation, config.data_dir, options)] if config.validation else []
    inputs.check_unchanged(column for source in (*sources, *checked) for column in source.columns)
    tasks = inputs.build_tasks(options, sources, config.max_boxes, also=checked)
    gate.check(sources, tasks, config.accept_failed)
    weights = inputs.loss_weights(tasks, sources, config.batch_size, config.optimizer.learning_rate)
    validated = {column.task: tasks[column.task] for source in checked for column in source.columns}
    _check_measured(config, [f"{name}/{key}" for name, task in validated.items() for key in task.metrics().result()])
    model = build_model(config.model, {name: task.head(config.model) for name, task in tasks.items()})
    optimizer, averaged = build_optimizer(config.optimizer), config.optimizer.ema_decay > 0
    variables = model.init(jax.random.key(config.seed), config.image_size)
    if start_from:
        variables = transfer(variables, start_from.variables)
    opt_state, ema = jax.eval_shape(optimizer.init, variables["params"]), variables if averaged else {}
    folder, data = workdir / trained.CHECKPOINTS, inputs.fingerprint(sources)
    check_space(folder, {**variables, "opt_state": opt_state, "ema": ema})
    state = init_state(variables, optimizer, mesh, ema=averaged)
    check_same(folder, data, state)
    claim(workdir, config)

    forward = trained.image_forward(model)
    step = make_train_step(forward, tasks, weights, optimizer, mesh, ema_decay=config.optimizer.ema_decay)
    parameters = count_parameters(state["params"])
    say(f"{workdir}: {parameters:,} parameters on {mesh.size} devices, loss weights: {_listed(weights)}")

    # The updates that are still to do.
    kinds = {name: task.label for name, task in tasks.items()}
    unreadable = inputs.Unreadable(sum(len(source.images) for source in sources))
    start, clock = 0, Clock()
    with Checkpoints(folder, data) as checkpoints:
        if (latest := checkpoints.latest_step()) is not None:
            state, meta = checkpoints.restore(latest, state)
            start, clock = latest, Clock(**meta["clock"])
            say(f"{workdir}: continues after step {start} of {config.steps}")
        batches = train_batches(
            sources,
            kinds,
            image_size=config.image_size,
            augment=config.augment,
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=start,
            on_bad=unreadable.add,
        )
        with MetricWriter(workdir, start) as writer:
            with Progress(f"training {workdir}", config.steps, start=start, scale=config.batch_size) as progress:
                state = fit(
                    step,
                    state,
                    unreadable.guard(batches),
                    config.optimizer,
                    config.steps,
                    mesh=mesh,
                    batch_size=config.batch_size,
                    start=start,
                    clock=clock,
                    progress=progress,
                    writer=writer,
                    log_every=config.log_every,
                    checkpoints=checkpoints,
                    checkpoint_every=config.checkpoint_every,
                )

            # What it is worth, on the validation images: the tasks that are labelled there.
            variables, metrics = trained_variables(state), {}
            for source in checked:
                unread = inputs.Unreadable(len(source.images))
                examples = eval_batches(
                    source,
                    inputs.true_kinds(source),
                    image_size=config.image_size,
                    batch_size=config.batch_size,
                    on_bad=unread.add,
                )
                predict = make_predict_step(forward, validated, config.image_size, mesh)
                metrics = evaluate(predict, variables, unread.guard(examples), validated, mesh)
                writer.write(config.steps, {f"{VALIDATION}{name}": value for name, value in metrics.items()})
                unreadable.found |= unread.found

    trained.describe(
        workdir,
        config,
        tasks,
        metrics,
        digest=digest(variables["params"]),
        training={
            "steps": config.steps,
            "seconds": clock.seconds,
            **clock.rates(config.batch_size),
            "parameters": parameters,
            "loss_weights": weights,
            "unreadable": unreadable.found,
        },
    )


def _means(window: list[Averages]) -> dict[str, float]:
    """Sums over the window, then divided; a term without any label in it is left out."""
    merged = reduce(lambda a, b: {name: a[name].merge(b[name]) for name in a}, jax.device_get(window))
    return {name: float(average.total / average.count) for name, average in merged.items() if average.count > 0}


def _check_finite(loss: float, step: int) -> None:
    if not np.isfinite(loss):
        raise UserError(
            f"the loss is {loss} at step {step}; lower config.optimizer.learning_rate, or set clip_norm or warmup_steps"
        )


def _check_minimum(config: TrainConfig, workdir: Path, metrics: Mapping[str, float]) -> None:
    _check_measured(config, metrics)
    for name, least in config.minimum.items():
        if metrics[name] < least:
            raise UserError(
                f"{workdir} reached {name} = {metrics[name]:.4g}, under config.minimum = {least:g}; "
                "train longer (config.steps, in another workdir) or lower the minimum"
            )


def _check_measured(config: TrainConfig, measured: Collection[str]) -> None:
    for name in config.minimum:
        if name not in measured:
            raise UserError(f"config.minimum names '{name}', which is not measured; {nearest(name, measured)}")


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items()) or "not validated"
