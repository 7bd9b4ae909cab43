"""Tar files, those of WebDataset for instance."""

from __future__ import annotations

import functools
import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from must_jax.data import folders
from must_jax.data.raw.base import Item, find_files
from must_jax.errors import UserError
from must_jax.progress import Progress

_CHUNK = 2**20  # bytes
_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")  # all but the first are refused, with advice


class _Member(NamedTuple):
    tar: int  # which
    name: str
    offset: int
    size_bytes: int


class _Contents(NamedTuple):
    images: list[_Member]
    skipped: list[tuple[str, str]]
    others: int
    unread: list[str]  # endings of the others
    repeated: bool  # whether a name is in several tar files


class Tar:
    """See RawImages; names are those of the members.

    Where a name is in several tar files, all names begin with that of their file. Of images of one name in one tar
    file the first is taken.
    """

    named_by: Literal[""] = ""

    def __init__(self, spec: str, pattern: str) -> None:
        self._spec = spec
        self._files = find_files(spec, pattern, _SUFFIXES)
        self.digest = folders.digest((file.name, file.size_bytes) for file in self._files)
        self.size_bytes = sum(file.size_bytes for file in self._files)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        return self._contents.skipped

    @property
    def others(self) -> int:
        return self._contents.others

    @property
    def unread(self) -> list[str]:
        return self._contents.unread

    def __len__(self) -> int:
        return len(self._contents.images)

    def items(self, positions: range) -> Iterator[Item]:
        for image in self._contents.images[positions.start : positions.stop]:
            file = self._files[image.tar]
            place = f"{file.name}/{image.name}"
            load = functools.partial(_read, file.path, image.offset, image.size_bytes)
            yield Item(place if self._contents.repeated else image.name, image.size_bytes, load, place)

    @functools.cached_property
    def _contents(self) -> _Contents:
        images: list[_Member] = []
        skipped: list[tuple[str, str]] = []
        names: set[str] = set()
        unread: set[str] = set()
        others, repeated = 0, False
        with Progress(f"listing {self._spec}", total=len(self._files), unit="files") as progress:
            for number, file in enumerate(self._files):
                here: set[str] = set()
                for member in _members(file.path):
                    name = folders.printable(member.name.removeprefix("./"))
                    if folders.is_unread(name):
                        skipped.append((f"{file.name}/{name}", folders.NOT_READ))
                    elif not folders.is_image(name):
                        others += not member.isdir()
                        unread |= {posixpath.splitext(name)[1]} if member.isreg() else set()
                    elif not member.isreg() or member.issparse():
                        skipped.append((f"{file.name}/{name}", "no regular file"))
                    elif name in here:
                        skipped.append((f"{file.name}/{name}", "another image of this name comes before it"))
                    else:
                        here.add(name)
                        images.append(_Member(number, name, member.offset_data, member.size))
                repeated = repeated or not names.isdisjoint(here)
                names |= here
                progress.advance()
        return _Contents(images, skipped, others, sorted(unread - {""}), repeated)


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or all would be kept
                yield member
        with path.open("rb") as file:  # `next` takes a header that it cannot read for the end
            file.seek(tar.offset)
            rest = 0
            while chunk := file.read(_CHUNK):
                rest += len(chunk)
                if chunk.strip(b"\0"):
                    raise tarfile.ReadError("there is more behind its end")
            if rest < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("unexpected end of data")
    except tarfile.TarError as error:
        raise UserError(
            f"{path} is no tar file, or one that is compressed or cut off ({error}); unpack it, or copy it again"
        ) from None


def _read(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)
