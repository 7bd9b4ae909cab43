"""Reads JSON files written by others: the parts that are needed."""

from __future__ import annotations

import contextlib
import functools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic

from must_jax.config.base import Number
from must_jax.errors import UserError
from must_jax.labels.formats.json_text import JsonText, NotAnObject
from must_jax.labels.formats.refusals import MOST_NAMED, refusal
from must_jax.progress import Progress

_SHOWN_MB = 200  # smaller files take no time
_TOO_DEEP = "its lists or objects are nested too deeply to be read"
T = TypeVar("T")
Integer = Annotated[int, Number]


@dataclass(frozen=True, slots=True)
class Category:
    id: Integer
    name: Annotated[str, pydantic.Field(min_length=1)]


def _same(id_: int | str) -> int | str:
    return int(id_) if isinstance(id_, str) and id_.isdecimal() and str(int(id_)) == id_ else id_


Id = Annotated[int | str, Number, pydantic.AfterValidator(_same)]  # "7" is 7: tools write either, and some write both


class _Pairs:
    """Makes objects of their keys and values, and notes the first key that an object has twice.

    Args:
      without: a key that is left out.
    """

    def __init__(self, without: str = "") -> None:
        self._without, self._twice = without, ""

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        item = dict(pairs)
        if len(item) < len(pairs):
            self.check(key for key, _ in pairs)
        item.pop(self._without, None)
        return item

    def check(self, keys: Iterable[str]) -> None:
        self._twice = self._twice or next((key for key, count in Counter(keys).items() if count > 1), "")

    def raise_if_twice(self) -> None:
        if self._twice:
            raise ValueError(f"an object has the key '{self._twice}' twice, and it is not clear which counts")


def load(path: Path) -> Any:
    """The contents of a file.

    Raises:
      ValueError: it is not JSON, is nested too deeply to be read, or has an object with the same key twice, of which
        parsers take either.
    """
    pairs = _Pairs()
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    pairs.raise_if_twice()
    return content


def read_json(path: Path, lists: Mapping[str, tuple[type, Callable[[list[Any]], None]]]) -> None:
    """Reads the lists of a COCO file, a part at a time: files of many gigabytes are common.

    Args:
      lists: name -> the dataclass of its items, which names the parts that are needed, and what takes some of them, in
        the order of the file. All lists must be there; if any is not as described, not all items are handed over.

    Raises:
      UserError: the file is not JSON, or lacks something.
    """
    unlike, count = f"{path} is not as COCO describes it,", 0
    problems: list[str] = []
    try:
        found = set()
        for name, start, items in _parts(path):
            if name not in lists:
                continue
            found.add(name)
            type_, take = lists[name]
            try:
                take(_adapter(type_).validate_python(items))
            except pydantic.ValidationError as error:
                told = _problems(error, name, start)
                problems, count = [*problems, *told][:MOST_NAMED], count + len(told)
        for name in lists.keys() - found:
            problems, count = [*problems, f"at '{name}': Field required"], count + 1
    except ValueError as error:
        problems, count = [str(error)], 1
    if problems:
        raise refusal([f"{unlike} {problem}; correct the file" for problem in problems], count)


@functools.cache
def _adapter(type_: type) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(list[type_])  # type: ignore[valid-type]


def _parts(path: Path) -> Iterator[tuple[str, int, Any]]:
    """The values of a file's object: name, 0 and value; lists in parts, each with the number of its first item.

    Raises:
      ValueError: as `load`, or it is no object.
    """
    pairs, names = _Pairs(without="segmentation"), []  # outlines are most of a file, and not needed
    try:
        with path.open("rb") as file:
            text = JsonText(file, pairs)
            with contextlib.ExitStack() as stack:
                if (megabytes := path.stat().st_size / 1e6) >= _SHOWN_MB:
                    progress = stack.enter_context(Progress(f"reading {path}", megabytes, "MB", at_once=True))
                    text.advance = lambda count: progress.advance(count / 1e6)
                for name, start, value in text.parts():
                    names += [name] if not start else []
                    yield name, start, value
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except NotAnObject:
        raise ValueError("it is not an object with images, annotations and categories") from None
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    pairs.check(names)
    pairs.raise_if_twice()


def _problems(error: pydantic.ValidationError, name: str, start: int) -> list[str]:
    """The first problem of each item."""
    first: dict[Any, str] = {}
    for each in error.errors(include_url=False, include_input=False):
        item, *rest = each["loc"] or ("",)
        at = ".".join(map(str, [name, *([start + item] if isinstance(item, int) else []), *rest]))
        first.setdefault(item, f"at '{at}': {_in_words(each)}")
    return list(first.values())


def _in_words(error: Mapping[str, Any]) -> str:
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
