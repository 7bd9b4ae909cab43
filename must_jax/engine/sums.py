"""`sha256.json` of a checkpoint: the sha256 of its items' files, so that a change of any bit is found and reported.

It is written before the checkpoint gets its final name, so a checkpoint without it is damaged.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydantic

from must_jax import files
from must_jax.cores import cores
from must_jax.errors import UserError
from must_jax.reading import read_json

FILE = "sha256.json"


class Sums(pydantic.BaseModel):
    """The contents of `sha256.json`.

    Attributes:
      step: number of updates done.
      files: path within the checkpoint -> sha256.
      own: sha256 of the other fields.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    step: int
    files: dict[str, str]
    own: str

    @classmethod
    def of(cls, step: int, sums: dict[str, str]) -> Sums:
        text = json.dumps({"step": step, "files": sums}, sort_keys=True)
        return cls(step=step, files=sums, own=hashlib.sha256(text.encode()).hexdigest())


def write(folder: Path, step: int) -> None:
    """Writes the sums of a checkpoint as it is now."""
    files.write_json(folder / FILE, Sums.of(step, _sums(folder)).model_dump())


def no_file(folder: Path) -> str:
    """Says what in a checkpoint is neither file nor folder; "" = nothing. Libraries would wait for a pipe's writer."""
    for place in folder.rglob("*"):
        if place != folder / FILE and not (place.is_dir() or place.is_file()):
            return f"{place} is not a file, but a pipe, a device or a dangling link"
    return ""


def changed(folder: Path, step: int) -> str:
    """Says what in a checkpoint is not as it was written; "" = nothing."""
    path = folder / FILE
    if other := no_file(folder):
        return other
    if not path.exists():
        return f"{path} is missing"
    try:
        written = read_json(path, Sums, "")
        if written != Sums.of(written.step, written.files):
            return f"{path} is damaged"
        now = _sums(folder)
    except UserError:
        return f"{path} is damaged"
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    if written.step != step:
        return f"{folder} was written as step {written.step}"
    for name in sorted(written.files.keys() | now.keys()):
        if name not in now:
            return f"{folder / name} is missing"
        if name not in written.files:
            return f"{folder / name} does not belong there"
        if now[name] != written.files[name]:
            return f"{folder / name} has other bytes than were written (sha256 differs)"
    return ""


def _sums(folder: Path) -> dict[str, str]:
    """Path -> sha256 of the files in the checkpoint's folders; "" for what is neither file nor folder.

    Files beside these folders are still written to when the checkpoint gets its final name, and hold no values.
    """
    paths = sorted(path for path in folder.glob("*/**/*") if not path.is_dir())
    with ThreadPoolExecutor(cores()) as pool:
        sums = pool.map(lambda path: files.sha256(path) if path.is_file() else "", paths)
        return {path.relative_to(folder).as_posix(): each for path, each in zip(paths, sums, strict=True)}
