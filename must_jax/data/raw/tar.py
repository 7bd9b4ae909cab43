"""Tar files, those of WebDataset for instance."""

from __future__ import annotations

import functools
import itertools
import posixpath
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from must_jax.data import folders
from must_jax.data.folders import HIDDEN, LeftOut
from must_jax.data.raw import samples
from must_jax.data.raw.base import BY_SUFFIX, Item, find_files
from must_jax.errors import UserError
from must_jax.progress import Progress

_CHUNK = 2048 * tarfile.BLOCKSIZE  # bytes
_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")  # all but the first are refused, with advice
_PACKED = {  # by first bytes
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"\x04\x22\x4d\x18": "compressed with lz4",
    b"PK\x03\x04": "a ZIP archive",
}
_REPLACED = "replaced by a later member of the same name"


class _Member(NamedTuple):
    tar: int  # number of the tar file
    name: str
    offset: int
    size_bytes: int


class _Contents(NamedTuple):
    images: list[_Member]
    skipped: list[tuple[str, str]]
    left_out: list[LeftOut]
    others: int
    unread: list[str]  # endings of the others
    repeated: bool  # whether a name is in several tar files


class _Listed(NamedTuple):
    """What is in one tar file."""

    images: list[_Member]
    skipped: list[tuple[str, str]]
    left_out: Counter[tuple[str, str]]  # by name and reason
    others: int
    unread: set[str]


class Tar:
    """See RawImages; names are those of the members.

    If a name is in several tar files, all names begin with that of their file. Of members with the same name in one tar
    file, the last counts, as when it is unpacked. Hard links stand for what they link to.

    Args:
      endings: endings of the members that are images; () = `samples.choose` picks them.
    """

    named_by: Literal[""] = ""
    images_are = BY_SUFFIX

    def __init__(self, spec: str, pattern: str, endings: Sequence[str]) -> None:
        self._spec, self._endings = spec, endings
        self._files = find_files(spec, pattern, _SUFFIXES)
        self.digest = folders.digest((file.name, file.size_bytes) for file in self._files)
        self.size_bytes = sum(file.size_bytes for file in self._files)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        return self._contents.skipped

    @property
    def left_out(self) -> list[LeftOut]:
        return self._contents.left_out

    @property
    def others(self) -> int:
        return self._contents.others

    @property
    def unread(self) -> list[str]:
        return self._contents.unread

    @property
    def called(self) -> str:
        if not self._contents.repeated:
            return ""
        name = next(self.items(range(1))).name
        return f"some names are in several tar files, so all begin with that of their file: '{name}'"

    def names(self) -> list[str]:
        return [item.name for item in self.items(range(len(self)))]

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
        found: list[_Listed] = []
        with Progress(f"listing {self._spec}", total=len(self._files), unit="files") as progress:
            for number, file in enumerate(self._files):
                found.append(_list(number, file.name, file.path))
                progress.advance()
        pictures = [image for each in found for image in each.images]
        by_file = [f"{self._files[image.tar].name}/{image.name}" for image in pictures]
        chosen, beside = samples.choose(by_file, self._endings, self._spec, by_sample=True)
        images = list(itertools.compress(pictures, chosen))
        left_out = [LeftOut(*what, count) for each in found for what, count in each.left_out.items()]
        unread = {ending for each in found for ending in each.unread}
        return _Contents(
            images,
            [skipped for each in found for skipped in each.skipped],
            [*left_out, *beside],
            sum(each.others for each in found),
            sorted(unread - {""}),
            len({image.name for image in images}) < len(images),
        )


def _list(number: int, file: str, path: Path) -> _Listed:
    images: dict[str, _Member] = {}
    regular: dict[str, _Member] = {}  # what hard links can link to
    skipped: dict[str, str] = {}
    left_out: Counter[tuple[str, str]] = Counter()
    unread: set[str] = set()
    others = 0
    for member in _members(path):
        name = _name(member.name)
        here: _Member | None = None
        if member.islnk():
            here = regular.get(_name(member.linkname))
        elif member.isreg() and not member.issparse():
            here = _Member(number, name, member.offset_data, member.size)
        if here:
            regular[name] = here
        hidden = folders.hidden_part(name)
        if folders.is_unread(name) and not hidden:
            skipped[name] = folders.NOT_READ
        elif not folders.is_image(name):
            others += not member.isdir()
            unread |= {posixpath.splitext(name)[1]} if member.isreg() and not hidden else set()
        elif hidden:
            left_out[f"{file}/{hidden}", HIDDEN] += 1
        else:
            if name in images and not member.isdir():
                del images[name]
                left_out[f"{file}/{name}", _REPLACED] += 1
            skipped.pop(name, None)
            if here:
                images[name] = here._replace(name=name)
            elif name not in images:
                link = f"a hard link to '{_name(member.linkname)}', which is not before it"
                skipped[name] = link if member.islnk() else "not a regular file"
    named = [(f"{file}/{name}", reason) for name, reason in skipped.items()]
    return _Listed(list(images.values()), named, left_out, others, unread)


def _name(name: str) -> str:
    """As the member is called once unpacked: `./x//2.jpg` and `/x/2.jpg` are x/2.jpg."""
    return folders.printable("/".join(part for part in name.split("/") if part not in ("", ".")))


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else all would be kept
                yield member
    except tarfile.TarError as error:
        with path.open("rb") as file:
            start = file.read(8)
        packed = next((how for magic, how in _PACKED.items() if start.startswith(magic)), None)
        if packed:
            raise UserError(f"{path} is {packed}; unpack it to a plain tar file or a folder") from None
        problem = "is empty" if not start else f"is not a tar file, or is truncated or damaged ({error})"
        raise UserError(f"{path} {problem}; copy it again") from None
    _check_end(path, tar.offset)


def _check_end(path: Path, end: int) -> None:
    """Raises UserError if a tar file does not really end at `end`.

    Args:
      end: where `tarfile` found the end, in bytes; it also takes a header that it cannot read for the end.
    """
    with path.open("rb") as file:
        file.seek(end)
        at = end
        while chunk := file.read(_CHUNK):
            if chunk.strip(b"\0"):
                break
            at += len(chunk)
    if not chunk:
        if at - end < tarfile.BLOCKSIZE:
            raise UserError(f"{path} is truncated after {at:,} bytes; copy it again")
        return
    blank = (len(chunk) - len(chunk.lstrip(b"\0"))) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
    at += blank
    try:
        tarfile.TarInfo.frombuf(chunk[blank : blank + tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.TarError:
        raise UserError(f"{path} is damaged or truncated at byte {at:,}; copy it again") from None
    raise UserError(
        f"{path} holds several archives, one behind the other, the second from byte {at:,}; give the files that it was "
        "joined from, or unpack it with 'tar --ignore-zeros -xf' and give the folder"
    )


def _read(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)
