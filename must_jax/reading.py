"""Reads must_jax's own files: complete and of the expected types, or refused with a one-sentence error."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import pydantic_core

from must_jax.errors import UserError
from must_jax.progress import counted, say

_T = TypeVar("_T")
_told: set[tuple[Path, int]] = set()  # logs with unreadable lines, and how many


def read_bytes(path: Path, advice: str) -> bytes:
    """The contents of a file.

    Args:
      advice: what to do if it cannot be read.

    Raises:
      UserError: it is missing, not a file, or unreadable.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise UserError(f"{path} is not a file, but a folder, a pipe or a device; {advice}")
        with open(descriptor, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {advice}") from None


def read_json(path: Path, type_: type[_T], advice: str) -> _T:
    """The contents of one of must_jax's JSON files. `type_`: for pydantic to validate; `advice` as in `read_bytes`.

    Raises:
      UserError: the file cannot be read, is not JSON, or holds something else.
    """
    return validated(path, _parsed(path, read_bytes(path, advice), advice), type_, advice)


def validated(path: Path, values: Any, type_: type[_T], advice: str) -> _T:
    """As `read_json`, for a file that has been parsed already."""
    try:
        return pydantic.TypeAdapter(type_).validate_python(values)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = f" at '{'.'.join(map(str, first['loc']))}'" if first["loc"] else ""
        raise UserError(f"{path} is damaged{where}; {advice}") from None


def _parsed(path: Path, data: bytes, advice: str) -> Any:
    try:
        return pydantic_core.from_json(data)  # stricter than `json`: UTF-8 only, and no deep nesting
    except ValueError:
        raise UserError(f"{path} is damaged; {advice}") from None


def read_json_lines(path: Path, type_: type[_T]) -> list[_T]:
    """The lines of a log, each a `type_` in JSON; none if the file is missing. A truncated last line is ignored.

    Other unreadable lines, e.g. after a machine crash, are skipped, and their number is printed.

    Raises:
      UserError: it is not a file, or cannot be read.
    """
    if not path.exists():
        return []
    rows, unread, adapter = [], 0, pydantic.TypeAdapter(type_)
    for line in read_bytes(path, "move it away; the run does not need it").split(b"\n")[:-1]:
        try:
            rows.append(adapter.validate_python(pydantic_core.from_json(line)))
        except ValueError:
            unread += 1
    if unread and (path, unread) not in _told:
        _told.add((path, unread))
        say(f"{path}: {counted(unread, 'line')} skipped, because unreadable")
    return rows
