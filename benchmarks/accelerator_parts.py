"""The measurements of benchmarks/accelerator.py, which starts each of them as a process of its own.

python benchmarks/accelerator_parts.py PART full|toy

A part loads its modules, waits for the line GO on its standard input, and only then uses the device. The last line that
it prints is the result, as JSON.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import train_step

from must_jax.config import InputConfig, ModelConfig, OptimizerConfig, TrainConfig
from must_jax.cores import cores

FIVE, ONE = ("classification", "detection", "segmentation", "depth", "normals"), ("depth",)
GO = "go"
MOST_MEMORY = 0.9  # of what the allocator has, by the forecast; otherwise the next smaller batch is tried
SMALL = ModelConfig(backbone="resnet10", width=0.5, pyramid_channels=64, head_channels=32, dtype="bfloat16")
TINY = ModelConfig(
    backbone="resnet10", width=0.125, pyramid_channels=8, head_channels=8, head_convs=1, dtype="bfloat16"
)


@dataclass(frozen=True)
class Run:
    """A training: batches to try in turn, image size in pixels, timed steps."""

    model: ModelConfig
    batch_sizes: tuple[int, ...]
    image_size: int
    steps: int


@dataclass(frozen=True)
class Size:
    student: Run
    network: Run
    repeated: Run  # compared bit for bit
    repeated_tasks: tuple[str, ...]
    image_hw: tuple[int, int]  # of the JPEGs that are labelled
    images: int
    forward_s: float  # how long bare forward passes are timed
    tests: tuple[str, ...]
    kills: int


STUDENT = ModelConfig(backbone="resnet50", dtype="bfloat16")
SIZES = {
    "full": Size(
        student=Run(STUDENT, (64, 32, 16), 512, 30),
        network=Run(STUDENT, (32,), 512, 30),
        repeated=Run(SMALL, (16,), 128, 30),
        repeated_tasks=FIVE,
        image_hw=(375, 500),
        images=2048,
        forward_s=4.0,
        tests=(
            "tests/survival/test_preemption.py::test_one_process_at_any_moment_of_a_training",
            "tests/survival/test_kills.py::test_killed_at_random_moments_it_ends_bit_for_bit_the_same",
        ),
        kills=5,
    ),
    "toy": Size(
        student=Run(TINY, (4,), 64, 2),
        network=Run(TINY, (4,), 64, 2),
        repeated=Run(TINY, (4,), 32, 2),
        repeated_tasks=ONE,
        image_hw=(48, 64),
        images=16,
        forward_s=0.1,
        tests=("tests/survival/test_preemption.py::test_the_process_group_while_workers_render",),
        kills=5,
    ),
}


def wait_for_turn() -> None:
    if sys.stdin.readline().strip() != GO:  # who started this process is gone
        sys.exit("nobody waits for this part")


def measure_device(size: Size) -> dict[str, Any]:
    import jax

    from must_jax.engine.mesh import setup_devices

    wait_for_turn()
    setup_devices()
    device, versions = jax.devices()[0], {"python": platform.python_version()}
    for package in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "opencv-python-headless", "torch"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "none"
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "devices": jax.device_count(),
        "allocator_bytes": (device.memory_stats() or {}).get("bytes_limit"),
        "cores": cores(),
        "versions": versions,
    }


def train(run: Run, names: tuple[str, ...]) -> dict[str, Any]:
    """Times the train step of a real training, on random images and labels."""
    import jax

    from must_jax.chips import peak_flops
    from must_jax.compiling.ahead import memory_of
    from must_jax.compiling.programs import programs
    from must_jax.engine import optimizers
    from must_jax.engine.mesh import make_mesh, put_batch, setup_devices
    from must_jax.engine.operations import operations
    from must_jax.engine.state import digest, init_state
    from must_jax.tasks import TASKS, build_task
    from must_jax.training.building import build

    wait_for_turn()
    setup_devices()
    mesh = make_mesh(0, run.batch_sizes)
    device = mesh.devices.flat[0]
    room = (device.memory_stats() or {}).get("bytes_limit")
    classes = {name: train_step.CLASSES for name in names if TASKS[name].has_classes}
    for batch_size in run.batch_sizes:
        config = TrainConfig.model_validate(
            {
                "train": [{"images": "scenes/unlabelled:train"}],
                "tasks": {name: {} for name in names},
                "image_size": run.image_size,
                "max_boxes": train_step.BOXES,
                "model": run.model,
                "optimizer": OptimizerConfig(learning_rate=0.01),
                "batch_size": batch_size,
            }
        )
        step, last = next(iter(programs(config, mesh, classes))), batch_size == run.batch_sizes[-1]
        began = time.perf_counter()
        traced = step.function.trace(*step.arguments)
        try:
            compiled = traced.lower().compile()
        except jax.errors.JaxRuntimeError as error:
            if last or "RESOURCE_EXHAUSTED" not in str(error):
                raise
            continue
        compile_s = time.perf_counter() - began
        forecast = memory_of(compiled, step.arguments)
        if last or room is None or sum(forecast.values()) <= MOST_MEMORY * room:
            break

    known = [f"class {index}" for index in range(train_step.CLASSES)]
    options = {"max_boxes": config.max_boxes}
    tasks = {name: build_task(name, known if name in classes else (), options) for name in names}
    model, optimizer, _ = build(config, tasks, dict.fromkeys(names, 1.0), mesh)
    state = init_state(model.init(jax.random.key(0), config.input_hw), optimizer, mesh, ema=False)
    batch = jax.tree.map(lambda like: np.zeros(like.shape, like.dtype), step.arguments[1])
    labels = train_step.make_labels(batch_size, (run.image_size // 4, run.image_size // 4))
    batch |= {"image": train_step.make_images(batch_size, config.input_hw)}
    batch |= {"labels": {name: labels[name] for name in names}}
    batch, schedule = put_batch(mesh, batch), optimizers.schedule(config.optimizer, config.steps, 0, 0)
    skipped = []
    before = device.memory_stats() or {}

    def update() -> Any:
        nonlocal state
        state, averages = compiled(state, batch, schedule)
        skipped.append(averages["skipped"].total)
        return averages

    rate = train_step.measure(update, jax.block_until_ready, batch_size, run.steps)
    flops, peak = operations(traced.jaxpr.jaxpr), peak_flops(device.device_kind, run.model.dtype)
    return {
        "batch_size": batch_size,
        "image_size": run.image_size,
        "devices": mesh.size,
        "parameters": train_step.count(jax.tree.leaves(state["params"])),
        "images_per_second": rate,
        "steps_per_second": rate / batch_size,
        "flops_per_image": flops / batch_size,
        "peak_flops": peak,
        "share_of_peak": flops * rate / batch_size / (peak * mesh.size) if peak else None,
        "compile_seconds": compile_s,
        "forecast": forecast,
        "forecast_bytes": sum(forecast.values()),
        "allocator_peak_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use"),
        "allocator_peak_bytes_before_the_first_step": before.get("peak_bytes_in_use"),
        "allocator_bytes_before_the_first_step": before.get("bytes_in_use"),
        "skipped": float(sum(map(np.asarray, skipped))),  # not finite, so that nothing was learnt
        "digest": digest(state["params"]),
    }


def alone(
    measurement: Callable[..., dict[str, float]], *modules: str, steps: int = 0, **options: Any
) -> Callable[[Size], dict[str, Any]]:
    """A measurement of train_step.py, which imports these modules."""

    def measure(size: Size) -> dict[str, Any]:
        for module in modules:
            importlib.import_module(module)
        wait_for_turn()
        run = size.network
        return measurement(run.model, run.image_size, run.batch_sizes[0], steps or run.steps, **options)

    return measure


def label_images(size: Size) -> dict[str, Any]:
    import labelling

    from must_jax.data.image_sets import open_images
    from must_jax.engine.mesh import setup_devices
    from must_jax.inputs import feeding
    from must_jax.labelling.forecasting import forward_per_second
    from must_jax.teachers.own import owned

    run, teachers = size.student, {}
    batch_size = run.batch_sizes[0]
    preset = labelling.Preset(run.model, (run.image_size,), size.image_hw, batch_size, size.images)
    with tempfile.TemporaryDirectory() as folder:
        labelling.write_images(Path(folder), preset, size.images)
        wait_for_turn()
        setup_devices()
        every = labelling.make_teachers(preset)
        images = open_images(f"folder:{folder}", "")
        for name, models in {"one": {"teacher_depth": every["teacher_depth"]}, "five": every}.items():
            bare = forward_per_second(owned(models), batch_size, least_s=size.forward_s)
            wall_s, cpu_s = labelling.label_all(images, models, batch_size)
            teachers[name] = {
                "bare": bare,
                "labelling": 1 / wall_s,
                "share": 1 / wall_s / bare,
                "process_seconds": cpu_s,
                "readers": feeding.readers(InputConfig()),
            }
    return {"images": size.images, "teachers": teachers}


PARTS: dict[str, Callable[[Size], dict[str, Any]]] = {
    "device": measure_device,
    "five": lambda size: train(size.student, FIVE),
    "one": lambda size: train(size.student, ONE),
    "must_jax": alone(train_step.measure_must_jax, "optax", "must_jax.engine.mesh", "must_jax.models.heads"),
    "torch": alone(train_step.measure_torch, "torch"),
    "torch.compile": alone(train_step.measure_torch, "torch", compiled=True, steps=1),
    "torch_compiled": alone(train_step.measure_torch, "torch", compiled=True),
    "labelling": label_images,
    "repeated": lambda size: train(size.repeated, size.repeated_tasks),
}

if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]](SIZES[sys.argv[2]])))
