"""What is learnt from the sources: tasks with the classes of their labels, and the weights of their losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from must_jax.config import OptimizerConfig
from must_jax.data.batching import Source
from must_jax.data.image_sets import Column
from must_jax.data.kinds import LabelKind
from must_jax.errors import UserError
from must_jax.inputs.sources import TRUTH
from must_jax.labels.columns import beside
from must_jax.labels.manifest import TeacherRecord
from must_jax.progress import say
from must_jax.tasks import build_task, check_options
from must_jax.tasks.base import Task


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
        if not columns:
            check_options(name, chosen)  # a name that is misspelt has no labels, either
            others = f", or drop the task with --config.columns.drop={name}" if len(options) > 1 else ""
            labelled = _labelled(sources)
            raise UserError(
                f"no images are labelled for task '{name}'; labelled are: {labelled}; provide its labels{others}"
            )
        tasks[name] = build_task(name, columns[0].classes, {"max_boxes": max_boxes, **chosen})
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


def _check_fit(source: Source, tasks: Mapping[str, Task]) -> None:
    for column in source.columns:
        if column.task in tasks:
            _check_fits(column, tasks[column.task], source.images.name)


def _check_fits(column: Column, task: Task, images: str) -> None:
    if type(column.kind) is not type(task.label) or getattr(column.kind, "content", "") != getattr(
        task.label, "content", ""
    ):
        raise UserError(
            f"the {column.task} labels of {images} are {_told_kind(column.kind)}, but config.tasks.{task.name} is "
            f"of kind {task.kind}; read them under another name with names, or set config.tasks.{task.name}.kind"
        )
    if column.classes != task.classes:
        folder = getattr(column, "folder", None)
        stored = Path(folder).name if folder else column.task
        raise UserError(
            f"the {column.task} labels of {images} have the classes {_joined(column.classes)}, "
            f"others have {_joined(task.classes)}; use labels with the same class list, or give these a name and "
            f"a head of their own with --config.train.0.names.{stored}=NAME --config.tasks.NAME.kind={task.kind}"
        )
    unit, expected = column.kind.unit, task.label.unit
    if unit != expected:
        raise UserError(
            f"the {column.task} labels of {images} have the unit '{unit}', but config.tasks.{column.task} expects "
            f"'{expected}'; change the task's options or the labels"
        )


def _told_kind(kind: LabelKind) -> str:
    return {"VectorLabel": "distributions over classes", "BoxesLabel": "boxes"}.get(
        type(kind).__name__, f"maps of {getattr(kind, 'content', 'values')}"
    )


def _labelled(sources: Sequence[Source]) -> str:
    labelled = {column.task for source in sources for column in source.columns}
    stored = {task for source in sources for task in source.images.labels}
    stored |= {folder.name for source in sources for folder in beside(source.images)}
    unread = ", ".join(sorted(stored - labelled))
    return (", ".join(sorted(labelled)) or "none") + (
        f" (not read here, but stored with the images as '{TRUTH}': {unread})" if unread else ""
    )


def _joined(classes: Sequence[str]) -> str:
    return ", ".join(classes) or "none"
