"""Turns configs into what a training run reads: image sets with their label columns, tasks, loss weights."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from must_jax import description
from must_jax.config import (
    AuditConfig,
    EvaluateConfig,
    LabelConfig,
    OptimizerConfig,
    SourceConfig,
    TrainConfig,
)
from must_jax.data import scenes, units
from must_jax.data.image_sets import Column, ImageSet, check_splits, open_images
from must_jax.data.pipeline import Batch, Source
from must_jax.data.shards import COLUMNS, SPLIT
from must_jax.engine import distributed
from must_jax.engine.mesh import make_mesh, setup_devices
from must_jax.errors import UserError, nearest
from must_jax.files import MODEL_FILE
from must_jax.labels import manifest, verify
from must_jax.labels.columns import LabelColumn, beside, open_beside, open_column
from must_jax.labels.manifest import Manifest, TeacherRecord
from must_jax.progress import say
from must_jax.stages import memory
from must_jax.stages.labels import find
from must_jax.tasks import TASKS, build_task, check_options
from must_jax.tasks.base import Task

TRUTH = "truth"
MAX_UNREADABLE = 0.01  # share of the images; with more, the data is not what the user thinks it is


StageConfig = TrainConfig | LabelConfig | AuditConfig | EvaluateConfig


class Named(NamedTuple):
    """What a stage's config refers to: tasks with options, image sets with columns, runs, and batch sizes."""

    tasks: Iterable[tuple[str, Mapping[str, Any]]]
    sources: Sequence[SourceConfig]
    runs: Sequence[tuple[str, str]]  # key and folder
    batch_sizes: Sequence[int]


def check(config: StageConfig, made: Collection[Path] = ()) -> None:
    """Raises the first of `mistakes`, if there are any, as a UserError."""
    for mistake in mistakes(config, made)[:1]:
        raise UserError(mistake)


def mistakes(config: StageConfig, made: Collection[Path] = (), sets: Collection[str] = ()) -> list[str]:
    """Everything wrong with a stage that can be found before any image is rendered or opened.

    An unknown task or option, devices that do not exist or cannot share the batches, too little memory for a batch, an
    image set, split, column or run that does not exist.

    Args:
      made: runs and columns that need not exist yet.
      sets: names of image sets that need not exist yet.
    """
    found: list[str] = []

    def look(into: Callable[..., object], *arguments: Any) -> None:
        try:
            into(*arguments)
        except UserError as error:
            if str(error) not in found:
                found.append(str(error))

    named = _named(config)
    for name, options in named.tasks:
        look(check_options, name, options)
    if not isinstance(config, AuditConfig):  # uses no devices
        look(mesh_of, config)
    if isinstance(config, TrainConfig | EvaluateConfig):
        for size in named.batch_sizes:
            look(memory.check_batch, size // distributed.processes(), config.image_size)
    for key, run in named.runs:
        look(_check_run, f"config.{key}", run, made)
    for source in named.sources:
        for task in source.min_confidence:
            look(check_options, task, {})
        for label in source.labels:
            look(_check_label, label, made)
        look(_check_images, source.images, config.data_dir, sets)
    if isinstance(config, TrainConfig):
        look(_check_chosen, config, made)
    return found


def outputs(stages: Mapping[str, StageConfig], workdir: Path) -> set[Path]:
    """The runs, label runs and columns that the stages of a pipeline in `workdir` will create."""
    tasks = {workdir / name: stage.tasks for name, stage in stages.items() if isinstance(stage, TrainConfig)}
    columns = {
        workdir / name / COLUMNS / f"{Path(teacher).name}-{task}"
        for name, stage in stages.items()
        if isinstance(stage, LabelConfig)
        for teacher in stage.teachers
        for task in tasks.get(Path(teacher), TASKS)  # any task, for a run from elsewhere
    }
    label_runs = {workdir / name for name, stage in stages.items() if isinstance(stage, LabelConfig)}
    return {*tasks, *label_runs, *columns}


def mesh_of(config: TrainConfig | LabelConfig | EvaluateConfig) -> Mesh:
    """The devices that a stage runs on; raises the same errors as `make_mesh`.

    Training uses those of all processes. Other stages divide their work among the processes, each on its own devices.
    """
    batch_sizes = _named(config).batch_sizes
    if isinstance(config, TrainConfig):
        setup_devices(config.devices, config.ready_within_s)
        return make_mesh(config.devices, batch_sizes, config.fsdp)
    setup_devices(config.devices)
    own = max(1, config.devices // distributed.processes()) if config.devices else 0
    return make_mesh(own, batch_sizes, devices=jax.local_devices())


def run_digest(run: str) -> str | None:
    """The digest of a finished training run's parameters; None without such a run. Reads no checkpoint."""
    return description.read(run).digest if run and (Path(run) / MODEL_FILE).exists() else None


class _Offered(NamedTuple):
    """A column that can be read with an image set; `maker` is its teacher's name, or TRUTH."""

    task: str
    maker: str
    open: Callable[[], Column]


def open_source(config: SourceConfig, data_dir: str, tasks: Collection[str]) -> Source:
    """The image set with its label columns for `tasks`.

    Raises:
      UserError: images or a column that are missing or do not match, a threshold that cannot be applied.
    """
    images = open_images(config.images, data_dir, config.take)
    return Source(images, tuple(column.open() for column in _offered(config, images, tasks)))


def open_training(config: TrainConfig) -> tuple[list[Source], dict[str, dict[str, Any]]]:
    """The training sources with the labels that `config.columns` chooses, and the tasks that remain.

    Sources without any labels left are removed. So are tasks; but one that had no labels to begin with stays, since
    that is an error rather than a choice, unless `drop` names it, or `keep` names other tasks. Columns that are not
    chosen are not opened.

    Raises:
      UserError: as `open_source`, or nothing remains.
    """
    drop, keep = {*config.columns.drop}, {*config.columns.keep}
    images = [open_images(source.images, config.data_dir, source.take) for source in config.train]
    offered = [_offered(source, each, config.tasks) for source, each in zip(config.train, images, strict=True)]
    chosen = [[column for column in columns if config.columns.reads(column.task, column.maker)] for columns in offered]
    before, after = ({column.task for columns in each for column in columns} for each in (offered, chosen))
    kept = config.tasks.keys() & keep or config.tasks.keys()
    wanted = after | (kept - before - drop)
    left = {name: options for name, options in config.tasks.items() if name in wanted}
    if not left:
        raise UserError("config.columns leaves no labels to train on; drop fewer, or keep more")
    sources = [
        Source(each, tuple(column.open() for column in columns))
        for each, columns, all_ in zip(images, chosen, offered, strict=True)
        if columns or not all_
    ]
    return sources, left


def _offered(config: SourceConfig, images: ImageSet, tasks: Collection[str]) -> list[_Offered]:
    """The columns of a source for these tasks, true ones first."""

    def opened(folder: Path, task: str) -> Column:
        column = open_column(folder, images)
        return column.at_least(config.min_confidence[task]) if task in config.min_confidence else column

    true: list[_Offered] = []
    predicted: list[_Offered] = []
    stored = set()
    for label in config.labels:
        if label == TRUTH:
            for task in images.labels:
                true.append(_Offered(task, TRUTH, functools.partial(images.labels.__getitem__, task)))
            for folder in beside(images, tasks):
                true.append(_Offered(folder.name, TRUTH, functools.partial(open_beside, folder, images)))
            continue
        for folder in _folders(label, tasks):
            made = manifest.read(folder)
            stored.add(made.task)
            column = _Offered(made.task, maker_of(made), functools.partial(opened, folder, made.task))
            (predicted if made.teacher else true).append(column)
    for task in config.min_confidence:
        if task not in stored:
            raise UserError(
                f"min_confidence.{task} is set, but {images.name} is read without a label column of that task; "
                "remove it, or add the column to labels"
            )
    return [column for column in (*true, *predicted) if column.task in tasks]


def maker_of(column: Manifest) -> str:
    """The teacher's name, or TRUTH."""
    return column.teacher.name if column.teacher else TRUTH


def check_unchanged(columns: Iterable[Column], within_s: float = distributed.READY_WITHIN_S) -> None:
    """Reads the label columns that have changed since they were last read, every byte of them.

    An unreadable label should not end a training run of days. Processes that see the same files share them.

    Args:
      within_s: how long to wait for the other processes; without them, this one reads all.

    Raises:
      UserError: labels were changed or damaged since they were written.
    """
    stored = {column.folder: column.manifest for column in columns if isinstance(column, LabelColumn)}  # each once
    shards = [(folder, shard) for folder, column in stored.items() for shard in column.shards]
    if not shards:
        return
    alike = distributed.are_alike(verify.state(shards), within_s)
    verify.check_unchanged(shards, (distributed.position(), distributed.processes()) if alike else (0, 1))


def build_tasks(
    options: Mapping[str, Mapping[str, Any]], sources: Sequence[Source], max_boxes: int, also: Sequence[Source] = ()
) -> dict[str, Task]:
    """The tasks of a config, with the class names from their columns. Labels of `also` only have to match.

    Raises:
      UserError: an unknown task or option, a task without labels, columns whose classes or units differ.
    """
    tasks = {}
    for name, chosen in options.items():
        columns = [column for source in sources for column in source.columns if column.task == name]
        if name in TASKS and not columns:
            others = f", or drop the task with --config.columns.drop={name}" if len(options) > 1 else ""
            labelled = _labelled(sources)
            raise UserError(
                f"no images are labelled for task '{name}'; labelled are: {labelled}; provide its labels{others}"
            )
        classes = columns[0].classes if columns else ()
        tasks[name] = build_task(name, classes, {"max_boxes": max_boxes, **chosen})
    for source in sources:
        _check_fit(source, tasks)
    for source in also:
        to_measure(source, tasks)
    return tasks


def to_measure(source: Source, tasks: Mapping[str, Task]) -> Source:
    """The source, to measure predictions against: maps in metres are read in the units of their tasks.

    Raises:
      UserError: the classes of its labels are not those of their tasks, or their units are others.
    """
    source = source.in_units_of({name: task.label for name, task in tasks.items()})
    _check_fit(source, tasks)
    return source


def loss_weights(
    tasks: Mapping[str, Task], sources: Sequence[Source], batch_size: int, optimizer: OptimizerConfig
) -> dict[str, float]:
    """Task -> weight: as set; else (b_s lr_t) / (b_t lr_s) of student s and teacher t (paper 4.1); 1 for true labels.

    The rule compares learning rates of the same optimizer. If the teacher used another optimizer, or has no learning
    rate, the weight is 1. A teacher without a recorded optimizer is assumed to have used the student's.
    Both are printed. If a task has several teachers, the first one decides.
    """
    weights = {}
    for name, task in tasks.items():
        columns = (column for source in sources for column in source.columns if column.task == name)
        teachers = [teacher for column in columns if (teacher := getattr(column, "teacher", None))]
        weights[name], why = 1.0, ""
        if task.weight is not None:
            weights[name] = task.weight
        elif teachers:
            weights[name], why = _loss_weight(teachers[0], batch_size, optimizer)
            if any(_loss_weight(each, batch_size, optimizer)[0] != weights[name] for each in teachers[1:]):
                decides = f"its first teacher, {teachers[0].name}, decides; others had different settings"
                why = f"{why}; {decides}" if why else decides
        if why:
            say(f"the loss weight of {name} is {weights[name]:.4g}: {why}; set config.tasks.{name}.weight to change it")
    return weights


def _loss_weight(teacher: TeacherRecord, batch_size: int, optimizer: OptimizerConfig) -> tuple[float, str]:
    """The weight, and why it does not simply follow the rule."""
    if not teacher.learning_rate or not teacher.batch_size:
        return 1.0, f"{teacher.name} has no learning rate or batch size to compare with"
    if teacher.optimizer not in ("", optimizer.name):
        kind = f"{teacher.optimizer}, whose learning rates are not comparable to those of {optimizer.name}"
        return 1.0, f"{teacher.name} was trained with {kind}"
    weight = (batch_size * teacher.learning_rate) / (teacher.batch_size * optimizer.learning_rate)
    assumed = f"{teacher.name} does not record its optimizer, {optimizer.name} is assumed"
    return weight, "" if teacher.optimizer else assumed


def fingerprint(sources: Sequence[Source], key: str = "train") -> dict[str, Any]:
    """Identifies images and labels: a resumed run must read the same data. `key`: where the config names them."""
    data: dict[str, Any] = {}
    for i, (images, columns) in enumerate((source.images, source.columns) for source in sources):
        data |= {f"{key}.{i}.images": images.digest, f"{key}.{i}.length": len(images)}
        data |= {f"{key}.{i}.sampled": images.which()} if images.sampled else {}
        for j, column in enumerate(columns):
            made = getattr(column, "manifest", None)
            maker = f"{made.teacher.digest if made.teacher else made.maker}, {_content(made)}" if made else TRUTH
            data[f"{key}.{i}.labels.{j}"] = f"{column.task} by {maker}"
            least = getattr(column, "min_confidence", None)
            if made and least != made.min_confidence:
                data[f"{key}.{i}.labels.{j}.min_confidence"] = least
    return data


def lengths(sources: Sequence[Source]) -> dict[str, int]:
    """Image set -> number of images."""
    return {source.images.name: len(source.images) for source in sources}


class Unreadable:
    """Images and labels that could not be read: named once and counted; too many of them end the run.

    A single process checks this itself; several processes, which read parts of the batches, check when they compare.
    """

    def __init__(self, images: Mapping[str, int]) -> None:
        """`images`: image set -> its length."""
        self.found: dict[str, str] = {}  # what -> why
        self._images = images
        self._most = max(1, int(MAX_UNREADABLE * sum(images.values())))

    def add(self, what: str, why: str) -> None:
        if what not in self.found:
            self.found[what] = why
            say(f"skipped: {what}, {why}")

    def guard(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches.

        Raises:
          UserError: more than 1 % of the images cannot be read.
        """
        for batch in batches:
            if distributed.processes() == 1:
                self._check()
            yield batch
        if distributed.processes() == 1:
            self._check()  # errors that occurred during the last batch

    def shares(self) -> dict[str, float]:
        """ "unreadable/image set" -> share of its images, over all processes; sets without any are omitted.

        Raises:
          UserError: as `guard`, in all processes.
        """
        for others in distributed.gather(dict(self.found)):  # a copy: reader threads keep adding to it
            for what, why in others.items():
                self.add(what, why)
        self._check()
        counts = Counter(what.rpartition("[")[0] for what in dict(self.found))
        return {f"unreadable/{name}": count / self._images[name] for name, count in counts.items()}

    def _check(self) -> None:
        if len(self.found) > self._most:
            raise UserError(f"{len(self.found)} images cannot be read (listed above); repair the data")


def _named(config: StageConfig) -> Named:
    match config:
        case TrainConfig():
            sources = [*config.train, *config.validation]
            runs = [("init", config.init)] if config.init else []
            return Named(config.tasks.items(), sources, runs, [config.batch_size // config.accumulate])
        case LabelConfig():  # pads its batches
            runs = [("teachers", teacher) for teacher in config.teachers]
            return Named(config.tasks.items(), [SourceConfig(images=config.images)], runs, [])
        case AuditConfig():
            compared = [SourceConfig(images=name) for name in config.evaluation]
            return Named([], [SourceConfig(images=config.images, labels=config.columns), *compared], [], [])
        case EvaluateConfig():
            sets = config.downstream.values()
            return Named(
                [(each.task, each.options) for each in sets],
                [source for each in sets for source in (each.train, each.validation, each.test)],
                [(f"inits.{name}", run) for name, run in config.inits.items() if run],
                [transfer.batch_size for transfer in config.transfers],
            )


def _check_run(key: str, run: str, made: Collection[Path]) -> None:
    if Path(run) not in made and not Path(run).is_dir():
        raise UserError(f"{key}: there is no run {run}; train it first, or correct the path")


def _check_label(label: str, made: Collection[Path]) -> None:
    if label != TRUTH and Path(label) not in made and not Path(label).is_dir():
        raise UserError(f"there is no label column {label}; run the label stage first, or correct the path")


def _check_images(spec: str, data_dir: str, sets: Collection[str] = ()) -> None:
    """Checks an image set as `open_images` does, but renders nothing and reads no photo."""
    dataset, _, rest = spec.partition(":")
    name = dataset.removeprefix("scenes/")
    if dataset in sets:
        check_splits(spec, rest, (SPLIT,))
    elif dataset == "folder":
        if not Path(rest).expanduser().is_dir():
            raise UserError(f"images='{spec}': there is no folder {rest}; name a folder with photos")
    elif name == dataset:
        open_images(spec, data_dir)
    elif name not in scenes.CONFIGS:
        raise UserError(f"'{dataset}' is not a config of scenes; {nearest(name, scenes.CONFIGS)}")
    else:
        check_splits(spec, rest, scenes.CONFIGS[name].images)


def _folders(label: str, tasks: Collection[str]) -> list[Path]:
    """The column in that folder; for a label run, its columns of `tasks`."""
    folders = find(Path(label))
    return folders if folders == [Path(label)] else [each for each in folders if manifest.read(each).task in tasks]


def _check_chosen(config: TrainConfig, made: Collection[Path]) -> None:
    known = {*config.tasks}.union(*(names_of(label, made) for source in config.train for label in source.labels))
    for key, names in config.columns:
        for name in names:
            if name not in known:
                raise UserError(
                    f"config.columns.{key} names '{name}', which is neither a task nor the source of a column here; "
                    f"{nearest(name, known)}"
                )


def names_of(label: str, made: Collection[Path] = ()) -> set[str]:
    """The tasks and makers of the labels; for columns that do not exist yet, from their folder names."""
    if label == TRUTH:
        return {TRUTH}
    path = Path(label)
    coming = [each for each in made if each.parent.name == COLUMNS and path in (each, each.parent.parent)]
    if coming or not path.exists():
        return {name for each in coming or [path] for name in each.name.rpartition("-")[::2]}
    columns = map(manifest.read, find(path))
    return {name for each in columns for name in (each.task, maker_of(each))}


def _content(column: Manifest) -> str:
    """Changes with the rule and with any label of the column."""
    made_of = [column.rule, [shard.sha256 for shard in column.shards]]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


def _check_fit(source: Source, tasks: Mapping[str, Task]) -> None:
    for column in source.columns:
        if column.task in tasks:
            _check_fits(column, tasks[column.task], source.images.name)


def _check_fits(column: Column, task: Task, images: str) -> None:
    if column.classes != task.classes:
        raise UserError(
            f"the {column.task} labels of {images} have the classes {_listed(column.classes)}, "
            f"others have {_listed(task.classes)}; use labels with the same class list"
        )
    unit, expected = units.unit_of(column.kind), units.unit_of(task.label)
    if unit != expected:
        raise UserError(
            f"the {column.task} labels of {images} have the unit '{unit}', but config.tasks.{column.task} expects "
            f"'{expected}'; change the task's options or the labels"
        )


def _labelled(sources: Sequence[Source]) -> str:
    labelled = {column.task for source in sources for column in source.columns}
    stored = {task for source in sources for task in source.images.labels}
    stored |= {folder.name for source in sources for folder in beside(source.images)}
    unread = ", ".join(sorted(stored - labelled))
    return (", ".join(sorted(labelled)) or "none") + (
        f" (not read here, but stored with the images as '{TRUTH}': {unread})" if unread else ""
    )


def _listed(classes: Sequence[str]) -> str:
    return ", ".join(classes) or "none"
