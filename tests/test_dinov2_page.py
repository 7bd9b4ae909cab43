"""docs/dinov2_to_onnx.md: what it shows can be written so, and its stand-in is DINOv2-S.

tests/interop/test_dinov2_page_in_full.py runs all of it, which needs PyTorch.
"""

from __future__ import annotations

import runpy
import shlex
from pathlib import Path

import dinov2_page
import numpy as np
import pytest
from command_line import ROOT
from exported import shrink

from must_jax.config import ExportConfig, ModelConfig, PipelineConfig, TrainConfig
from must_jax.config.architectures import ARCHITECTURES
from must_jax.models.api import build_model
from must_jax.parsing import parse
from must_jax.weights import files, loading


def test_the_config_of_the_page(tmp_path: Path) -> None:
    copy = tmp_path / "dinov2.py"
    copy.write_text((ROOT / "configs/others.py").read_text(encoding="utf-8"))
    dinov2_page.edit(copy, {})
    config = parse(runpy.run_path(str(copy))["get_config"]().to_dict())
    assert isinstance(config, PipelineConfig)
    student = config.stages["student"]
    assert isinstance(student, TrainConfig)
    assert student.model.weights == "weights/dinov2s" and student.optimizer.layer_decay == 0.75


def test_the_export_of_the_page() -> None:
    (command,) = (each for each in dinov2_page.COMMANDS if "configs/export.py" in each)
    given = dict(word.removeprefix("--config.").split("=", 1) for word in shlex.split(command) if "--config." in word)
    source = {key.rpartition(".")[2]: given.pop(key) for key in [*given] if key.startswith("validation.0.")}
    config = parse({"stage": "export", **given, "validation": [source]})
    assert isinstance(config, ExportConfig) and config.validation[0].labels == ("runs/dinov2/label",)


def test_its_stand_in_is_read_as_weights_of_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "vit_small_patch14_dinov2"
    shrink(monkeypatch, name, depth=2, channels=32, heads=2, hidden=64, grid=3)
    runpy.run_path(str(ROOT / "docs/made_models.py"))["dinov2"](tmp_path)
    found = files.read(str(tmp_path))
    assert (found.architecture, found.image_size, found.licence) == (name, 518, "apache-2.0")
    shapes = build_model(ModelConfig(backbone=name), {}).shapes((64, 64))
    params, stats = (shapes[each]["backbone"] for each in ("params", "stats"))
    loaded = loading.load(found, ARCHITECTURES[name], params, stats)
    assert loaded.convention == "timm" and not loaded.dropped
    assert all(path.startswith("pyramid") for path in loaded.fresh)
    assert np.ptp(loaded.params["patch"]["kernel"]) > 0
