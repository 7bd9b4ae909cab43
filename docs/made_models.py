"""Photographs and models for docs/teachers.md and docs/dinov2_to_onnx.md, in the form in which people have them.

python made_models.py photos yolo depth dinov2     (or some of these)

  photos/             photographs of scikit-image and parts of them     pip install scikit-image
  models/toys.onnx    a detector in the layout of YOLO v8 to v13        pip install onnx
  models/depth/       a small Depth Anything with random weights        pip install 'must_jax[transformers]'
  weights/dinov2s/    DINOv2-S as timm has it, with random weights

No model has learnt anything. The detector finds what is strikingly red, blue or dark: at most one thing of each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np

NAMES = ("red thing", "blue thing", "dark thing")
SIDE = 320  # of the detector's input, pixels
STRIDES = (8, 16, 32)  # of a YOLO's grids
LEAST = (0.42, 0.11, -0.06)  # red or blue less the other channels; dark: the brightest channel, negative
STEEP = 20.0


def photos(folder: Path = Path("photos")) -> None:
    """Five photographs, and eight parts of each: PNG, in one folder for each photograph."""
    import skimage

    rng = np.random.default_rng(0)
    for name in ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"):
        image = cv2.imread(str(Path(skimage.__file__).parent / "data" / name))
        place = folder / Path(name).stem
        place.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place / "whole.png"), image)
        for number in range(8):
            height, width = (int(side * rng.uniform(0.4, 0.8)) for side in image.shape[:2])
            top, left = rng.integers(0, image.shape[0] - height), rng.integers(0, image.shape[1] - width)
            cv2.imwrite(str(place / f"part{number}.png"), image[top : top + height, left : left + width])


def yolo(file: Path = Path("models/toys.onnx")) -> None:
    """[batch, 4 + classes, rows]: centre and size of a box in pixels of the letterboxed input, a score for each class.

    Rows beyond the three boxes are 0. Its metadata are those that Ultralytics writes.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = [], []

    def node(kind: str, *inputs: object, **attributes: object) -> str:
        names = []
        for each in inputs:
            if not isinstance(each, str):
                constants.append(numpy_helper.from_array(np.asarray(each), f"c{len(constants)}"))
                each = constants[-1].name
            names.append(each)
        nodes.append(helper.make_node(kind, names, [f"v{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    f32 = np.float32
    blurred = node("AveragePool", "images", kernel_shape=[9, 9], pads=[4] * 4)
    red, green, blue = (node("Gather", blurred, np.array([channel]), axis=1) for channel in range(3))
    reddish = node("Sub", red, node("Max", green, blue))
    bluish = node("Sub", blue, node("Max", red, green))
    darkness = node("Neg", node("Max", red, green, blue))
    excess = node("Sub", node("Concat", reddish, bluish, darkness, axis=1), np.array(LEAST, f32)[:, None, None])
    mask = node("Clip", node("Mul", excess, f32(STEEP)), f32(0), f32(1))  # [batch, 3, rows, columns]
    mass = node("ReduceSum", mask, np.array([2, 3]), keepdims=0)  # [batch, 3]
    mass = node("Unsqueeze", node("Max", mass, f32(1e-6)), np.array([2]))
    score = node("Clip", node("ReduceMax", mask, axes=[2, 3], keepdims=0), f32(0), f32(0.95))
    centres, sizes = [], []
    at = np.arange(SIDE, dtype=f32) + f32(0.5)
    for across in (2, 3):  # x: sums over rows; y: over columns
        line = node("ReduceSum", mask, np.array([across]), keepdims=0)  # [batch, 3, side]
        mean, square = (
            node("Div", node("ReduceSum", node("Mul", line, value), np.array([2]), keepdims=1), mass)
            for value in (at, at**2)
        )
        spread = node("Max", node("Sub", square, node("Mul", mean, mean)), f32(1))
        centres.append(mean)
        sizes.append(node("Mul", node("Sqrt", spread), f32(2 * 3**0.5)))  # of a rectangle, its side
    scores = node("Mul", node("Unsqueeze", score, np.array([2])), np.eye(3, dtype=f32))
    rows = node("Concat", *centres, *sizes, scores, axis=2)  # [batch, 3, 7]
    total = sum((SIDE // stride) ** 2 for stride in STRIDES)
    padded = node("Pad", rows, np.array([0, 0, 0, 0, total - 3, 0]))
    nodes.append(helper.make_node("Transpose", [padded], ["output0"], perm=[0, 2, 1]))

    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ("batch", 3, SIDE, SIDE))
    found = helper.make_tensor_value_info("output0", TensorProto.FLOAT, ("batch", 4 + len(NAMES), total))
    graph = helper.make_graph(nodes, "toys", [image], [found], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    says = {
        "task": "detect",
        "names": dict(enumerate(NAMES)),
        "imgsz": [SIDE, SIDE],
        "stride": 32,
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
    }
    helper.set_model_props(model, {key: str(value) for key, value in says.items()})
    onnx.checker.check_model(model, full_check=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, file)


def depth(folder: Path = Path("models/depth")) -> None:
    """A folder as hubs offer it: config.json, preprocessor_config.json, model.safetensors, README.md.

    Its weights are random, but the same from left to right as from right to left, so that a mirrored photograph has a
    mirrored answer.
    """
    import torch
    import transformers as hub

    torch.manual_seed(0)
    backbone = hub.Dinov2Config(
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=224,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    config = hub.DepthAnythingConfig(
        backbone_config=backbone,
        neck_hidden_sizes=[32, 32, 32, 32],
        fusion_hidden_size=32,
        reassemble_hidden_size=48,
        reassemble_factors=[4, 2, 1, 1],
        head_hidden_size=16,
        depth_estimation_type="relative",
    )
    model = hub.DepthAnythingForDepthEstimation(config)
    for name, value in model.named_parameters():
        if "position_embeddings" in name:
            value.data.zero_()
        elif value.ndim > 1:
            torch.nn.init.normal_(value, std=1.5 / value[0].numel() ** 0.5)
        if value.ndim == 4:
            value.data = (value.data + value.data.flip(-1)) / 2
    model.head.conv3.weight.data.abs_()  # what it adds up is not negative, nor is inverse depth
    processor = hub.DPTImageProcessor(
        size={"height": 224, "width": 224},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")


def dinov2(folder: Path = Path("weights/dinov2s")) -> None:
    """What `hf download timm/vit_small_patch14_dinov2.lvd142m` brings: config.json, model.safetensors."""
    import jax
    import safetensors.numpy

    from must_jax.config import ModelConfig
    from must_jax.config.architectures import ARCHITECTURES
    from must_jax.models.api import build_model
    from must_jax.weights.loading import conventions_of, flat

    architecture = ARCHITECTURES["vit_small_patch14_dinov2"]
    network = build_model(ModelConfig(backbone=architecture.name), {})
    params = network.init(jax.random.key(0), (224, 224))["params"]["backbone"]
    (timm,) = (each for each in conventions_of(architecture) if each.name == "timm")
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(timm.written(flat(params)), folder / "model.safetensors")
    about = {
        "input_size": [3, architecture.image_size, architecture.image_size],
        "mean": architecture.mean,
        "std": architecture.std,
        "license": "apache-2.0",
    }
    told = {"architecture": architecture.name, "pretrained_cfg": about}
    (folder / "config.json").write_text(json.dumps(told))


if __name__ == "__main__":
    made = {"photos": photos, "yolo": yolo, "depth": depth, "dinov2": dinov2}
    if not sys.argv[1:] or not set(sys.argv[1:]) <= made.keys():
        sys.exit(__doc__)
    for argument in sys.argv[1:]:
        try:
            made[argument]()
        except ModuleNotFoundError as error:
            sys.exit(f"{argument} needs {error.name}, which is not installed.\n\n{__doc__}")
