"""Files that are either complete or absent, even if the process is killed; and checks of disk space."""

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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from must_jax.errors import UserError

LOCK_FILE = ".lock"
MODEL_FILE = "model.json"  # of a finished training run; see `description`
_MIB = 2**20
_LONGEST_NAME = 255  # bytes, on most file systems
_OWN_BYTES = 32  # suffix of a temporary name
_ASKED_S = 0.1  # much longer than `is_locked` holds a lock


def fitting_name(stem: str, suffix: str) -> str:
    """A file name from stem and suffix. If it is too long for a file system, the stem is truncated and made unique."""
    if len(os.fsencode(stem + suffix)) <= _LONGEST_NAME:
        return stem + suffix
    suffix = f"-{_short(stem)}{suffix}"
    room = _LONGEST_NAME - len(os.fsencode(suffix))
    return os.fsencode(stem)[:room].decode(errors="ignore") + suffix


def _short(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:12]


def check_folder(path: Path, said: str) -> None:
    """Checks that `path` is a folder, or can become one. Writes nothing.

    Args:
      said: how the user referred to it.

    Raises:
      UserError: part of the path is not a folder, or the path is too long or not text.
    """
    try:
        os.fsencode(path).decode()
    except UnicodeError:
        raise UserError(f"{said} is not UTF-8, but would be written to UTF-8 files; choose another name") from None
    for place in (path, *path.absolute().parents):
        try:
            mode = place.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            if place.is_symlink():
                raise UserError(f"{said} leads through {place}, a dangling link; choose another folder") from None
            continue
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"{said} cannot be a folder: {why}; choose another") from None
        if not stat.S_ISDIR(mode):
            what = _kind(mode)
            if place == path:
                raise UserError(f"{said} is {what}; name a folder")
            raise UserError(f"{said} leads through {place}, which is {what}; choose another folder")
        return


_NO_PLACE = {errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}  # ENOENT: in /proc
_KINDS = {stat.S_IFREG: "a file", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def kind_of(path: Path) -> str:
    """What `path` is, in words; "" = nothing that can be looked at."""
    try:
        return _kind(path.stat().st_mode)
    except (OSError, ValueError):
        return ""


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "a device")


def is_same_path(one: str, other: str) -> bool:
    """Whether two texts name the same place, which need not exist."""
    return one == other or os.path.realpath(os.path.expanduser(one)) == os.path.realpath(os.path.expanduser(other))


def make_folder(path: Path) -> None:
    """Creates a folder and its parents if missing.

    Raises:
      UserError: something else is in the way, or the file system does not allow it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in _NO_PLACE:
            raise
        raise UserError(f"the folder {path} cannot be created: {error.strerror}; choose another") from None


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors inside, such as a full disk, are reported with the file's name."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


@contextlib.contextmanager
def committed(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write; afterwards the file is synced to disk and renamed to `path`.

    If the block raises, nothing is left. Leftovers of killed writers of this `path` on this machine are removed.
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
    """Writes the text in one step if the file does not exist; of several processes that try, one succeeds."""
    if path.exists():
        return
    with writing(path), _temporary(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        _sync(temporary)
        _rename_new(temporary, path)
        _sync(path.parent)


def _rename_new(temporary: Path, path: Path) -> None:
    """Renames a file, unless the name is taken."""
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
    """A unique temporary name beside `path`, removed afterwards, like those of dead processes of this machine."""
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
    """Where process ids are unique: the host and, on Linux, the container, since several can share a host name."""
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
    """The bytes of all files in a folder and its subfolders; 0 if there are none."""
    size = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process may be at work there
            size += file.stat().st_size
    return size


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raises UserError if the disk of `folder` cannot hold `needed` more bytes; `what` describes them in words."""
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UserError(
            f"{what} need about {needed // _MIB} MiB, {existing} has {free // _MIB} MiB free; "
            "free some, or write to another disk"
        )


@contextlib.contextmanager
def taken(folder: Path, advice: str) -> Iterator[None]:
    """Creates the folder, and reserves it for this process within the block.

    Args:
      advice: what to do if another process is using it.

    Raises:
      UserError: another process is using it, or a file is in the way.
    """
    check_folder(folder, str(folder))
    make_folder(folder)
    try:
        held = lock(folder)
    except BlockingIOError:
        raise UserError(f"another process is using {folder}; {advice}") from None
    try:
        yield
    finally:
        unlock(held)


def lock(folder: Path, worker: str = "") -> tuple[int, ...]:
    """Locks a folder for this process, until it ends, or until `unlock` is called with what is returned.

    Args:
      worker: "" = exclusively; otherwise this process's name among those that share the folder.

    Raises:
      BlockingIOError: another process has locked it, or has the same worker name.
    """
    if not worker:
        return (_take(folder / LOCK_FILE, fcntl.LOCK_EX),)
    shared = _take(folder / LOCK_FILE, fcntl.LOCK_SH)
    try:
        return shared, _take(folder / f"{LOCK_FILE}-{worker}", fcntl.LOCK_EX)
    except BaseException:
        unlock([shared])
        raise


def unlock(descriptors: Iterable[int]) -> None:
    """Gives a lock back, also if processes that this one has started have inherited it."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Whether a process has locked the folder, exclusively or as a worker. Needs no write permission."""
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
    except BlockingIOError:  # perhaps only by a process that asks whether it is locked
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
