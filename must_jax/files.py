"""Files that are whole or absent, whatever kills the process; and whether there is room for them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from must_jax.errors import UserError

LOCK_FILE = ".lock"
_MIB = 2**20


@contextlib.contextmanager
def committed(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write; afterwards the file is synced to disk and renamed to `path`.

    When the block raises, nothing is left. What an earlier, killed writer of the same `path` left behind is removed.
    """
    for leftover in path.parent.glob(f"{path.name}.tmp-*"):
        leftover.unlink(missing_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
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
    """Replaces the value in `path` in one step."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raises UserError if the disk cannot hold `needed` bytes of `what` in `folder`; those already in it count."""
    written = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process may be at work there
            written += file.stat().st_size
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed - written > free:
        raise UserError(
            f"{what} need about {(needed - written) // _MIB} MiB, {existing} has {free // _MIB} MiB free; "
            "free some, or write to another disk"
        )


def lock(folder: Path) -> int:
    """Takes a folder for this process, until it ends or closes the descriptor that is returned.

    Raises:
      BlockingIOError: another process has taken it.
    """
    descriptor = os.open(folder / LOCK_FILE, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        pass  # a file system without locks
    return descriptor


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
