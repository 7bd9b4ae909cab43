"""A small student in processes of its own, and what it ends with when nothing disturbs it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
from processes import QUICK, STEPS, STUDENT, Process

from must_jax.engine.checkpoint import restore_variables


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("survival")


@pytest.fixture(scope="session")
def config_file(home: Path) -> Callable[[Mapping[str, Any]], Path]:
    """Writes a config file."""

    def write(values: Mapping[str, Any]) -> Path:
        path = home / f"{len(list(home.glob('*.py')))}.py"
        values = {"data_dir": str(home / "data"), **values}
        path.write_text(
            f"from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict({values})\n"
        )
        return path

    return write


@pytest.fixture(scope="session")
def student(config_file: Callable[[Mapping[str, Any]], Path]) -> str:
    return f"--config={config_file(STUDENT)}"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts a process; what is left of it when the test ends is killed."""
    started: list[Process] = []

    def start(*arguments: str, environment: Mapping[str, str] | None = None, **options: Any) -> Process:
        log, environment = tmp_path / f"process-{len(started)}.log", QUICK | (environment or {})
        started.append(Process(log, *arguments, environment=environment, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def start_together(start: Callable[..., Process]) -> Callable[..., list[Process]]:
    """Starts processes that work together, each with arguments of its own after the common ones."""

    def start_together(*arguments: str, own: tuple[tuple[str, ...], ...] = ((), ()), **options: Any) -> list[Process]:
        environment = options.pop("environment", {})
        return [
            start(*arguments, *each, environment=joined | environment, **options)
            for each, joined in zip(own, processes.group(len(own)), strict=True)
        ]

    return start_together


@pytest.fixture(scope="session")
def undisturbed(student: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of the run that nothing happened to: one process, two devices."""
    folder = tmp_path_factory.mktemp("undisturbed")
    Process(folder / "log", student, f"--workdir={folder / 'run'}", environment=QUICK).finish()
    return folder / "run"


@pytest.fixture
def assert_same(undisturbed: Path) -> Callable[[Path], None]:
    """That a run has ended as the undisturbed one, bit for bit."""

    def assert_same(workdir: Path) -> None:
        ours, theirs = (json.loads((folder / "model.json").read_text()) for folder in (workdir, undisturbed))
        assert [ours[name] for name in ("digest", "step")] == [theirs[name] for name in ("digest", "step")]
        assert processes.measured(ours["metrics"]) == processes.measured(theirs["metrics"])
        assert processes.values(workdir) == processes.values(undisturbed)
        assert processes.saved(workdir)[-1] == processes.saved(undisturbed)[-1] == STEPS
        variables = (restore_variables(folder / "checkpoints") for folder in (workdir, undisturbed))
        compared = list(zip(*map(flatten, variables), strict=True))
        assert len(compared) > 50
        for (name, found), (expected_name, expected) in compared:
            assert name == expected_name
            np.testing.assert_array_equal(found, expected, err_msg=name)
        assert not (workdir / "PREEMPTED").exists()
        assert not [path for path in workdir.rglob("*") if "tmp" in path.name]

    return assert_same


def flatten(tree: Any, prefix: str = "") -> list[tuple[str, np.ndarray]]:
    if not isinstance(tree, Mapping):
        return [(prefix, np.asarray(tree))]
    return [leaf for name in sorted(tree) for leaf in flatten(tree[name], f"{prefix}/{name}")]
