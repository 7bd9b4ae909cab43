"""Which files are images, and what of them a folder holds."""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".jp2", ".ppm")
_UNREAD_SUFFIX = re.compile(  # images as well: left out of a set, but not in silence
    r"\.(heic|heif|hif|jxl|j2k|svg|ico|psd|tga|exr|hdr|raw|dng|cr2|cr3|crw|nef|nrw|arw|orf|rw2|raf|pef|srw)", re.I
)
_APPLE_DOUBLE = "._"  # starts the names of files that macOS leaves beside others, with their suffix
NOT_READ = "format not read"


class Listing(NamedTuple):
    """What a folder, or an archive, holds.

    Attributes:
      images: path relative to the folder, and bytes.
      skipped: path of images that are not taken, and why.
      others: number of files that are no images.
    """

    images: list[tuple[str, int]]
    skipped: list[tuple[str, str]]
    others: int


def is_image(name: str) -> bool:
    """By the name's suffix; one whose format is not read is none."""
    return _suffix(name) in IMAGE_SUFFIXES


def is_unread(name: str) -> bool:
    """Whether it is an image of a format that is not read."""
    return bool(_UNREAD_SUFFIX.fullmatch(_suffix(name)))


def list_folder(folder: Path) -> Listing:
    """All images below a folder, sorted by the parts of their paths."""
    images: list[tuple[str, int]] = []
    skipped: list[tuple[str, str]] = []
    others = 0

    def unread(name: str, error: OSError) -> None:
        skipped.append((name, f"the folder cannot be read: {error.strerror}"))

    for name, entry in _walk(folder, unread):
        try:
            if is_image(name) and entry.is_file():
                images.append((name, entry.stat().st_size))
            elif is_image(name):
                skipped.append((name, "no regular file, or a link to nothing"))
            elif is_unread(name):
                skipped.append((name, NOT_READ))
            else:
                others += 1
        except OSError as error:  # a link to itself
            skipped.append((name, str(error.strerror)))
    images.sort(key=lambda image: image[0].split("/"))
    skipped.sort(key=lambda image: image[0].split("/"))
    return Listing(images, skipped, others)


def files_below(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Paths relative to the folder of all files that end so, whatever their case, sorted by their parts.

    Raises:
      OSError: a folder that cannot be read.
    """

    def unread(_: str, error: OSError) -> None:
        raise error

    names = (name for name, _ in _walk(folder, unread) if name.lower().endswith(suffixes))
    return sorted((name for name in names if (folder / name).is_file()), key=lambda name: name.split("/"))


def _walk(folder: Path, unread: Callable[[str, OSError], None]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Path relative to the folder, and entry, of everything below it but folders.

    Links are followed, but no folder is listed twice, so that links in a circle come to an end.

    Args:
      unread: is told of the folders that cannot be read.
    """
    listed = set()
    folders, links = deque([""]), deque[str]()
    while folders or links:
        at = (folders or links).popleft()  # links last: what they lead to has its own name where it is in the folder
        try:
            status = os.stat(folder / at)
            if (status.st_dev, status.st_ino) in listed:
                continue
            listed.add((status.st_dev, status.st_ino))
            with os.scandir(folder / at) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            unread(at, error)
            continue
        for entry in found:
            name = posixpath.join(at, entry.name)
            with contextlib.suppress(OSError):  # a link to itself leads to no folder
                if entry.is_dir():
                    (links if entry.is_symlink() else folders).append(name)
                    continue
            yield name, entry


def digest(images: Iterable[tuple[str, int]]) -> str:
    """16 hex digits of names and sizes."""
    text = "".join(f"{name}\n{size}\n" for name, size in images)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def printable(name: str) -> str:
    """The name with bytes that are no UTF-8 written as \\xff, for nothing else can be stored as text."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _suffix(name: str) -> str:
    file = posixpath.basename(name)
    return "" if file.startswith(_APPLE_DOUBLE) else posixpath.splitext(file)[1].lower()
