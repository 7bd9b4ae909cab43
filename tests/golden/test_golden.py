"""Twenty losses of a student of five tasks, committed: an unchanged computation gives an unchanged curve.

The learning rate is low enough for rounding (other devices, other machines) to stay under 1e-6. A change that is
meant to alter the losses rewrites the file: UPDATE_GOLDEN=1 python -m pytest -n 0 tests/golden
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from must_jax.parsing import parse
from must_jax.stages.train import run

FILE = Path(__file__).with_name("student_losses.json")
TASKS = ("classification", "detection", "segmentation", "depth", "normals")


def test_losses_of_twenty_steps(data_dir, tmp_path):
    config = {
        "stage": "train",
        "data_dir": str(data_dir),
        "devices": 1,
        "train": [{"images": f"scenes/teacher_{task}_tiny:train"} for task in TASKS],
        "tasks": {task: {} for task in TASKS},
        "image_size": 64,
        "augment": {"flip": True, "scale_min": 0.8, "scale_max": 1.25},
        "model": {"backbone": "resnet10", "width": 0.125, "pyramid_channels": 8, "head_channels": 8, "head_convs": 1},
        "optimizer": {"learning_rate": 0.005, "warmup_steps": 4, "clip_norm": 1.0},
        "batch_size": 16,
        "steps": 20,
        "log_every": 1,
    }
    run(parse(config), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    not_a_loss = {"step", "learning_rate", "images_per_second", "data_wait_share", "compile_seconds", "skipped"}
    losses = [{name: value for name, value in row.items() if name not in not_a_loss} for row in rows]
    if os.environ.get("UPDATE_GOLDEN"):
        FILE.write_text(json.dumps(losses, indent=1) + "\n")
    golden = json.loads(FILE.read_text())
    assert len(losses) == len(golden) == 20
    for step, (found, expected) in enumerate(zip(losses, golden, strict=True), 1):
        assert found == pytest.approx(expected, rel=1e-4), f"at step {step}"
