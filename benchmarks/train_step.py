"""Training images a second: must_jax against the same network in PyTorch, and a student of five tasks against one.

python benchmarks/train_step.py [--preset=quickstart|resnet50-224] [--steps=20] [--rounds=3]

(a) Forward, backward and SGD with momentum on a fixed batch; the loss of both sides is the mean of |output - 0.5| over
    every output, so that only the network is compared. PyTorch runs eagerly (without torch.compile), channels_last, one
    thread a core; must_jax one virtual device a core. The numbers of parameters are checked to be equal.
(b) The real train step of `must_jax.engine` with the real tasks and losses: all five against depth alone, in time and
    in floating point operations (as XLA counts them): three dense heads and a detector are more work than one head.

Every measurement is a process of its own, one after the other, in alternating rounds; the median round counts.
Compilation and two warm-up steps are not in the time. Leave the machine alone meanwhile: with other programs on its
cores PyTorch's threads wait for each other, and the ratio means nothing. Needs the extra: pip install -e '.[bench]'
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from must_jax.config import ModelConfig, OptimizerConfig
from must_jax.config.architectures import ARCHITECTURES
from must_jax.config.base import input_hw_of
from must_jax.cores import cores

CLASSES = 8
BOXES = 20  # places for boxes in the labels of an image
PRESETS = {  # model, image size, batch size
    "quickstart": (
        ModelConfig(backbone="resnet10", width=0.5, pyramid_channels=64, head_channels=32, head_convs=2),
        64,
        32,
    ),
    "resnet50-224": (ModelConfig(backbone="resnet50", pyramid_channels=256, head_channels=128, head_convs=3), 224, 8),
}
FIVE = ("classification", "detection", "segmentation", "depth", "normals")
DENSE_CHANNELS = {"segmentation": CLASSES, "depth": 1, "normals": 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="quickstart")
    parser.add_argument("--steps", type=int, default=20, help="timed steps a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=MEASUREMENTS, help=argparse.SUPPRESS)  # how this script calls itself
    args = parser.parse_args()
    if args.only:
        print(json.dumps(MEASUREMENTS[args.only](*PRESETS[args.preset], args.steps)))
        return
    if importlib.util.find_spec("torch") is None:
        sys.exit("PyTorch is missing, which this compares with; pip install -e '.[bench]'")

    rounds = alternated(__file__, list(MEASUREMENTS), args)
    if len({rounds[name][0]["parameters"] for name in ("must_jax", "torch")}) > 1:
        sys.exit("the two networks differ in their number of parameters, so comparing their speed means nothing")

    median = {name: statistics.median(r["images_per_second"] for r in found) for name, found in rounds.items()}
    config, image_size, batch_size = PRESETS[args.preset]
    network = f"{config.backbone}, {rounds['must_jax'][0]['parameters']:,} parameters"
    print(f"{network}, batches of {batch_size} images of {image_size}x{image_size}, {cores()} cores, float32")
    for name, speed in median.items():
        compile_s = rounds[name][0]["compile_s"]
        compilation = f"compilation {compile_s:.1f} s" if compile_s else "eager, no torch.compile"
        print(f"{name:12s} {speed:8.1f} images/s   {compilation}")
    ours, theirs = median["must_jax"], median["torch"]
    print(f"must_jax {ours:.1f} / eager PyTorch {theirs:.1f} images/s: {ours / theirs:.2f} x (goal: at least 1.0)")
    times = median["one_task"] / median["five_tasks"]
    operations = rounds["five_tasks"][0]["flops"] / rounds["one_task"][0]["flops"]
    print(f"five tasks / depth alone: {times:.2f} x the time (goal: at most 1.5), {operations:.2f} x the operations")


def alternated(script: str, names: Sequence[str], args: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """What `script` prints with each `--only=NAME`, for `args.rounds` rounds: name -> results."""
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(args.rounds):
        for name in names:
            command = [sys.executable, script, f"--only={name}", f"--preset={args.preset}", f"--steps={args.steps}"]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rounds[name].append(json.loads(output.splitlines()[-1]))
            print(f"{name}: {rounds[name][-1]}", file=sys.stderr)
    return rounds


def measure(step: Callable[[], Any], wait: Callable[[Any], Any], batch_size: int, steps: int) -> float:
    """Images a second; `wait` returns when the last step's result is there."""
    for _ in range(2):
        wait(step())
    start = time.perf_counter()
    for _ in range(steps):
        result = step()
    wait(result)
    return batch_size * steps / (time.perf_counter() - start)


def measure_must_jax(config: ModelConfig, image_size: int, batch_size: int, steps: int) -> dict[str, float]:
    import jax
    import jax.numpy as jnp
    import optax

    from must_jax.engine.mesh import make_mesh, put_batch, put_replicated, setup_devices
    from must_jax.models.api import build_model
    from must_jax.models.heads import DenseHead, DetectorHead, PooledLinearHead

    setup_devices()
    jax.config.update("jax_enable_compilation_cache", False)
    convs, channels = config.head_convs, config.head_channels
    heads = {name: DenseHead(outputs, convs, channels) for name, outputs in DENSE_CHANNELS.items()}
    heads |= {"classification": PooledLinearHead(CLASSES), "detection": DetectorHead(CLASSES, convs, channels)}
    model, mesh, optimizer = build_model(config, heads), make_mesh(), optax.sgd(0.01, momentum=0.9)

    def update(state: Any, images: jax.Array) -> Any:
        params, stats, opt_state = state

        def loss(params: Any) -> Any:
            outputs, new_stats = model.apply({"params": params, "stats": stats}, images, train=True)
            return sum(jnp.abs(leaf - 0.5).mean() for leaf in jax.tree.leaves(outputs)), new_stats

        grads, stats = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), stats, opt_state

    variables = model.init(jax.random.key(0), (image_size, image_size))
    params = variables["params"]
    state = put_replicated(mesh, (params, variables["stats"], jax.jit(optimizer.init)(params)))
    images = put_batch(mesh, make_images(batch_size, (image_size, image_size)))
    start = time.perf_counter()
    compiled = jax.jit(update, donate_argnums=0).lower(state, images).compile()
    compile_s = time.perf_counter() - start

    def step() -> Any:
        nonlocal state
        state = compiled(state, images)
        return state

    speed = measure(step, jax.block_until_ready, batch_size, steps)
    return {"images_per_second": speed, "compile_s": compile_s, "parameters": count(jax.tree.leaves(params))}


def measure_tasks(names: tuple[str, ...]) -> Callable[[ModelConfig, int, int, int], dict[str, float]]:
    def measurement(config: ModelConfig, image_size: int, batch_size: int, steps: int) -> dict[str, float]:
        step, figures = train_step(names, config, image_size, batch_size)
        return {"images_per_second": measure(step, wait, batch_size, steps), **figures}

    return measurement


def train_step(
    names: tuple[str, ...],
    config: ModelConfig,
    image_size: int | tuple[int, int],
    batch_size: int,
    clip_norm: float = 0.0,
) -> tuple[Callable[[], Any], dict[str, float]]:
    """A real update of these tasks on a fixed batch, to be called again and again, and what is known of it."""
    import jax
    import jax.numpy as jnp

    from must_jax.engine import optimizers
    from must_jax.engine.mesh import make_mesh, put_batch, setup_devices
    from must_jax.engine.state import init_state
    from must_jax.engine.step import make_train_step
    from must_jax.models.api import build_model
    from must_jax.tasks import TASKS, build_task

    setup_devices()
    jax.config.update("jax_enable_compilation_cache", False)
    classes = [f"class {i}" for i in range(CLASSES)]
    tasks = {name: build_task(name, classes if TASKS[name].has_classes else ()) for name in names}
    model = build_model(config, {name: task.head(config) for name, task in tasks.items()})
    mesh, optimizer = make_mesh(), optimizers.build_optimizer(OptimizerConfig(clip_norm=clip_norm))

    def forward(variables: Any, batch: Mapping[str, Any], train: bool) -> Any:
        return model.apply(variables, batch["image"], train=train)

    weights, input_hw = dict.fromkeys(names, 0.1), input_hw_of(image_size)
    jitted = make_train_step(forward, tasks, input_hw, weights, optimizer, mesh)
    state = init_state(model.init(jax.random.key(0), input_hw), optimizer, mesh, ema=False)
    parameters = count(jax.tree.leaves(state["params"]))
    labels = make_labels(batch_size, (input_hw[0] // 4, input_hw[1] // 4))
    batch = {"image": make_images(batch_size, input_hw), "labels": {name: labels[name] for name in names}}
    batch = put_batch(mesh, batch)
    schedule = jax.tree.map(jnp.asarray, optimizers.schedule(OptimizerConfig(learning_rate=0.01), 1000, 0, 0))
    start = time.perf_counter()
    compiled = jitted.lower(state, batch, schedule).compile()
    compile_s = time.perf_counter() - start

    def step() -> Any:
        nonlocal state
        state, averages = compiled(state, batch, schedule)
        return averages

    return step, {"compile_s": compile_s, "parameters": parameters, "flops": compiled.cost_analysis()["flops"]}


def wait(averages: Any) -> None:
    import jax

    jax.block_until_ready(averages)


def measure_torch(
    config: ModelConfig, image_size: int, batch_size: int, steps: int, compiled: bool = False
) -> dict[str, float]:
    """On a GPU if there is one, in mixed precision for bfloat16; `compiled` by torch.compile."""
    import torch

    torch.set_num_threads(cores())
    torch.backends.cudnn.benchmark = True  # XLA tries several kernels as well
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = torch_network(config).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.from_numpy(make_images(batch_size, (image_size, image_size))).to(device).permute(0, 3, 1, 2)
    # Kernels are chosen anew each time, so not by measurements beside other programs.
    network = torch.compile(model, options={"autotune_local_cache": False}) if compiled else model
    mixed = config.dtype == "bfloat16"

    def step() -> Any:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            loss = sum((output - 0.5).abs().mean() for output in network(images))
        loss.backward()
        optimizer.step()
        return loss

    start = time.perf_counter()
    step().item()
    compile_s = time.perf_counter() - start if compiled else 0.0
    speed = measure(step, lambda loss: loss.item(), batch_size, steps)
    return {"images_per_second": speed, "compile_s": compile_s, "parameters": count(model.parameters())}


def torch_network(config: ModelConfig) -> Any:
    """u8[B, 3, H, W] -> all outputs of the five heads: must_jax's network, written as one writes it in PyTorch."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    def conv(c_in: int, c_out: int, size: int, stride: int = 1) -> nn.Module:
        return nn.Conv2d(c_in, c_out, size, stride, size // 2, bias=False)

    def conv_norm(c_in: int, c_out: int, size: int, stride: int = 1) -> list[nn.Module]:
        return [conv(c_in, c_out, size, stride), nn.BatchNorm2d(c_out)]

    class Block(nn.Module):
        def __init__(self, c_in: int, channels: int, stride: int, bottleneck: bool):
            super().__init__()
            c_out = channels * (4 if bottleneck else 1)
            relu = nn.ReLU(inplace=True)
            self.body = nn.Sequential(
                *(
                    [
                        *conv_norm(c_in, channels, 1),
                        relu,
                        *conv_norm(channels, channels, 3, stride),
                        relu,
                        *conv_norm(channels, c_out, 1),
                    ]
                    if bottleneck
                    else [*conv_norm(c_in, channels, 3, stride), relu, *conv_norm(channels, c_out, 3)]
                )
            )
            same = stride == 1 and c_in == c_out
            self.shortcut = nn.Identity() if same else nn.Sequential(*conv_norm(c_in, c_out, 1, stride))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(self.body(x) + self.shortcut(x), inplace=True)

    def tower(c_in: int, channels: int, norm: Callable[[int], nn.Module]) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for _ in range(config.head_convs):
            layers += [conv(c_in, channels, 3), norm(channels), nn.ReLU(inplace=True)]
            c_in = channels
        return layers

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            parts = ARCHITECTURES[config.backbone].parts
            blocks, bottleneck = parts.blocks, parts.bottleneck
            base, pyramid, channels = 8 * max(1, round(8 * config.width)), config.pyramid_channels, config.head_channels
            stem = [*conv_norm(3, base, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
            self.stem, self.stages, c_in = nn.Sequential(*stem), nn.ModuleList(), base
            sizes = []
            for stage, number in enumerate(blocks):
                layers = []
                for index in range(number):
                    stride = 2 if stage > 0 and index == 0 else 1
                    layers.append(Block(c_in, base * 2**stage, stride, bottleneck))
                    c_in = base * 2**stage * (4 if bottleneck else 1)
                self.stages.append(nn.Sequential(*layers))
                sizes.append(c_in)
            self.laterals = nn.ModuleList(conv(size, pyramid, 1) for size in sizes[1:])
            self.convs = nn.ModuleList(conv(pyramid, pyramid, 3, 1 if level < 6 else 2) for level in range(3, 8))
            self.norms = nn.ModuleList(nn.BatchNorm2d(pyramid) for _ in range(5))
            self.linear = nn.Linear(c_in, CLASSES)
            self.dense = nn.ModuleList(
                nn.Sequential(*tower(pyramid, channels, nn.BatchNorm2d), nn.Conv2d(channels, outputs, 1))
                for outputs in DENSE_CHANNELS.values()
            )

            def group_norm(channels: int) -> nn.Module:
                return nn.GroupNorm(channels // 8, channels)

            self.class_tower = nn.Sequential(*tower(pyramid, channels, group_norm))
            self.box_tower = nn.Sequential(*tower(pyramid, channels, group_norm))
            self.classify = nn.Conv2d(channels, CLASSES, 3, padding=1)
            self.locate = nn.Conv2d(channels, 5, 3, padding=1)
            self.scales = nn.Parameter(torch.ones(5))
            self.register_buffer("mean", torch.tensor([123.675, 116.28, 103.53])[None, :, None, None])
            self.register_buffer("std", torch.tensor([58.395, 57.12, 57.375])[None, :, None, None])

        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            x = ((images.float() - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
            x, stages = self.stem(x), []
            for stage in self.stages:
                x = stage(x)
                stages.append(x)
            laterals = [lateral(x) for lateral, x in zip(self.laterals, stages[1:], strict=True)]
            for i in (1, 0):
                laterals[i] = laterals[i] + F.interpolate(laterals[i + 1], scale_factor=2.0, mode="nearest")
            levels = [conv(x) for conv, x in zip(self.convs[:3], laterals, strict=True)]
            levels.append(self.convs[3](levels[2]))
            levels.append(self.convs[4](F.relu(levels[3])))
            levels = [norm(x) for norm, x in zip(self.norms, levels, strict=True)]
            size = stages[0].shape[-2:]
            fused = sum(F.interpolate(x, size, mode="bilinear", align_corners=False) for x in levels)

            outputs = [self.linear(stages[-1].mean((2, 3))), *(head(fused) for head in self.dense)]
            classes, boxes, centerness = [], [], []
            for scale, x in zip(self.scales, levels, strict=True):
                classes.append(self.classify(self.class_tower(x)).flatten(2))
                located = self.locate(self.box_tower(x)).flatten(2)
                boxes.append(F.softplus(scale * located[:, :4]))
                centerness.append(located[:, 4])
            return [*outputs, torch.cat(classes, 2), torch.cat(boxes, 2), torch.cat(centerness, 1)]

    return Network()


def make_images(batch_size: int, input_hw: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch_size, *input_hw, 3), np.uint8)


def make_labels(batch_size: int, map_hw: tuple[int, int]) -> dict[str, dict[str, np.ndarray]]:
    """Random labels of all five tasks: two boxes an image, maps at stride 4."""
    rng, present, hw = np.random.default_rng(1), np.ones(batch_size, np.float32), (batch_size, *map_hw)
    boxes, valid = np.zeros((batch_size, BOXES, 4), np.float32), np.zeros((batch_size, BOXES), np.float32)
    boxes[:, :2], valid[:, :2] = [[0.1, 0.2, 0.5, 0.6], [0.5, 0.3, 0.8, 0.9]], 1
    classes, ids = np.zeros((batch_size, BOXES), np.int32), rng.integers(0, CLASSES, hw, np.int32)
    normals = np.broadcast_to(np.float32([0, 0, -1]), (*hw, 3))
    known = np.ones(hw, np.float32)
    probs = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, batch_size)]
    labels = {
        "classification": {"probs": probs},
        "detection": {"boxes_yxyx": boxes, "classes": classes, "scores": valid, "valid": valid, "ignore": 0 * valid},
        "segmentation": {"ids": ids},
        "depth": {"depth": 1 + rng.random(hw, np.float32), "valid": known},
        "normals": {"normals": normals, "valid": known},
    }
    return {task: {**label, "present": present} for task, label in labels.items()}


def count(parameters: Any) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in parameters)


MEASUREMENTS = {
    "must_jax": measure_must_jax,
    "torch": measure_torch,
    "five_tasks": measure_tasks(FIVE),
    "one_task": measure_tasks(("depth",)),
}

if __name__ == "__main__":
    main()
