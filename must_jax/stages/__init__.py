"""The stages that a config can run, one file each, with `run(config, workdir)`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from must_jax.cli import interrupted_later
from must_jax.engine import clock

Stage = Callable[[Any, Path], None]


def _stage(name: str) -> Stage:
    def run(config: Any, workdir: Path) -> None:
        with interrupted_later(), clock.loading():
            stage = importlib.import_module(f"{__name__}.{name}")  # load only what is needed
        stage.run(config, workdir)

    return run


_RUN = ("prepare", "train", "check", "label", "labels", "audit", "evaluate", "export", "pipeline")
_NAMES = (*_RUN, "describe", "report", "compile", "replay")
STAGES: dict[str, Stage] = {name: _stage(name) for name in _NAMES}
