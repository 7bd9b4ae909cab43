"""The backbone for timm: a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import timm
import torch

from must_jax.config.architectures import ARCHITECTURES, ConvNeXtParts, ResNetParts, ViTParts
from must_jax.errors import UserError
from must_jax.exporting.base import BACKBONE, Arrays, Network, Written
from must_jax.exporting.pytorch import answered, filled, published, readable, tensors_of

NAME = "timm"
# Parameters of timm's models after what is published of a backbone: they stay as timm starts them.
_AFTER = r"(head|norm_pre)\..*"


def check(network: Network) -> None:
    """Raises UserError if timm has no such network."""
    config = network.trained.config
    if config.width != 1:
        raise UserError(
            f"timm's ResNets have 64 channels in the stem, but this one has a width of {config.width:g}; leave timm "
            "out of config.formats, transformers has ResNets of any width"
        )


def write(network: Network, folder: Path) -> Written:
    """Writes `config.json` and `model.safetensors`."""
    architecture = ARCHITECTURES[network.trained.config.backbone]
    name, options = _called(network)
    model = timm.create_model(name, pretrained=False, num_classes=0, **options)
    filled(model, tensors_of(network, NAME), _AFTER)
    height, width = network.seen_hw
    model.pretrained_cfg.update(
        {
            "input_size": (3, height, width),
            **network.normalisation,
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "license": network.licence,
            "tag": "",
        }
    )
    for key in ("test_input_size", "test_crop_pct", "origin_url", "paper_ids", "notes"):
        model.pretrained_cfg.pop(key, None)
    timm.models.save_for_hf(model, folder, model_config={"num_classes": 0}, model_args=options, safe_serialization=True)
    readable(folder)
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    is_vit = isinstance(architecture.parts, ViTParts)
    call = {"indices": 1 if is_vit else 4, "intermediates_only": True} | ({"norm": True} if is_vit else {})

    def answers(normalised: np.ndarray) -> Arrays:
        with torch.inference_mode():
            return answered(network, again.forward_intermediates(published(normalised), **call))

    asked = ", ".join(f"{key}={value}" for key, value in call.items())
    example = f"""import timm, torch

model = timm.create_model("local-dir:timm", pretrained=True).eval()  # every parameter is in the file, or this fails
images = torch.rand(1, 3, {height}, {width})  # RGB, normalised by model.pretrained_cfg["mean"] and ["std"]
with torch.inference_mode():
    maps = model.forward_intermediates(images, {asked})
print([tuple(each.shape) for each in maps])"""
    return Written(
        "timm", BACKBONE, True, network.function(BACKBONE, is_prepared=True, levels=network.published), answers, example
    )


def _called(network: Network) -> tuple[str, dict[str, Any]]:
    """The name there, and the arguments of `create_model`."""
    architecture = ARCHITECTURES[network.trained.config.backbone]
    name, parts = architecture.name, architecture.parts
    match parts:
        case ResNetParts():
            return (name, {}) if timm.is_model(name) else ("resnet18", {"layers": list(parts.blocks)})
        case ViTParts():
            options: dict[str, Any] = {"dynamic_img_size": True}
            if architecture.family == "SigLIP":  # without its attention over all tokens, which is a head
                options |= {"global_pool": "avg", "fc_norm": False}
            return name, options
        case ConvNeXtParts():
            return name, {"head_hidden_size": None} if name == "convnext_large_mlp" else {}
