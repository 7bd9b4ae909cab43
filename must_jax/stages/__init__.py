"""What a user can ask for, one file a stage: each has `run(config, workdir)`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Stage = Callable[[Any, Path], None]


def _stage(name: str) -> Stage:
    def run(config: Any, workdir: Path) -> None:
        importlib.import_module(f"{__name__}.{name}").run(config, workdir)  # only what is asked for is loaded

    return run


_NAMES = ("prepare", "train", "label", "labels", "audit", "evaluate", "pipeline", "compile")
STAGES: dict[str, Stage] = {name: _stage(name) for name in _NAMES}
