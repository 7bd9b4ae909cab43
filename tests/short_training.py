"""A training of seconds with real images: what tests of the stage `train` have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from must_jax.config import TrainConfig
from must_jax.parsing import parse

MODEL = {"backbone": "resnet10", "width": 0.125, "pyramid_channels": 8, "head_channels": 8, "head_convs": 1}


def short_training(data_dir: Path, **values: Any) -> TrainConfig:
    """Two devices, batches of 8 images of 32 pixels; `values` are those of the test."""
    common = {
        "stage": "train",
        "data_dir": str(data_dir),
        "devices": 2,
        "image_size": 32,
        "model": MODEL,
        "batch_size": 8,
        "log_every": 2,
    }
    return parse(common | values)  # type: ignore[return-value]
