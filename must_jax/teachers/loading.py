"""From the config of a teacher to the teacher."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from must_jax import description, trained
from must_jax.config.teachers import TeacherConfig
from must_jax.errors import UserError, nearest, told
from must_jax.files import MODEL_FILE
from must_jax.teachers import mapping
from must_jax.teachers.base import Teacher
from must_jax.teachers.files import digest_of_run, files_of
from must_jax.teachers.mapping import ClassMapping
from must_jax.teachers.own import Own, mapped_network, mapped_tasks

_ADAPTERS: dict[str, tuple[str, str, tuple[str, ...]]] = {  # its module, an extra of the package, what that installs
    "onnx": ("onnx", "onnx", ("onnxruntime",)),
    "transformers": ("transformers", "transformers", ("torch", "transformers")),
    "timm": ("timm", "timm", ("safetensors", "torch", "timm")),
    "torchvision": ("torchvision", "torchvision", ("safetensors", "torch", "torchvision")),
    "python": ("function", "", ()),
}


def check(declared: TeacherConfig) -> None:
    """What can be known about a teacher before it is loaded.

    Raises:
      UserError: a model of others that does not exist, or needs what is not installed; a mapping that cannot be read.
    """
    for task in declared.tasks.values():
        if task.mapping:
            mapping.read(task.mapping)
    if declared.run is not None:
        if declared.tasks and (declared.run / MODEL_FILE).exists():
            made = description.read(declared.run)
            mappings_of(declared, {name: task.classes for name, task in made.tasks.items()})
        return
    files_of(declared)
    _, extra, libraries = _ADAPTERS[declared.adapter]
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            raise UserError(
                f"teacher {declared.called} needs {library}; install it with pip install 'must_jax[{extra}]'"
            )


def load(declared: TeacherConfig, options: Mapping[str, Mapping[str, Any]], mesh: Mesh) -> Teacher:
    """The teacher of a config, with the options of its tasks that are given.

    Args:
      options: task -> options of its pseudo labels; of tasks that it does not have, they are not for this teacher.
      mesh: where runs of must_jax compute.

    Raises:
      UserError: it does not exist, is unfinished or damaged; what it needs is not installed; something has to be
        declared, or contradicts its files; an option that is unknown or would change what its labels mean.
    """
    if not declared.adapter:
        return _own(declared, options, mesh)
    check(declared)
    module, extra, _ = _ADAPTERS[declared.adapter]
    try:
        adapter = importlib.import_module(f"must_jax.teachers.{module}")
    except ImportError as error:
        raise UserError(
            f"teacher {declared.called}: {told(error)}; install what it needs with pip install 'must_jax[{extra}]'"
        ) from None
    teacher: Teacher = adapter.load(declared, options)
    return teacher


def _own(declared: TeacherConfig, options: Mapping[str, Mapping[str, Any]], mesh: Mesh) -> Own:
    model = trained.load(declared.model, mesh)
    if not model.tasks:
        raise UserError(
            f"teacher {declared.called} has learnt from images alone and has no labels to give; train a teacher that "
            f"starts from it with --config.init={declared.model}"
        )
    for task in declared.names:
        if task not in model.tasks:
            raise UserError(
                f"teacher {declared.called}: names has '{task}', which it does not know; {nearest(task, model.tasks)}"
            )
    mappings = mappings_of(declared, {name: task.classes for name, task in model.tasks.items()})
    model = dataclasses.replace(
        model, tasks=(tasks := mapped_tasks(model.tasks, mappings)), model=mapped_network(model.model, tasks, mappings)
    )
    given = {task: options[here] for task in model.tasks if (here := declared.names.get(task, task)) in options}
    digest = digest_of_run(declared, model.digest)
    return Own(model.with_options(given), declared.called, declared.names, mappings, digest)


def mappings_of(declared: TeacherConfig, classes: Mapping[str, Sequence[str]]) -> dict[str, ClassMapping]:
    """Of a run of must_jax: its tasks -> their classes here, of those that have a mapping.

    Args:
      classes: of all its tasks, none of those that have none.

    Raises:
      UserError: a task that it does not have, or that has no classes; as `mapping.load`.
    """
    called = {declared.names.get(name, name): name for name in classes}
    found = {}
    for here, said in declared.tasks.items():
        where = f"teacher {declared.called}: tasks.{here}"
        if here not in called:
            raise UserError(f"{where} is none of its tasks, which are called {', '.join(called)} here")
        if not classes[called[here]]:
            raise UserError(f"{where} has no classes; remove its mapping")
        if said.mapping:
            found[called[here]] = mapping.load(said.mapping, classes[called[here]])
    return found
