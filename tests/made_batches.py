"""Makers of batches, which are sent to worker processes."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from must_jax.data.workers import Unread
from must_jax.errors import UserError

ROWS, WIDTH = 8, 4096


def like(rows: int = ROWS) -> dict[str, Any]:
    """Rows of 4 kB of a large array, and of a small one."""
    return {"value": np.zeros((rows, WIDTH // 4), np.int32), "by": {"process": np.zeros(rows, np.int64)}}


@dataclass(frozen=True)
class Maker:
    """Values are 1000 * step + row; `by.process` is who made the row.

    Attributes:
      fails_at: step at which an exception is raised.
      mistake: whether that is a UserError.
      waits_at: step at which a part takes forever.
    """

    fails_at: int = -1
    mistake: bool = False
    waits_at: int = -1

    def __call__(self, step: int, rows: range, out: dict[str, Any]) -> list[Unread]:
        if step == self.fails_at:
            raise UserError("free some space") if self.mistake else ZeroDivisionError(f"at step {step}")
        if step == self.waits_at:
            time.sleep(1000)
        for row in rows:
            out["value"][row] = 1000 * step + row
            out["by"]["process"][row] = os.getpid()
        return [Unread(f"{step}[{row}]", "why") for row in rows if row == 3]


class Unloadable(Maker):
    """Cannot be made again in another process."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


class Counting:
    """Counts the steps that were begun, in this process."""

    def __init__(self) -> None:
        self.steps: set[int] = set()
        self._lock = threading.Lock()

    def __call__(self, step: int, rows: range, out: dict[str, Any]) -> list[Unread]:
        with self._lock:
            self.steps.add(step)
        return Maker()(step, rows, out)
