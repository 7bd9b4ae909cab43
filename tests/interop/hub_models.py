"""Folders as people download them: small `transformers` models with random weights and their processors, and what the
library itself says about an image with them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import transformers as hub

CLASSES = ("cat", "dog", "sofa", "lamp", "door", "plant", "shelf")
README = "---\nlicense: apache-2.0\ntags:\n- vision\n---\n# A model\n"


def save(name: str, folder: Path, readme: str = README) -> Path:
    """One of `MODELS` with its processor and its card, as its folder."""
    model, processor = _built(name)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "README.md").write_text(readme)
    return folder


def save_detector(folder: Path, backbone: Any) -> Path:
    """A DETR with this backbone."""
    torch.manual_seed(3)
    model, processor = _detr(backbone)
    _enliven(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@functools.cache
def _built(name: str) -> tuple[Any, Any]:
    torch.manual_seed(3)
    model, processor = MODELS[name]()
    _enliven(model)
    return model.eval(), processor


def _enliven(model: torch.nn.Module) -> None:
    """Weights as large as those of a trained network, so that its answers depend on the image."""
    for name, value in model.named_parameters():
        if value.ndim > 1:
            scale = 1.5 / value[0].numel() ** 0.5
            torch.nn.init.normal_(value, std=1 if "quer" in name else scale * (0.1 if "head.conv3" in name else 1))
            if "class" in name:  # features behind a ReLU are all positive: no class may win by them all
                value.data -= value.mean(1, keepdim=True)
        else:
            torch.nn.init.normal_(value, mean=float(name.endswith("weight")), std=0.1)
    for name, value in model.named_buffers():
        if name.endswith("running_mean"):
            torch.nn.init.normal_(value, std=0.1)


def own_probs(name: str, rgb: np.ndarray) -> np.ndarray:
    """f32 [K]."""
    return _outputs(name, rgb).logits.softmax(-1)[0].numpy()


def own_boxes(name: str, rgb: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    """boxes_xyxy in pixels of the image, classes, scores, best first."""
    found = _built(name)[1].post_process_object_detection(
        _outputs(name, rgb), threshold=threshold, target_sizes=[rgb.shape[:2]]
    )[0]
    order = np.argsort(-found["scores"].numpy(), kind="stable")
    keys = {"boxes_xyxy": "boxes", "classes": "labels", "scores": "scores"}
    return {ours: found[theirs].numpy()[order] for ours, theirs in keys.items()}


def own_ids(name: str, rgb: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """i64 [*hw]."""
    return _built(name)[1].post_process_semantic_segmentation(_outputs(name, rgb), target_sizes=[hw])[0].numpy()


def own_depth(name: str, rgb: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """f32 [*hw], of the kind that the model says."""
    more = {"source_sizes": [rgb.shape[:2]]} if name == "zoedepth" else {}
    found = _built(name)[1].post_process_depth_estimation(_outputs(name, rgb), target_sizes=[hw], **more)
    return found[0]["predicted_depth"].numpy()


def _outputs(name: str, rgb: np.ndarray) -> Any:
    model, processor = _built(name)
    with torch.inference_mode():
        return model(**processor(images=[PIL.Image.fromarray(rgb)], return_tensors="pt"))


def _named(count: int) -> dict[str, Any]:
    return {
        "id2label": dict(enumerate(CLASSES[:count])),
        "label2id": {name: i for i, name in enumerate(CLASSES[:count])},
    }


_VIT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 96,
    "patch_size": 16,
}
_STAGES: dict[str, Any] = {"depths": [1, 1, 1, 1]}
_MIT: dict[str, Any] = {**_STAGES, "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 1, 2, 2]}
_RESNET: dict[str, Any] = {**_STAGES, "embedding_size": 16, "hidden_sizes": [16, 16, 32, 32], "layer_type": "basic"}
_DECODER: dict[str, Any] = {
    "d_model": 32,
    "num_queries": 20,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
_DPT: dict[str, Any] = {"neck_hidden_sizes": [16, 16, 16, 16], "fusion_hidden_size": 16}
_SQUARE = {"height": 96, "width": 96}
_SHORTER = {"shortest_edge": 96, "longest_edge": 160}


def _swin() -> Any:
    stages = [f"stage{i}" for i in range(1, 5)]
    return hub.SwinConfig(
        **_STAGES, embed_dim=16, num_heads=[1, 2, 2, 2], window_size=4, image_size=96, out_features=stages
    )


def _vit() -> Any:
    config = hub.ViTConfig(**_VIT, **_named(5))
    return hub.ViTForImageClassification(config), hub.ViTImageProcessor(size=_SQUARE)


def _convnext() -> Any:
    config = hub.ConvNextConfig(**_STAGES, hidden_sizes=[16, 32, 32, 64], **_named(5))
    return hub.ConvNextForImageClassification(config), hub.ConvNextImageProcessor(size={"shortest_edge": 64})


def _detr(backbone: Any = None) -> Any:
    backbone = backbone or hub.ResNetConfig(**_RESNET, out_features=["stage4"])
    config = hub.DetrConfig(backbone_config=backbone, encoder_layers=1, **_DECODER, **_named(6))
    return hub.DetrForObjectDetection(config), hub.DetrImageProcessor(size=_SHORTER)


def _rtdetr() -> Any:
    backbone = hub.RTDetrResNetConfig(**_RESNET, out_features=["stage2", "stage3", "stage4"])
    config = hub.RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=32,
        encoder_in_channels=[16, 32, 32],
        decoder_in_channels=[32, 32, 32],
        num_denoising=0,
        **_DECODER,
        **_named(6),
    )
    return hub.RTDetrForObjectDetection(config), hub.RTDetrImageProcessor(size=_SQUARE)


def _yolos() -> Any:
    config = hub.YolosConfig(**_VIT | {"image_size": [96, 128]}, num_detection_tokens=20, **_named(6))
    return hub.YolosForObjectDetection(config), hub.YolosImageProcessor(size=_SHORTER)


def _segformer() -> Any:
    config = hub.SegformerConfig(**_MIT, decoder_hidden_size=32, **_named(7))
    return hub.SegformerForSemanticSegmentation(config), hub.SegformerImageProcessor(size=_SQUARE)


def _beit() -> Any:
    config = hub.BeitConfig(
        **_VIT | {"num_hidden_layers": 4},
        out_indices=[1, 2, 3, 4],
        use_relative_position_bias=True,
        pool_scales=[1, 2],
        **_named(7),
    )
    return hub.BeitForSemanticSegmentation(config), hub.BeitImageProcessor(
        size=_SQUARE, do_center_crop=False, do_reduce_labels=True
    )


def _mask2former() -> Any:
    config = hub.Mask2FormerConfig(
        backbone_config=_swin(),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=64,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=4,
        dim_feedforward=64,
        num_queries=10,
        **_named(7),
    )
    return hub.Mask2FormerForUniversalSegmentation(config), hub.Mask2FormerImageProcessor(size=_SQUARE)


def eomt(split: bool = False) -> Any:
    """With `split`, its processor cuts an image into several and numbers them within a batch."""
    config = hub.EomtConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
        num_blocks=1,
        num_queries=5,
        num_register_tokens=1,
        **_named(7),
    )
    size = {"shortest_edge": 64, "longest_edge": None if split else 64}
    processor = hub.EomtImageProcessor(size=size, do_split_image=split, do_pad=not split)
    return hub.EomtForUniversalSegmentation(config), processor


def _maskformer() -> Any:
    decoder = hub.DetrConfig(encoder_layers=1, **_DECODER)
    config = hub.MaskFormerConfig(
        backbone_config=_swin(), decoder_config=decoder, fpn_feature_size=32, mask_feature_size=32, **_named(7)
    )
    return hub.MaskFormerForInstanceSegmentation(config), hub.MaskFormerImageProcessor(size=_SHORTER)


def _dpt() -> Any:
    config = hub.DPTConfig(
        **_VIT | {"num_hidden_layers": 4}, **_DPT, backbone_out_indices=[0, 1, 2, 3], is_hybrid=False
    )
    return hub.DPTForDepthEstimation(config), hub.DPTImageProcessor(size=_SQUARE)


def _depth_anything(kind: str) -> Any:
    backbone = hub.Dinov2Config(
        **_VIT | {"num_hidden_layers": 4, "image_size": 98, "patch_size": 14},
        out_indices=[1, 2, 3, 4],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    config = hub.DepthAnythingConfig(
        backbone_config=backbone,
        **_DPT,
        reassemble_hidden_size=32,
        head_hidden_size=8,
        depth_estimation_type=kind,
        max_depth=20 if kind == "metric" else 1,
    )
    processor = hub.DPTImageProcessor(
        size={"height": 98, "width": 98},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    return hub.DepthAnythingForDepthEstimation(config), processor


def _zoedepth() -> Any:
    backbone = hub.BeitConfig(
        **_VIT | {"num_hidden_layers": 4},
        out_indices=[1, 2, 3, 4],
        use_relative_position_bias=True,
        reshape_hidden_states=False,
    )
    config = hub.ZoeDepthConfig(
        backbone_config=backbone,
        **_DPT,
        bottleneck_features=16,
        num_relative_features=16,
        bin_configurations=[{"n_bins": 16, "min_depth": 0.001, "max_depth": 10.0, "name": "nyu"}],
        num_attractors=[4, 2, 2, 1],
        bin_embedding_dim=16,
    )
    return hub.ZoeDepthForDepthEstimation(config), hub.ZoeDepthImageProcessor(size={"height": 96, "width": 128})


def _glpn() -> Any:
    return hub.GLPNForDepthEstimation(hub.GLPNConfig(**_MIT, decoder_hidden_size=16)), hub.GLPNImageProcessor()


CLASSIFIERS = ("vit", "convnext")
DETECTORS = ("detr", "rtdetr", "yolos")
SEGMENTERS = ("segformer", "beit", "mask2former", "maskformer", "eomt")
DEPTHS = ("dpt", "depth_anything", "depth_anything_metric", "zoedepth", "glpn")
MODELS: dict[str, Callable[[], Any]] = {
    "vit": _vit,
    "convnext": _convnext,
    "detr": _detr,
    "rtdetr": _rtdetr,
    "yolos": _yolos,
    "segformer": _segformer,
    "beit": _beit,
    "mask2former": _mask2former,
    "maskformer": _maskformer,
    "eomt": eomt,
    "dpt": _dpt,
    "depth_anything": functools.partial(_depth_anything, "relative"),
    "depth_anything_metric": functools.partial(_depth_anything, "metric"),
    "zoedepth": _zoedepth,
    "glpn": _glpn,
}
