"""From plain values and command-line overrides to the typed config of a stage."""

from __future__ import annotations

import ast
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pydantic
from pydantic_core import ErrorDetails

from must_jax.config import HERE, STAGE_CONFIGS, AnyConfig, CompileConfig, ReplayConfig, TargetConfig, TrainConfig
from must_jax.errors import UserError, nearest

_COMPILED = {"train": "train", "teachers": "label", "inits": "evaluate"}  # key that only one stage has -> that stage
_IN_PIPELINE = ("train", "label", "audit", "evaluate")
_Parsed = TypeVar("_Parsed", bound=pydantic.BaseModel)


def override(values: Mapping[str, Any], path: str, text: str) -> dict[str, Any]:
    """The values with one of them changed: override(values, "optimizer.momentum", "0.8"), or "train.0.take" for lists.

    The text is read as a Python literal, and stays a string if it is not one. `parse` checks whether the key exists and
    the type fits, so that keys which the config file leaves at their defaults can be set, too. The index after a list's
    last appends an entry.

    Raises:
      UserError: the path leads through a value that has no keys, or to a list without an index.
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # the last two: nested too deeply for a literal
        value = text
    keys = path.split(".")
    try:
        return _changed(values, keys, value)
    except _NoIndex as error:
        upto = len(keys) - error.left
        there = ".".join([*keys[:upto], "0", *keys[upto:]])
        raise UserError(
            f"--config.{path}: config.{'.'.join(keys[:upto])} is a list; name an entry, as in --config.{there}"
        ) from None
    except (TypeError, IndexError):
        raise UserError(f"--config.{path} leads through a value or past the end of a list; shorten this path") from None


class _NoIndex(Exception):
    """A list is asked for a key; `left` keys of the path are left."""

    def __init__(self, left: int) -> None:
        self.left = left


def _changed(node: Any, keys: list[str], value: Any) -> Any:
    if not keys:
        return value
    key, *rest = keys
    if node is None:  # not set so far
        node = [] if key.isdecimal() else {}
    if isinstance(node, list | tuple):
        if not key.removeprefix("-").isdecimal():
            raise _NoIndex(len(keys))
        if not 0 <= (index := int(key)) <= len(node):
            raise IndexError
        entry = node[index] if index < len(node) else None
        return [*node[:index], _changed(entry, rest, value), *node[index + 1 :]]
    return {**node, key: _changed(node.get(key), rest, value)}


def parse(values: Mapping[str, Any]) -> AnyConfig:
    """Plain nested values -> the typed config of their stage.

    Raises:
      UserError: an unknown stage or key (names the nearest), a missing key, a wrong type or value.
    """
    stage = str(values.get("stage"))
    if stage in _OF_ANOTHER:
        return _OF_ANOTHER[stage](values)
    if stage not in STAGE_CONFIGS:
        raise UserError(
            f"config.stage is {stage}, which is not a stage; {nearest(stage, (*STAGE_CONFIGS, *_OF_ANOTHER))}"
        )
    return _validated(STAGE_CONFIGS[stage], values)


def _parse_compile(values: Mapping[str, Any]) -> CompileConfig:
    """`values` are those of the stage that is to be compiled, with `compile` beside them."""
    of = next((stage for key, stage in _COMPILED.items() if key in values), None)
    if of is None:
        raise UserError("config.stage=compile needs a config that trains, labels or evaluates, e.g. configs/student.py")
    body = {key: value for key, value in values.items() if key != "compile"}
    target = values.get("compile", {})
    return CompileConfig(
        compile=_validated(TargetConfig, target, "compile"), of=_validated(STAGE_CONFIGS[of], body | {"stage": of})
    )


def _parse_replay(values: Mapping[str, Any]) -> ReplayConfig:
    """`values` are those of the training, with `replay` beside them."""
    body = {key: value for key, value in values.items() if key != "replay"}
    of = _validated(TrainConfig, body | {"stage": "train"})
    return _validated(ReplayConfig, {"of": of} | {key: values[key] for key in ("replay",) if key in values})


_OF_ANOTHER: dict[str, Callable[[Mapping[str, Any]], AnyConfig]] = {"compile": _parse_compile, "replay": _parse_replay}


def _validated(kind: type[_Parsed], values: Any, *path: str) -> _Parsed:
    try:
        return kind.model_validate(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        first["loc"] = (*path, *first["loc"])
        raise UserError(_sentence(first)) from None


def _sentence(error: ErrorDetails) -> str:
    """Names the key, the given value and what is expected."""
    location = error["loc"]
    if location[:1] == ("stages",):  # ("stages", name, <tag of the union>, key...)
        location = location[:2] + location[3:]
    path = ".".join(["config", *map(str, location)])
    context, message = error.get("ctx", {}), error["msg"]
    match error["type"]:
        case "unknown_key":
            return f"{path}.{context['key']} is unknown; {context['hint']}"
        case "not_plain":
            return f"{path}.{context['what']}"
        case "missing":
            return f"{path} is missing; set it in the config file or with --{path}=..."
        case "value_error":
            return f"{path}: {message.removeprefix('Value error, ').replace(HERE, path)}"
        case "too_short":
            return f"{path} is empty, but needs at least one entry"
        case "literal_error":
            return f"{path} is {error['input']!r}, but should be {context['expected']}"
        case "dict_type" if error["input"] is None:
            return f"{path} is None, but should be a dictionary; an empty one is --{path}={{}}"
        case "tuple_type":
            return (
                f"{path} is {reprlib.repr(error['input'])}, but should be a list; set an entry with --{path}.0.KEY=..."
            )
        case "int_parsing_size":
            return f"{path} is {reprlib.repr(error['input'])}, but should be a valid integer, and not that large"
        case "union_tag_invalid" | "union_tag_not_found":
            stage = str(context.get("tag"))
            return f"{path}.stage is {stage}, which is not a stage of a pipeline; {nearest(stage, _IN_PIPELINE)}"
        case _:
            expected = message.split(",")[0].replace("Input should", "but should", 1)
            return f"{path} is {reprlib.repr(error['input'])}, {expected}"
