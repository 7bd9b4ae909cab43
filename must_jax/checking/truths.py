"""True labels in the terms of a teacher: its classes, by their names, and its unit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from must_jax.config import SourceConfig
from must_jax.data.batching import Source
from must_jax.data.image_sets import Column, open_images
from must_jax.data.kinds import BoxesLabel, IdsLabel, Label, LabelKind, VectorLabel
from must_jax.inputs.sources import TRUTH, open_source
from must_jax.labels import manifest
from must_jax.labels.columns import beside, find_columns
from must_jax.tasks.base import Task

NONE = -1  # of a true class that the teacher does not know


class Labels(Protocol):
    """What is known about images, by their positions."""

    @property
    def kind(self) -> LabelKind: ...

    def __getitem__(self, position: int, /) -> Label: ...


@dataclass(frozen=True)
class Truth:
    """The true labels of a task.

    Attributes:
      index: i32[true classes], the class of the teacher for each, or NONE.
      by: what they are, in words.
    """

    column: Labels
    task: Task
    index: np.ndarray
    by: str = "true labels"

    @property
    def unit(self) -> str:
        """Of its maps."""
        return self.column.kind.unit

    def label(self, position: int) -> Label | None:
        """The label of an image in the teacher's classes, with its maps as they are; None if there is none."""
        label = self.column[position]
        if not label["present"]:
            return None
        match self.column.kind:
            case VectorLabel():
                true = int(self.index[label["probs"].argmax()])
                size = len(self.task.classes)
                return None if true == NONE else {**label, "probs": np.eye(size, dtype=np.float32)[true]}
            case BoxesLabel():
                here = self.index[label["classes"]]
                known = here != NONE
                fields = {name: values[known] if np.ndim(values) else values for name, values in label.items()}
                return {**fields, "classes": here[known]}
            case IdsLabel() as kind:
                assert isinstance(self.task.label, IdsLabel)
                index = np.append(self.index, NONE)
                ids = index[np.where(label[kind.field] == kind.ignore_id, NONE, label[kind.field])]
                return {**label, kind.field: np.where(ids == NONE, self.task.label.ignore_id, ids).astype(np.int32)}
        return label


def open_truths(config: SourceConfig, data_dir: str) -> Source:
    """The images and all true labels that the config names, whatever their tasks.

    Raises:
      UserError: as `open_source`.
    """
    images = open_images(config.images, data_dir, config.take)
    tasks: set[str] = set()
    for label in config.labels:
        if label == TRUTH:
            tasks |= {config.called(name) for name in (*images.labels, *(folder.name for folder in beside(images)))}
        else:
            tasks |= {config.called(manifest.read(each).task, each.name) for each in find_columns(Path(label))}
    return open_source(config, data_dir, tasks)


def truth_of(task: Task, columns: Sequence[Column]) -> Truth | str:
    """The first column that can tell whether the task is read rightly; or why there is none."""
    why = f"there is no truth for {task.name}"
    for column in columns:
        if column.task != task.name:
            continue
        if type(column.kind) is not type(task.label):
            why = f"the labels called {task.name} are of another kind; set names, if they are those of another task"
            continue
        index = index_of(column.classes, task.classes)
        if task.has_classes and (index == NONE).all():
            why = (
                f"the truth of {task.name} has other classes ({_listed(column.classes)}) than the teacher "
                f"({_listed(task.classes)}); rename them with tasks.{task.name}.mapping"
            )
            continue
        return Truth(column, task, index)
    return why


def index_of(true: Sequence[str], here: Sequence[str]) -> np.ndarray:
    """i32[true], the place of each class among those here, by its name in any spelling, or NONE."""
    places = {_plain(name): index for index, name in reversed([*enumerate(here)])}
    return np.array([places.get(_plain(name), NONE) for name in true], np.int32)


def _plain(name: str) -> str:
    """The same for all spellings of a name: dining_table, Dining Table."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
