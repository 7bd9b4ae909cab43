"""Lists of classes in a config: the names themselves, or a file that lists them."""

from __future__ import annotations

import os
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import pydantic

from must_jax.config.base import listed
from must_jax.labels.formats.json_files import Category, load

_SUFFIXES = (".txt", ".names", ".json")  # a value that ends with one names a file, whether or not it exists


def _names(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) == 1:
        (value,) = value
    if isinstance(value, int | float):
        return (value,)
    if not isinstance(value, str):
        return value
    path = os.path.expanduser(value)
    if ("/" in value or os.path.splitext(value)[1]) and os.path.isfile(path):
        try:
            return _of_json(load(Path(path))) if path.lower().endswith(".json") else _of_text(Path(path).read_bytes())
        except ValueError as error:
            raise ValueError(f"{value} is not a list of classes: {error}") from None
    if value.lower().endswith(_SUFFIXES):
        raise ValueError(f"there is no file {value} with the names of classes")
    return listed(value)


def _of_text(data: bytes) -> list[str]:
    """One class per line."""
    lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    if table := next((line for line in lines if "\t" in line), None):
        raise ValueError(f"it has the line {table!r}, so it is a table; write one class a line")
    return [line for line in lines if line]


def _of_json(content: Any) -> list[str]:
    """Class names from a list, from index -> name (Hugging Face's id2label), or from a COCO file, by category id."""
    if isinstance(content, dict) and isinstance(content.get("categories"), list):
        categories = pydantic.TypeAdapter(list[Category]).validate_python(content["categories"])
        content = [each.name for each in sorted(categories, key=attrgetter("id"))]
    elif isinstance(content, dict):
        indices = list(map(str, range(len(content))))
        if set(content) != set(indices):
            raise ValueError("its keys are not the indices 0, 1, 2, ... of the classes")
        content = [content[index] for index in indices]
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise ValueError('it is not like ["cat", "dog"]')
    return content


def _checked(classes: tuple[str, ...]) -> tuple[str, ...]:
    if "" in classes:
        raise ValueError(f"class {classes.index('')}, counted from 0, has no name")
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise ValueError(f"the class '{twice}' is listed twice")
    return classes


# In the order of their indices.
Classes = Annotated[tuple[str, ...], pydantic.BeforeValidator(_names), pydantic.AfterValidator(_checked)]
