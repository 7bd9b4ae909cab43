"""ResNets with weights of others give the features that those libraries give."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
import transformers
from parity import difference, images_of, ours_of, theirs_of
from torchvision.models.resnet import BasicBlock, Bottleneck

from must_jax.config.architectures import ARCHITECTURES, Architecture, ResNetParts
from must_jax.models.resnet import ResNet
from must_jax.weights import files, loading
from must_jax.weights.loading import Loaded, conventions_of, flat

RESNETS = [name for name, found in ARCHITECTURES.items() if isinstance(found.parts, ResNetParts)]
UNKNOWN = {"resnet10"}  # timm has no network of this name; it fits through its arguments
LEVELS = ("c2", "c3", "c4", "c5")


def randomised(module: torch.nn.Module) -> Any:
    """Norms with scales and variances around 1, and other vectors so large that leaving them out is seen."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for values in [*module.parameters(), *module.buffers()]:
            if values.ndim == 1 and (values > 0).all():  # scales and variances
                values.copy_(0.5 + torch.rand(values.shape, generator=random))
            elif values.ndim == 1:
                values.copy_(0.1 * torch.randn(values.shape, generator=random))
    return module.eval()


def loaded(path: Path, architecture: Architecture) -> Loaded:
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    network = ResNet(parts=architecture.parts)
    shapes = jax.eval_shape(lambda image: network.init(jax.random.key(0), image, False), image)
    found = loading.load(files.read(str(path)), architecture, shapes["params"], shapes["stats"])
    assert not found.fresh
    return found


def ours(parts: ResNetParts, found: Loaded, images: Any) -> dict[str, jax.Array]:
    return ResNet(parts=parts).apply({"params": found.params, "stats": found.stats}, images, False)


def same(parts: ResNetParts, found: Loaded, theirs: Any, hw: tuple[int, int]) -> None:
    """`theirs`: images -> the outputs of the four stages."""
    images, run = images_of(*hw), jax.jit(partial(ours, parts, found))
    with torch.no_grad():
        expected = theirs(theirs_of(images))
    for level, each in zip(LEVELS, expected, strict=True):
        assert difference(run(images)[level], ours_of(each)) < 1e-4, level


def stages(model: Any) -> Any:
    def run(images: torch.Tensor) -> list[torch.Tensor]:
        x = model.maxpool(model.act1(model.bn1(model.conv1(images))) if hasattr(model, "act1") else stem(images))
        outputs = []
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
            outputs.append(x := stage(x))
        return outputs

    def stem(images: torch.Tensor) -> torch.Tensor:
        return model.relu(model.bn1(model.conv1(images)))

    return run


def short(name: str, blocks: tuple[int, int, int, int] = (2, 1, 1, 1)) -> Architecture:
    """With few blocks, which are all alike: what differs is in the first one of a stage."""
    architecture = ARCHITECTURES[name]
    return replace(architecture, parts=replace(architecture.parts, blocks=blocks))


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet34d", "resnet50", "resnet101d", "seresnet18", "seresnet50", "resnetrs50"]
)
def test_timm(name: str, tmp_path: Path) -> None:
    architecture = short(name)
    theirs = randomised(timm.create_model(name, num_classes=7, layers=architecture.parts.blocks))
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    found = loaded(tmp_path, architecture)
    assert found.convention == "timm" and found.dropped == ("fc.bias", "fc.weight")
    for hw in ((224, 224), (96, 160)):
        same(architecture.parts, found, stages(theirs), hw)


def test_bfloat16(tmp_path: Path) -> None:
    """With 8 bits, each activation is off by up to 0.4 %."""
    architecture, images = short("resnet50d"), images_of(64, 96)
    theirs = randomised(timm.create_model("resnet50d", num_classes=7, layers=architecture.parts.blocks))
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    found = jax.jit(partial(ours, architecture.parts, loaded(tmp_path, architecture)))(
        jnp.asarray(images, jnp.bfloat16)
    )
    with torch.no_grad():
        expected = stages(theirs)(theirs_of(images))
    for level, each in zip(LEVELS, expected, strict=True):
        assert difference(found[level].astype(jnp.float32), ours_of(each)) < 0.1, level


def test_a_resnet_10_fits_into_timm(tmp_path: Path) -> None:
    theirs = randomised(timm.create_model("resnet18", layers=(1, 1, 1, 1)))
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    architecture = ARCHITECTURES["resnet10"]
    same(architecture.parts, loaded(tmp_path, architecture), stages(theirs), (64, 96))


@pytest.mark.parametrize(("name", "block"), [("resnet18", BasicBlock), ("resnet50", Bottleneck)])
def test_torchvision(name: str, block: Any, tmp_path: Path) -> None:
    architecture = short(name)
    theirs = randomised(torchvision.models.ResNet(block, list(architecture.parts.blocks)))
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    same(architecture.parts, loaded(tmp_path / "model.safetensors", architecture), stages(theirs), (96, 160))


@pytest.mark.parametrize(("name", "kind"), [("resnet18", "basic"), ("resnet50", "bottleneck")])
def test_transformers(name: str, kind: str, tmp_path: Path) -> None:
    architecture = short(name)
    sizes = [64, 128, 256, 512] if kind == "basic" else [256, 512, 1024, 2048]
    depths = list(architecture.parts.blocks)
    config = transformers.ResNetConfig(layer_type=kind, depths=depths, hidden_sizes=sizes, num_labels=3)
    theirs = randomised(transformers.ResNetForImageClassification(config))
    theirs.save_pretrained(tmp_path)
    found = loaded(tmp_path, architecture)
    assert found.convention == "transformers" and len(found.dropped) == 2

    def run(images: torch.Tensor) -> Any:
        return theirs.resnet(images, output_hidden_states=True).hidden_states[1:]

    same(architecture.parts, found, run, (96, 160))


def test_gradients_are_those_of_timm(tmp_path: Path) -> None:
    """Of a network of one block a stage, with everything that a ResNet may have."""
    theirs = randomised(timm.create_model("resnetrs50", layers=(1, 1, 1, 1), num_classes=0))
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    architecture = short("resnetrs50", (1, 1, 1, 1))
    found, images = loaded(tmp_path / "model.safetensors", architecture), images_of(64, 96)
    weights = np.random.default_rng(1).normal(size=(2, 2, 3, 2048)).astype(np.float32)
    (stages(theirs)(theirs_of(images))[3] * theirs_of(weights)).sum().backward()

    def total(params: Any) -> jax.Array:
        return (ours(architecture.parts, replace(found, params=params), images)["c5"] * weights).sum()

    written = conventions_of(architecture)[0].written(flat(jax.jit(jax.grad(total))(found.params)))
    expected = {key: value.grad.numpy() for key, value in theirs.named_parameters()}
    assert written.keys() == expected.keys()
    for key, gradient in expected.items():
        assert np.abs(written[key] - gradient).max() < 1e-3 * np.abs(gradient).max(), key


@lru_cache
def first_blocks(parts: ResNetParts) -> dict[str, tuple[int, ...]]:
    """The shapes of all parameters, with two blocks a stage."""
    network, image = ResNet(parts=parts), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(lambda image: network.init(jax.random.key(0), image, False), image)
    return {path: leaf.shape for path, leaf in (flat(shapes["params"]) | flat(shapes["stats"])).items()}


def test_every_name_has_the_shapes_that_timm_has() -> None:
    for name in RESNETS:
        if name in UNKNOWN:
            continue
        architecture = ARCHITECTURES[name]
        with torch.device("meta"):
            theirs = timm.create_model(name)
        about, state = theirs.pretrained_cfg, {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
        assert tuple(len(theirs.get_submodule(f"layer{s}")) for s in (1, 2, 3, 4)) == architecture.parts.blocks, name
        said = architecture.image_size, architecture.mean, architecture.std
        assert (about["input_size"][-1], about["mean"], about["std"]) == said, name
        shapes = first_blocks(replace(architecture.parts, blocks=(2, 2, 2, 2)))
        convention, written = conventions_of(architecture)[0], {}
        for path, (keys, form) in convention.names(shapes).items():
            tensors = form.write(np.broadcast_to(np.float32(0), shapes[path]))
            written |= {key: tensor.shape for key, tensor in zip(keys, tensors, strict=True)}
        others = re.compile(rf"{convention.heads}|{convention.ignored}|layer\d\.(?![01]\.).*")
        assert written == {key: shape for key, shape in state.items() if not others.fullmatch(key)}, name
