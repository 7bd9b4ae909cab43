"""Which files are images, and which of them a folder holds."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from must_jax.data import known
from must_jax.progress import counted

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".jp2", ".ppm")
_IMAGE = re.compile(  # as `_suffix` would find it, in a third of the time
    rf"(?:.*/)?(?!\._)\.*[^./][^/]*(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))})", re.I | re.S | re.A
)
_UNREAD_SUFFIX = re.compile(  # images, too: left out of a set, but not silently
    r"\.(heic|heif|hif|jxl|j2k|svg|ico|psd|tga|exr|hdr|raw|dng|cr2|cr3|crw|nef|nrw|arw|orf|rw2|raf|pef|srw)", re.I
)
_APPLE_DOUBLE = "._"  # prefix of files that macOS leaves beside others, with the same suffix
_SYSTEM_FOLDERS = re.compile(  # of macOS, Windows, Linux, Synology, QNAP, NetApp, Python, and of viewers' thumbnails
    r"__macosx|\$recycle\.bin|system volume information|found\.\d{3}|lost\+found|@eadir|@tmp|#recycle|#snapshot|"
    r"@recycle|@recently-snapshot|@__thumb|~snapshot|__pycache__|_?thumb(nail)?s",
    re.I,
)
NOT_READ = "format not read"
HIDDEN = "hidden, or in a hidden or system folder"
_NAMED = 3  # how many are named for each reason


class LeftOut(NamedTuple):
    """Images that are left out because of what they are, not because they cannot be read.

    Attributes:
      name: name of the image, of the folder that they are in, or of what they have in common.
      images: how many there are.
    """

    name: str
    reason: str
    images: int = 1


class Listing(NamedTuple):
    """What a folder, or an archive, holds.

    Attributes:
      images: path relative to the folder, and size in bytes.
      keys: u64[n], a number for each image that changes with its file; see `known.key_of`.
      skipped: path of each image that is not taken, and why.
      others: number of files that are not images.
      hidden: hidden files, and hidden or system folders, with images; these are in neither `skipped` nor `others`.
    """

    images: list[tuple[str, int]]
    keys: np.ndarray
    skipped: list[tuple[str, str]]
    others: int
    hidden: list[LeftOut]


def is_image(name: str) -> bool:
    """Whether the name has the suffix of an image whose format is read."""
    return _IMAGE.fullmatch(name) is not None


def is_unread(name: str) -> bool:
    """Whether the name has the suffix of an image whose format is not read."""
    return bool(_UNREAD_SUFFIX.fullmatch(_suffix(name)))


def hidden_part(name: str) -> str:
    """The path up to its first hidden or system part; "" = it has none.

    Folders are judged by their names, and only those below the source: "a/.git/1.jpg" -> "a/.git".
    """
    parts = name.split("/")
    for count, part in enumerate(parts, start=1):
        dotted = part.startswith(".") and part not in (".", "..")
        if dotted or (count < len(parts) and _SYSTEM_FOLDERS.fullmatch(part)):
            return "/".join(parts[:count])
    return ""


def list_folder(folder: Path) -> Listing:
    """All images below a folder, sorted by the parts of their paths."""
    images: list[tuple[str, int, int]] = []
    skipped: list[tuple[str, str]] = []
    hidden: list[str] = []
    others = 0
    now_ns = time.time_ns()

    def unread(name: str, error: OSError) -> None:
        skipped.append((name, f"the folder cannot be read: {error.strerror}"))

    for name, entry in _walk(folder, unread, hidden):
        try:
            if not is_image(entry.name):
                if is_unread(entry.name):
                    skipped.append((name, NOT_READ))
                else:
                    others += 1
            elif entry.name.startswith("."):
                hidden.append(name)
            elif entry.is_file():
                file = entry.stat()
                images.append((_sorted_by(name), file.st_size, known.key_of(name, file, now_ns)))
            else:
                skipped.append((name, "not a regular file, or a broken link"))
        except OSError as error:  # a link to itself
            skipped.append((name, str(error.strerror)))
    images.sort()
    skipped.sort(key=lambda image: _sorted_by(image[0]))
    counted = ((name, _images_at(folder / name)) for name in sorted(hidden, key=_sorted_by))
    return Listing(
        [(name.replace("\0", "/"), size) for name, size, _ in images],
        np.fromiter((key for _, _, key in images), np.uint64, len(images)),
        skipped,
        others,
        [LeftOut(name, HIDDEN, count) for name, count in counted if count],
    )


def _sorted_by(name: str) -> str:
    """What a path is sorted by to be in the order of its parts: no name contains a NUL, which is before all else."""
    return name.replace("/", "\0")


def files_below(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Paths, relative to the folder, of all files with these suffixes in any case, sorted by their parts.

    Hidden files, and hidden or system folders, are left out.

    Raises:
      OSError: a folder cannot be read.
    """

    def unread(_: str, error: OSError) -> None:
        raise error

    found = _walk(folder, unread, [])
    names = (name for name, entry in found if name.lower().endswith(suffixes) and not hidden_part(entry.name))
    return sorted((name for name in names if (folder / name).is_file()), key=_sorted_by)


def _walk(
    folder: Path, unread: Callable[[str, OSError], None], hidden: list[str]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yields the path relative to the folder, and the entry, of everything below it except folders.

    Links are followed, but no folder is listed twice, so circular links come to an end.

    Args:
      unread: called for each folder that cannot be read.
      hidden: receives the paths of hidden and system folders, which are not searched.
    """
    listed = set()
    folders, links = deque([""]), deque[str]()
    while folders or links:
        at = (folders or links).popleft()  # links last: a target inside the folder is listed by its own path
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
            name = f"{at}/{entry.name}" if at else entry.name
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link to itself leads to no folder
                is_folder = False
            if not is_folder:
                yield name, entry
            elif hidden_part(f"{entry.name}/"):
                hidden.append(name)
            else:
                (links if entry.is_symlink() else folders).append(name)


def _images_at(path: Path) -> int:
    """Number of images in a file or folder, apart from links to folders and folders that cannot be read."""
    if path.is_dir():
        return sum(is_image(name) for _, _, files in os.walk(path) for name in files)
    return int(is_image(path.name))


def told(left_out: Iterable[LeftOut]) -> str:
    """ "skipped: 2 images, hidden, or in a hidden or system folder (cat/.git: 1, dog/@eaDir: 1)"; "" = nothing."""
    groups: dict[str, list[LeftOut]] = {}
    for each in left_out:
        groups.setdefault(each.reason, []).append(each)
    parts = []
    for reason, group in groups.items():
        named = ", ".join(f"{each.name}: {each.images}" for each in group[:_NAMED]) + ", ..." * (len(group) > _NAMED)
        parts.append(f"{counted(sum(each.images for each in group), 'image')}, {reason} ({named})")
    return f"skipped: {'; '.join(parts)}" if parts else ""


def digest(images: Iterable[tuple[str, int]]) -> str:
    """16 hex digits of names and sizes."""
    text = "".join(f"{name}\n{size}\n" for name, size in images)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def printable(name: str) -> str:
    """The name with bytes that are not UTF-8 written as \\xff, as they cannot be stored as text."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _suffix(name: str) -> str:
    file = posixpath.basename(name)
    return "" if file.startswith(_APPLE_DOUBLE) else posixpath.splitext(file)[1].lower()
