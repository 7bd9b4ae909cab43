"""What is declared about a model whose files also say something: contradictions are named, in one sentence each."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path

import pydantic

from must_jax.config.teachers import TeacherConfig, TeacherTaskConfig
from must_jax.errors import UserError
from must_jax.labels.formats.class_lists import Classes
from must_jax.tasks import KIND, kind_of
from must_jax.tasks.base import Task

_CLASSES = {"classes", "mapping"}
_KEYS = {  # kind -> what can be said about its outputs
    "classification": {*_CLASSES, "scores", "background"},
    "detection": {*_CLASSES, "layout", "boxes", "box_unit", "scores", "background", "first_class", "nms_iou"},
    "segmentation": {*_CLASSES, "scores", "background", "first_class", "ignore"},
    "depth": {"depth_kind", "metres_per_unit"},
    "normals": {"axes"},
}
_OWN = ("layout", "outputs", "boxes", "box_unit", "first_class")  # what a library that reads its own models decides


def kind(declared: TeacherConfig, name: str) -> type[Task]:
    """The kind of one of its tasks.

    Raises:
      UserError: there is no such kind, or it has no labels; something is declared that says nothing about it.
    """
    task = declared.tasks[name]
    try:
        found = kind_of(name, {KIND: task.kind} if task.kind else {})
    except UserError as error:
        raise UserError(f"teacher {declared.called}: {error}") from None
    if found.self_supervised:
        raise UserError(
            f"teacher {declared.called}: tasks.{name} is of kind {found.kind}, which has no labels to give; remove it"
        )
    usual = TeacherTaskConfig.model_fields
    said = {key for key, value in task if value != usual[key].default} - {"kind", "outputs"}
    if superfluous := sorted(said - _KEYS.get(found.kind, said)):
        raise UserError(
            f"teacher {declared.called}: {', '.join(superfluous)} says nothing about {found.kind}; remove it from "
            f"tasks.{name}"
        )
    return found


def classes_of(where: str, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The names that a config lists, or that the file has whose path it gives.

    Raises:
      UserError: there is no such file, or it is no list of names.
    """
    try:
        return pydantic.TypeAdapter(Classes).validate_python(classes) if classes else ()
    except pydantic.ValidationError as error:
        raise UserError(f"{where}: classes: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def without_background(names: Sequence[str], task: TeacherTaskConfig) -> tuple[str, ...]:
    """The classes among the names of a model's outputs: without the one that is declared to be none."""
    if task.background is None or not names:
        return tuple(names)
    return tuple(name for i, name in enumerate(names) if i != task.background % len(names))


def check_task(declared: TeacherConfig, does: str) -> None:
    """Raises UserError if a model that does one thing is declared to do another, or several."""
    if len(declared.tasks) > 1:
        raise UserError(
            f"teacher {declared.called}: it does one thing, {does}, but tasks has {', '.join(declared.tasks)}; keep one"
        )
    [name] = declared.tasks
    if (said := kind(declared, name).kind) != does:
        raise UserError(
            f"teacher {declared.called}: {name} is of kind {said}, but the model does {does}; correct its tasks"
        )


def check_own_fit(declared: TeacherConfig, allowed: Collection[str] = ()) -> None:
    """Raises UserError if something is declared that the model's own files decide, except for keys that are allowed."""
    free = {"size", "colour", *(["fit"] if declared.input.fit == "own" else []), *allowed}
    given = {f"input.{key}" for key in declared.input.model_fields_set - free if getattr(declared.input, key)}
    for name, task in declared.tasks.items():
        own = [*_OWN, *(["background"] if kind(declared, name).kind == "detection" else [])]
        given |= {f"tasks.{name}.{key}" for key in own if getattr(task, key) not in (None, ())}
    if given:
        raise UserError(
            f"teacher {declared.called}: {', '.join(sorted(given))} cannot be set, its own files decide that; remove it"
        )


def check(declared: TeacherConfig, said: TeacherTaskConfig, classes: int) -> None:
    """Compares the declaration of the only task with what the files say.

    Args:
      classes: how many the model has; 0 = any.

    Raises:
      UserError: they contradict each other.
    """
    [(name, task)] = declared.tasks.items()
    where = f"teacher {declared.called}: tasks.{name}"
    if task.depth_kind and said.depth_kind and task.depth_kind != said.depth_kind:
        raise UserError(
            f"{where}.depth_kind is {task.depth_kind}, but its files say {said.depth_kind}; remove it, or correct it"
        )
    listed = classes_of(f"teacher {declared.called}, task {name}", task.classes)
    has = classes - (classes > 0 and task.background is not None)
    if has and listed and len(listed) != has:
        besides = " besides the background" if has < classes else ""
        raise UserError(f"{where}.classes lists {len(listed)}, but the model has {has} classes{besides}; correct it")
    at = {_plain(each): i for i, each in enumerate(said.classes)}
    for i, each in enumerate(listed if len(said.classes) == has else ()):
        if at.get(_plain(each), i) != i:
            raise UserError(
                f"{where}.classes has '{each}' at index {i}, but its files have it at {at[_plain(each)]}; "
                "correct the order"
            )


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").replace("-", " ").strip()


def unique(names: Sequence[str]) -> tuple[str, ...]:
    """The names, with its index behind each that was there before: ImageNet has two that are called crane."""
    seen: set[str] = set()
    found = []
    for i, name in enumerate(names):
        found.append(f"{name} ({i})" if name in seen else name)
        seen.add(name)
    return tuple(found)


def licence_of(folder: Path) -> str:
    """As the card of a model says, README.md; "" if it does not."""
    with contextlib.suppress(Exception):  # people write cards by hand
        import huggingface_hub  # comes with the libraries whose models have cards

        data = huggingface_hub.ModelCard.load(folder / "README.md").data
        return str(getattr(data, "license_name", None) or data.license or "")
    return ""
