"""The whole way with a vision transformer: teacher, labels, student, scorecard, files for others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from exported import shrink

from must_jax import trained
from must_jax.parsing import parse
from must_jax.stages import STAGES

NAME = "vit_small_patch14_reg4_dinov2"  # sees images at 14/16 of their size
MODEL = {"backbone": NAME, "width": 1.0, "pyramid_channels": 8, "head_channels": 8, "head_convs": 1, "drop_path": 0.1}
OPTIMIZER = {"name": "adamw", "learning_rate": 1e-3, "layer_decay": 0.8, "weight_decay": 0.05}
SCENES = "scenes/teacher_depth_tiny"


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch, NAME, depth=2, channels=32, heads=2, hidden=64, grid=3)
        yield


def test_from_a_teacher_to_files_for_others(data_dir: Path, tmp_path: Path) -> None:
    def run(stage: str, workdir: str, **values: Any) -> Path:
        STAGES[stage](parse({"stage": stage, "data_dir": str(data_dir), **values}), tmp_path / workdir)
        return tmp_path / workdir

    common = {"image_size": 64, "model": MODEL, "batch_size": 8, "steps": 4, "optimizer": OPTIMIZER, "devices": 1}
    validation = {"images": f"{SCENES}:validation"}
    training = {**common, "validation": [validation], "tasks": {"depth": {}}, "accept_failed": ("depth",)}
    teacher = run("train", "teacher", train=[{"images": f"{SCENES}:train"}], **training)
    images = f"{SCENES}:train[:16]"
    labelled = run("label", "labels", images=images, teachers=[str(teacher)], devices=1, accept_failed=("depth",))
    source = {"images": images, "labels": (str(labelled),)}
    student = run("train", "student", train=[source], **training, init=str(teacher), remat=("stage1", "stage4"))

    parts = {"train": f"{SCENES}:train", "validation": validation["images"], "test": f"{SCENES}:test"}
    downstream = {"depth": {"task": "depth"} | {split: {"images": each} for split, each in parts.items()}}
    transfer = {"mode": "frozen", "steps": 2, "batch_size": 8, "learning_rates": [0.1], "seeds": [0]}
    card = {"inits": {"student": str(student), "scratch": ""}, "downstream": downstream, "transfers": [transfer]}
    scorecard = run("evaluate", "card", **card, model=MODEL, image_size=64, devices=1)
    assert "student" in (scorecard / "scorecard.csv").read_text()

    asked = {"formats": ("onnx", "stablehlo"), "take": 8, "batch_size": 8, "latency": ()}
    folder = run("export", "export", model=str(student), **asked)
    told = json.loads((folder / "parity.json").read_text())
    assert len(told) == 4
    for about in told.values():
        assert about["parity"]["metrics"]["depth/delta1"]["run"] > 0
        assert all(each["largest"] < 1e-4 for each in about["parity"]["outputs"].values())
    exported = jax.export.deserialize(bytearray((folder / "stablehlo/model.stablehlo").read_bytes()))
    photos = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    expected = trained.load(student).predict_batch(photos)["depth"]["depth"]
    np.testing.assert_allclose(exported.call(photos)["depth/depth"], expected, rtol=1e-4)
