"""The backbone for transformers: a folder that `AutoModel.from_pretrained` loads, with its image processor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
import torch
import transformers

from must_jax.config.architectures import ARCHITECTURES, ConvNeXtParts, ResNetParts, ViTParts
from must_jax.errors import UserError
from must_jax.exporting.base import BACKBONE, Arrays, Network, Written
from must_jax.exporting.pytorch import answered, published, readable, tensors_of
from must_jax.models.positions import resized
from must_jax.weights.loading import conventions_of

NAME = "transformers"
_STAGES = ["stage1", "stage2", "stage3", "stage4"]


@dataclass(frozen=True)
class _Kind:
    """How transformers calls such a network.

    Attributes:
      model: its class.
      beside: parameters that are not of the backbone, but without which it would not be loaded in silence.
      after: a regular expression of those that are left to transformers to start.
      last_norm: the module that norms the last tokens, if the model does not do it itself.
      grid: whether positions are for one grid of tokens, and so written for the run's size.
      square: whether they are for squares only.
    """

    model: str
    config: type[transformers.PretrainedConfig]
    options: dict[str, Any]
    beside: Mapping[str, np.ndarray] = field(default_factory=dict)
    after: str = r"(?!)"
    last_norm: str = ""
    grid: bool = False
    square: bool = False


def check(network: Network) -> None:
    """Raises UserError if transformers has no such network."""
    kind = _kind(network)
    height, width = network.seen_hw
    if kind.square and height != width:
        raise UserError(
            f"transformers' {kind.config.model_type} would resize the positions of images of {height} x {width} pixels "
            "in a way of its own; leave transformers out of config.formats, timm has this network, too"
        )


def write(network: Network, folder: Path) -> Written:
    """Writes `config.json`, `model.safetensors` and `preprocessor_config.json`."""
    kind = _kind(network)
    transformers.utils.logging.disable_progress_bar()
    height, width = network.seen_hw
    changed = {}
    parts = ARCHITECTURES[network.trained.config.backbone].parts
    if kind.grid and isinstance(parts, ViTParts):
        position = np.asarray(network.trained.variables["params"]["backbone"]["position"])
        before = len(position) - parts.grid**2
        grid = resized(jnp.asarray(position[before:]), height // parts.patch, width // parts.patch)
        changed["position"] = np.concatenate([position[:before], np.asarray(grid)])
    tensors = {**tensors_of(network, NAME, **changed), **kind.beside}
    for name in [name for name in tensors if name.endswith("running_mean")]:
        tensors[name.replace("running_mean", "num_batches_tracked")] = np.zeros((), np.int64)
    folder.mkdir(parents=True, exist_ok=True)
    kind.config(**kind.options, architectures=[kind.model]).save_pretrained(folder)
    # By the names of files, which every version reads; in memory they change with the version.
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    readable(folder)
    mean, std = network.normalisation.values()
    transformers.ViTImageProcessor(
        size={"height": height, "width": width}, image_mean=mean, image_std=std
    ).save_pretrained(folder)
    again = _loaded(kind, folder)
    norm = getattr(again, kind.last_norm) if kind.last_norm else None
    before = int(parts.class_token) + parts.registers if isinstance(parts, ViTParts) else 0

    def answers(normalised: np.ndarray) -> Arrays:
        with torch.inference_mode():
            pixels = published(normalised)
            if not isinstance(parts, ViTParts):
                return answered(network, again(pixel_values=pixels, output_hidden_states=True).hidden_states[-4:])
            tokens = again(pixel_values=pixels).last_hidden_state
            tokens = (norm(tokens) if norm else tokens)[:, before:]
            rows, columns = height // parts.patch, width // parts.patch
            return answered(network, [tokens.reshape(len(tokens), rows, columns, -1).permute(0, 3, 1, 2)])

    return Written(
        "transformers",
        BACKBONE,
        True,
        network.function(BACKBONE, is_prepared=True, levels=network.published),
        answers,
        _example(isinstance(parts, ViTParts), before, kind.last_norm),
    )


def _loaded(kind: _Kind, folder: Path) -> torch.nn.Module:
    """Raises UserError unless all that was written is used, and nothing of the backbone is missing."""
    model, info = transformers.AutoModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    missing = [name for name in info["missing_keys"] if not re.fullmatch(kind.after, name)]
    if differ := sorted([*missing, *info["unexpected_keys"], *(name for name, *_ in info["mismatched_keys"])]):
        raise UserError(
            f"the installed transformers has another {kind.model}; it differs in {', '.join(differ[:5])}; leave "
            "transformers out of config.formats, or install another version"
        )
    return model.eval()


def _example(is_vit: bool, before: int, last_norm: str) -> str:
    asks = "" if is_vit else ", output_hidden_states=True"
    if is_vit:
        tokens = f"model.{last_norm}(outputs.last_hidden_state)" if last_norm else "outputs.last_hidden_state"
        told = f"tokens = {tokens}[:, {before}:]  # of the patches, row by row\nprint(tuple(tokens.shape))"
    else:
        told = (
            "maps = outputs.hidden_states[-4:]  # at strides 4, 8, 16, 32\nprint([tuple(each.shape) for each in maps])"
        )
    return f"""import numpy as np, PIL.Image, torch, transformers

processor = transformers.AutoImageProcessor.from_pretrained("transformers")
model = transformers.AutoModel.from_pretrained("transformers").eval()
photo = PIL.Image.fromarray(np.zeros((480, 640, 3), np.uint8))
with torch.inference_mode():
    outputs = model(**processor(photo, return_tensors="pt"){asks})
{told}"""


def _kind(network: Network) -> _Kind:
    config, architecture = network.trained.config, ARCHITECTURES[network.trained.config.backbone]
    if NAME not in (each.name for each in conventions_of(architecture)):
        raise UserError(
            f"transformers has no {architecture.name}; leave transformers out of config.formats, timm has it"
        )
    parts, (height, width) = architecture.parts, network.seen_hw
    match parts:
        case ResNetParts():
            stem = 8 * max(1, round(8 * config.width))
            channels = [(4 if parts.bottleneck else 1) * stem * 2**stage for stage in range(4)]
            options = {
                "embedding_size": stem,
                "hidden_sizes": channels,
                "depths": list(parts.blocks),
                "layer_type": "bottleneck" if parts.bottleneck else "basic",
                "out_features": _STAGES,
            }
            return _Kind("ResNetModel", transformers.ResNetConfig, options)
        case ConvNeXtParts():
            options = {"hidden_sizes": list(parts.channels), "depths": list(parts.blocks), "out_features": _STAGES}
            last = np.ones(parts.channels[-1], np.float32)
            beside = {"layernorm.weight": last, "layernorm.bias": 0 * last}  # of the pooled map
            if parts.v2:
                return _Kind("ConvNextV2Model", transformers.ConvNextV2Config, options, beside)
            return _Kind("ConvNextModel", transformers.ConvNextConfig, options, beside)
        case ViTParts():
            return _vit(parts, architecture.family, height, width)


def _vit(parts: ViTParts, family: str, height: int, width: int) -> _Kind:
    options: dict[str, Any] = {
        "hidden_size": parts.channels,
        "num_hidden_layers": parts.depth,
        "num_attention_heads": parts.heads,
        "intermediate_size": parts.hidden,
        "patch_size": parts.patch,
        "image_size": height,
        "layer_norm_eps": parts.epsilon,
        "hidden_act": {"gelu_tanh": "gelu_pytorch_tanh", "swiglu": "silu"}.get(parts.activation, parts.activation),
    }
    gated = parts.activation == "swiglu"
    mask = np.zeros((1, parts.channels), np.float32)  # of images with holes, in training
    if parts.position == "rotary":
        options |= {"num_register_tokens": parts.registers, "use_gated_mlp": gated, "key_bias": False}
        options |= {"query_bias": (bias := parts.qkv_bias != "none"), "value_bias": bias}
        beside = {"embeddings.mask_token": mask[None]}
        return _Kind("DINOv3ViTModel", transformers.DINOv3ViTConfig, options, beside)
    if family == "CLIP":
        return _Kind(
            "CLIPVisionModel",
            transformers.CLIPVisionConfig,
            options,
            last_norm="post_layernorm",
            grid=True,
            square=True,
        )
    if family == "SigLIP":
        return _Kind(
            "SiglipVisionModel",
            transformers.SiglipVisionConfig,
            {**options, "vision_use_head": False},
            grid=True,
            square=True,
        )
    if parts.layer_scale:
        options |= {"use_swiglu_ffn": gated, "mlp_ratio": 4, "hidden_act": "gelu"}
        beside = {"embeddings.mask_token": mask}
        if not parts.registers:
            return _Kind("Dinov2Model", transformers.Dinov2Config, options, beside, grid=True, square=True)
        options["num_register_tokens"] = parts.registers
        return _Kind(
            "Dinov2WithRegistersModel", transformers.Dinov2WithRegistersConfig, options, beside, grid=True, square=True
        )
    options["image_size"] = (height, width)
    return _Kind("ViTModel", transformers.ViTConfig, options, after=r"pooler\..*", grid=True)
