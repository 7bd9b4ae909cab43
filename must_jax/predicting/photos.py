"""The photos that a command names, and how their results are called."""

from __future__ import annotations

import functools
import os
import posixpath
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from must_jax.data import folders
from must_jax.errors import UserError
from must_jax.files import fitting_name
from must_jax.progress import say


class Photo(NamedTuple):
    """A photo, and the path of its results below --out, without suffix. Strings, since there may be a million."""

    path: str
    target: str

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    def read(self) -> bytes:
        return Path(self.path).read_bytes()


def find(arguments: Sequence[Path], out: Path) -> list[Photo]:
    """The photos that are meant, each once.

    Raises:
      UserError: there is no such photo, a folder has none, or the results would lie among the photos.
    """
    found: dict[str, tuple[str, str]] = {}  # by real path
    for argument in arguments:
        if argument.is_dir():
            listed = [(os.path.join(argument, name), name) for name in _images_in(argument, out)]
        elif not os.path.lexists(argument):
            raise UserError(f"there is no photo {argument}; check its path")
        elif not argument.is_file():
            raise UserError(f"{argument} is not a readable file; name a photo")
        else:
            listed = [(str(argument), argument.name)]
        for path, name in listed:
            found.setdefault(real(path), (path, name))
    sharing: defaultdict[str, set[str]] = defaultdict(set)  # names without suffix -> names
    for _, name in found.values():
        sharing[_stem(name).casefold()].add(name.casefold())  # as macOS and Windows compare names
    photos = []
    for path, name in found.values():
        folder, last = posixpath.split(name if len(sharing[_stem(name).casefold()]) > 1 else _stem(name))
        photos.append(Photo(path, posixpath.join(folder, fitting_name(last, ".json").removesuffix(".json"))))
    return photos


def real(path: str) -> str:
    """The path with no links in its folders."""
    folder, name = os.path.split(path)
    return os.path.join(_real_folder(folder), name)


@functools.lru_cache
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _stem(name: str) -> str:
    """Without its suffix; a file's name that begins or ends with its only dot has none."""
    start, dot = name.rfind("/") + 1, name.rfind(".")
    return name[:dot] if start < dot < len(name) - 1 else name


def _images_in(folder: Path, out: Path) -> list[str]:
    """The paths of a folder's images, without earlier results."""
    inside = os.path.relpath(os.path.realpath(out), os.path.realpath(folder))
    if inside == ".":
        raise UserError(f"the results would lie among the photos of {folder}; choose another folder with --out")
    listing = folders.list_folder(folder)
    if left_out := folders.told([*(folders.LeftOut(*each) for each in listing.skipped), *listing.hidden]):
        say(f"{folder}: {left_out}")
    names = [name for name, _ in listing.images if not name.startswith(f"{inside}/")]
    if not names:
        raise UserError(f"{folder} has no images; name another folder")
    return names
