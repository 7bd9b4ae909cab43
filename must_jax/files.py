"""Files that are whole or absent, whatever kills the process; and whether there is room for them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from must_jax.errors import UserError

LOCK_FILE = ".lock"
MODEL_FILE = "model.json"  # of a finished training; `trained` says what is in it, and loads jax
_MIB = 2**20
_LONGEST_NAME = 255  # bytes, of most file systems
_OWN_BYTES = 32  # what a temporary name ends with
_ASKED_S = 0.1  # much longer than `is_locked` holds a lock


def fitting_name(stem: str, suffix: str) -> str:
    """The name of a file: stem and suffix, the stem cut where both are too long for a file system, and then unique."""
    if len(os.fsencode(stem + suffix)) <= _LONGEST_NAME:
        return stem + suffix
    suffix = f"-{_short(stem)}{suffix}"
    room = _LONGEST_NAME - len(os.fsencode(suffix))
    return os.fsencode(stem)[:room].decode(errors="ignore") + suffix


def _short(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:12]


def check_folder(path: Path, said: str) -> None:
    """Whether `path` is a folder, or can become one. Writes nothing.

    Args:
      said: how the user has named it.

    Raises:
      UserError: it leads through something else, is too long, or no text.
    """
    try:
        os.fsencode(path).decode()
    except UnicodeError:
        raise UserError(f"{said} is no UTF-8, and would stand in files that are; choose another name") from None
    for place in (path, *path.absolute().parents):
        try:
            mode = place.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            if place.is_symlink():
                raise UserError(f"{said} leads through {place}, a link to nothing; choose another folder") from None
            continue
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"{said} cannot be a folder: {why}; choose another") from None
        if not stat.S_ISDIR(mode):
            what = _KINDS.get(stat.S_IFMT(mode), "a device")
            if place == path:
                raise UserError(f"{said} is {what}; name a folder")
            raise UserError(f"{said} leads through {place}, which is {what}; choose another folder")
        return


_NO_PLACE = {errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}  # ENOENT: in /proc
_KINDS = {stat.S_IFREG: "a file", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it, where it is not there.

    Raises:
      UserError: something else is in the way, or the file system takes none.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in _NO_PLACE:
            raise
        raise UserError(f"the folder {path} cannot be made: {error.strerror}; choose another") from None


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What goes wrong inside, with a disk that is full for instance, is told with the file's name."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


@contextlib.contextmanager
def committed(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write; afterwards the file is synced to disk and renamed to `path`.

    When the block raises, nothing is left. What a killed writer of the same `path` on this machine left is removed.
    """
    with writing(path), _temporary(path) as temporary:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)  # the rename itself


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
    with writing(path), _temporary(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        _sync(temporary)
        _rename_new(temporary, path)
        _sync(path.parent)


def _rename_new(temporary: Path, path: Path) -> None:
    """Gives a file its name, unless there is one of that name."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # nor with locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not path.exists():
                os.replace(temporary, path)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A name beside `path` that nobody else has, gone afterwards; so are those of dead processes of this machine."""
    mark = f".tmp-{_machine()}-"
    whole = len(os.fsencode(path.name + mark)) + _OWN_BYTES <= _LONGEST_NAME
    prefix = (path.name if whole else _short(path.name)) + mark
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*"):
        process = leftover.name.removeprefix(prefix).partition("-")[0]
        if process.isdigit() and not _alive(int(process)):
            leftover.unlink(missing_ok=True)
    temporary = path.with_name(f"{prefix}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _machine() -> str:
    """Where a process is known by its number: the host and, on Linux, the container, as several can have one name."""
    container = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()}-{container.stat().st_ino}" if container.exists() else socket.gethostname()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # someone else's
        pass
    return True


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bytes_in(folder: Path) -> int:
    """Of all the files in a folder and its folders; 0 if there is none."""
    size = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process may be at work there
            size += file.stat().st_size
    return size


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raises UserError if the disk of `folder` cannot hold `needed` bytes more; `what` they are of, in words."""
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UserError(
            f"{what} need about {needed // _MIB} MiB, {existing} has {free // _MIB} MiB free; "
            "free some, or write to another disk"
        )


@contextlib.contextmanager
def taken(folder: Path, advice: str) -> Iterator[None]:
    """Makes the folder, and keeps it for this process alone for the time being.

    Args:
      advice: what to do when another process is at work there.

    Raises:
      UserError: that is so, or a file is in the way.
    """
    check_folder(folder, str(folder))
    make_folder(folder)
    try:
        descriptor = lock(folder)
    except BlockingIOError:
        raise UserError(f"another process is at work in {folder}; {advice}") from None
    try:
        yield
    finally:
        os.close(descriptor)


def lock(folder: Path, worker: str = "") -> int:
    """Takes a folder for this process, until it ends or closes the descriptor that is returned.

    Args:
      worker: "" = for this process alone; else its name among processes that share the folder.

    Raises:
      BlockingIOError: another process has taken it, or is the worker of this name.
    """
    if worker:
        _take(folder / LOCK_FILE, fcntl.LOCK_SH)  # stays open to the end of this process
    return _take(folder / (f"{LOCK_FILE}-{worker}" if worker else LOCK_FILE), fcntl.LOCK_EX)


def is_locked(folder: Path) -> bool:
    """Whether a process has taken the folder, alone or as a worker. Writes nothing, and need not be allowed to."""
    for path in folder.glob(f"{LOCK_FILE}*"):
        try:
            os.close(_flock(path, fcntl.LOCK_SH, os.O_RDONLY))
        except FileNotFoundError:
            continue
        except BlockingIOError:
            return True
    return False


def _take(path: Path, kind: int) -> int:
    flags = os.O_CREAT | os.O_RDWR
    try:
        return _flock(path, kind, flags)
    except BlockingIOError:  # perhaps by someone who only asks whether it is taken
        time.sleep(_ASKED_S)
        return _flock(path, kind, flags)


def _flock(path: Path, kind: int, flags: int) -> int:
    descriptor = os.open(path, flags, 0o644)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
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
