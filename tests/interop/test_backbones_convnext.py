"""ConvNeXt: the same weights give the same features and gradients as in timm, transformers and torchvision."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision.models.convnext as of_torchvision
import transformers
from parity import images_of, ours_of, theirs_of

from must_jax.config.architectures import ARCHITECTURES, Architecture
from must_jax.models.convnext import ConvNeXt
from must_jax.weights import files
from must_jax.weights.loading import Loaded, conventions_of, flat, load

ALL = [name for name, architecture in ARCHITECTURES.items() if architecture.family == "ConvNeXt"]
# Instead of theirs, so that it is quick.
BLOCKS = (1, 1, 2, 1)
CHANNELS = (24, 32, 48, 64)
NATIVE, OTHER = (224, 224), (96, 160)

Tensors = dict[str, torch.Tensor]


def in_small(name: str) -> Architecture:
    whole = ARCHITECTURES[name]
    return replace(whole, parts=replace(whole.parts, blocks=BLOCKS, channels=CHANNELS))


def of_timm(name: str, architecture: Architecture, **options: Any) -> torch.nn.Module:
    parts = architecture.parts
    return timm.create_model(name, depths=parts.blocks, dims=parts.channels, num_classes=7, **options).eval()


def randomise(model: torch.nn.Module) -> None:
    """No vector does nothing."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.squeeze().ndim == 1:
            around = 1 if re.search(r"(norm.*|block\.2|\.[01])\.weight$|gamma|scale", name) else 0
            parameter.data = around + 0.2 * torch.randn(parameter.shape, generator=generator)


def loaded(path: Path, architecture: Architecture) -> Loaded:
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, np.float32), shapes(architecture))
    return load(files.read(str(path)), architecture, params, {})


def shapes(architecture: Architecture) -> Any:
    """Of its parameters."""
    images = jnp.zeros((1, 32, 32, 3))
    return jax.eval_shape(lambda: network(architecture).init(jax.random.key(0), images, False))["params"]


def network(architecture: Architecture) -> ConvNeXt:
    return ConvNeXt(parts=architecture.parts)


def assert_same_features(params: Any, architecture: Architecture, images: np.ndarray, wanted: Any) -> None:
    # Step by step: most steps are those of other tests, and compiled already.
    found = network(architecture).apply({"params": params}, images, False)
    for level, want in zip(("c2", "c3", "c4", "c5"), wanted, strict=True):
        want = ours_of(want)
        np.testing.assert_allclose(found[level], want, rtol=0, atol=1e-4 * np.abs(want).max(), err_msg=level)


def saved(tensors: Tensors, folder: Path) -> Path:
    path = folder / "model.safetensors"
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "convnext_zepto_rms_ols",
        "convnext_atto_rms",
        "convnext_femto_ols",
        "convnext_pico",
        "convnext_nano_ols",
        "convnext_tiny_hnf",
        "convnext_base",
        "convnext_xxlarge",
        "convnextv2_atto",
        "convnextv2_large",
    ],
)
def test_features_are_those_of_timm(name: str, tmp_path: Path) -> None:
    architecture = in_small(name)
    model = of_timm(name, architecture)
    if architecture.parts.stem_channels:  # timm makes it of the first channels
        between = model.stem[0].out_channels
        architecture = replace(architecture, parts=replace(architecture.parts, stem_channels=between))
    randomise(model)
    found = loaded(saved(model.state_dict(), tmp_path), architecture)
    assert found.convention == "timm" and not found.fresh
    assert {entry.split(".")[0] for entry in found.dropped} == ({"head", "norm_pre"} if "hnf" in name else {"head"})
    features = of_timm(name, architecture, features_only=True)
    flattened = {re.sub(r"^(stem|stages)\.", r"\1_", key): tensor for key, tensor in model.state_dict().items()}
    assert not features.load_state_dict(flattened, strict=False).missing_keys
    for sides in (NATIVE, OTHER):
        images = images_of(*sides)
        with torch.no_grad():
            wanted = features(theirs_of(images))
        assert_same_features(found.params, architecture, images, wanted)


@pytest.mark.parametrize(
    ("name", "kind", "part"),
    [
        ("convnext_tiny", "ConvNext", "Model"),
        ("convnext_tiny", "ConvNext", "Backbone"),
        ("convnext_tiny", "ConvNext", "ForImageClassification"),
        ("convnextv2_tiny", "ConvNextV2", "Model"),
        ("convnextv2_tiny", "ConvNextV2", "Backbone"),
        ("convnextv2_tiny", "ConvNextV2", "ForImageClassification"),
        ("convnext_tiny", "DINOv3ConvNext", "Model"),
        ("convnext_tiny", "DINOv3ConvNext", "Backbone"),
    ],
)
def test_features_are_those_of_transformers(name: str, kind: str, part: str, tmp_path: Path) -> None:
    architecture = in_small(name)
    config = getattr(transformers, f"{kind}Config")(depths=list(BLOCKS), hidden_sizes=list(CHANNELS), num_labels=3)
    model = getattr(transformers, kind + part)(config).eval()
    randomise(model)
    model.save_pretrained(tmp_path)
    found = loaded(tmp_path, architecture)
    assert found.convention == ("transformers (DINOv3)" if "DINO" in kind else "transformers") and not found.fresh
    if part == "ForImageClassification":
        assert {"classifier.bias", "classifier.weight"} < {*found.dropped}
        return
    for sides in (NATIVE, OTHER) if part == "Model" else ((64, 32),):
        images = images_of(*sides)
        with torch.no_grad():
            outputs = model(theirs_of(images), output_hidden_states=True)
        assert_same_features(found.params, architecture, images, outputs.hidden_states[-4:])


def test_features_are_those_of_torchvision(tmp_path: Path) -> None:
    architecture = in_small("convnext_tiny")
    following = (*CHANNELS[1:], None)
    setting = [of_torchvision.CNBlockConfig(*each) for each in zip(CHANNELS, following, BLOCKS, strict=True)]
    model = of_torchvision.ConvNeXt(setting, num_classes=7).eval()
    randomise(model)
    found = loaded(saved(model.state_dict(), tmp_path), architecture)
    assert found.convention == "torchvision" and not found.fresh
    assert {entry.split(".")[0] for entry in found.dropped} == {"classifier"}
    for sides in (NATIVE, OTHER):
        wanted, images = [], images_of(*sides)
        x = theirs_of(images)
        with torch.no_grad():
            for index, part in enumerate(model.features):
                x = part(x)
                wanted += [x] * (index % 2)
        assert_same_features(found.params, architecture, images, wanted)


def test_towers_of_open_clip_and_files_of_the_authors(tmp_path: Path) -> None:
    architecture = in_small("convnext_base")
    model = of_timm("convnext_base", architecture)
    randomise(model)
    trunk = model.state_dict()
    clip = {f"visual.trunk.{name}": tensor for name, tensor in trunk.items() if not name.startswith("head.fc")}
    clip |= {"visual.head.proj.weight": torch.zeros(3, 4), "logit_scale": torch.zeros(1), "text.bias": torch.zeros(1)}
    clip |= {"transformer.resblocks.0.ln_1.bias": torch.zeros(4)}
    found = loaded(saved(clip, tmp_path), architecture)
    assert found.convention == "timm" and not found.fresh
    assert {"text.bias", "logit_scale", "head.norm.bias", "visual.head.proj.weight"} < {*found.dropped}

    # timm reads the authors' files: its own names of them are the judge of ours.
    convention = next(each for each in conventions_of(architecture) if each.name == "its authors")
    theirs = {name: torch.tensor(tensor) for name, tensor in convention.written(flat(found.params)).items()}
    theirs |= {"norm.weight": torch.ones(64), "norm.bias": torch.zeros(64)}
    theirs |= {"head.weight": torch.zeros(7, 64), "head.bias": torch.zeros(7)}
    again = timm.models.convnext.checkpoint_filter_fn(dict(theirs), model)
    for name, tensor in again.items():
        if not name.startswith("head"):
            torch.testing.assert_close(tensor, trunk[name], rtol=0, atol=0)
    authors = loaded(saved(theirs, tmp_path), architecture)
    assert authors.convention == "its authors"
    assert {*authors.dropped} == {"head.bias", "head.weight", "norm.bias", "norm.weight"}
    jax.tree.map(np.testing.assert_array_equal, authors.params, found.params)


@pytest.mark.parametrize("name", ["convnext_tiny", "convnextv2_atto"])
def test_gradients_are_those_of_torch_and_half_precision_is_near(name: str, tmp_path: Path) -> None:
    """Of every parameter, also those of stem and shrinking layers."""
    architecture = in_small(name)
    architecture = replace(architecture, parts=replace(architecture.parts, blocks=(1, 1, 1, 1)))
    model = of_timm(name, architecture)
    randomise(model)
    found = loaded(saved(model.state_dict(), tmp_path), architecture)
    images = images_of(32, 64)
    features = model.forward_intermediates(theirs_of(images), intermediates_only=True)
    weights = [np.random.default_rng(level).normal(size=x.shape).astype(np.float32) for level, x in enumerate(features)]
    sum((x * torch.tensor(w)).sum() for x, w in zip(features, weights, strict=True)).backward()

    def loss(params: Any, x: jax.Array) -> Any:
        features = network(architecture).apply({"params": params}, x, False)
        levels = zip(features.values(), weights, strict=True)
        return sum((x * w.transpose(0, 2, 3, 1)).sum() for x, w in levels), features

    gradients, _ = jax.jit(jax.grad(loss, has_aux=True))(found.params, images)
    timms = next(each for each in conventions_of(architecture) if each.name == "timm").written(flat(gradients))
    wanted = {key: p.grad.numpy() for key, p in model.named_parameters() if not key.startswith("head")}
    assert timms.keys() == wanted.keys()
    for key, want in wanted.items():
        np.testing.assert_allclose(timms[key], want, rtol=0, atol=1e-3 * np.abs(want).max(), err_msg=key)

    half = network(architecture).apply({"params": found.params}, jnp.asarray(images, jnp.bfloat16), False)
    for x, fine in zip(half.values(), features, strict=True):
        fine = ours_of(fine)
        assert x.dtype == jnp.bfloat16
        np.testing.assert_allclose(x.astype(jnp.float32), fine, rtol=0, atol=0.02 * np.abs(fine).max())


def test_all_names_have_the_parameters_and_images_of_timm() -> None:
    assert {*ALL} == {name for name in timm.list_models("convnext*")}
    for name in ALL:
        architecture = ARCHITECTURES[name]
        with torch.device("meta"):
            model = timm.create_model(name)
        theirs = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
        theirs = {key: shape for key, shape in theirs.items() if not key.startswith(("head.", "norm_pre."))}
        convention = conventions_of(architecture)[0]
        # Of one number each, so that they take no memory.
        blank = {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in flat(shapes(architecture)).items()}
        written = {}
        for path, (names, form) in convention.names(blank).items():
            written |= {key: x.shape for key, x in zip(names, form.write(blank[path]), strict=True)}
        assert written == theirs, name
        assert sum(map(math.prod, written.values())) == sum(leaf.size for leaf in blank.values())
        about = timm.get_pretrained_cfg(name)
        assert (architecture.image_size, architecture.mean, architecture.std) == (
            about.input_size[-1],
            tuple(about.mean),
            tuple(about.std),
        )
