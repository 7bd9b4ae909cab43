"""How many cores and how much memory there are, and how work is distributed over the cores."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def cores() -> int:
    """Cores that this process may use; on systems that do not report it (macOS), those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Memory of the machine; None if the system does not report it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def divided(length: int, parts: int) -> list[range]:
    """The numbers below `length`, in parts of nearly equal length, none of them empty."""
    ends = [length * part // parts for part in range(parts + 1)]
    return [range(*each) for each in itertools.pairwise(ends) if each[0] < each[1]]


def ahead(items: Iterable[_Item], begin: Callable[[_Item], Callable[[], _Result]], count: int) -> Iterator[_Result]:
    """The results in the order of the items; work on the next `count` items starts before a result is awaited.

    Args:
      begin: starts the work on an item and returns a function that waits for its result.
    """
    begun: deque[Callable[[], _Result]] = deque()
    for item in items:
        begun.append(begin(item))
        if len(begun) > count:
            yield begun.popleft()()
    while begun:
        yield begun.popleft()()
