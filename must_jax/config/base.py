"""Base class of all configs, which names unknown keys and freezes values; and value types that several share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

import pydantic
from pydantic import Field
from pydantic_core import PydanticCustomError

from must_jax.errors import nearest

HERE = "<path>"  # in a message: the path of the config that it is about


def listed(value: Any) -> Any:
    """A list on the command line: a,b or [a, b], or a single value."""
    if isinstance(value, str):
        closed = value[:1] + value[-1:] in ("[]", "()") and value.find(value[-1:]) == len(value) - 1
        inner = value[1:-1] if closed else value
        return [part.strip() for part in inner.split(",")] if inner.strip() else ()
    return (value,) if isinstance(value, int | float) else value


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "Input should be a number")
    return value


MAX_COUNT = 10**9  # counts have 32 bits, on the devices as well
MAX_LISTED = 10_000
MAX_TEXT = 4096  # characters; more than a path can have
MAX_IMAGE_SIZE = 2**14
Listed = pydantic.BeforeValidator(listed)
Names = Annotated[tuple[str, ...], Field(max_length=MAX_LISTED), Listed]
# Numbers. Each has limits: a value beyond them is a typing error, better reported than tried. True is not a number.
Number = pydantic.BeforeValidator(_number)
Count = Annotated[int, Field(ge=0, le=MAX_COUNT), Number]
Bytes = Annotated[int, Field(ge=0, le=2**50), Number]
PositiveCount = Annotated[int, Field(gt=0, le=MAX_COUNT), Number]
BatchSize = Annotated[int, Field(gt=0, le=2**20), Number]
ShardImages = Annotated[int, Field(gt=0, le=10**6), Number]
MaxBoxes = Annotated[int, Field(gt=0, le=10_000), Number]
Channels = Annotated[int, Field(gt=0, le=2**14), Number]
Seed = Annotated[int, Field(ge=0, lt=2**32), Number]
Share = Annotated[float, Field(ge=0, le=1), Number]


def _is_by_class(value: Any) -> str:
    return "<by class>" if isinstance(value, Mapping) else "<share>"


ShareOrByClass = Annotated[
    Annotated[Share, pydantic.Tag("<share>")] | Annotated[dict[str, Share], pydantic.Tag("<by class>")],
    pydantic.Discriminator(_is_by_class),
]
ShareByClass = Annotated[dict[str, Share], Field(exclude_if=lambda shares: not shares)]  # as if it were not there yet
Rate = Annotated[float, Field(gt=0, le=1e6), Number]
Seconds = Annotated[float, Field(gt=0, le=1e6), Number]
Scale = Annotated[float, Field(ge=0.01, le=100), Number]
Width = Annotated[float, Field(gt=0, le=16), Number]
Decay = Annotated[float, Field(ge=0, lt=1), Number]
Float = Annotated[float, Number]

_Side = Annotated[int, Field(gt=0, le=MAX_IMAGE_SIZE, multiple_of=32), Number]  # in pixels; C5 has stride 32


def _one_or_two(value: Any) -> Any:
    """A list on the command line as a list; other lengths than two are refused."""
    if isinstance(value, str) and "," in value:
        value = listed(value)
    if len(value) != 2 if isinstance(value, list | tuple) else isinstance(value, str) and not value.strip().isdecimal():
        given = list(value) if isinstance(value, tuple) else value
        raise ValueError(f"{given!r} should be the side of a square or height and width, as in 640 or 384,640")
    return value


ImageSize = Annotated[  # the side of a square, also if both sides are given, or height and width
    Annotated[_Side, pydantic.Tag("<side>")] | Annotated[tuple[_Side, _Side], pydantic.Tag("<height and width>")],
    pydantic.Discriminator(lambda value: "<height and width>" if isinstance(value, list | tuple) else "<side>"),
    pydantic.AfterValidator(lambda size: size[0] if isinstance(size, tuple) and size[0] == size[1] else size),
    pydantic.BeforeValidator(_one_or_two),
]


def input_hw_of(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels of an input whose size is given as in a config."""
    return (image_size, image_size) if isinstance(image_size, int) else image_size


def size_told(input_hw: tuple[int, int]) -> str:
    """The size of an input in words: the side of a square, or height x width."""
    height, width = input_hw
    return str(height) if height == width else f"{height} x {width}"


def _check_plain(value: Any, path: tuple[str, ...] = ()) -> None:
    """Refuses what no config may hold, at any depth: it could not be written to `config.json`, or name a file."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            _check_plain(key, path)
            _check_plain(child, (*path, str(key)))
        return
    if isinstance(value, list | tuple):
        for index, child in enumerate(value):
            _check_plain(child, (*path, str(index)))
        return
    what = ""
    if isinstance(value, str) and "\0" in value:
        what = "contains a NUL character, which names cannot have; remove it"
    elif isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        what = "contains bytes that are not UTF-8, but would be written to UTF-8 files; choose another name"
    elif isinstance(value, str) and len(value) > MAX_TEXT:
        what = f"has {len(value):,} characters; at most {MAX_TEXT:,} are allowed"
    elif isinstance(value, float) and not math.isfinite(value):
        what = f"is {value}, but should be a finite number"
    elif not isinstance(value, str | bool | int | float | None | pydantic.BaseModel):
        what = f"is of type {type(value).__name__}; use numbers, strings, lists and dictionaries"
    if what:
        raise PydanticCustomError("not_plain", "not plain", {"what": ".".join(path) + " " + what})


@dataclass(frozen=True)
class OptionsOf:
    """Marks a mapping of options that another model describes: of each task, or of each format of true labels."""

    what: Literal["task", "format"]


def _nothing(field: pydantic.fields.FieldInfo) -> Any:
    """What `none` means for a key: an empty text, list or mapping, or no value; None where it cannot be empty."""
    default = field.get_default(call_default_factory=True)
    if default is None or (isinstance(default, str | tuple | Mapping) and not default):
        return default
    kinds = [get_origin(kind) or kind for kind in (field.annotation, *get_args(field.annotation))]
    if tuple in kinds:
        return ()
    has_keys = any(isinstance(kind, type) and issubclass(kind, Mapping | pydantic.BaseModel) for kind in kinds[:1])
    return {} if has_keys else None


def as_written(model: type[pydantic.BaseModel], values: Any) -> Any:
    """The values of a model as people write them -> as its fields are: see `parsing.override`.

    `none`, and every spelling of an empty value, empties a key of any type.
    """
    if not isinstance(values, Mapping):
        return values
    changed = {}
    for name, value in values.items():
        if (field := model.model_fields.get(name)) is None:
            continue
        if value is None or (isinstance(value, str | list | tuple | Mapping) and not value):
            changed[name] = _nothing(field)
        elif isinstance(value, Mapping) and get_origin(field.annotation) is dict:
            entries = get_args(field.annotation)[1]
            empty = {str: "", dict: {}}.get(get_origin(entries) or entries)
            changed[name] = {key: empty if entry is None else entry for key, entry in value.items()}
    return {**values, **changed}


def read_options(model: type[pydantic.BaseModel], values: Any) -> Any:
    """`as_written`, for models of options: True and False are not numbers, unless a boolean is expected."""
    values = as_written(model, values)
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, bool) and (field := model.model_fields.get(name)):
            try:
                pydantic.TypeAdapter[Any](field.annotation).validate_python(value, strict=True)  # type: ignore[arg-type]
            except pydantic.ValidationError:
                raise ValueError(f"{name} is {value}, which is a boolean; give a value of this option's type") from None
    return values


def in_todays_names(options: Any) -> Any:
    """A task's options, as any version has written them, in today's names: `depth_kind` was called `kind`."""
    if isinstance(options, Mapping) and options.get("kind") in ("metric_m", "relative") and "depth_kind" not in options:
        return {"depth_kind" if name == "kind" else name: value for name, value in options.items()}
    return options


def _each_in_todays_names(tasks: Any) -> Any:
    return {name: in_todays_names(options) for name, options in tasks.items()} if isinstance(tasks, Mapping) else tasks


# Options of a task, and of several by name.
TaskOptions = Annotated[dict[str, Any], OptionsOf("task"), pydantic.BeforeValidator(in_todays_names)]
TasksOptions = Annotated[dict[str, dict[str, Any]], OptionsOf("task"), pydantic.BeforeValidator(_each_in_todays_names)]


class Config(pydantic.BaseModel):
    """`free` are the keys that may change between restarts of a run, since they do not change what is computed."""

    free: ClassVar[frozenset[str]] = frozenset({"data_dir", "devices"})
    former: ClassVar[Mapping[str, str]] = {}  # keys of earlier versions, or of other configs -> what they are
    is_run: ClassVar[bool] = True  # whether it produces what is in its workdir, rather than just inspect something

    model_config = pydantic.ConfigDict(
        extra="forbid",
        frozen=True,
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, values: Any) -> Any:
        """Runs first: naming a misspelt key is more helpful than the "missing" that it causes."""
        _check_plain(values)
        for key in values if isinstance(values, Mapping) else ():
            if key not in cls.model_fields:
                hint = f"it is {cls.former[key]}" if key in cls.former else nearest(str(key), cls.model_fields)
                raise PydanticCustomError("unknown_key", "unknown", {"key": key, "hint": hint})
        return as_written(cls, values)
