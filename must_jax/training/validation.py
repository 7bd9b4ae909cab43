"""The validation of a training run: what is measured on which images, and the measuring."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from must_jax.config import InputConfig, TrainConfig, ValidationConfig
from must_jax.data.batching import Source, TruthReader, eval_batches
from must_jax.engine import distributed
from must_jax.engine.measuring import evaluate
from must_jax.engine.mesh import local_rows
from must_jax.engine.state import Variables
from must_jax.engine.step import PendingProgram, PredictStep, image_forward, make_predict_step
from must_jax.errors import UserError, nearest
from must_jax.files import write_json
from must_jax.inputs import feeding, targets
from must_jax.inputs.sources import open_source
from must_jax.inputs.unreadable import Unreadable, lengths_of
from must_jax.models.api import Model
from must_jax.tasks import kind_of
from must_jax.tasks.base import Task
from must_jax.training import validation

FILE = "validation.json"


@dataclass(frozen=True)
class HeldOut:
    """A source of the validation, opened.

    Attributes:
      where: its place in the config.
      label: its name, or that of its images.
      ends: the tasks that it measures -> the end of their metrics' names: "" if it is the first source that measures
        the task, "@name" otherwise.
    """

    where: str
    label: str
    source: Source
    ends: dict[str, str]


class Measured(NamedTuple):
    """What `Validation` needs of a config, which may also be that of a training."""

    input_hw: tuple[int, int]
    batch_size: int
    input: InputConfig


def opened(
    validation: Sequence[ValidationConfig], data_dir: str, tasks: Collection[str], unlabelled: Collection[str] = ()
) -> list[HeldOut]:
    """The sources, each with the labels of the tasks that it is to measure.

    Args:
      tasks: those that are trained.
      unlabelled: those of them that need no labels.

    Raises:
      UserError: as `sources.open_source`; a task that is not labelled there; two sources of a task without a name.
    """
    sources = [
        _opened(each, f"config.validation.{number}", data_dir, tasks, unlabelled)
        for number, each in enumerate(validation)
    ]
    return named(validation, sources)


def named(configs: Sequence[ValidationConfig], sources: Sequence[Source]) -> list[HeldOut]:
    """Names what each source measures.

    Raises:
      UserError: a task that is measured on a second source, which has no name or that of another.
    """
    held_out: list[HeldOut] = []
    first: dict[str, HeldOut] = {}
    for number, (config, source) in enumerate(zip(configs, sources, strict=True)):
        where = f"config.validation.{number}"
        held = HeldOut(where, config.name or source.images.name, source, {})
        for task in dict.fromkeys(column.task for column in source.columns):
            before = first.setdefault(task, held)
            held.ends[task] = "" if before is held else f"@{config.name}"
            if before is held:
                continue
            if not config.name:
                raise UserError(
                    f"{task} is measured on {before.where} ({before.source.images.name}) and on {where} "
                    f"({source.images.name}); name the second one, for example --{where}.name=other, whose metrics are "
                    f"then {task}/...@other, or leave the task out with --{where}.tasks"
                )
            if any(held.ends[task] == other.ends.get(task) for other in held_out):
                raise UserError(
                    f"two sources that {task} is measured on are called '{config.name}'; change {where}.name"
                )
        held_out.append(held)
    return held_out


def to_measure(held_out: Sequence[HeldOut], tasks: Mapping[str, Task]) -> list[HeldOut]:
    """The sources as `targets.to_measure` reads them; raises the same errors."""
    return [replace(held, source=targets.to_measure(held.source, tasks)) for held in held_out]


@dataclass
class Validation:
    """Measures variables on all sources. What it needs is read and compiled once, for any number of validations.

    Args:
      tasks: those that are trained.
      step_of: tasks -> what predicts for them, if it is not the model.
    """

    config: TrainConfig | Measured
    held_out: Sequence[HeldOut]
    tasks: Mapping[str, Task]
    model: Model
    mesh: Mesh
    step_of: Callable[[Mapping[str, Task]], PredictStep] | None = None
    unreadable: dict[str, str] = field(default_factory=dict)  # found so far, by all processes
    found: dict[str, Any] = field(default_factory=dict)  # the last time: by source its metrics, and details by task

    def __post_init__(self) -> None:
        self.kept_remarks: list[str] = []
        forward = image_forward(self.model)
        self._programs: dict[tuple[str, ...], jax.stages.Wrapped] = {}
        self._predict: dict[tuple[str, ...], PredictStep] = {}
        self._readers = []
        for held in self.held_out:
            measured = {name: self.tasks[name] for name in held.ends}
            if (names := tuple(measured)) not in self._predict and self.step_of:
                self._predict[names] = self.step_of(measured)
            elif names not in self._predict:
                program = make_predict_step(forward, measured, self.config.input_hw, self.mesh)
                self._predict[names] = self._programs[names] = program
            unread = Unreadable(lengths_of([held.source]))
            self._readers.append((unread, TruthReader(held.source, measured, unread.add)))

    def compile(self, compiler: Executor) -> None:
        """Lets `compiler` begin with the programs, which the first validation needs."""
        input_hw = self.config.input_hw
        images = jax.ShapeDtypeStruct((self.config.batch_size, *input_hw, 3), np.uint8)
        for names, predict in self._programs.items():
            self._predict[names] = PendingProgram(compiler, predict, (self.model.shapes(input_hw), {"image": images}))

    def measure(self, variables: Variables) -> dict[str, float]:
        """Measures variables that all devices hold.

        Returns:
          "task/metric" or "task/metric@name" -> value, the same in all processes.

        Raises:
          UserError: too many images cannot be read.
          Preempted: the run was told to stop.
        """
        metrics: dict[str, float] = {}
        input_hw, batch_size = self.config.input_hw, self.config.batch_size
        self.found = {}
        for held, (unread, truth) in zip(self.held_out, self._readers, strict=True):
            measured = {name: self.tasks[name] for name in held.ends}
            examples = eval_batches(
                held.source,
                {},
                input_hw=input_hw,
                batch_size=batch_size,
                rows=local_rows(self.mesh, batch_size),
                config=feeding.reading(self.config.input),
                on_bad=unread.add,
            )
            predict = self._predict[tuple(measured)]
            told = evaluate(predict, variables, unread.guard(examples), truth, measured, input_hw, self.mesh)
            unread.shares()
            self.unreadable |= unread.found
            values = {f"{name}{held.ends[name.split('/')[0]]}": value for name, value in told.metrics.items()}
            of_source = self.found.setdefault(held.label, {"metrics": {}, "details": {}})
            of_source["metrics"] |= values
            of_source["details"] |= told.details
            metrics |= values
        return metrics

    def keep(self, workdir: Path) -> None:
        """What was found the last time is about the model to keep, and so goes into `validation.json`."""
        self.kept_remarks = self.remarks()
        if distributed.is_first():
            write_json(workdir / FILE, self.found)

    def remarks(self) -> list[str]:
        """What is strange about the predictions of the last time."""
        return [
            f"{name} on {images}: {details['remark']}"
            for images, told in self.found.items()
            for name, details in told["details"].items()
            if "remark" in details
        ]


def names_of(held_out: Sequence[HeldOut], tasks: Mapping[str, Task]) -> list[str]:
    """The names of the metrics that will be measured."""
    return [
        f"{name}/{metric}{end}"
        for held in held_out
        for name, end in held.ends.items()
        for metric in tasks[name].metrics().result()
    ]


def errors_named(config: TrainConfig) -> Iterator[str]:
    """What is wrong with `best` and `minimum`: those that name an error, of which less is better."""
    named = {"minimum": config.minimum, "best": [config.best] if config.best else []}
    for key, name in ((key, name) for key, names in named.items() for name in names):
        task, _, metric = name.partition("@")[0].partition("/")
        kind = kind_of(task, config.tasks[task])
        if metric in kind.errors:
            yield (
                f"config.{key} names '{name}', an error, of which less is better; "
                f"name a score, such as {task}/{kind.metric}"
            )


def _opened(
    config: ValidationConfig, where: str, data_dir: str, tasks: Collection[str], unlabelled: Collection[str]
) -> Source:
    wanted = [name for name in tasks if not config.tasks or name in config.tasks]
    source = open_source(config, data_dir, wanted, [name for name in wanted if name in unlabelled])
    labelled = {column.task for column in source.columns}
    for task in config.tasks:
        if task in wanted and task not in labelled:
            raise UserError(
                f"{where}.tasks names '{task}', but {source.images.name} has no labels of it; labelled are: "
                f"{', '.join(sorted(labelled)) or 'none'}; add the labels to {where}.labels, or remove the task"
            )
    return source


def check_measured(config: TrainConfig, measured: Collection[str]) -> None:
    for name in config.minimum:
        if name not in measured:
            raise UserError(
                f"config.minimum names '{name}', which is not measured; {nearest(name, measured)}; "
                "correct it, or require nothing with --config.minimum=none"
            )
    if config.best and config.best not in measured:
        raise UserError(
            f"config.best names '{config.best}', which is not measured; {nearest(config.best, measured)}; correct it"
        )
    for mistake in validation.errors_named(config):
        raise UserError(mistake)
