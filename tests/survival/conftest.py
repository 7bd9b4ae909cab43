"""A small student in processes of its own, and what it ends with when nothing disturbs it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
from processes import Process

from must_jax.engine.checkpoint import restore_variables

STEPS, EVERY = 40, 4
CONFIG = {
    "stage": "train",
    "devices": 2,
    "train": [{"images": "scenes/teacher_depth_tiny:train"}],
    "validation": {"images": "scenes/teacher_depth_tiny:validation"},
    "tasks": {"depth": {}},
    "image_size": 32,
    "model": {"backbone": "resnet10", "width": 0.125, "pyramid_channels": 8, "head_channels": 8, "head_convs": 1},
    "optimizer": {"learning_rate": 0.02, "warmup_steps": 2, "clip_norm": 1.0, "ema_decay": 0.5},
    "batch_size": 8,
    "steps": STEPS,
    "log_every": 1,
    "checkpoint_every": EVERY,
}
TIMES = {"images_per_second", "data_wait_share", "compile_seconds", "mfu"}  # not the same in any two runs


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
    return f"--config={config_file(CONFIG)}"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts a process; what is left of it when the test ends is killed."""
    started: list[Process] = []

    def start(*arguments: str, **options: Any) -> Process:
        started.append(Process(tmp_path / f"process-{len(started)}.log", *arguments, **options))
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
    Process(folder / "log", student, f"--workdir={folder / 'run'}").finish()
    return folder / "run"


@pytest.fixture
def assert_same(undisturbed: Path) -> Callable[[Path], None]:
    """That a run has ended as the undisturbed one, bit for bit."""

    def assert_same(workdir: Path) -> None:
        ours, theirs = (json.loads((folder / "model.json").read_text()) for folder in (workdir, undisturbed))
        assert (ours["digest"], ours["metrics"]) == (theirs["digest"], theirs["metrics"])
        assert values(workdir) == values(undisturbed)
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


def values(workdir: Path) -> list[dict[str, Any]]:
    """All that is logged of a run but times."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in processes.rows(workdir)]


def flatten(tree: Any, prefix: str = "") -> list[tuple[str, np.ndarray]]:
    if not isinstance(tree, Mapping):
        return [(prefix, np.asarray(tree))]
    return [leaf for name in sorted(tree) for leaf in flatten(tree[name], f"{prefix}/{name}")]
