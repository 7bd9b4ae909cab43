"""Images as users have them, before they become an image set."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from must_jax.data import folders
from must_jax.data.folders import LeftOut
from must_jax.errors import UserError
from must_jax.files import kind_of

BY_SUFFIX = f"images are files that end in {', '.join(folders.IMAGE_SUFFIXES)}"


class Item(NamedTuple):
    """One image; `load` gives its encoded bytes and may raise UserError or OSError.

    `place` is where to look for it, if the name does not say so.
    """

    name: str
    size_bytes: int
    load: Callable[[], bytes]
    place: str = ""


class RawImages(Protocol):
    """An ordered collection of what seem to be images. Only names and sizes are held in memory.

    Attributes:
      digest: 16 hex digits that change with what is there, as far as can be seen without opening any file.
      size_bytes: approximate size of all images; 0 = unknown.
      skipped: (name, reason) for each image that is already left out.
      left_out: images that are left out because of what they are; neither in `skipped` nor in `others`.
      others: number of files that are not images.
      images_are: how an image is recognised, to tell the user if a source has none.
      unread: what is beside the images, labels for instance: columns, tasks, endings of other files in tar files.
      called: what the images are called, in words with an example, if not by their owner's names; "" = by those.
      named_by: what the names are, for sources with two ways to name images; "" = the way that all sources have.
    """

    digest: str
    size_bytes: int

    @property
    def images_are(self) -> str: ...

    @property
    def left_out(self) -> Sequence[LeftOut]: ...

    @property
    def skipped(self) -> Sequence[tuple[str, str]]: ...

    @property
    def others(self) -> int: ...

    @property
    def unread(self) -> Sequence[str]: ...

    @property
    def called(self) -> str: ...

    @property
    def named_by(self) -> Literal["", "path"]: ...

    def names(self) -> Sequence[str] | None:
        """The names of all images, in their order; None if only the images themselves tell them."""
        ...

    def __len__(self) -> int: ...

    def items(self, positions: range) -> Iterator[Item]:
        """The images at these positions, in order. Names are unique."""
        ...


class File(NamedTuple):
    """A file: its path, and as `name` the part of the path that distinguishes it from the other files."""

    name: str
    path: Path
    size_bytes: int


def find_files(spec: str, pattern: str, suffixes: tuple[str, ...]) -> list[File]:
    """The file, those below the folder, or those that match the pattern, sorted by the parts of their paths.

    Raises:
      UserError: there are none.
    """
    path = Path(pattern).expanduser()
    if path.is_dir():
        found = [path / name for name in folders.files_below(path, suffixes)]
    else:
        found = [path] if path.exists() else [Path(file) for file in glob.glob(str(path), recursive=True)]
    files = sorted(file for file in found if file.is_file())
    if not files:
        kind = kind_of(path)
        what = (
            f"{pattern} is {kind}" if kind not in ("", "a folder") else f"there is no {suffixes[0]} file in {pattern}"
        )
        raise UserError(
            f"images='{spec}': {what}; give a file, a folder of files, or a pattern like 'FOLDER/*{suffixes[0]}'"
        )
    folder = os.path.commonpath([file.parent for file in files])
    return [File(folders.printable(os.path.relpath(file, folder)), file, file.stat().st_size) for file in files]
