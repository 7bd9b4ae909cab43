"""A file of JSON lines, one for each of many names: of whole lines at any moment, and in the order of the names."""

from __future__ import annotations

import array
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from must_jax.errors import UserError
from must_jax.files import committed, make_folder, writing

NAME = "name"
_PART = ".part"
_NONE = -1


class Lines:
    """The lines of `path`, each an object with a `NAME`; lines of names that are not asked for stay, and come first.

    Until they are complete, they are in `path`.part: each is appended as soon as there is one, at once, in the order in
    which they come. If that was interrupted, the next one goes on with it; an end that is no whole line is removed.
    Eight bytes of memory for each name, besides the names.

    Args:
      names: in their order.
      is_valid: whether an object that was found under names[i] still is what would be written.

    Raises:
      UserError: two names are the same.
    """

    def __init__(self, path: Path, names: Sequence[str], is_valid: Callable[[int, dict[str, Any]], bool]) -> None:
        self._path, self._part = path, path.with_name(path.name + _PART)
        self._number = {name: number for number, name in enumerate(names)}
        if len(self._number) < len(names):
            twice = next(name for number, name in enumerate(names) if self._number[name] != number)
            raise UserError(f"two photos would both be {twice} in {path}; rename one")
        self._at = array.array("q", [_NONE]) * len(names)  # where the line of each name begins
        self._others: dict[str, int] = {}  # the same of other names
        self._end = self._lines = 0  # of whole lines: their end, and how many there are
        self._file: BinaryIO | None = None
        if path.exists():
            self._part.unlink(missing_ok=True)  # its lines are in `path`
        self._read(is_valid)

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def __contains__(self, name: str) -> bool:
        return self._at[self._number[name]] != _NONE

    def add(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes the line of a name, in place of an earlier one."""
        line = json.dumps({NAME: name, **value}, separators=(",", ":")).encode() + b"\n"
        with writing(self._part):
            if self._file is None:
                self._file = self._opened()
            rest = memoryview(line)
            while rest:  # of a disk that is full, a part may be written before it says so
                rest = rest[self._file.write(rest) :]
        self._at[self._number[name]] = self._end
        self._end, self._lines = self._end + len(line), self._lines + 1

    def finish(self) -> None:
        """Gives the file its name, and the lines their order."""
        starts = [*self._others.values(), *(at for at in self._at if at != _NONE)]
        source = self._part if self._part.exists() else self._path
        if len(starts) == self._lines and all(a < b for a, b in itertools.pairwise(starts)):
            if source == self._part:
                os.replace(self._part, self._path)
            return
        with committed(self._path) as ordered, source.open("rb") as lines, ordered.open("wb") as out:
            for start in starts:
                if lines.tell() != start:
                    lines.seek(start)
                out.write(lines.readline())
        self._part.unlink(missing_ok=True)

    def _opened(self) -> BinaryIO:
        make_folder(self._path.parent)
        if self._path.exists():
            os.replace(self._path, self._part)
        file = self._part.open("ab", buffering=0)  # whoever reads it sees whole lines
        file.truncate(self._end)
        return file

    def _read(self, is_valid: Callable[[int, dict[str, Any]], bool]) -> None:
        for start, value in self._found():
            name = str(value.get(NAME))
            number = self._number.get(name)
            if number is None:
                self._others.pop(name, None)  # an earlier one, so that what is left is in the order of the lines
                self._others[name] = start
            else:
                self._at[number] = start if is_valid(number, value) else _NONE

    def _found(self) -> Iterator[tuple[int, dict[str, Any]]]:
        source = self._part if self._part.exists() else self._path
        if not source.is_file():
            return
        with writing(source), source.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return
                start, self._end, self._lines = self._end, self._end + len(line), self._lines + 1
                try:
                    value = json.loads(line)
                except ValueError:
                    continue
                if isinstance(value, dict):
                    yield start, value
