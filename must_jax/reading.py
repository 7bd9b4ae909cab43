"""The files that we wrote, read again: whole and of the types that were written, or refused in one sentence."""

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
_told: set[tuple[Path, int]] = set()  # logs with lines that cannot be read, and how many


def read_bytes(path: Path, advice: str) -> bytes:
    """What a file holds.

    Args:
      advice: what to do when it cannot be read.

    Raises:
      UserError: it is not there, no file, or one that cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for somebody who writes
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise UserError(f"{path} is no file, but a folder, a pipe or a device; {advice}")
        with open(descriptor, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {advice}") from None


def read_json(path: Path, type_: type[_T], advice: str) -> _T:
    """What a JSON file of ours holds. `type_`: anything that pydantic validates; see `read_bytes` for `advice`.

    Raises:
      UserError: the file cannot be read, is no JSON, or holds something else.
    """
    return validated(path, _parsed(path, read_bytes(path, advice), advice), type_, advice)


def validated(path: Path, values: Any, type_: type[_T], advice: str) -> _T:
    """`read_json` of a file that has been parsed."""
    try:
        return pydantic.TypeAdapter(type_).validate_python(values)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = f" at '{'.'.join(map(str, first['loc']))}'" if first["loc"] else ""
        raise UserError(f"{path} is damaged{where}; {advice}") from None


def _parsed(path: Path, data: bytes, advice: str) -> Any:
    try:
        return pydantic_core.from_json(data)  # stricter than `json`: UTF-8 alone, and nothing that is nested deeply
    except ValueError:
        raise UserError(f"{path} is damaged; {advice}") from None


def read_json_lines(path: Path, type_: type[_T]) -> list[_T]:
    """The lines of a log, each a `type_` in JSON; none without the file. What a kill has left of a line does not count.

    Other lines that cannot be read, as a machine that breaks down leaves them, are left out and counted aloud.

    Raises:
      UserError: there is something else than a file, or one that cannot be read.
    """
    if not path.exists():
        return []
    rows, unread, adapter = [], 0, pydantic.TypeAdapter(type_)
    for line in read_bytes(path, "move it away; the run can do without it").split(b"\n")[:-1]:
        try:
            rows.append(adapter.validate_python(pydantic_core.from_json(line)))
        except ValueError:
            unread += 1
    if unread and (path, unread) not in _told:
        _told.add((path, unread))
        say(f"{path}: {counted(unread, 'line')} cannot be read, and left out")
    return rows
