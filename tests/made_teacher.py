"""A training run as the train stage leaves it, with untrained parameters: quick, and its labels are as good as any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from must_jax import description, trained
from must_jax.config import ModelConfig, TrainConfig
from must_jax.engine.checkpoint import Checkpoints
from must_jax.models.api import build_model
from must_jax.tasks import build_task

CLASSES = {name: ("red", "green", "blue") for name in ("classification", "detection", "segmentation")}
HEADLINES = {
    "classification/top1": 80.0,
    "detection/ap50": 60.0,
    "segmentation/miou": 70.0,
    "depth/delta1": 90.0,
    "normals/within_11_25": 60.0,
}
HEADLINES |= {f"{name.split('/')[0]}/chance": 20.0 for name in HEADLINES}
SMALL = ModelConfig(backbone="resnet10", width=0.125, pyramid_channels=8, head_channels=8, head_convs=1)


def redescribe(file: Path, **changes: Any) -> None:
    """Changes fields of a model.json, which is then signed as if it had been written so."""
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps(values | {"checksum": description.checksum(values)}))


def make_teacher(
    folder: Path, tasks: tuple[str, ...], image_size: int | tuple[int, int], metrics: dict[str, float], seed: int = 0
) -> Path:
    source = {"images": "scenes/teacher_depth_tiny:train"}
    config = TrainConfig(
        train=(source,), tasks={task: {} for task in tasks}, image_size=image_size, model=SMALL, batch_size=16, steps=5
    )
    built = {task: build_task(task, CLASSES.get(task, ()), {"max_boxes": 4}) for task in tasks}
    model = build_model(SMALL, {name: task.head(SMALL) for name, task in built.items()})
    rng, variables = np.random.default_rng(seed), model.init(jax.random.key(0), config.input_hw)
    params = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), variables["params"])
    stats = jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape).astype(np.float32), variables["stats"])
    folder.mkdir(parents=True)
    with Checkpoints(folder / trained.CHECKPOINTS, {}) as checkpoints:
        checkpoints.save(5, {"params": params, "stats": stats, "opt_state": {}, "ema": {}}, {})
    trained.describe(folder, config, built, metrics, variables={"params": params, "stats": stats}, training={})
    return folder
