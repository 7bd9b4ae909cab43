"""What is declared about a model whose files also say something: contradictions are named, in one sentence each."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path

from must_jax.config.teachers import TeacherConfig, TeacherTaskConfig
from must_jax.errors import UserError
from must_jax.tasks import KIND, kind_of


def check_task(declared: TeacherConfig, kind: str) -> None:
    """Raises UserError if a model that does one thing is declared to do another, or several."""
    if len(declared.tasks) > 1:
        raise UserError(
            f"teacher {declared.called}: it does one thing, {kind}, but tasks has {', '.join(declared.tasks)}; keep one"
        )
    [(name, task)] = declared.tasks.items()
    if (said := kind_of(name, {KIND: task.kind} if task.kind else {}).kind) != kind:
        raise UserError(
            f"teacher {declared.called}: {name} is of kind {said}, but the model does {kind}; correct its tasks"
        )


def check_own_fit(declared: TeacherConfig, allowed: Collection[str] = ()) -> None:
    """Raises UserError if something is declared that the model's own files decide, except for keys that are allowed."""
    free = {"size", "colour", *(["fit"] if declared.input.fit == "own" else []), *allowed}
    given = {f"input.{key}" for key in declared.input.model_fields_set - free if getattr(declared.input, key)}
    for name, task in declared.tasks.items():
        given |= {f"tasks.{name}.{key}" for key in ("layout", "outputs", "boxes", "box_unit") if getattr(task, key)}
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
    if classes and task.classes and len(task.classes) != classes:
        raise UserError(f"{where}.classes lists {len(task.classes)}, but the model has {classes} classes; correct it")
    at = {_plain(each): i for i, each in enumerate(said.classes)}
    for i, each in enumerate(task.classes if len(said.classes) == classes else ()):
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
