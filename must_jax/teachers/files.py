"""The files of a teacher of others, and the digest that tells whether it would say the same. Loads no library."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from must_jax.config.teachers import PICKLES, TeacherConfig
from must_jax.errors import UserError, told
from must_jax.teachers.onnx_file import outside

_FOLDERS = ("transformers", "timm")  # adapters whose models are folders
_ADVICE = "are pickles, which can run any code when they are loaded; save the weights as safetensors"


def digest_of_run(declared: TeacherConfig, digest: str) -> str:
    """That of a run of must_jax and what its classes become here: of the model alone, if they stay as they are.

    Raises:
      UserError: a mapping does not exist.
    """
    if not any(task.mapping for task in declared.tasks.values()):
        return digest
    sha = hashlib.sha256(digest.encode())
    for name, task in sorted(declared.tasks.items()):
        sha.update(f"{name}\n".encode())
        _update(sha, declared, [Path(task.mapping).expanduser()] if task.mapping else [])
    return sha.hexdigest()


def digest_of(declared: TeacherConfig) -> str:
    """sha256 of all that decides what a teacher of others says: its files, lists and mappings of classes, declaration.

    Raises:
      UserError: a file does not exist, or they are pickles.
    """
    sha = hashlib.sha256()
    _update(sha, declared, (*files_of(declared), *_lists_of(declared)))
    tasks = {  # mappings are read above, wherever they lie
        name: task.model_dump(mode="json", exclude={"mapping"}) for name, task in declared.tasks.items()
    }
    said = [declared.adapter, declared.input.model_dump(mode="json"), tasks]
    sha.update(json.dumps(said, sort_keys=True).encode())
    return sha.hexdigest()


def _update(sha: Any, declared: TeacherConfig, files: Iterable[Path]) -> None:
    for file in files:
        sha.update(f"{file.name}\n".encode())
        try:
            with file.open("rb") as opened:
                sha.update(hashlib.file_digest(opened, "sha256").digest())
        except OSError as error:
            raise UserError(f"teacher {declared.called}: {file} cannot be read: {error.strerror}") from None


def files_of(declared: TeacherConfig) -> list[Path]:
    """The files that decide what it says.

    Raises:
      UserError: there are none, or they are pickles.
    """
    if declared.adapter == "python":
        return [_source(declared)]
    path = path_of(declared)
    if not path.exists():
        hub = declared.adapter in _FOLDERS and len(path.parts) == 2
        how = f"; if it is on a hub, download it first: hf download {path} --local-dir FOLDER" if hub else ""
        raise UserError(f"teacher {declared.called}: there is no {path}; correct its path{how}")
    if path.is_file() == (declared.adapter in _FOLDERS):
        is_, wanted = ("a file", "the folder it is in") if path.is_file() else ("a folder", "the file in it")
        raise UserError(f"teacher {declared.called}: {path} is {is_}; name {wanted}")
    if path.is_file():
        return [path, *(outside(path) if declared.adapter == "onnx" else ())]
    files = sorted(each for each in path.rglob("*") if each.is_file() and not each.name.startswith("."))
    weights = [each for each in files if each.suffix == ".safetensors"]
    if not weights and (pickles := [each for each in files if each.suffix.lower() in PICKLES]):
        raise UserError(f"teacher {declared.called}: {pickles[0]} and its like {_ADVICE}")
    return [each for each in files if each.suffix in (".safetensors", ".json", ".txt", ".model", ".jinja")]


def _lists_of(declared: TeacherConfig) -> list[Path]:
    """The files of its tasks: mappings and lists of classes."""
    mappings = [task.mapping for task in declared.tasks.values() if task.mapping]
    lists = [task.classes[0] for task in declared.tasks.values() if len(task.classes) == 1]
    files = [each for each in map(os.path.expanduser, lists) if os.path.isfile(each)]  # a name otherwise
    return [Path(each).expanduser() for each in (*mappings, *files)]


def path_of(declared: TeacherConfig) -> Path:
    """The file or folder of a model that is not a function."""
    path = declared.model.removeprefix(f"{declared.adapter}:")
    if declared.adapter == "torchvision":
        _, colon, path = path.partition(":")
        if not colon:
            raise UserError(f"'{declared.model}' names no file; write torchvision:NAME:FILE, the name of a model there")
    return Path(path).expanduser()


def _source(declared: TeacherConfig) -> Path:
    """The file of a function's module, which is not imported."""
    module, _, name = declared.model.removeprefix("python:").partition(":")
    if not name:
        raise UserError(f"'{declared.model}' names no function; write python:MODULE:FUNCTION")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):  # what a package of it needs
            raise UserError(f"teacher {declared.called}: {module} cannot be imported: {told(error)}") from error
        spec = None
    except ValueError:
        spec = None
    except (Exception, SystemExit) as error:  # its package is imported, which runs anything
        raise UserError(f"teacher {declared.called}: {module} cannot be imported: {told(error)}") from error
    if spec is None or not spec.origin or not os.path.isfile(spec.origin):
        plain = module.removesuffix(".py").replace("/", ".")
        how = f"python:{plain}:{name}" if plain != module else "python:MODULE:FUNCTION"
        raise UserError(
            f"teacher {declared.called}: there is no module '{module}'; write {how}, of a module in this folder or an "
            "installed one"
        )
    return Path(spec.origin)
