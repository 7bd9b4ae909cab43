"""What a pipeline writes about its stages: how long they took, and why they have failed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from must_jax.files import write_json
from must_jax.reading import read_json

TIMES_FILE = "times.json"  # stage -> seconds over all restarts
FAILURES_FILE = "failures.json"  # stage -> why it has failed, until it is run again


@contextlib.contextmanager
def timed(name: str, workdir: Path) -> Iterator[None]:
    """Adds the time that the block takes to that of `name`."""
    began = time.monotonic()
    try:
        yield
    finally:
        before = times(workdir)
        write_json(workdir / TIMES_FILE, {**before, name: before.get(name, 0.0) + time.monotonic() - began})


def times(workdir: Path) -> dict[str, float]:
    """Stage -> seconds over all restarts; "report" for the reports; also of what was set aside, by its folder."""
    path = workdir / TIMES_FILE
    return read_json(path, dict[str, float], "remove it, only timings are lost") if path.exists() else {}


def failures(workdir: Path) -> dict[str, str]:
    """Stage -> why it has failed, for those that have since they were last run."""
    path = workdir / FAILURES_FILE
    return read_json(path, dict[str, str], "remove it, only these sentences are lost") if path.exists() else {}


def note_failure(workdir: Path, name: str, why: str) -> None:
    before = failures(workdir)
    after = {stage: told for stage, told in before.items() if stage != name} | ({name: why} if why else {})
    if after != before:
        write_json(workdir / FAILURES_FILE, after)
