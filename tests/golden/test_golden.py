"""Twenty losses of a student of five tasks, committed: an unchanged computation gives an unchanged curve.

The same file holds for one device and for eight: how many there are does not change what is computed.

The learning rate is low enough for rounding (other devices, other machines) to stay under 1e-6. A change that is
meant to alter the losses rewrites the file: UPDATE_GOLDEN=1 python -m pytest -n 0 tests/golden
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from processes import Process, rows

from must_jax.config import TrainConfig
from must_jax.parsing import parse
from must_jax.stages.train import run

FILE, EIGHT = (Path(__file__).with_name(name) for name in ("student_losses.json", "eight_devices.py"))
TASKS = ("classification", "detection", "segmentation", "depth", "normals")


def config(data_dir: Path, devices: int, steps: int = 20) -> TrainConfig:
    values = {
        "stage": "train",
        "data_dir": str(data_dir),
        "devices": devices,
        "train": [{"images": f"scenes/teacher_{task}_tiny:train"} for task in TASKS],
        "tasks": {task: {} for task in TASKS},
        "image_size": 64,
        "augment": {"flip": True, "scale_min": 0.8, "scale_max": 1.25},
        "model": {"backbone": "resnet10", "width": 0.125, "pyramid_channels": 8, "head_channels": 8, "head_convs": 1},
        "optimizer": {"learning_rate": 0.005, "warmup_steps": 4, "clip_norm": 1.0},
        "batch_size": 16,
        "steps": steps,
        "log_every": 1,
    }
    return parse(values)


def assert_golden(losses: list[dict[str, float]]) -> None:
    golden = json.loads(FILE.read_text())
    assert len(losses) == len(golden) == 20
    for step, (found, expected) in enumerate(zip(losses, golden, strict=True), 1):
        assert found == pytest.approx(expected, rel=1e-4), f"at step {step}"


def losses(workdir: Path) -> list[dict[str, float]]:
    not_a_loss = {"step", "learning_rate", "images_per_second", "data_wait_share", "compile_seconds", "skipped", "mfu"}
    return [{name: value for name, value in row.items() if name not in not_a_loss} for row in rows(workdir)]


def test_losses_of_twenty_steps(data_dir, tmp_path):
    """Within rounding of the committed ones, and again the same bits."""
    for name in ("run", "again"):
        run(config(data_dir, 1), tmp_path / name)
    if os.environ.get("UPDATE_GOLDEN"):
        FILE.write_text(json.dumps(losses(tmp_path / "run"), indent=1) + "\n")
    assert_golden(losses(tmp_path / "run"))
    assert losses(tmp_path / "run") == losses(tmp_path / "again")


def test_eight_devices(data_dir, tmp_path):
    """In a process that has them; and a checkpoint of theirs is exact on fewer, and in other parts."""
    process = Process(tmp_path / "log", str(data_dir), str(tmp_path), program=(str(EIGHT),))
    process.finish()
    assert_golden(losses(tmp_path / "run"))
    assert losses(tmp_path / "run") == losses(tmp_path / "again")
    layouts = json.loads((tmp_path / "restored.json").read_text())
    assert layouts == {
        layout: True for layout in ("8 fsdp 2", "8 fsdp 1", "8 fsdp 8", "4 fsdp 2", "4 fsdp 1", "2", "1")
    }
