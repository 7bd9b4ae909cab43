"""From the config of a teacher to the teacher."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from must_jax import trained
from must_jax.config.teachers import TeacherConfig
from must_jax.errors import UserError, nearest
from must_jax.teachers.base import Teacher
from must_jax.teachers.files import files_of
from must_jax.teachers.own import Own

_FILES = {  # adapter -> its module, and the extra of the package that installs what it needs
    "onnx": ("onnx", "onnx"),
    "transformers": ("transformers", "transformers"),
    "timm": ("timm", "timm"),
    "torchvision": ("torchvision", "torchvision"),
    "python": ("function", ""),
}


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
    files_of(declared)  # before anything is imported for them
    module, extra = _FILES[declared.adapter]
    try:
        adapter = importlib.import_module(f"must_jax.teachers.{module}")
    except ImportError as error:
        raise UserError(
            f"teacher {declared.called} needs {error.name}; install it with pip install 'must_jax[{extra}]'"
        ) from None
    teacher: Teacher = adapter.load(declared, options)
    return teacher


def _own(declared: TeacherConfig, options: Mapping[str, Mapping[str, Any]], mesh: Mesh) -> Own:
    model = trained.load(declared.model, mesh)
    for task in declared.names:
        if task not in model.tasks:
            raise UserError(
                f"teacher {declared.called}: names has '{task}', which it does not know; {nearest(task, model.tasks)}"
            )
    given = {task: options[here] for task in model.tasks if (here := declared.names.get(task, task)) in options}
    return Own(model.with_options(given), declared.called, declared.names)
