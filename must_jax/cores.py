"""How many cores there are for threads and processes."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores that this process may use; where the system does not tell (macOS), those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
