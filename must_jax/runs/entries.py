"""A run to report on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One run: its workdir, how long it took, if that is known, and why it has failed, if it has."""

    name: str
    config: Any  # of its stage
    workdir: Path
    seconds: float | None = None
    failure: str = ""
