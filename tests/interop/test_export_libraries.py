"""Backbones in the formats of timm and transformers are what these libraries load, with the same numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers
from exported import network_of, shrink
from parity import difference

from must_jax.exporting import timm as to_timm
from must_jax.exporting import transformers as to_transformers
from must_jax.exporting.base import Written

TINY: dict[str, Any] = {"depth": 2, "channels": 48, "heads": 3}
# With the parts of a small one.
VITS = {
    "vit_tiny_patch16_224": {**TINY, "hidden": 192},
    "vit_base_patch32_clip_quickgelu_224": {**TINY, "hidden": 192},
    "vit_base_patch16_siglip_256": {**TINY, "hidden": 192},
    "vit_small_patch14_dinov2": {**TINY, "hidden": 192},
    "vit_giant_patch14_reg4_dinov2": {**TINY, "hidden": 128},  # gated
    "vit_tiny_patch16_dinov3_qkvb": {**TINY, "hidden": 192},
    "vit_huge_plus_patch16_dinov3": {**TINY, "hidden": 192},
}


@pytest.fixture(autouse=True)
def silence(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing is missing that the libraries would tell of, but for the layer that ViTModel has after the tokens."""
    yield
    told = [each.getMessage() for each in caplog.get_records("call") if each.levelname == "WARNING"]
    assert all(re.search("pooler|hidden_states_norms", each) for each in told), told


def check_numbers(written: Written, hw: tuple[int, int]) -> None:
    images = np.random.default_rng(1).normal(size=(2, *hw, 3)).astype(np.float32)
    expected = jax.device_get(jax.jit(written.function)(images))
    answers = written.answers(images)
    assert answers.keys() == expected.keys()
    for level, values in expected.items():
        assert difference(answers[level], values) < 2e-5, level


@pytest.mark.parametrize("name", ["resnet10", "resnet26d", "seresnet18", "convnext_atto", "convnextv2_atto"])
def test_timm(name: str, tmp_path: Path) -> None:
    network = network_of(name, 64)
    written = to_timm.write(network, tmp_path / "timm")
    check_numbers(written, network.seen_hw)
    config = json.loads((tmp_path / "timm/config.json").read_text())
    about = config["pretrained_cfg"]
    assert (config["num_classes"], about["input_size"], about["license"]) == (0, [3, 64, 64], "Apache-2.0")
    assert about["mean"] == [0.485, 0.456, 0.406]
    files = sorted((tmp_path / "timm").iterdir())
    assert [path.name for path in files] == ["config.json", "model.safetensors"]
    assert files[0].stat().st_mode == files[1].stat().st_mode


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "vit_small_patch14_dinov2", "vit_tiny_patch16_dinov3_qkvb"],
)
def test_timm_has_vision_transformers(name: str, tmp_path: Path) -> None:
    network = network_of(name, 96)  # not the size they were published at
    check_numbers(to_timm.write(network, tmp_path), network.seen_hw)


@pytest.mark.parametrize("name", ["resnet10", "convnext_atto", "convnextv2_atto"])
def test_transformers(name: str, tmp_path: Path) -> None:
    network = network_of(name, 64, **({"width": 0.25} if name == "resnet10" else {}))
    check_numbers(to_transformers.write(network, tmp_path), (64, 64))
    # AutoBackbone of transformers 5.24 asks a hub about folders, too.
    kind = {"resnet10": "ResNetBackbone", "convnext_atto": "ConvNextBackbone", "convnextv2_atto": "ConvNextV2Backbone"}
    backbone = getattr(transformers, kind[name]).from_pretrained(tmp_path, local_files_only=True).eval()
    images = torch.rand(1, 3, 64, 64)
    assert [each.shape[-1] for each in backbone(images).feature_maps] == [16, 8, 4, 2]


@pytest.mark.parametrize("name", VITS)
def test_transformers_has_vision_transformers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch, name, **VITS[name])
    network = network_of(name, 64)
    check_numbers(to_transformers.write(network, tmp_path), network.seen_hw)
