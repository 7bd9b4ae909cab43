"""From the config of a teacher to the teacher."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from must_jax import trained
from must_jax.config.teachers import TeacherConfig
from must_jax.errors import UserError, nearest, told
from must_jax.teachers.base import Teacher
from must_jax.teachers.files import files_of
from must_jax.teachers.own import Own

_ADAPTERS: dict[str, tuple[str, str, tuple[str, ...]]] = {  # its module, an extra of the package, what that installs
    "onnx": ("onnx", "onnx", ("onnxruntime",)),
    "transformers": ("transformers", "transformers", ("torch", "transformers")),
    "timm": ("timm", "timm", ("safetensors", "torch", "timm")),
    "torchvision": ("torchvision", "torchvision", ("safetensors", "torch", "torchvision")),
    "python": ("function", "", ()),
}


def check(declared: TeacherConfig) -> None:
    """What can be known about a model of others before it is loaded.

    Raises:
      UserError: it does not exist, or what it needs is not installed.
    """
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
    for task in declared.names:
        if task not in model.tasks:
            raise UserError(
                f"teacher {declared.called}: names has '{task}', which it does not know; {nearest(task, model.tasks)}"
            )
    given = {task: options[here] for task in model.tasks if (here := declared.names.get(task, task)) in options}
    return Own(model.with_options(given), declared.called, declared.names)
