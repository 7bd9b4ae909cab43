"""The registry of tasks: a new task is one file here and one line below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pydantic

from must_jax.errors import UserError, nearest
from must_jax.tasks.base import Task
from must_jax.tasks.classification import Classification
from must_jax.tasks.depth import Depth
from must_jax.tasks.detection import Detection
from must_jax.tasks.normals import Normals
from must_jax.tasks.segmentation import Segmentation

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "detection": Detection,
    "segmentation": Segmentation,
    "depth": Depth,
    "normals": Normals,
}


def build_task(name: str, classes: Sequence[str] = (), options: Mapping[str, Any] | None = None) -> Task:
    """The task `name` for labels with these class names, with its options from a config.

    Raises:
      UserError: an unknown task or option (names the nearest), a value out of range, missing or superfluous classes.
    """
    task = _checked(name, options or {})
    if task.has_classes != bool(classes):
        raise UserError(
            f"task '{name}' needs class names, but its labels have none; use data that lists its classes"
            if task.has_classes
            else f"task '{name}' has no classes, but its labels list {len(classes)}; use data labelled for this task"
        )
    return _built(task, {"classes": tuple(classes), **(options or {})})


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Checks a task's options before any data is opened; raises the same errors as `build_task`."""
    _built(_checked(name, options), options)


def _checked(name: str, options: Mapping[str, Any]) -> type[Task]:
    if name not in TASKS:
        raise UserError(f"there is no task '{name}'; {nearest(name, TASKS)}")
    known = TASKS[name].model_fields.keys() - {"classes"}
    for key in options:
        if key not in known:
            raise UserError(f"task '{name}' has no option '{key}'; {nearest(key, known)}")
    return TASKS[name]


def _built(task: type[Task], fields: Mapping[str, Any]) -> Task:
    try:
        return task(**fields)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        option = ", option ".join([f"task '{task.name}'", *filter(None, [".".join(map(str, first["loc"]))])])
        raise UserError(f"{option}: {first['msg'].removeprefix('Value error, ')}") from None
