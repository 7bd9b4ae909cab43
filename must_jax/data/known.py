"""What is known of files that were read before, so that the next start does not read them again until they change.

It is kept in the user's cache, since folders of photos and labels may be read-only. Whatever is wrong with the cache,
files are only read once more.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from must_jax import files

CACHE = "~/.cache/must_jax"  # MUST_JAX_CACHE_DIR is another one
SETTLED_S = 2.0  # a file that was just written could change again within the resolution of its times
UNSETTLED = 0  # the key of such a file
_ROW = np.dtype([("key", "<u8"), ("low", "u1"), ("high", "u1")])
_CHECK_BYTES = 16
_UNUSED_DAYS = 180


def key_of(name: str, file: os.stat_result, now_ns: int) -> int:
    """A number that changes with a file; UNSETTLED if it changed shortly before `now_ns`, when it is to be read.

    It is made of name, size, times and inode: writing to a file sets its ctime, which no program can set back.
    """
    if file.st_ctime_ns > now_ns - SETTLED_S * 1e9:
        return UNSETTLED
    text = f"{name}\n{file.st_size} {file.st_mtime_ns} {file.st_ctime_ns} {file.st_ino}"
    digest = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


class Known:
    """Keys of files that were read and found to be good, each with the range of an image's values; not thread-safe.

    Several processes may keep what they know of the same files at the same time.
    """

    def __init__(self, of: Path) -> None:
        """`of`: the folder of the files."""
        folder = Path(os.environ.get("MUST_JAX_CACHE_DIR") or CACHE).expanduser() / "known"
        self._path = folder / hashlib.sha256(_identity(of)).hexdigest()[:32]
        self._rows = _read(self._path)
        self._new: list[tuple[int, int, int]] = []
        with contextlib.suppress(OSError):
            os.utime(self._path)  # it is in use

    def look_up(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Keys u64[n] -> bool[n], whether each is known, and the lowest and highest values, u8[n]."""
        if not len(self._rows):
            nothing = np.zeros(len(keys), np.uint8)
            return nothing.astype(bool), nothing, nothing.copy()
        rows = self._rows[np.minimum(np.searchsorted(self._rows["key"], keys), len(self._rows) - 1)]
        return (rows["key"] == keys) & (keys != UNSETTLED), rows["low"], rows["high"]

    def add(self, key: int, low: int = 0, high: int = 0) -> None:
        if key != UNSETTLED:
            self._new.append((key, low, high))

    def save(self, keys: np.ndarray) -> None:
        """Keeps what is known of these files, and forgets all others. Does nothing where nothing can be written."""
        if not self._new:
            return
        rows = np.concatenate([_read(self._path), self._rows, np.array(self._new, _ROW)])
        rows = rows[np.unique(rows["key"], return_index=True)[1]]
        self._rows, self._new = rows[np.isin(rows["key"], keys)], []
        data = self._rows.tobytes()
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _remove_unused(self._path.parent.iterdir())
            with files.committed(self._path) as temporary:
                temporary.write_bytes(_check(data) + data)


def _identity(folder: Path) -> bytes:
    """Tells apart the copies that hosts with one home have at the same path.

    By inode: the number of a network disk may be another one after every start.
    """
    inode = 0
    with contextlib.suppress(OSError):
        inode = folder.stat().st_ino
    return b"%s\n%d" % (os.fsencode(os.path.realpath(folder)), inode)


def _read(path: Path) -> np.ndarray:
    """Sorted by key; empty if there is nothing, or nothing intact."""
    data = b""
    with contextlib.suppress(OSError):
        data = path.read_bytes()
    check, data = data[:_CHECK_BYTES], data[_CHECK_BYTES:]
    return np.frombuffer(data if check == _check(data) else b"", _ROW)


def _check(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_CHECK_BYTES, person=b"must_jax known 1").digest()


def _remove_unused(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _UNUSED_DAYS * 86_400:
                path.unlink()
