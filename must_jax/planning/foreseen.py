"""What the stages of a pipeline will have made by the time that others read it, and what cannot work with that."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from must_jax import description
from must_jax.config import (
    AuditConfig,
    EvaluateConfig,
    InPipeline,
    LabelConfig,
    ModelConfig,
    PrepareConfig,
    SourceConfig,
    TeacherConfig,
    TrainConfig,
)
from must_jax.data import scenes
from must_jax.data.image_sets import are_same, open_images, shared
from must_jax.data.shards import COLUMNS, SPLIT
from must_jax.errors import UserError, nearest
from must_jax.files import MODEL_FILE
from must_jax.inputs import memory
from must_jax.inputs.mistakes import mistakes_of
from must_jax.inputs.sources import TRUTH
from must_jax.labels import manifest
from must_jax.labels.columns import beside, find_columns
from must_jax.models.api import build_model
from must_jax.planning import importing
from must_jax.planning.importing import Coming, import_mistakes
from must_jax.progress import counted
from must_jax.tasks import TASKS, build_task, kind_of, without_labels
from must_jax.teachers import loading
from must_jax.training import starting, validation
from must_jax.weights import files

_ANY_COUNT = 10**6  # images of a set that does not exist yet: parts in percent are compared
_FEW = 10  # labels of a task, in a part that is measured on
_ANY_CLASSES = ("one", "other")  # metrics have the same names for all classes


class Run(NamedTuple):
    """A training run. `measured` are the tasks with metrics on validation images."""

    model: ModelConfig
    tasks: frozenset[str]
    measured: frozenset[str]


class Column(NamedTuple):
    """A label column: of all images of a set, or of a sample of `take`."""

    task: str
    images: str
    take: int


class Foreseen:
    """Follows the stages of a pipeline in their order: each is checked against what those before it make."""

    def __init__(self, workdir: Path, data_dir: str) -> None:
        self._workdir, self._data_dir = workdir, data_dir
        self._sets: dict[str, Coming] = {}  # those that will be prepared
        self._few: dict[str, dict[str, int]] = {}  # held-out images -> tasks with few labels there, and how many
        self._runs: dict[Path, Run] = {}
        self._columns: dict[Path, Column] = {}
        self._labelled: set[Path] = set()  # label runs

    def mistakes(self, config: InPipeline) -> list[str]:
        """All that is wrong with the next stage, as far as it can be known before any work."""
        found = self._of_import(config) if isinstance(config, PrepareConfig) else self._basic(config)
        if not found:  # otherwise more would follow from the same mistake
            checks: dict[type, Callable[[Any], Iterator[str]]] = {
                TrainConfig: self._of_training,
                LabelConfig: self._of_labelling,
                AuditConfig: self._of_audit,
                EvaluateConfig: self._of_evaluation,
            }
            try:
                found = list(dict.fromkeys(checks[type(config)](config))) if type(config) in checks else []
            except UserError as error:  # what exists is damaged
                found = [str(error)]
        return found

    def add(self, name: str, config: InPipeline, kept: bool = False) -> None:
        """The stage will have run.

        Args:
          kept: it is finished and stays as it is, so what it has made can be asked.
        """
        folder = self._workdir / name
        match config:
            case PrepareConfig():
                if kept:
                    with contextlib.suppress(UserError):  # damaged, which its own run tells
                        self._sets[config.name] = importing.look(config)
                self._sets.setdefault(config.name, _not_looked_at(config))
            case TrainConfig() if not (kept and (folder / MODEL_FILE).exists()):
                measured: set[str] = set()
                with contextlib.suppress(UserError):  # a mistake of its own
                    for each in config.validation:
                        measured |= self._tasks_of(each) & {*(each.tasks or config.tasks)}
                labelling = {*config.tasks} - {*without_labels(config.tasks)}
                self._runs[folder] = Run(config.model, frozenset(labelling), frozenset(measured))
            case LabelConfig():
                self._labelled.add(folder)
                for teacher in config.teachers:
                    for task in self._labelled_by(teacher):
                        column = Column(task, config.images, config.take)
                        self._columns[folder / COLUMNS / f"{teacher.called}-{task}"] = column

    def _labelled_by(self, teacher: TeacherConfig) -> Iterable[str]:
        """The names of its tasks here; any, if it is not there yet."""
        if teacher.run is None:
            return teacher.tasks
        tasks = self._run(teacher.model).tasks if self._is_run(teacher.model) else TASKS
        return [teacher.names.get(task, task) for task in tasks]

    def told(self) -> Iterator[str]:
        """What is no mistake, but worth a look before the work begins."""
        for images, tasks in self._few.items():
            labelled = ", ".join(f"{counted(count, 'label')} of {task}" for task, count in tasks.items())
            yield f"look at {images}: it has only {labelled}, so what is measured there says little"

    def _of_import(self, config: PrepareConfig) -> list[str]:
        if found := import_mistakes(config):
            return found
        try:
            self._sets[config.name] = importing.look(config)
        except UserError as error:  # what exists is damaged
            return [str(error)]
        return self._sets[config.name].mistakes

    def _too_small(
        self, where: str, source: SourceConfig, tasks: Collection[str], measured: bool = True
    ) -> Iterator[str]:
        """Parts of sets that will be prepared: those without labels. Those with few are noted, if they are measured."""
        name = source.images.partition(":")[0]
        if TRUTH not in source.labels or (coming := self._sets.get(name)) is None or coming.length is None:
            return
        parts = [slice(start, end) for _, start, end in _positions(source.images, coming.length)]
        images = sum(part.stop - part.start for part in parts)
        if not images:
            yield f"{where} ({source.images}) has none of the {coming.length} images of {name}; take a larger part"
            return
        for task in (task for task in tasks if task in coming.labelled):
            count = sum(int(np.count_nonzero(coming.labelled[task][part])) for part in parts)
            if not count:
                total = int(np.count_nonzero(coming.labelled[task]))
                yield (
                    f"{where} ({source.images}): none of its {images} images has a label of {task}, of {total} in "
                    f"{name}; take a larger part"
                )
            elif count < _FEW and measured:
                self._few.setdefault(source.images, {})[task] = count

    def _basic(self, config: Any) -> list[str]:
        return mistakes_of(config, {*self._runs, *self._columns, *self._labelled}, self._sets.keys())

    def _of_training(self, config: TrainConfig) -> Iterator[str]:
        known: set[str] = set()
        for number, source in enumerate(config.train):
            yield from self._misfits(f"config.train.{number}", source)
            if len(config.train) == 1:  # of several, others may have the labels
                yield from self._too_small("config.train.0", source, config.tasks, measured=False)
            known |= self._tasks_of(source)
        known |= (alone := {*without_labels(config.tasks)})
        known -= {*config.columns.drop}
        kept = set(config.tasks) & {*config.columns.keep} or set(config.tasks)
        for task in kept - known - {*config.columns.drop}:
            yield f"no images are labelled for task '{task}'; labelled are: {', '.join(sorted(known)) or 'none'}"
        yield from self._unlike({*config.tasks}, [*config.train, *config.validation])

        first: dict[str, int] = {}
        metrics: list[str] = []
        for number, each in enumerate(config.validation):
            where, tasks = f"config.validation.{number}", self._tasks_of(each) | alone
            yield from self._misfits(where, each)
            for task in each.tasks:
                if task not in tasks:
                    yield f"{where}.tasks names '{task}', but {each.images} has no labels of it"
            measured = [task for task in config.tasks if task in tasks and task in (each.tasks or config.tasks)]
            if not measured:
                yield f"{where} ({each.images}) has labels of no task that is trained here; remove it"
            yield from self._too_small(where, each, measured)
            for task in measured:
                before = first.setdefault(task, number)
                if before != number and not each.name:
                    yield (
                        f"{task} is measured on config.validation.{before} and on {where}; name the second one, for "
                        f"example --{where}.name=other, or leave the task out with --{where}.tasks"
                    )
                metrics += [
                    f"{metric}{f'@{each.name}' if before != number else ''}"
                    for metric in _metrics(task, kind_of(task, config.tasks[task]).kind)
                ]
        for key, names in (("minimum", [*config.minimum]), ("best", [config.best] if config.best else [])):
            for name in names:
                if name not in metrics:
                    yield f"config.{key} names '{name}', which is not measured; {nearest(name, metrics)}"
        yield from validation.errors_named(config)
        yield from _of_memory(config.model, config.input_hw)
        if config.init:
            yield from self._of_another("init", config.init, config.model, starting.needed(config))

    def _of_labelling(self, config: LabelConfig) -> Iterator[str]:
        known: set[str] = set()
        names: set[str] = set()
        for teacher in config.teachers:
            if (name := teacher.called) in names:
                yield f"two teachers are called '{name}', which names their columns; give one of them another name"
            names.add(name)
            known |= {*teacher.tasks}
            try:
                loading.check(teacher)
            except UserError as error:
                yield str(error)
            if teacher.run is None:
                continue
            if not self._is_run(teacher.model):
                yield f"{teacher.model} is not a training run; name one in config.teachers"
                continue
            run = self._run(teacher.model)
            if not run.tasks:
                yield f"{teacher.model} learns from images alone and has no labels to give; name another teacher"
            known |= {*self._labelled_by(teacher)}
            for task in sorted(run.tasks - run.measured):
                if teacher.names.get(task, task) in config.accept_failed:
                    continue
                yield (
                    f"{teacher.model} is not validated on {task}, so it will be unknown whether it has learnt it; add "
                    f"its validation, or label with it anyway with config.accept_failed={task}"
                )
        for key, chosen in (("tasks", config.tasks), ("accept_failed", config.accept_failed)):
            for task in chosen:
                if task not in known:
                    yield f"config.{key} names '{task}', which no teacher knows; {nearest(task, known)}"

    def _of_audit(self, config: AuditConfig) -> Iterator[str]:
        source = SourceConfig(images=config.images, take=config.take, labels=config.columns)
        yield from self._misfits("config", source)

    def _of_evaluation(self, config: EvaluateConfig) -> Iterator[str]:
        for name, folder in config.inits.items():
            if folder and not files.are_at(folder):
                yield from self._of_another(f"inits.{name}", folder, config.model, None)
        for name, each in config.downstream.items():
            splits = {"train": each.train, "validation": each.validation, "test": each.test}
            for split, source in splits.items():
                where = f"config.downstream.{name}.{split}"
                yield from self._misfits(where, source)
                if each.task not in self._tasks_of(source):
                    yield f"{where} ({source.images}) has no labels of task '{each.task}'; use images that do"
                yield from self._too_small(where, source, [each.task], split != "train")
            yield from self._unlike({each.task}, [*splits.values()])
            if self._overlap(each.test, each.train):
                yield (
                    f"config.downstream.{name}.test ({each.test.images}) shares images with its train "
                    f"({each.train.images}); test on other images than those trained on"
                )
        yield from _of_memory(config.model, config.input_hw)

    def _of_another(self, key: str, folder: str, model: ModelConfig, fields: tuple[str, ...] | None) -> Iterator[str]:
        """What differs between a model and that of a run to start from. `fields`: None = all that make the network."""
        if not self._is_run(folder):
            yield f"config.{key}: {folder} is not a training run"
            return
        theirs = self._run(folder).model
        differ = [
            f"{field} is {getattr(model, field)} here and {getattr(theirs, field)} there"
            for field in model.differing(theirs, fields)
        ]
        if differ:
            yield f"config.model is not that of config.{key} ({folder}): {', '.join(differ)}; make them the same"

    def _unlike(self, tasks: Collection[str], sources: Sequence[SourceConfig]) -> Iterator[str]:
        """True labels of one task that are declared with different classes."""
        first: dict[str, tuple[str, tuple[str, ...]]] = {}
        for source in sources:
            name = source.images.partition(":")[0]
            known = self._sets[name].classes if name in self._sets and TRUTH in source.labels else {}
            for stored, classes in known.items():
                task = source.called(stored)
                if task in tasks and classes and first.setdefault(task, (name, classes))[1] != classes:
                    others, theirs = first[task]
                    yield (
                        f"the {task} labels of {name} have the classes {', '.join(classes)}, but those of {others} "
                        f"have {', '.join(theirs)}; give both the same list"
                    )

    def _misfits(self, where: str, source: SourceConfig) -> Iterator[str]:
        """Columns that label other images than those that they are read with."""
        for label in source.labels:
            for folder, column in self._columns_of(label).items():
                if not are_same(column.images, source.images):
                    yield f"{where}: {folder} labels {column.images}, not {source.images}; read it with those images"
                elif column.take and not 0 < source.take <= column.take:
                    read = f"take={source.take}" if source.take else "all of them"
                    yield (
                        f"{where}: {folder} labels a sample of {column.take} images of {column.images} (take), but "
                        f"{read} are to be read; set take={column.take} here as well"
                    )

    def _columns_of(self, label: str) -> dict[Path, Column]:
        """Folder -> column, for those that will be written, and those of other runs that exist."""
        path = Path(label)
        coming = {each: column for each, column in self._columns.items() if path in (each, each.parent.parent)}
        if coming or label == TRUTH or not path.is_dir() or path in self._labelled:
            return coming
        found = {}
        for folder in find_columns(path):
            made = manifest.read(folder)
            take = made.images.length if made.images.sampled else 0
            found[folder] = Column(made.task, made.images.name, take)
        return found

    def _tasks_of(self, source: SourceConfig) -> frozenset[str]:
        """The tasks for which a source has labels."""
        tasks: set[str] = set()
        for label in source.labels:
            if label == TRUTH:
                tasks |= {source.called(task) for task in self._truths(source.images)}
            tasks |= {source.called(column.task, folder.name) for folder, column in self._columns_of(label).items()}
        return frozenset(tasks)

    def _truths(self, spec: str) -> frozenset[str]:
        """The tasks of the labels that are stored with an image set."""
        dataset, _, _ = spec.partition(":")
        if dataset.startswith("scenes/"):
            made = scenes.CONFIGS.get(dataset.removeprefix("scenes/"))
            return frozenset(made.truths) if made else frozenset()
        known = frozenset(self._sets[dataset].classes if dataset in self._sets else ())
        if dataset == "folder" or not (Path(self._data_dir).expanduser() / dataset).is_dir():
            return known
        try:
            images = open_images(spec, self._data_dir)
        except UserError:  # half prepared, or `_basic` tells what is wrong
            return known
        return known | images.labels.keys() | {folder.name for folder in beside(images)}

    def _overlap(self, some: SourceConfig, others: SourceConfig) -> bool:
        names = [each.images.partition(":")[0] for each in (some, others)]
        if "folder" in names or names[0] != names[1]:
            return False
        if names[0].startswith("scenes/") or names[0] in self._sets:
            mine, theirs = (_positions(each.images) for each in (some, others))
            return any(a[0] == b[0] and max(a[1], b[1]) < min(a[2], b[2]) for a in mine for b in theirs)
        return shared(*(open_images(each.images, self._data_dir, each.take) for each in (some, others))) > 0

    def _is_run(self, folder: str) -> bool:
        return Path(folder) in self._runs or (Path(folder) / MODEL_FILE).exists()

    def _run(self, folder: str) -> Run:
        if (coming := self._runs.get(Path(folder))) is not None:
            return coming
        made = description.read(folder)
        labelling = {*made.tasks} - {*without_labels({name: task.options for name, task in made.tasks.items()})}
        return Run(made.model, frozenset(labelling), frozenset(name.split("/")[0] for name in made.metrics))


def _not_looked_at(config: PrepareConfig) -> Coming:
    """What is known of a set that has mistakes, or that stays as it is."""
    classes = {}
    for task, labels in config.labels.items():
        with contextlib.suppress(UserError):  # a mistake of its own
            classes[task] = importing.declared(labels)
    return Coming(None, {task: classes.get(task, ()) for task in config.labels}, {}, [])


def _positions(spec: str, length: int = _ANY_COUNT) -> list[tuple[str, int, int]]:
    """The parts of a set that is to be prepared: split, first position, end; () if they cannot be told."""
    dataset, _, split = spec.partition(":")
    counts = {SPLIT: length}
    if dataset.startswith("scenes/"):
        counts = dict(scenes.CONFIGS[dataset.removeprefix("scenes/")].images)
    infos = {name: tfds.core.SplitInfo(name, [count], 0) for name, count in counts.items()}
    try:
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    except (ValueError, AssertionError):
        return []
    return [(part.splitname, part.from_ or 0, counts[part.splitname] if part.to is None else part.to) for part in parts]


@functools.cache
def _metrics(task: str, kind: str) -> tuple[str, ...]:
    """The names of the metrics of a task, as they are measured on validation images."""
    built = build_task(task, _ANY_CLASSES if TASKS[kind].has_classes else (), {"kind": kind})
    return tuple(f"{task}/{name}" for name in built.metrics().result())


@functools.cache
def _of_memory(model: ModelConfig, input_hw: tuple[int, int]) -> tuple[str, ...]:
    try:
        memory.check_model(build_model(model, {}), input_hw)
    except UserError as error:
        return (str(error),)
    return ()
