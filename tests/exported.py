"""Networks to export: with random weights in which everything counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from must_jax.config import ModelConfig
from must_jax.config.architectures import ARCHITECTURES
from must_jax.config.base import input_hw_of
from must_jax.exporting.base import Network
from must_jax.models.api import build_model
from must_jax.tasks import build_task
from must_jax.trained import Trained

CLASSES = {name: ("red", "green", "blue") for name in ("classification", "detection", "segmentation")}
TASKS = (*CLASSES, "depth", "normals")


def shrink(monkeypatch: pytest.MonkeyPatch, name: str, **parts: Any) -> None:
    """Gives a network by name other parts."""
    found = ARCHITECTURES[name]
    changed = replace(found, parts=replace(found.parts, **parts))
    monkeypatch.setitem(ARCHITECTURES, name, changed)  # type: ignore[arg-type]


def network_of(name: str, image_size: int | tuple[int, int], tasks: tuple[str, ...] = (), **model: Any) -> Network:
    config = ModelConfig(backbone=name, pyramid_channels=8, head_channels=8, head_convs=1, **model)
    built = {task: build_task(task, CLASSES.get(task, ()), {"max_boxes": 4}) for task in tasks}
    network = build_model(config, {task: each.head(config) for task, each in built.items()})
    rng, shapes = np.random.default_rng(0), network.shapes(input_hw_of(image_size))

    def drawn(path: Any, leaf: Any) -> np.ndarray:
        last = path[-1].key
        if last in ("scale", "var") or "norm" in last:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        fan_in = max(1, int(np.prod(leaf.shape[:-1]))) if last == "kernel" else 4
        return rng.normal(0, fan_in**-0.5, leaf.shape).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(drawn, shapes)
    return Network(
        Trained(
            workdir=Path("made"),
            model=network,
            variables=variables,
            config=config,
            tasks=built,
            image_size=image_size,
            settings={},
            metrics={},
            digest="",
            licences={"teacher": "Apache-2.0"},
        )
    )
