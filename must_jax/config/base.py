"""Base class of all configs, which names unknown keys and freezes values; and value types that several share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import pydantic
from pydantic import Field
from pydantic_core import PydanticCustomError

from must_jax.errors import nearest

HERE = "<path>"  # in a message: the path of the config that it is about


def _listed(value: Any) -> Any:
    """A tuple on the command line: comma-separated, --config.teachers=runs/a,runs/b, a single value, or empty."""
    if isinstance(value, str):
        return value.split(",") if value else ()
    return (value,) if isinstance(value, int | float) else value


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "Input should be a number")
    return value


MAX_COUNT = 10**9  # counts have 32 bits, on the devices as well
MAX_LISTED = 10_000
MAX_TEXT = 4096  # characters; more than a path can have
MAX_IMAGE_SIZE = 2**14
Listed = pydantic.BeforeValidator(_listed)
Names = Annotated[tuple[str, ...], Field(max_length=MAX_LISTED), Listed]
# Numbers. Each has limits: a value beyond them is a typing error, better reported than tried. True is not a number.
Number = pydantic.BeforeValidator(_number)
Count = Annotated[int, Field(ge=0, le=MAX_COUNT), Number]
PositiveCount = Annotated[int, Field(gt=0, le=MAX_COUNT), Number]
BatchSize = Annotated[int, Field(gt=0, le=2**20), Number]
ShardImages = Annotated[int, Field(gt=0, le=10**6), Number]
MaxBoxes = Annotated[int, Field(gt=0, le=10_000), Number]
Channels = Annotated[int, Field(gt=0, le=2**14), Number]
Seed = Annotated[int, Field(ge=0, lt=2**32), Number]
Share = Annotated[float, Field(ge=0, le=1), Number]
Rate = Annotated[float, Field(gt=0, le=1e6), Number]
Seconds = Annotated[float, Field(gt=0, le=1e6), Number]
Scale = Annotated[float, Field(ge=0.01, le=100), Number]
Width = Annotated[float, Field(gt=0, le=16), Number]
Decay = Annotated[float, Field(ge=0, lt=1), Number]
Float = Annotated[float, Number]
ImageSize = Annotated[  # input height = width in pixels; C5 has stride 32
    int, Field(gt=0, le=MAX_IMAGE_SIZE, multiple_of=32), Number
]


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


def refuse_true(model: type[pydantic.BaseModel], values: Any) -> Any:
    """For models of options: True and False are not numbers, unless a boolean is expected."""
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, bool) and (field := model.model_fields.get(name)):
            try:
                pydantic.TypeAdapter[Any](field.annotation).validate_python(value, strict=True)  # type: ignore[arg-type]
            except pydantic.ValidationError:
                raise ValueError(f"{name} is {value}, which is a boolean; give a value of this option's type") from None
    return values


class Config(pydantic.BaseModel):
    """`free` are the keys that may change between restarts of a run, since they do not change what is computed."""

    free: ClassVar[frozenset[str]] = frozenset({"data_dir", "devices"})
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
                raise PydanticCustomError(
                    "unknown_key", "unknown", {"key": key, "hint": nearest(str(key), cls.model_fields)}
                )
        return values
