"""From plain values and command-line overrides to the typed config of a stage."""

from __future__ import annotations

import ast
import json
import reprlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import pydantic
from pydantic_core import ErrorDetails

from must_jax.config import HERE, STAGE_CONFIGS, AnyConfig, CompileConfig, ReplayConfig, TargetConfig, TrainConfig
from must_jax.errors import UserError, nearest

_COMPILED = {"train": "train", "teachers": "label", "inits": "evaluate"}  # key that only one stage has -> that stage
_IN_PIPELINE = ("prepare", "train", "label", "audit", "evaluate")
_Parsed = TypeVar("_Parsed", bound=pydantic.BaseModel)
VALUES = """\
none               empties what may be empty: lists, mappings, optional values
a,b or [a, b]      a list; KEY.0=... sets its first entry, and the number
                   after the last one adds an entry
{"a": 1, "b": 2}   a mapping, which replaces the whole mapping; KEY.a=1 sets
                   one of its entries
true, 3, 0.1, abc  anything else, as in JSON or Python, or plain text
"""


def override(values: Mapping[str, Any], path: str, text: str) -> dict[str, Any]:
    """The values with one of them changed: override(values, "optimizer.momentum", "0.8"), or "train.0.take" for lists.

    `VALUES` says how values are written, whatever the key. `parse` checks whether the key exists and the type fits, so
    that keys which the config file leaves at their defaults can be set, too.

    Raises:
      UserError: the path leads through a value that has no keys, or to a list without an index.
    """
    keys = path.split(".")
    try:
        return _changed(_validation_as_list(values), keys, _read(text))
    except _NoIndex as error:
        upto = len(keys) - error.left
        there = ".".join([*keys[:upto], "0", *keys[upto:]])
        raise UserError(
            f"--config.{path}: config.{'.'.join(keys[:upto])} is a list; name an entry, as in --config.{there}"
        ) from None
    except (TypeError, IndexError):
        raise UserError(f"--config.{path} leads through a value or past the end of a list; shorten this path") from None


def check_other_data(file: Mapping[str, Any], values: Mapping[str, Any], paths: Collection[str]) -> None:
    """Refuses overrides of `train` that leave validation or minimum about the data of the config file.

    Args:
      file, values: the config before and after its overrides, whose paths are `paths`.

    Raises:
      UserError: it says which overrides to add.
    """
    stages = values.get("stages") if values.get("stage") == "pipeline" else None
    if isinstance(stages, Mapping):
        before = file.get("stages")
        for name, stage in stages.items():
            if isinstance(before, Mapping) and isinstance(there := before.get(name), Mapping):
                _check_other_data(there, stage, paths, f"stages.{name}.")
    else:
        _check_other_data(file, values, paths, "")


def _check_other_data(file: Mapping[str, Any], values: Mapping[str, Any], paths: Collection[str], prefix: str) -> None:
    read = _data_sets(values.get("train"))
    other = read - _data_sets(file.get("train"))
    if values.get("stage") != "train" or not other:
        return

    def is_given(key: str) -> bool:
        path = f"{prefix}{key}"
        return any(each == path or each.startswith(f"{path}.") or path.startswith(f"{each}.") for each in paths)

    if not is_given("validation") and read & _data_sets(values.get("validation")):
        return  # it is still measured on data of the file, which it is still trained on
    left, lines = [], []
    for key, what in (("validation", "images of the config file"), ("minimum", "required scores")):
        if (there := values.get(key)) and not is_given(key):
            path = f"{prefix}{key}"
            left.append(f"config.{path} ({what})")
            change = f"{path}.0.images=..." if key == "validation" else f"{path}.{next(iter(there))}=..."
            lines.append(f"--config.{change} or --config.{path}=none")
    if left:
        raise UserError(
            f"config.{prefix}train now reads {', '.join(sorted(other))}, but {' and '.join(left)} still "
            f"{'belongs' if len(left) == 1 else 'belong'} to other data; add {', and '.join(lines)}"
        )


def _data_sets(sources: Any) -> set[str]:
    """The image sets of sources, without their splits."""
    listed = [sources] if isinstance(sources, Mapping) else sources if isinstance(sources, list | tuple) else []
    images = [str(source.get("images")) for source in listed if isinstance(source, Mapping)]
    return {each if each.startswith("folder:") else each.partition(":")[0] for each in images}


def _validation_as_list(values: Mapping[str, Any]) -> dict[str, Any]:
    """A single source of validation, as configs of earlier versions have it, is a list of one."""
    changes: dict[str, Any] = {}
    if isinstance(source := values.get("validation"), Mapping):
        changes["validation"] = [source]
    if isinstance(stages := values.get("stages"), Mapping):
        changes["stages"] = {
            key: _validation_as_list(each) if isinstance(each, Mapping) else each for key, each in stages.items()
        }
    return {**values, **changes}


class _NoIndex(Exception):
    """A list is asked for a key; `left` keys of the path are left."""

    def __init__(self, left: int) -> None:
        self.left = left


def _read(text: str) -> Any:
    if text.strip() == "none":
        return None
    for literal in (_of_json, ast.literal_eval):
        try:
            return literal(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):  # the last two: nested too deeply for a literal
            continue
    return text


def _of_json(text: str) -> Any:
    return json.loads(text, parse_constant=float)  # NaN is not JSON; as a float it is refused by name


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
        raise _unknown_stage(stage)
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


def schema(values: Mapping[str, Any]) -> list[tuple[str, type[pydantic.BaseModel]]]:
    """What `parse` reads these values as: the prefixes of keys, and the configs that these lead to.

    Raises:
      UserError: an unknown stage.
    """
    stage = str(values.get("stage"))
    if stage in _OF_ANOTHER:
        own: dict[str, tuple[str, type[pydantic.BaseModel]]] = {
            "compile": ("compile.", TargetConfig),
            "replay": ("", ReplayConfig),
        }
        of = next((of for key, of in _COMPILED.items() if key in values), "train")
        return [own[stage], ("", STAGE_CONFIGS[of])]
    if stage not in STAGE_CONFIGS:
        raise _unknown_stage(stage)
    return [("", STAGE_CONFIGS[stage])]


def abouts() -> dict[str, str]:
    """Stage -> the first line of its config's docstring."""
    kinds = {**STAGE_CONFIGS, "compile": CompileConfig, "replay": ReplayConfig}
    return {name: (kind.__doc__ or "").strip().split("\n")[0] for name, kind in kinds.items()}


def _unknown_stage(stage: str) -> UserError:
    known = nearest(stage, (*STAGE_CONFIGS, *_OF_ANOTHER))
    return UserError(f"config.stage is {stage}, which is not a stage; {known}")


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
    path = ".".join(["config", *(part for part in map(str, location) if not part.startswith("<"))])  # tags of unions
    context, message = error.get("ctx", {}), error["msg"]
    given = "none" if error["input"] is None else reprlib.repr(error["input"])
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
        case "too_long":
            return f"{path} is {given}, but may have at most {context['max_length']} entries"
        case "literal_error":
            return f"{path} is {given}, but should be {context['expected']}"
        case "dict_type" | "mapping_type" | "model_type" | "model_attributes_type":
            return f'{path} is {given}, but should be a mapping: {{"name": value, ...}}, or --{path}.KEY=VALUE'
        case "tuple_type":
            return f"{path} is {given}, but should be a list: a,b or [a, b]; --{path}.0=... sets an entry"
        case "int_parsing_size":
            return f"{path} is {given}, but should be a valid integer, and not that large"
        case "union_tag_invalid" | "union_tag_not_found":
            stage = str(context.get("tag"))
            return f"{path}.stage is {stage}, which is not a stage of a pipeline; {nearest(stage, _IN_PIPELINE)}"
        case _:
            expected = message.split(",")[0].replace("Input should", "but should", 1)
            return f"{path} is {given}, {expected}"
