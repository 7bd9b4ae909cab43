"""What the tests of the launchers share."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in.py")))


def wait_for(happened: Callable[[], bool], what: str) -> None:
    """Gives up after a minute: then it will not happen, on however slow a machine."""
    for _ in range(6000):
        if happened():
            return
        time.sleep(0.01)
    raise AssertionError(f"{what} did not happen")


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def with_stubs(folder: Path, **programs: str) -> dict[str, str]:
    """An environment in which these bash scripts come first on PATH."""
    folder.mkdir()
    for name, script in programs.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{script}")
        (folder / name).chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
