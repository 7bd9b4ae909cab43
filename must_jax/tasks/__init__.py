"""The registry of kinds of task: a new one is one file here and one line below."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic

from must_jax.config import in_todays_names
from must_jax.errors import UserError, nearest
from must_jax.tasks.base import Task
from must_jax.tasks.classification import Classification
from must_jax.tasks.depth import Depth
from must_jax.tasks.detection import Detection
from must_jax.tasks.normals import Normals
from must_jax.tasks.segmentation import Segmentation
from must_jax.tasks.simclr import SimCLR

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "detection": Detection,
    "segmentation": Segmentation,
    "depth": Depth,
    "normals": Normals,
    "simclr": SimCLR,
}


NAME = re.compile("[A-Za-z][A-Za-z0-9_]{0,63}")  # of a task
RESERVED = ("truth",)  # names that mean something else where tasks are named
KIND = "kind"  # option: a kind of task; none = the task's name


def kind_of(name: str, options: Mapping[str, Any] | None = None) -> type[Task]:
    """The class of the task `name`: what its option `kind` says, or the name itself.

    Raises:
      UserError: there is no such kind (names the nearest), or no task may be called so.
    """
    if not NAME.fullmatch(name) or name in RESERVED:
        raise UserError(
            f"'{name}' cannot be a task's name; use letters, digits and _, begin with a letter, and do not call it "
            f"{' or '.join(RESERVED)}"
        )
    given = in_todays_names(options or {}).get(KIND)
    if given is None and name not in TASKS:
        raise UserError(f"there is no task '{name}' ({nearest(name, TASKS)}); for a name of your own, set its {KIND}")
    if (kind := name if given is None else str(given)) not in TASKS:
        raise UserError(f"task '{name}' is of {KIND} '{kind}', which does not exist; {nearest(kind, TASKS)}")
    return TASKS[kind]


def without_labels(tasks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Of tasks with their options, those that learn from images alone; not those that do not exist."""
    found = []
    for name, options in tasks.items():
        with contextlib.suppress(UserError):
            found += [name] * kind_of(name, options).self_supervised
    return found


def build_task(name: str, classes: Sequence[str] = (), options: Mapping[str, Any] | None = None) -> Task:
    """The task `name` for labels with these class names, with its options from a config, among them its `kind`.

    Raises:
      UserError: an unknown kind or option (names the nearest), a value out of range, missing or superfluous classes.
    """
    task, checked = _checked(name, options or {})
    if task.has_classes != bool(classes):
        raise UserError(
            f"task '{name}' needs class names, but its labels have none; use data that lists its classes"
            if task.has_classes
            else f"task '{name}' has no classes, but its labels list {len(classes)}; use data labelled for this task"
        )
    return _built(task, {"name": name, "classes": tuple(classes), **checked})


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Checks a task's options before any data is opened; raises the same errors as `build_task`."""
    task, checked = _checked(name, options)
    _built(task, {"name": name, **checked})


def _checked(name: str, options: Mapping[str, Any]) -> tuple[type[Task], dict[str, Any]]:
    task = kind_of(name, options)
    options = {key: value for key, value in in_todays_names(options).items() if key != KIND}
    known = task.model_fields.keys() - {"name", "classes"}
    for key in options:
        if key not in known:
            raise UserError(f"task '{name}' has no option '{key}'; {nearest(key, known | {KIND})}")
    return task, options


def _built(task: type[Task], fields: Mapping[str, Any]) -> Task:
    try:
        return task(**fields)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        option = ", option ".join([f"task '{fields['name']}'", *filter(None, [".".join(map(str, first["loc"]))])])
        raise UserError(f"{option}: {first['msg'].removeprefix('Value error, ')}") from None
