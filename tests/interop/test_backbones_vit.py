"""Vision transformers with weights of others give the features that those libraries give."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
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
import transformers
from parity import difference, images_of, theirs_of

from must_jax.config.architectures import ARCHITECTURES, Architecture, ViTParts
from must_jax.models.vit import ViT
from must_jax.weights import files, loading
from must_jax.weights.loading import conventions_of, flat

VITS = [name for name, found in ARCHITECTURES.items() if isinstance(found.parts, ViTParts)]
SMALL: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3}
# With what makes it differ from those above it.
TIMM = [
    "vit_tiny_patch16_224",
    "vit_small_patch32_384",
    "vit_base_patch8_224",
    "vit_large_patch14_224",  # patches that are no power of 2
    "deit3_medium_patch16_224",  # LayerScale, a class token without a position
    "vit_huge_patch14_clip_224",  # pre-norm
    "vit_base_patch16_clip_quickgelu_224",  # quick GELU
    "vit_base_patch16_siglip_256",  # no class token
    "vit_so400m_patch16_siglip_256",  # approximate GELU, another width of the MLP
    "vit_small_patch14_dinov2",
    "vit_giant_patch14_reg4_dinov2",  # registers, SwiGLU
    "vit_large_patch14_reg1_tipsv2",
    "vit_base_patch16_dinov3",  # rotary positions, no bias
    "vit_small_plus_patch16_dinov3_qkvb",  # biases of queries and values, SwiGLU
    "vit_7b_patch16_dinov3",
]
ROUNDED = ("vit_tiny_patch16_224", "vit_giant_patch14_reg4_dinov2", "vit_base_patch16_dinov3")  # in bfloat16, too
Tree = Mapping[str, Any]


def randomised(module: torch.nn.Module) -> Any:
    """With norms' scales around 1, and everything else so large that leaving it out is seen."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, values in module.named_parameters():
            drawn = torch.randn(values.shape, generator=random)
            if re.search(r"(norm|ln)\w*\.weight", name):
                drawn = 1 + 0.3 * drawn
            elif values.ndim == 2 and "embedding" not in name:
                drawn /= values.shape[1] ** 0.5
            elif values.ndim == 4:
                drawn /= values[0].numel() ** 0.5
            else:
                drawn *= 0.5
            values.copy_(drawn)
    return module.eval()


def small(name: str) -> tuple[Any, Architecture]:
    """Timm's network, shallow and narrow, and the same one here."""
    theirs = randomised(timm.create_model(name, num_classes=5, dynamic_img_size=True, **SMALL))
    architecture = ARCHITECTURES[name]
    hidden = theirs.blocks[0].mlp.fc2.in_features
    parts = replace(architecture.parts, depth=2, channels=48, heads=3, hidden=hidden)
    return theirs, replace(architecture, parts=parts)


def loaded(path: Path, architecture: Architecture) -> loading.Loaded:
    """Of the pyramid, which is new here, the shapes."""
    network, patch = ViT(parts=architecture.parts), architecture.parts.patch
    image = jax.ShapeDtypeStruct((1, patch, patch, 3), jnp.float32)
    fresh = jax.eval_shape(lambda image: network.init(jax.random.key(0), image, False), image)["params"]
    found = loading.load(files.read(str(path)), architecture, fresh, {})
    assert all(name.startswith("pyramid/") for name in found.fresh)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), fresh["pyramid"])
    return replace(found, params={**found.params, "pyramid": params})


def ours(architecture: Architecture, params: Tree, images: jax.Array) -> jax.Array:
    """[B, rows, columns, C]: the level of the pyramid that is no other than the tokens."""
    network = ViT(parts=architecture.parts)
    level = {4: "c2", 8: "c3", 16: "c4", 32: "c5"}[network.stride]
    return network.apply({"params": params}, images, False)[level]


def sizes(parts: ViTParts) -> tuple[tuple[int, int], ...]:
    """The native one, and one with more rows and fewer columns (so that positions grow and shrink), each odd."""
    grid = parts.grid
    return tuple((parts.patch * rows, parts.patch * columns) for rows, columns in ((grid, grid), (grid + 3, 5)))


@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str, tmp_path: Path) -> None:
    theirs, architecture = small(name)
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    found = loaded(tmp_path, architecture)
    assert found.convention == "timm"
    run = jax.jit(lambda images: ours(architecture, found.params, images))
    for height, width in sizes(architecture.parts):
        images = images_of(height, width)
        with torch.no_grad():
            expected = theirs.forward_features(theirs_of(images))[:, theirs.num_prefix_tokens :]
        assert difference(run(images), expected) < 1e-5
        # bfloat16 has 8 bits: errors of 0.4% of each activation.
        if name not in ROUNDED:
            continue
        assert difference(run(jnp.asarray(images, jnp.bfloat16)).astype(jnp.float32), expected) < 0.03


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "vit_giant_patch14_reg4_dinov2", "vit_small_plus_patch16_dinov3_qkvb"]
)
def test_gradients_are_those_of_timm(name: str, tmp_path: Path) -> None:
    theirs, architecture = small(name)
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    params, patch = loaded(tmp_path, architecture).params, architecture.parts.patch
    images = images_of(5 * patch, 4 * patch)
    weights = np.random.default_rng(1).normal(size=(2, 5, 4, 48)).astype(np.float32)
    features = theirs.forward_features(theirs_of(images))[:, theirs.num_prefix_tokens :]
    (features * torch.tensor(weights).reshape(features.shape)).sum().backward()

    grads = jax.jit(jax.grad(lambda params: (ours(architecture, params, images) * weights).sum()))(params)
    written = conventions_of(architecture)[0].written(flat(grads))
    expected = {key: value.grad for key, value in theirs.named_parameters() if not key.startswith(("head", "fc_norm"))}
    assert written.keys() == expected.keys()
    for key, gradient in expected.items():
        assert difference(written[key], gradient) < 1e-4, key


TRANSFORMERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "vit_base_patch16_224": (transformers.ViTModel, {"layer_norm_eps": 1e-6}),
    "vit_base_patch14_dinov2": (transformers.Dinov2Model, {}),
    "vit_giant_patch14_dinov2": (transformers.Dinov2Model, {"use_swiglu_ffn": True}),
    "vit_base_patch14_reg4_dinov2": (transformers.Dinov2WithRegistersModel, {"num_register_tokens": 4}),
    "vit_base_patch16_dinov3_qkvb": (transformers.DINOv3ViTModel, {"num_register_tokens": 4}),
    "vit_huge_plus_patch16_dinov3_qkvb": (
        transformers.DINOv3ViTModel,
        {"num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu"},
    ),
    "vit_base_patch16_clip_quickgelu_224": (transformers.CLIPVisionModel, {}),
    "vit_so400m_patch14_siglip_224": (transformers.SiglipVisionModel, {"hidden_act": "gelu"}),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name: str, tmp_path: Path) -> None:
    kind, more = TRANSFORMERS[name]
    hidden = 128 if "use_swiglu_ffn" in more else 192  # of which SwiGLU in DINOv2 takes two thirds
    parts = replace(ARCHITECTURES[name].parts, depth=2, channels=48, heads=3, hidden=hidden, grid=4)
    config = kind.config_class(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=192,
        patch_size=parts.patch,
        image_size=4 * parts.patch,
        **more,
    )
    theirs = randomised(kind(config))
    theirs.save_pretrained(tmp_path)
    architecture = replace(ARCHITECTURES[name], parts=parts)
    found = loaded(tmp_path, architecture)
    assert found.convention == "transformers"
    run = jax.jit(partial(ours, architecture))
    # They resize positions in another way.
    grids = [(4, 4), (5, 3)] if parts.position == "rotary" else [(4, 4)]
    for rows, columns in grids:
        images = images_of(parts.patch * rows, parts.patch * columns)
        with torch.no_grad():
            tokens = theirs(pixel_values=theirs_of(images)).last_hidden_state
            if kind is transformers.CLIPVisionModel:  # which norms the class token only
                tokens = theirs.post_layernorm(tokens)
        expected = tokens[:, int(parts.class_token) + parts.registers :]
        assert difference(run(found.params, images), expected) < 1e-5


def timm_reads(architecture: Architecture, params: Tree, path: Path, read: Callable[[Any], None]) -> None:
    """Asserts that timm, having read the file, computes what is computed here with these parameters."""
    theirs = randomised(timm.create_model(architecture.name, dynamic_img_size=True, num_classes=0, **SMALL))
    read(theirs)
    again = loaded(path, architecture)
    jax.tree.map(np.testing.assert_array_equal, again.params, params)
    images = images_of(2 * architecture.parts.patch, 3 * architecture.parts.patch)
    with torch.no_grad():
        expected = theirs.forward_features(theirs_of(images))[:, theirs.num_prefix_tokens :]
    assert difference(jax.jit(partial(ours, architecture))(again.params, images), expected) < 1e-5


@pytest.mark.parametrize(
    ("name", "convention", "prefix", "stacked"),
    [
        ("vit_base_patch32_224", "AugReg", "", False),
        ("vit_base_patch32_siglip_256", "big_vision", "params/img/", False),
        ("vit_base_patch32_siglip_256", "big_vision", "params/img/", True),  # all blocks in one array
    ],
)
def test_npz_files_of_google(name: str, convention: str, prefix: str, stacked: bool, tmp_path: Path) -> None:
    theirs, architecture = small(name)
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    params = loaded(tmp_path / "model.safetensors", architecture).params
    (names,) = (each for each in conventions_of(architecture) if each.name == convention)
    tensors = names.written(flat(params))
    if name == "vit_base_patch32_siglip_256":  # its head, which timm reads as well and which is dropped here
        head = "MAPHead_0/MultiHeadDotProductAttention_0"
        tensors |= {f"{head}/{x}/kernel": np.zeros((48, 3, 16), np.float32) for x in ("query", "key", "value")}
        tensors |= {f"{head}/{x}/bias": np.zeros((3, 16), np.float32) for x in ("query", "key", "value")}
        tensors |= {f"{head}/out/kernel": np.zeros((3, 16, 48), np.float32), f"{head}/out/bias": np.zeros(48)}
        tensors |= {f"MAPHead_0/LayerNorm_0/{x}": np.zeros(48, np.float32) for x in ("scale", "bias")}
        tensors |= {
            "MAPHead_0/probe": np.zeros((1, 1, 48), np.float32),
            "MAPHead_0/MlpBlock_0/Dense_0/kernel": np.zeros((48, 192), np.float32),
            "MAPHead_0/MlpBlock_0/Dense_0/bias": np.zeros(192, np.float32),
            "MAPHead_0/MlpBlock_0/Dense_1/kernel": np.zeros((192, 48), np.float32),
            "MAPHead_0/MlpBlock_0/Dense_1/bias": np.zeros(48, np.float32),
        }
    if stacked:
        blocks = {key.replace("encoderblock_0", "encoderblock") for key in tensors if "encoderblock_0" in key}
        for key in blocks:
            each = [tensors.pop(key.replace("encoderblock", f"encoderblock_{b}")) for b in range(2)]
            tensors[key] = np.stack(each)
    path = tmp_path / "weights.npz"
    np.savez(path, **{f"{prefix}{key}": value for key, value in tensors.items()})
    timm_reads(architecture, params, path, lambda model: model.load_pretrained(str(path)))


@pytest.mark.parametrize(
    ("name", "convention", "prefix", "others"),
    [
        (
            "vit_base_patch16_clip_224",
            "open_clip",
            "visual.",
            {"transformer.resblocks.0.ln_1.weight": (8,), "visual.proj": (48, 7)},
        ),
        ("vit_giant_patch14_dinov2", "DINOv2", "", {"mask_token": (1, 48)}),
        ("vit_giant_patch14_reg4_dinov2", "DINOv2", "", {"mask_token": (1, 48)}),
        ("vit_base_patch14_reg1_tipsv2", "DINOv2", "vision_encoder.", {"vision_encoder.mask_token": (1, 48)}),
    ],
)
def test_what_authors_published(
    name: str, convention: str, prefix: str, others: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    theirs, architecture = small(name)
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    params = loaded(tmp_path / "model.safetensors", architecture).params
    (names,) = (each for each in conventions_of(architecture) if each.name == convention)
    tensors = {f"{prefix}{key}": torch.tensor(value) for key, value in names.written(flat(params)).items()}
    tensors |= {key: torch.zeros(shape) for key, shape in others.items()}
    path = tmp_path / "published.safetensors"
    safetensors.torch.save_file(tensors, path)

    def read(model: Any) -> None:
        converted = timm.models.vision_transformer.checkpoint_filter_fn(dict(tensors), model)
        converted = {key: value for key, value in converted.items() if not key.startswith("head.")}
        model.load_state_dict(converted, strict=True)

    timm_reads(architecture, params, path, read)


@lru_cache
def block_by_block(parts: ViTParts) -> dict[str, tuple[int, ...]]:
    """The shapes of all parameters: those of the first block are those of all others."""
    network = ViT(parts=replace(parts, depth=1))
    image = jax.ShapeDtypeStruct((1, parts.patch, parts.patch, 3), jnp.float32)
    tree = jax.eval_shape(lambda image: network.init(jax.random.key(0), image, False), image)["params"]
    shapes = {path: leaf.shape for path, leaf in flat(tree).items()}
    for path in [path for path in shapes if path.startswith("block1/")]:
        shapes |= {path.replace("block1/", f"block{b + 1}/"): shapes[path] for b in range(parts.depth)}
    return shapes


@pytest.mark.parametrize("family", sorted({ARCHITECTURES[name].family for name in VITS}))
def test_every_name_has_the_shapes_that_timm_has(family: str) -> None:
    for name in VITS:
        architecture = ARCHITECTURES[name]
        if architecture.family != family:
            continue
        with torch.device("meta"):
            theirs = timm.create_model(name)
        about = theirs.pretrained_cfg
        assert (about["input_size"][-1], about["mean"], about["std"]) == (
            architecture.image_size,
            architecture.mean,
            architecture.std,
        ), name
        convention, shapes = conventions_of(architecture)[0], dict(block_by_block(replace(architecture.parts, grid=1)))
        if "position" in shapes:
            count, channels = shapes["position"]
            shapes["position"] = (count - 1 + architecture.parts.grid**2, channels)
        written = {}
        for path, (keys, form) in convention.names(shapes).items():
            tensors = form.write(np.broadcast_to(np.float32(0), shapes[path]))
            written |= {key: tensor.shape for key, tensor in zip(keys, tensors, strict=True) if tensor is not None}
        state = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
        assert written == {key: shape for key, shape in state.items() if not re.fullmatch(convention.heads, key)}, name
