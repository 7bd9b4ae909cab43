"""Reads JSON files written by others: the parts that are needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic

from must_jax.config.base import Number
from must_jax.errors import UserError
from must_jax.labels.formats.refusals import refusal

T = TypeVar("T")


Integer = Annotated[int, Number]


@dataclass(frozen=True, slots=True)
class Category:
    id: Integer
    name: Annotated[str, pydantic.Field(min_length=1)]


def _same(id_: int | str) -> int | str:
    return int(id_) if isinstance(id_, str) and id_.isdecimal() and str(int(id_)) == id_ else id_


Id = Annotated[int | str, Number, pydantic.AfterValidator(_same)]  # "7" is 7: tools write either, and some write both


def load(path: Path, object_hook: Callable[[dict[str, Any]], Any] = lambda item: item) -> Any:
    """The contents of a file.

    Raises:
      ValueError: it is not JSON, is nested too deeply to be read, or has an object with the same key twice, of which
        parsers take either.
    """
    twice = ""

    def item_of(pairs: list[tuple[str, Any]]) -> Any:
        nonlocal twice
        item = dict(pairs)
        if len(item) < len(pairs) and not twice:
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
        return object_hook(item)

    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=item_of)
    except RecursionError:
        raise ValueError("its lists or objects are nested too deeply to be read") from None
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if twice:
        raise ValueError(f"an object has the key '{twice}' twice, and it is not clear which counts")
    return content


def read_json(path: Path, type_: type[T]) -> T:
    """A COCO file as a dataclass that names the parts that are needed.

    Raises:
      UserError: it is not JSON, or lacks something.
    """

    def without_outlines(item: dict[str, Any]) -> dict[str, Any]:  # most of a file, and not needed
        item.pop("segmentation", None)
        return item

    unlike = f"{path} is not as COCO describes it,"
    try:
        if not isinstance(content := load(path, without_outlines), dict):
            raise ValueError("it is not an object with images, annotations and categories")
        return pydantic.TypeAdapter(type_).validate_python(content)
    except pydantic.ValidationError as error:
        first = {each["loc"][:2]: each for each in reversed(error.errors(include_url=False, include_input=False))}
        problems = [f"at '{'.'.join(map(str, each['loc']))}': {_told(each)}" for each in reversed(first.values())]
    except ValueError as error:
        problems = [str(error)]
    raise refusal([f"{unlike} {problem}; correct the file" for problem in problems])


def _told(error: Mapping[str, Any]) -> str:
    if error["type"] == "missing" and error["loc"][-1] == "bbox":
        return "it has no bbox, and boxes are not made from outlines; add the bbox of each"
    return str(error["msg"])


def by(field: str, items: Sequence[T], where: Path | str) -> dict[Any, T]:
    """The items by the value of one of their fields.

    Raises:
      UserError: two items have the same value.
    """
    found: dict[Any, T] = {}
    for key, item in zip(map(attrgetter(field), items), items, strict=True):
        if found.setdefault(key, item) is not item:
            raise UserError(f"{where} lists the {field} '{key}' twice; give everything an id and a name of its own")
    return found
