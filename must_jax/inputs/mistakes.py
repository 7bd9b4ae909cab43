"""Everything wrong with a stage's config that can be found before any image is rendered or opened."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from must_jax import description
from must_jax.config import AuditConfig, DownstreamConfig, EvaluateConfig, LabelConfig, TeacherConfig, TrainConfig
from must_jax.data import scenes
from must_jax.data.image_sets import check_splits, open_images
from must_jax.data.shards import COLUMNS, SPLIT
from must_jax.engine import distributed
from must_jax.errors import UserError, nearest
from must_jax.files import MODEL_FILE
from must_jax.inputs import memory
from must_jax.inputs.named import StageConfig, mesh_of, named, names_of
from must_jax.inputs.sources import TRUTH
from must_jax.tasks import TASKS, check_options, kind_of, without_labels
from must_jax.weights import files


def check_config(config: StageConfig, made: Collection[Path] = ()) -> None:
    """Raises the first of `mistakes_of`, if there are any, as a UserError."""
    for mistake in mistakes_of(config, made)[:1]:
        raise UserError(mistake)


def mistakes_of(config: StageConfig, made: Collection[Path] = (), sets: Collection[str] = ()) -> list[str]:
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

    about = named(config)
    known = {name for name, _ in about.tasks}
    for name, options in about.tasks:
        look(check_options, name, options)
    if not isinstance(config, AuditConfig):  # uses no devices
        look(mesh_of, config)
    if isinstance(config, TrainConfig | EvaluateConfig):
        for size in about.batch_sizes:
            look(memory.check_batch, size // distributed.processes(), config.input_hw)
    for key, run in about.runs:
        look(_check_run, f"config.{key}", run, made)
    for source in about.sources:
        for task in source.min_confidence.keys() - known:
            look(check_options, task, {})
        for label in source.labels:
            look(_check_label, label, made)
        look(_check_images, source.images, config.data_dir, sets)
    if isinstance(config, EvaluateConfig):
        for name, each in config.downstream.items():
            look(_check_measurable, name, each)
        for name, path in config.inits.items():
            if files.are_at(path):
                look(files.check, path, f"config.inits.{name}")
    if isinstance(config, TrainConfig):
        look(_check_chosen, config, made)
        look(_check_whole, config)
        if config.model.weights:
            look(files.check, config.model.weights)
    return found


def outputs_of(stages: Mapping[str, StageConfig], workdir: Path) -> set[Path]:
    """The runs, label runs and columns that the stages of a pipeline in `workdir` will create."""
    training = {name: stage for name, stage in stages.items() if isinstance(stage, TrainConfig)}
    tasks = {workdir / name: {*stage.tasks} - {*without_labels(stage.tasks)} for name, stage in training.items()}
    columns = {
        workdir / name / COLUMNS / f"{teacher.called}-{task}"
        for name, stage in stages.items()
        if isinstance(stage, LabelConfig)
        for teacher in stage.teachers
        for task in _tasks_of(teacher, tasks)
    }
    label_runs = {workdir / name for name, stage in stages.items() if isinstance(stage, LabelConfig)}
    return {*tasks, *label_runs, *columns}


def _tasks_of(teacher: TeacherConfig, coming: Mapping[Path, Collection[str]]) -> Iterable[str]:
    """The names that its tasks have here; any, of a run from elsewhere that is not there yet."""
    if teacher.run is None:
        return teacher.tasks
    tasks: Iterable[str] = coming.get(teacher.run, TASKS)
    if teacher.run not in coming and (teacher.run / MODEL_FILE).exists():
        tasks = description.read(teacher.run).tasks
    return (teacher.names.get(task, task) for task in tasks)


def _check_run(key: str, run: str, made: Collection[Path]) -> None:
    if Path(run) not in made and not Path(run).is_dir():
        raise UserError(f"{key}: there is no run {run}; train it first, or correct the path")


def _check_measurable(name: str, downstream: DownstreamConfig) -> None:
    if kind_of(downstream.task, downstream.options).self_supervised:
        raise UserError(
            f"config.downstream.{name}.task is '{downstream.task}', which learns from images alone and solves no task; "
            "name a task with labels"
        )


def _check_whole(config: TrainConfig) -> None:
    if config.accumulate > 1 and (alone := without_labels(config.tasks)):
        raise UserError(
            f"{alone[0]} compares all images of a batch with each other, but config.accumulate={config.accumulate} "
            "would show it a part at a time; set it to 1, and save memory with config.remat instead"
        )


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


def _check_chosen(config: TrainConfig, made: Collection[Path]) -> None:
    known = {*config.tasks}.union(*(names_of(label, made) for source in config.train for label in source.labels))
    for key, names in config.columns:
        for name in names:
            if name not in known:
                raise UserError(
                    f"config.columns.{key} names '{name}', which is neither a task nor the source of a column here; "
                    f"{nearest(name, known)}"
                )
