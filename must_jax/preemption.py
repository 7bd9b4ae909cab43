"""Preemption: handling of SIGTERM, as sent by preempted TPUs, spot GPUs and schedulers.

Except in training, work stops at once: everything written is consistent, and the same command continues. Training
defers the signal (`deferred`), checks for it after each update, saves, and then stops.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from must_jax.errors import Preempted

AGAIN_AFTER_S = 0.05
LATE_WRITE = "Event loop is closed"  # Orbax's message for each write that ends after another has failed and raised
_requested = False
_deferred = 0
_raised = False
_told: BaseException | None = None  # the argument of `end_with`
_last_told: BaseException | None = None  # that which was raised
_tell: Callable[[sys.UnraisableHookArgs], object] = sys.__unraisablehook__


def watch() -> None:
    """From now on SIGTERM means preemption. Call it only in the main thread of a command, not in libraries."""
    global _requested, _raised, _told
    if threading.current_thread() is threading.main_thread():
        _requested, _raised, _told = False, False, None  # may be left over from an earlier command
        signal.signal(signal.SIGTERM, _on_signal)
        if sys.unraisablehook is not _on_lost:
            global _tell
            _tell, sys.unraisablehook = sys.unraisablehook, _on_lost


def requested() -> bool:
    """Whether this process has been asked to stop."""
    return _requested


def interrupted() -> bool:
    """Whether something was interrupted by a signal, or by `end_with`."""
    return _raised


def answered() -> None:
    """From now on signals are ignored: a signal, or another process, is already ending this one."""
    global _raised
    _raised = True


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Inside, a signal only sets `requested`, for the caller to check; at the latest, work stops on leaving.

    Raises:
      Preempted: on leaving the block normally.
    """
    global _deferred, _raised
    _deferred += 1
    try:
        yield
    finally:
        _deferred -= 1
    if _requested and not _deferred:
        _raised = True
        raise Preempted("stopped by SIGTERM")


def end_with(error: BaseException) -> None:
    """From another thread: the main thread raises this as soon as it can.

    Does nothing if signals are not watched, or if this process has been asked to stop already.
    """
    global _told
    if signal.getsignal(signal.SIGTERM) is _on_signal and not _requested:
        _told = error
        os.kill(os.getpid(), signal.SIGTERM)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _requested, _raised, _told, _last_told
    told, _told = _told, None
    _last_told = told
    if not told:
        _requested = True
        if _deferred or _raised:  # launchers send it more than once, and the first one is being handled
            return
    _raised = True
    raise told or Preempted("stopped by SIGTERM")


def _on_lost(what: sys.UnraisableHookArgs) -> None:
    """Sends the signal again if nothing can be raised, as in the garbage collector, which calls jax."""
    told = what.exc_value is not None and what.exc_value is _last_told
    if told or issubclass(what.exc_type, Preempted):
        global _raised, _told
        _raised, _told = False, what.exc_value if told else None
        again = threading.Timer(AGAIN_AFTER_S, os.kill, (os.getpid(), signal.SIGTERM))
        again.daemon = True
        again.start()
    elif str(what.exc_value) != LATE_WRITE:
        _tell(what)
