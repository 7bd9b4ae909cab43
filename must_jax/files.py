"""Files that are whole or absent, whatever kills the process."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def committed(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write; afterwards the file is synced to disk and renamed to `path`.

    When the block raises, nothing is left. What a killed writer of the same `path` on this machine left is removed.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)  # the rename itself
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replaces the text of `path` in one step."""
    with committed(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replaces `path` by `value` as JSON in one step."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def create_text(path: Path, text: str) -> None:
    """Writes the text in one step where there is no such file; of several processes that try, one succeeds."""
    if path.exists():
        return
    temporary = _temporary(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        _sync(temporary)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """This process's own name beside `path`, and no leftovers of dead processes of this machine."""
    host = socket.gethostname()
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.tmp-{glob.escape(host)}-*"):
        if not _alive(int(leftover.name.rpartition("-")[2])):
            leftover.unlink(missing_ok=True)
    return path.with_name(f"{path.name}.tmp-{host}-{os.getpid()}")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # someone else's
        return True
    return process != os.getpid()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
