"""Small models of timm and torchvision with random weights, saved as safetensors, and what their libraries say."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import safetensors.torch
import timm
import torch
import torchvision

CLASSES = ("cat", "dog", "sofa", "lamp")
TIMM = "test_resnet"


def save_timm(folder: Path, classes: int = len(CLASSES), **more: Any) -> Path:
    """As `timm.create_model('local-dir:FOLDER', pretrained=True)` reads it; `more` goes into config.json."""
    timm.models.save_for_hf(_timm(classes), folder, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    config |= {"label_names": list(CLASSES), **more}
    config["pretrained_cfg"] |= {"license": "apache-2.0"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def timm_probs(rgb: np.ndarray) -> np.ndarray:
    """f32 [4]."""
    transform = timm.data.create_transform(
        **timm.data.resolve_model_data_config(_timm(len(CLASSES))), is_training=False
    )
    with torch.inference_mode():
        return _timm(len(CLASSES))(transform(PIL.Image.fromarray(rgb))[None]).softmax(-1)[0].numpy()


@functools.cache
def _timm(classes: int) -> torch.nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(TIMM, num_classes=classes)
    if classes:
        torch.nn.init.normal_(model.get_classifier().weight, std=2)
    return model.eval()


def save_torchvision(name: str, file: Path) -> Path:
    safetensors.torch.save_model(_torchvision(name), str(file))
    return file


def torchvision_answer(name: str, rgb: np.ndarray) -> dict[str, np.ndarray]:
    """Of a classifier probs f32 [4]; of a detector boxes, labels, scores; of a segmenter logits f32 [4, h, w]."""
    model, image = _torchvision(name), torch.from_numpy(rgb).permute(2, 0, 1)
    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    with torch.inference_mode():
        if name == DETECTOR:
            return {key: value.numpy() for key, value in model([transform(image)])[0].items()}
        if name == SEGMENTER:
            return {"logits": model(transform(image)[None])["out"][0].numpy()}
        return {"probs": model(transform(image)[None]).softmax(-1)[0].numpy()}


CLASSIFIER, DETECTOR, SEGMENTER = "shufflenet_v2_x0_5", "ssdlite320_mobilenet_v3_large", "lraspp_mobilenet_v3_large"


@functools.cache
def _torchvision(name: str) -> torch.nn.Module:
    """A detector and a segmenter have the background as their first class."""
    torch.manual_seed(0)
    classes = len(CLASSES) + (name != CLASSIFIER)
    backbone = {} if name == CLASSIFIER else {"weights_backbone": None}
    model = torchvision.models.get_model(name, weights=None, num_classes=classes, **backbone)
    for key, value in model.named_parameters():
        if value.ndim > 1:
            gain = 0.005 if key == "fc.weight" else 0.4 if key.startswith("head") else 1.5  # no score near 0 or 1
            torch.nn.init.normal_(value, std=gain / value[0].numel() ** 0.5)
            if key.endswith(("fc.weight", "classifier.weight")):
                value.data -= value.mean(1, keepdim=True)
    return model.eval()
