"""Networks of every family, and what every task makes of their outputs, as ONNX files in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from onnx_run import check

from must_jax.config import ModelConfig
from must_jax.config.architectures import ARCHITECTURES, ConvNeXtParts, ResNetParts, ViTParts
from must_jax.models.api import Model, build_model
from must_jax.tasks import build_task

INPUT_HW = 64, 96
LEVELS = ("c2", "c3", "c4", "c5")
BACKBONES = (
    "resnet50",
    "resnetrs50",
    "vit_small_patch16_224",
    "vit_base_patch16_clip_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_giant_patch14_dinov2",
    "vit_small_patch16_dinov3",
    "convnext_atto",
    "convnextv2_atto",
)
CLASSES = ("cup", "dog", "tree")
KINDS = ("classification", "detection", "segmentation", "depth", "normals")


def small(name: str) -> Any:
    """The backbone of this name, narrow and shallow."""
    backbone = build_model(ModelConfig(backbone=name), {}).backbone
    parts = ARCHITECTURES[name].parts
    if isinstance(parts, ResNetParts):
        return backbone.clone(parts=replace(parts, blocks=(1, 1, 1, 1)), width=0.125)
    if isinstance(parts, ViTParts):
        return backbone.clone(parts=replace(parts, grid=3, channels=16, depth=2, heads=2, hidden=24))
    assert isinstance(parts, ConvNeXtParts)
    return backbone.clone(parts=replace(parts, blocks=(1, 1, 1, 1), channels=(4, 8, 12, 16)))


def drawn(variables: Any) -> Any:
    """Other values than those that parameters start with; above 0, as variances are."""
    random = np.random.default_rng(0)

    def values(path: Any, leaf: Any) -> np.ndarray:
        if path[-1].key in ("kernel", "class_token", "position", "registers"):
            return (random.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))).astype(np.float32)
        return random.uniform(0.5, 1.5, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(values, variables)


def made(name: str, tasks: Mapping[str, Any]) -> tuple[Model, Any]:
    """A small model with the heads of these tasks, and its variables."""
    config = ModelConfig(backbone=name, pyramid_channels=8, head_channels=8, head_convs=1)
    model = build_model(config, {name: task.head(config) for name, task in tasks.items()})
    model = replace(model, backbone=small(name))
    return model, drawn(model.shapes(INPUT_HW))


def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, *INPUT_HW, 3), np.uint8)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_gives_the_same_features(name: str, tmp_path: Path) -> None:
    model, variables = made(name, {})
    features = check(lambda x: model.features(variables, x, LEVELS), pictures(), tmp_path / "it.onnx", 1e-4)
    assert tuple(features) == LEVELS
    assert all(maps.std(0).max() > 1e-3 for maps in features.values())


def test_a_model_with_all_heads_predicts_the_same(tmp_path: Path) -> None:
    tasks = {kind: build_task(kind, CLASSES if kind in KINDS[:3] else (), {}) for kind in KINDS}
    model, variables = made("resnet10", tasks)
    variables["params"]["heads"]["detection"]["classify"]["bias"] = np.float32([-1, -2, -1.5])

    def predict(images: jax.Array) -> Any:
        outputs, _ = model.apply(variables, images, train=False)
        predictions = {name: task.predict(outputs[name], INPUT_HW) for name, task in tasks.items()}
        condensed = {name: tasks[name].condense(predictions[name]) for name in tasks}
        return {"raw": outputs, "all": predictions, "condensed": condensed}

    said = check(predict, pictures(), tmp_path / "it.onnx", 1e-4)
    assert said["all/detection/valid"].sum(1).min() > 1
    assert len(np.unique(said["all/detection/classes"])) > 1
