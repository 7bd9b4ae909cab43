"""Models of others, as large as people use them and with random weights, for `labelling.py --teachers`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from must_jax.config import TeacherConfig
from must_jax.engine.mesh import make_mesh
from must_jax.teachers import loading
from must_jax.teachers.base import Teacher

SIDE, CLASSES = 640, tuple(f"class {i}" for i in range(80))
CHANNELS, BLOCKS = (32, 64, 128, 256, 512), (1, 2, 2, 1)  # about the operations of YOLOv8s: 29 GFLOP at 640 pixels


def onnx_yolo(folder: Path) -> Teacher:
    """A convolutional detector of 640 pixels and 80 classes in YOLOv8's layout, by onnxruntime."""
    path = folder / "yolo.onnx"
    write_yolo(path)
    tasks = {"detection": {"classes": CLASSES, "layout": "yolov8"}}
    return loading.load(TeacherConfig(model=str(path), tasks=tasks), {}, make_mesh(1))


def torch_depth(folder: Path) -> Teacher:
    """Depth Anything's small model, 518 pixels, by transformers."""
    import torch
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=384,
        num_attention_heads=6,
        image_size=518,
        patch_size=14,
        out_indices=[3, 6, 9, 12],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=384,
        neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64,
    )
    DepthAnythingForDepthEstimation(config).save_pretrained(folder / "depth_anything")
    DPTImageProcessor(size={"height": 518, "width": 518}).save_pretrained(folder / "depth_anything")
    declared = TeacherConfig(
        model=f"transformers:{folder / 'depth_anything'}", tasks={"depth": {"depth_kind": "inverse_relative"}}
    )
    return loading.load(declared, {}, make_mesh(1))


MADE: dict[str, Callable[[Path], Teacher]] = {"onnx": onnx_yolo, "torch": torch_depth}


def write_yolo(path: Path) -> None:
    """Convolutions with SiLU at strides of 2 to 32, and one head of 1x1 convolutions on the last three."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng, nodes, weights = np.random.default_rng(0), [], []

    def constant(name: str, values: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(x: str, given: int, made: int, size: int, stride: int = 1, act: bool = True) -> str:
        name = f"conv{len(nodes)}"
        kernel = rng.normal(0, (2 / (given * size * size)) ** 0.5, (made, given, size, size)).astype(np.float32)
        inputs = [x, constant(f"{name}_w", kernel), constant(f"{name}_b", np.zeros(made, np.float32))]
        pads = [size // 2] * 4
        nodes.append(helper.make_node("Conv", inputs, [name], kernel_shape=[size] * 2, strides=[stride] * 2, pads=pads))
        if not act:
            return name
        nodes.append(helper.make_node("Sigmoid", [name], [f"{name}_s"]))
        nodes.append(helper.make_node("Mul", [name, f"{name}_s"], [f"{name}_a"]))
        return f"{name}_a"

    x, given, levels = "images", 3, []
    for stage, made in enumerate(CHANNELS):
        x, given = conv(x, given, made, 3, stride=2), made
        for _ in range(BLOCKS[stage - 1] if stage else 0):
            inner = conv(conv(x, made, made // 2, 3), made // 2, made, 3)
            nodes.append(helper.make_node("Add", [x, inner], [f"add{len(nodes)}"]))
            x = nodes[-1].output[0]
        if stage >= 2:
            levels.append((x, made))
    flat, shape = [], constant("shape", np.array([0, 4 + len(CLASSES), -1], np.int64))
    for level, made in levels:
        out = conv(conv(level, made, 128, 3), 128, 4 + len(CLASSES), 1, act=False)
        nodes.append(helper.make_node("Reshape", [out, shape], [f"{out}_flat"]))
        flat.append(f"{out}_flat")
    nodes.append(helper.make_node("Concat", flat, ["cells"], axis=2))
    nodes.append(helper.make_node("Sigmoid", ["cells"], ["shares"]))
    twelve = constant("twelve", np.float32(12))
    nodes.append(helper.make_node("Pow", ["shares", twelve], ["output0"]))  # few high scores, as for photographs
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
    found = helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["batch", 4 + len(CLASSES), "cells"])
    graph = helper.make_graph(nodes, "yolo", [image], [found], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
