"""Networks of every family, and what every task makes of their outputs, as ONNX files in onnxruntime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
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
    "resnet50d",
    "resnetrs50",
    "seresnet18",
    "vit_small_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_giant_patch14_dinov2",
    "vit_small_patch16_dinov3",
    "vit_base_patch16_clip_224",
    "vit_base_patch8_224",
    "convnext_atto",
    "convnextv2_atto",
    "convnext_xxlarge",
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


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_gives_the_same_features(name: str, tmp_path: Path) -> None:
    backbone = small(name)
    patch = 14 if backbone.input_share < 1 else 16
    images = np.random.default_rng(0).normal(size=(5, 4 * patch, 6 * patch, 3)).astype(np.float32)
    shapes = jax.eval_shape(lambda: backbone.init(jax.random.key(0), jnp.asarray(images[:1]), False))
    variables = drawn(shapes)
    features = check(lambda x: backbone.apply(variables, x, False), images, tmp_path / "it.onnx", 1e-5)
    assert tuple(features) == LEVELS
    assert all(maps.std(0).max() > 1e-3 for maps in features.values())


def model_of(name: str, config: ModelConfig) -> tuple[Model, Any, Any]:
    tasks = {kind: build_task(kind, CLASSES if kind in KINDS[:3] else (), {}) for kind in KINDS}
    model = build_model(config, {name: task.head(config) for name, task in tasks.items()})
    model = replace(model, backbone=small(name))
    variables = drawn(model.shapes(INPUT_HW))
    detector = variables["params"]["heads"]["detection"]
    detector["classify"]["bias"] = np.float32([-1, -2, -1.5])
    return model, variables, tasks


@pytest.mark.parametrize("name", ["resnet10", "vit_small_patch14_reg4_dinov2"])
def test_a_whole_model_predicts_the_same(name: str, tmp_path: Path) -> None:
    config = ModelConfig(backbone=name, pyramid_channels=8, head_channels=8, head_convs=1)
    model, variables, tasks = model_of(name, config)
    images = np.random.default_rng(0).integers(0, 256, (5, *INPUT_HW, 3), np.uint8)

    def predict(images: jax.Array) -> Any:
        outputs, _ = model.apply(variables, images, train=False)
        return {"raw": outputs, **{name: task.predict(outputs[name], INPUT_HW) for name, task in tasks.items()}}

    said = check(predict, images, tmp_path / "it.onnx", 1e-4)
    assert said["detection/valid"].sum(1).min() > 1 and len(np.unique(said["detection/classes"])) > 1
