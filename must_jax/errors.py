"""The exceptions that end a command without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable


class UserError(Exception):
    """Something the user can change: one sentence that says what is wrong and what to do.

    `main` prints it without a traceback and exits with a non-zero code.
    """


class OtherProcessFailed(Exception):
    """Another process failed, with no known user error: restarting may help."""


class WorkerLost(OtherProcessFailed):
    """A process that works for this one has ended by itself."""


class Preempted(KeyboardInterrupt):
    """The run received SIGTERM and saved its state. This is not an error: the same command continues."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether something did not fit into memory: of a device, as jax says it, or of this machine."""
    text = str(error)
    exhausted = "RESOURCE_EXHAUSTED" in text and ("memory" in text.lower() or "allocat" in text)  # not a full queue
    return isinstance(error, MemoryError) or exhausted


def told(error: BaseException) -> str:
    """The error in one line, for messages about something that was left out."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def printable(text: str) -> str:
    """One printable line: bytes that are not text are escaped (\\xff), and so are control characters (\\n)."""
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    byte = ord(character) - 0xDC00  # Python's representation of bytes that are not UTF-8
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else character.encode("unicode_escape").decode()


def nearest(name: str, known: Iterable[str], shown: Callable[[str], str] = str) -> str:
    """A hint for a misspelt `name`: the closest of `known`, or the whole list if none is close.

    Args:
      shown: how one of them is written, if not as it is.
    """
    options = sorted(map(str, known))
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{shown(close[0])}'?"
    return f"known: {', '.join(map(shown, options)) if options else 'none'}"
