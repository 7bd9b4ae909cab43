"""What is traced, with jax's profiler."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from must_jax.engine.tracing import traced


@pytest.fixture
def step():
    made = jax.jit(lambda x: x + 1)
    made(jnp.float32(0))
    return made


def updates_in(folder: Path) -> list[int]:
    """The numbers of the updates in the trace."""
    (file,) = folder.glob("plugins/profile/*/*.trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    return sorted({int(event["args"]["step_num"]) for event in events if "step_num" in event.get("args", {})})


def run(step, updates: range, folder: Path, start: int, until: int) -> float:
    value = jnp.float32(start)
    with traced(step, updates, start, folder) as watched:
        for _ in range(start, until):
            value = watched(value)
    return float(value)


def test_the_updates_that_were_asked_for_and_no_others(step, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(step, range(3, 6), tmp_path, start=0, until=8) == 8
    assert updates_in(tmp_path) == [3, 4, 5]
    said = capsys.readouterr().err
    assert f"trace of updates 3 to 5: pip install xprof && xprof --logdir={tmp_path}" in said
    assert "https://ui.perfetto.dev" in said


def test_a_run_that_goes_on_inside_of_the_range_traces_the_rest(step, tmp_path: Path):
    run(step, range(3, 6), tmp_path, start=4, until=8)
    assert updates_in(tmp_path) == [5]


def test_a_run_that_goes_on_after_it_says_so(step, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run(step, range(3, 6), tmp_path, start=5, until=8)
    assert list(tmp_path.iterdir()) == []
    assert "updates 3 to 5 are already done" in capsys.readouterr().err


def test_a_run_that_dies_in_the_range_ends_the_trace(step, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), traced(step, range(1, 9), 0, tmp_path) as watched:
        watched(jnp.float32(0))
        raise KeyboardInterrupt
    assert updates_in(tmp_path) == [1]
    run(step, range(1, 2), tmp_path / "again", start=0, until=2)  # a profiler runs once at a time
    assert updates_in(tmp_path / "again") == [1]


def test_without_a_range_the_step_is_as_it_was(step, tmp_path: Path):
    with traced(step, range(0), 0, tmp_path) as watched:
        assert watched is step
