"""From configs to what a training run reads: image sets with their label columns, tasks, loss weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from must_jax.config import EvaluateConfig, LabelConfig, SourceConfig, TrainConfig
from must_jax.data.image_sets import Column, open_images
from must_jax.data.pipeline import Batch, Source
from must_jax.errors import UserError
from must_jax.labels.columns import open_column
from must_jax.progress import say
from must_jax.tasks import TASKS, build_task, check_options
from must_jax.tasks.base import Task

TRUTH = "truth"
MAX_UNREADABLE = 0.01  # share of the images; with more the data is not what the user thinks it is


def check_task_options(config: TrainConfig | LabelConfig | EvaluateConfig) -> None:
    """Of all tasks that a stage's config sets; before any data is rendered or opened.

    Raises:
      UserError: an unknown task or option, a value out of range.
    """
    if isinstance(config, EvaluateConfig):
        chosen = [(downstream.task, downstream.options) for downstream in config.downstream.values()]
    else:
        chosen = list(config.tasks.items())
    for name, options in chosen:
        check_options(name, options)


def open_source(config: SourceConfig, data_dir: str, tasks: Collection[str]) -> Source:
    """The image set, and of its labels the columns of `tasks`.

    Raises:
      UserError: images or a column that are not there or do not fit each other.
    """
    for label in config.labels:
        if label != TRUTH and not Path(label).is_dir():
            raise UserError(f"there is no label column {label}; run the label stage first, or correct the path")
    images = open_images(config.images, data_dir, config.take)
    columns: list[Column] = []
    for label in config.labels:
        columns += images.labels.values() if label == TRUTH else [open_column(label, images)]
    return Source(images, tuple(column for column in columns if column.task in tasks))


def build_tasks(
    options: Mapping[str, Mapping[str, Any]], sources: Sequence[Source], max_boxes: int, also: Sequence[Source] = ()
) -> dict[str, Task]:
    """The tasks of a config, with the class names that their columns carry. Labels of `also` only have to fit.

    Raises:
      UserError: an unknown task or option, a task that nothing labels, columns whose classes or units differ.
    """
    tasks = {}
    for name, chosen in options.items():
        columns = [column for source in sources for column in source.columns if column.task == name]
        if name in TASKS and not columns:
            raise UserError(f"no images are labelled for task '{name}'; labelled are: {_labelled(sources)}")
        classes = columns[0].classes if columns else ()
        tasks[name] = build_task(name, classes, {"max_boxes": max_boxes, **chosen})
        for source in (*sources, *also):
            for column in (column for column in source.columns if column.task == name):
                _check_fits(column, tasks[name], source.images.name)
    return tasks


def loss_weights(
    tasks: Mapping[str, Task], sources: Sequence[Source], batch_size: int, learning_rate: float
) -> dict[str, float]:
    """Task -> weight: as set; else (b_s lr_t) / (b_t lr_s) of student s and teacher t (paper 4.1); 1 for truth."""
    weights = {}
    for name, task in tasks.items():
        columns = (column for source in sources for column in source.columns if column.task == name)
        teachers = [teacher for column in columns if (teacher := getattr(column, "teacher", None))]
        weights[name] = 1.0
        if task.weight is not None:
            weights[name] = task.weight
        elif teachers:
            teacher = teachers[0]
            weights[name] = (batch_size * teacher["learning_rate"]) / (teacher["batch_size"] * learning_rate)
    return weights


def fingerprint(sources: Sequence[Source]) -> dict[str, Any]:
    """What identifies the training data, for checkpoints: a run that continues must read the same."""
    data: dict[str, Any] = {}
    for i, (images, columns) in enumerate((source.images, source.columns) for source in sources):
        data |= {f"train.{i}.images": images.digest, f"train.{i}.length": len(images)}
        for j, column in enumerate(columns):
            maker = getattr(column, "teacher", None)
            data[f"train.{i}.labels.{j}"] = f"{column.task} by {maker['digest'] if maker else TRUTH}"
    return data


class Unreadable:
    """Images and labels that could not be read: named once, counted, too many of them end the run."""

    def __init__(self, images: int) -> None:
        self.found: dict[str, str] = {}  # what -> why
        self._most = max(1, int(MAX_UNREADABLE * images))

    def add(self, what: str, why: str) -> None:
        if what not in self.found:
            self.found[what] = why
            say(f"left out: {what}, {why}")

    def guard(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches.

        Raises:
          UserError: more than 1 % of the images cannot be read.
        """
        for batch in batches:
            if len(self.found) > self._most:
                raise UserError(f"{len(self.found)} images cannot be read, they are listed above; repair the data")
            yield batch


def _check_fits(column: Column, task: Task, images: str) -> None:
    if column.classes != task.classes:
        raise UserError(
            f"the {column.task} labels of {images} have the classes {_listed(column.classes)}, "
            f"others have {_listed(task.classes)}; use labels with one class list"
        )
    unit, expected = (getattr(kind, "unit", "") for kind in (column.kind, task.label))
    if unit != expected:
        raise UserError(
            f"the {column.task} labels of {images} have the unit '{unit}', but with config.tasks.{column.task} it is "
            f"'{expected}'; change the task's options or the labels"
        )


def _labelled(sources: Sequence[Source]) -> str:
    labelled = {column.task for source in sources for column in source.columns}
    labelled |= {task for source in sources for task in source.images.labels}
    return ", ".join(sorted(labelled)) or "none"


def _listed(classes: Sequence[str]) -> str:
    return ", ".join(classes) or "none"
