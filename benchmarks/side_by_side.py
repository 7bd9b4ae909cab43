"""Trainings of the quick start's scorecard on a CPU: updates shared by all devices, against a training on each device.

    python benchmarks/side_by_side.py [--set=segmentation] [--mode=finetune] [--rounds=4] [--updates=10]

Alternating rounds in one process, on rendered images. The CPU time of an image says more than the rate where other
programs run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from must_jax.config import AugmentConfig, OptimizerConfig
from must_jax.data.batching import train_batches
from must_jax.engine.mesh import make_mesh, put, put_batch, put_replicated, setup_devices, split
from must_jax.engine.optimizers import build_optimizer, schedule
from must_jax.engine.state import init_state
from must_jax.engine.step import TrainStep, make_side_by_side_step, make_train_step
from must_jax.inputs.sources import open_source
from must_jax.inputs.targets import build_tasks
from must_jax.main import read_config
from must_jax.models.api import build_model
from must_jax.parsing import parse

CONFIG = Path(__file__).parents[1] / "configs" / "evaluate.py"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--set", default="segmentation")
    parser.add_argument("--mode", default="", choices=("", "frozen", "finetune"))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--data_dir", default="data")
    options = parser.parse_args()
    setup_devices()
    config = parse(read_config(CONFIG))
    for transfer in (each for each in config.transfers if options.mode in ("", each.mode)):
        mesh = make_mesh(0, [transfer.batch_size])
        updates = {
            "shared": (_prepared(config, transfer, options, make_train_step), transfer.batch_size),
            "side by side": (
                _prepared(config, transfer, options, make_side_by_side_step),
                mesh.size * transfer.batch_size,
            ),
        }
        what = f"{transfer.mode} {options.set}, batches of {transfer.batch_size}"
        print(f"{what}, {mesh.size} devices: ms of CPU time an image, images/s")
        costs: dict[str, list[float]] = {name: [] for name in updates}
        for _ in range(options.rounds):
            for name, (update, images) in updates.items():
                cpu, wall = time.process_time(), time.perf_counter()
                for _ in range(options.updates):
                    update()
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                costs[name].append(cpu)
                print(
                    f"  {name:14s} {1e3 * cpu / images / options.updates:6.2f} {images * options.updates / wall:8.0f}"
                )
        shared, beside = (np.median(costs[name]) / images for name, (_, images) in updates.items())
        print(f"  side by side takes {beside / shared:.2f} x the CPU time")


def _prepared(
    config: Any, transfer: Any, options: argparse.Namespace, make_step: Callable[..., TrainStep]
) -> Callable[[], None]:
    """One update, compiled."""
    each, input_hw = config.downstream[options.set], config.input_hw
    source = open_source(each.train, options.data_dir, (each.task,))
    task = build_tasks({each.task: each.options}, [source], config.max_boxes)[each.task]
    model = build_model(config.model, {task.name: task.head(config.model)})
    kinds = {task.name: task.label}
    given = train_batches(
        [source], kinds, input_hw=input_hw, augment=AugmentConfig(), batch_size=transfer.batch_size, seed=0
    )
    batch, variables = dict(next(given)), model.init(jax.random.key(0), input_hw)
    if transfer.mode == "frozen":
        batch["features"] = jax.device_get(jax.jit(model.features)(variables, batch.pop("image")))
        variables = {kind: {"heads": parts["heads"]} for kind, parts in variables.items()}

    def forward(variables: Any, batch: Any, train: bool) -> Any:
        if transfer.mode == "frozen":
            return model.apply_heads(variables, batch["features"], train=train)
        return model.apply(variables, batch["image"], train=train)

    mesh, optimizer = make_mesh(0, [transfer.batch_size]), build_optimizer(transfer.optimizer)
    scalars: Any = schedule(OptimizerConfig(learning_rate=0.1), 1000, 0, 0)
    state = init_state(variables, optimizer, mesh, ema=False)
    if make_step is make_side_by_side_step:
        state, batch, scalars = (
            jax.tree.map(lambda x: np.stack([x] * mesh.size), jax.device_get(tree)) for tree in (state, batch, scalars)
        )
        state = put(state, split(mesh))
    step = make_step(forward, {task.name: task}, {task.name: 1.0}, optimizer, mesh)
    placed, now = put_batch(mesh, batch), put_replicated(mesh, scalars)

    def update() -> None:
        nonlocal state
        state, averages = step(state, placed, now)
        jax.block_until_ready(averages)

    update()
    return update


if __name__ == "__main__":
    main()
