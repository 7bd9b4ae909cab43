"""How a command ends: one sentence instead of a traceback for everything that the user can change."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from must_jax.errors import OtherProcessFailed, Preempted, UserError, is_out_of_memory, printable

FAILED = 1  # exit code after another process failed: restarting may help
INTERRUPTED = 130  # exit code after Ctrl-C
PREEMPTED_CODE = "MUST_JAX_PREEMPTED_CODE"  # environment variable, for launchers that cannot read the workdir

# By message, because libraries wrap the operating system's error in their own exceptions.
_MACHINE = {
    os.strerror(errno.ENOSPC): "free some space, then the same command continues",
    os.strerror(errno.EDQUOT): "free some space, then the same command continues",
    os.strerror(errno.EFBIG): "choose a disk that allows larger files, or use smaller shards",
    os.strerror(errno.EROFS): "choose a folder that can be written to",
    os.strerror(errno.EPERM): "choose a folder that you may read and write",
    os.strerror(errno.EACCES): "choose a folder that you may read and write",
}


_LESS_MEMORY = "lower batch_size; a training may keep it, and raise config.accumulate or set config.remat"

# By number, since their messages are common words.
_NAMES = {
    errno.ENAMETOOLONG: "choose shorter names",
    errno.ELOOP: "these links form a cycle; name the folder itself",
    errno.ENOTDIR: "name a folder",
    errno.EISDIR: "a folder is in the place of a file; move it away",
    errno.ENXIO: "that is not a readable file",
    errno.ENODEV: "that is not a readable file",
    errno.EMFILE: "allow more open files, with ulimit -n",
    errno.ENFILE: "allow more open files, with ulimit -n",
    errno.EIO: "the disk or its network connection fails; the same command continues once it works",
    errno.ESTALE: "the network disk was lost; the same command continues once it is back",
}


def exit_code(command: Callable[[], None]) -> int:
    """Runs a command and returns its exit code: 0 on success, 2 after a user error, 130 after Ctrl-C, 1 if another
    process failed, of the run or a worker, 0 or PREEMPTED_CODE if preempted.

    Anything else is a bug and keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # not every terminal can display every name
    try:
        command()
    except UserError as error:
        return _end(2, f"error: {error}")
    except Preempted as stop:
        return _end(int(os.environ.get(PREEMPTED_CODE, 0)), f"preempted, {stop}; the same command continues")
    except OtherProcessFailed as error:
        return _end(FAILED, f"error: {error}")
    except KeyboardInterrupt:
        return _end(INTERRUPTED, "stopped; the same command continues")
    except Exception as error:
        if is_out_of_memory(error) and not isinstance(error, MemoryError):  # which may well be a bug
            why = str(error).partition("\n")[0]  # the rest is a table of allocations
            return _end(2, f"error: too little memory on a device: {why}; {_LESS_MEMORY}")
        advice = next((advice for text, advice in _MACHINE.items() if text in str(error)), None)
        if advice is None and isinstance(error, OSError) and error.errno is not None:
            advice = _NAMES.get(error.errno)
        if advice is None:
            raise
        return _end(2, f"error: {error}; {advice}")
    return 0


@contextlib.contextmanager
def interrupted_later() -> Iterator[None]:
    """Defers Ctrl-C and SIGTERM until the block has ended: C++ modules that are interrupted while loading abort.

    The first signal then takes effect. Outside of the main thread, which receives no signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda number, _: kept.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if kept:
        signal.raise_signal(kept[0])


def _end(code: int, text: str) -> int:
    print(printable(" ".join(text.split())), file=sys.stderr)
    return code
