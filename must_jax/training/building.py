"""Everything that a training run needs, from its config: opened, checked and built; nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from must_jax.config import ModelConfig, TrainConfig
from must_jax.config.architectures import ARCHITECTURES
from must_jax.data.batching import Batch, Source, batch_like, examples_of, train_batches
from must_jax.engine.mesh import state_shardings
from must_jax.engine.optimizers import Optimizer, build_optimizer, schedule
from must_jax.engine.state import State, Variables, init_state, state_shapes
from must_jax.engine.step import SCHEDULE_SHAPES, PendingProgram, TrainStep, image_forward, make_train_step, shapes_of
from must_jax.inputs import feeding, gate, memory, supervision
from must_jax.inputs.mistakes import check_config
from must_jax.inputs.sources import check_unchanged, fingerprint_of, open_training
from must_jax.inputs.targets import build_tasks, loss_weights
from must_jax.models import rates
from must_jax.models.api import Model, build_model
from must_jax.progress import say
from must_jax.tasks import without_labels
from must_jax.tasks.base import Task
from must_jax.training import starting, validation
from must_jax.training.validation import HeldOut, check_measured
from must_jax.weights import loading


@dataclass(frozen=True)
class Training:
    """Everything that a run needs, opened and checked; nothing is written yet.

    Attributes:
      held_out: the sources of the validation.
      labelled: task -> images with something to learn.
      untrained: tasks whose head will learn nothing.
      network: `config.model`, with the normalisation of what it starts from.
      variables: their values at the first step.
      weights_digest, licences: of the weights of others that they come from, if they do.
    """

    config: TrainConfig
    mesh: Mesh
    sources: list[Source]
    held_out: list[HeldOut]
    tasks: dict[str, Task]
    weights: dict[str, float]
    labelled: dict[str, int]
    untrained: list[str]
    model: Model
    optimizer: Optimizer
    step: TrainStep
    network: ModelConfig
    variables: Variables
    weights_digest: str
    licences: dict[str, str]

    def state(self) -> State:
        """Before the first update, on the devices."""
        return init_state(self.variables, self.optimizer, self.mesh, ema=self.config.optimizer.ema_decay > 0)

    @property
    def schedule(self) -> Callable[[int], dict[str, np.ndarray]]:
        """Number of an update -> what it depends on, by name."""
        return partial(schedule, self.config.optimizer, self.config.steps, self.config.seed)

    def batches(self, start: int, **options: Any) -> Iterator[Batch]:
        """Those from update `start` on; `options` as in `train_batches`."""
        return train_batches(
            self.sources,
            {name: task.label for name, task in self.tasks.items()},
            input_hw=self.config.input_hw,
            augment=self.config.augment,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            start_step=start,
            config=feeding.reading(self.config.input),
            **options,
        )

    def examples(self, update: int) -> list[str]:
        """The images of an update's batch, by name."""
        batch_size, seed = self.config.batch_size, self.config.seed
        return examples_of(self.sources, batch_size=batch_size, seed=seed, step=update)

    def fingerprint(self) -> dict[str, Any]:
        """Identifies the data that the result depends on; with `best`, that includes what the model is chosen by."""
        data = fingerprint_of(self.sources)
        if self.weights_digest:
            data["model.weights"] = self.weights_digest
        if self.config.best:
            data |= fingerprint_of([held.source for held in self.held_out], "validation")
            data |= {f"validation.{i}.measures": ",".join(held.ends) for i, held in enumerate(self.held_out)}
            data["validate_every"] = self.config.validate_every
        return data


def build(
    config: TrainConfig, tasks: Mapping[str, Task], weights: Mapping[str, float], mesh: Mesh
) -> tuple[Model, Optimizer, jax.stages.Wrapped]:
    """The network, the optimizer and the jitted update of a training run; holds no arrays and compiles nothing."""
    heads = {name: task.head(config.model) for name, task in tasks.items()}
    model = build_model(config.model, heads, config.remat, is_frozen=config.optimizer.backbone_rate == 0)
    optimizer = build_optimizer(config.optimizer, rates.shares_of(config.optimizer))
    step = make_train_step(
        image_forward(model),
        tasks,
        config.input_hw,
        weights,
        optimizer,
        mesh,
        accumulate=config.accumulate,
    )
    return model, optimizer, step


def update_shapes(
    config: TrainConfig, tasks: Mapping[str, Task], model: Model, optimizer: Optimizer, mesh: Mesh
) -> tuple[Any, Any, Any]:
    """What the update takes, as `jax.ShapeDtypeStruct`s: state, batch and schedule."""
    state = state_shapes(model.shapes(config.input_hw), optimizer, ema=config.optimizer.ema_decay > 0)
    kinds = {name: task.label for name, task in tasks.items()}
    batch = batch_like(kinds, input_hw=config.input_hw, batch_size=config.batch_size)
    placed = jax.tree.map(lambda shape, sharding: shape.update(sharding=sharding), state, state_shardings(mesh, state))
    return placed, shapes_of(batch), SCHEDULE_SHAPES


def prepare(config: TrainConfig, mesh: Mesh, compiler: Executor | None = None) -> Training:
    """Opens everything that the config refers to.

    Args:
      compiler: begins with the update as soon as it is known, while labels are looked at and parameters drawn.

    Raises:
      UserError: anything in config or data that cannot work.
    """
    check_config(config)
    network, start_from, found = starting.opened(config)  # before data is rendered or read
    sources, options = open_training(config)
    held_out = validation.opened(config.validation, config.data_dir, options, without_labels(options))
    checked = [held.source for held in held_out]
    columns = [column for source in (*sources, *checked) for column in source.columns]
    check_unchanged(columns, config.ready_within_s)
    tasks = build_tasks(options, sources, config.max_boxes, also=checked)
    held_out = validation.to_measure(held_out, tasks)
    gate.check(sources, tasks, config.accept_failed)
    weights = loss_weights(tasks, sources, config.batch_size, config.optimizer)
    check_measured(config, validation.names_of(held_out, tasks))
    model, optimizer, update = build(config.model_copy(update={"model": network}), tasks, weights, mesh)
    memory.check_model(model, config.input_hw)
    step: TrainStep = update
    if compiler:
        step = PendingProgram(compiler, update, update_shapes(config, tasks, model, optimizer, mesh))
    learnt = supervision.check(sources, tasks, config.input_hw, config.accept_failed)
    for held in held_out:
        supervision.check_held_out(held.source, tasks, config.input_hw, held.where, learnt)
        for trained_on in sources:
            if same := supervision.overlap(held.source, trained_on):
                say(
                    f"look at {held.where} ({held.source.images.name}): {same} are in config.train "
                    f"({trained_on.images.name}), too, so its metrics do not tell how good the model is on new images"
                )
    variables = model.init(jax.random.key(config.seed), config.input_hw)
    if found:
        variables = loading.taken(found, ARCHITECTURES[config.model.backbone], variables, config.input_hw)
    learnt_before: set[str] = set()  # tasks whose heads come from another run
    if start_from:
        variables, learnt_before = starting.taken(config, start_from, tasks, variables)
    labelled = supervision.labelled(learnt, sources)
    untrained = [name for name in tasks if not (labelled[name] and weights[name]) and name not in learnt_before]
    for name in untrained:
        why = "its loss weight is 0" if labelled[name] else "it has no labels"
        say(f"the head of {name} will learn nothing, since {why}; the model will not be used to label {name}")
    return Training(
        config=config,
        mesh=mesh,
        sources=sources,
        held_out=held_out,
        tasks=tasks,
        weights=weights,
        labelled=labelled,
        untrained=untrained,
        model=model,
        optimizer=optimizer,
        step=step,
        network=network,
        variables=variables,
        weights_digest=found.digest if found else "",
        licences={found.path.name: found.licence} if found and found.licence else {},
    )
