"""What the sums of a checkpoint cost beside writing and reading it: a ResNet-50 with SGD and a moving average.

python benchmarks/checkpoint.py [--rounds=5]

In one process, on one device: the time for which a save blocks the updates, until it is complete without and with the
sums (which are made in the background, before the checkpoint gets its name), reading it back, checking its sums, and
the digests that `model.json` signs. The files are in the operating system's cache. The median of the rounds counts.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import jax

from must_jax import files
from must_jax.config import ModelConfig, OptimizerConfig
from must_jax.engine import sums
from must_jax.engine.checkpoint import Checkpoints, restore_variables
from must_jax.engine.mesh import make_mesh
from must_jax.engine.optimizers import build_optimizer
from must_jax.engine.state import digest, init_state
from must_jax.models.api import build_model
from must_jax.tasks import build_task

IMAGE_SIZE = 64  # of which the parameters do not depend


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    config = ModelConfig(backbone="resnet50")
    model = build_model(config, {"depth": build_task("depth").head(config)})
    optimizer = build_optimizer(OptimizerConfig(ema_decay=0.999))
    state = init_state(model.init(jax.random.key(0), (IMAGE_SIZE, IMAGE_SIZE)), optimizer, make_mesh(1), ema=True)
    found: list[Mapping[str, float]] = []
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(Path(folder), state, number + 1))
            size = files.bytes_in(Path(folder) / "with")
    print(f"{size / 2**20:,.0f} MiB on disk")
    for name in found[0]:
        print(f"{name:<42}{statistics.median(each[name] for each in found):>8.2f} s")


def measure(folder: Path, state: Any, step: int) -> dict[str, float]:
    """Seconds by what they went into."""
    with mock.patch.object(sums, "write"):
        _, without = save(folder / "without", state, step)
    blocked, with_sums = save(folder / "with", state, step)
    saved, variables = folder / "with" / str(step), restore_variables(folder / "with")
    with Checkpoints(folder / "with", {}) as checkpoints:
        restore = seconds(lambda: jax.block_until_ready(checkpoints.restore(step, state)[0]))
    return {
        "save, blocking the updates": blocked,
        "save, until it is complete, without sums": without,
        "save, until it is complete, with sums": with_sums,
        "restore": restore,
        "its sums, checked": seconds(lambda: sums.changed(saved, step)),
        "restore of the variables, with its sums": seconds(lambda: restore_variables(folder / "with")),
        "digests of the variables": seconds(lambda: [digest(part) for part in variables.values()]),
    }


def save(folder: Path, state: Any, step: int) -> tuple[float, float]:
    """Seconds until it returns, and until the checkpoint is complete."""
    with Checkpoints(folder, {}) as checkpoints:
        began = time.perf_counter()
        checkpoints.save(step, state, {})
        blocked = time.perf_counter() - began
    return blocked, time.perf_counter() - began


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
