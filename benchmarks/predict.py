"""What `predict` costs for one photo, against the bare compiled program: forward pass, softmax, boxes.

python benchmarks/predict.py [--models=example,resnet50] [--rounds=7]

Bare is the program that `predict` runs, on an array that lies on the device, until its answer is there. In turns with
it, `predict` is given an array of the network's own size, an array of 1280x960 pixels, and the JPEG of that. What these
have to do besides is measured apart: decoding, fitting the photo into the network's input, and labels from the answer,
whose maps have the size of the photo.

The models are the example in the package (64 pixels), and networks of 640 pixels with five tasks, 150 classes to
segment, and random weights. All figures are medians of the rounds. CPU time counts all threads, and tells more than the
clock where other programs run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np

import must_jax
from must_jax.config import ModelConfig
from must_jax.cores import cores
from must_jax.data import scenes
from must_jax.data.decoding import decode_image
from must_jax.engine.mesh import make_mesh, put_batch
from must_jax.models.api import build_model
from must_jax.tasks import TASKS, build_task
from must_jax.trained import Trained

PHOTO_HW, SIZE, CLASSES = (960, 1280), 640, 150
LEAST_S = 0.2  # what takes less is measured more often


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="example,resnet50")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    photo = rendered()
    jpeg = cv2.imencode(".jpg", photo[..., ::-1])[1].tobytes()
    for name in options.models.split(","):
        model = must_jax.load(must_jax.EXAMPLE) if name == "example" else random(name)
        compare(name, model, photo, jpeg, options.rounds)


def rendered() -> np.ndarray:
    rng = np.random.default_rng(0)
    scene = scenes.sample_scene(rng, scenes.TRAINING)
    return scenes.render(scene, scene.camera, *PHOTO_HW, rng).image


def random(backbone: str) -> Trained:
    names = tuple(f"class {i}" for i in range(CLASSES))
    tasks = {
        name: build_task(name, names if TASKS[name].has_classes else ())
        for name in TASKS
        if not TASKS[name].self_supervised
    }
    config = ModelConfig(backbone=backbone, width=1.0)
    network = build_model(config, {name: task.head(config) for name, task in tasks.items()})
    variables = network.init(jax.random.key(0), (SIZE, SIZE))
    mesh = make_mesh(1, devices=jax.local_devices())
    return Trained(Path(backbone), network, variables, config, tasks, SIZE, {}, {}, "", mesh=mesh)


def compare(name: str, model: Trained, photo: np.ndarray, jpeg: bytes, rounds: int) -> None:
    of_its_size, fitted = cv2.resize(photo, model.input_hw[::-1]), model._fitted(photo)
    on_device = put_batch(model.mesh, {"image": fitted.input[None]})
    answer = jax.device_get(model._predict(model._on_devices, on_device))
    calls: dict[str, Callable[[], Any]] = {
        "bare": lambda: jax.block_until_ready(model._predict(model._on_devices, on_device)),
        "array of the input's size": lambda: model.predict(of_its_size),
        "array of 1280x960": lambda: model.predict(photo),
        "JPEG of 1280x960": lambda: model.predict(jpeg),
        "decoding": lambda: decode_image(jpeg),
        "fitting into the input": lambda: model._fitted(photo),
        "labels of 1280x960": lambda: model._labels(fitted, answer, 0),
        "labels of the input's size": lambda: model._labels(model._fitted(of_its_size), answer, 0),
    }
    for call in calls.values():
        call()
    more = max(1, round(LEAST_S / seconds(calls["bare"])[0]))
    measured: dict[str, list[tuple[float, float]]] = {what: [] for what in calls}
    for _ in range(rounds * more):
        for what, call in calls.items():
            measured[what].append(seconds(call))
    sides = f"{model.input_hw[1]}x{model.input_hw[0]}"
    print(f"{name}, {sides} px, {jax.devices()[0].device_kind}, {cores()} cores, {rounds * more} rounds")
    print(f"{'':29s}      ms   ms of CPU   of bare   by CPU time")
    for what, times in measured.items():
        wall, cpu = (1e3 * statistics.median(each) for each in zip(*times, strict=True))
        ratios = [statistics.median(a[i] / b[i] for a, b in zip(times, measured["bare"], strict=True)) for i in (0, 1)]
        print(f"  {what:27s}{wall:8.1f} {cpu:11.1f} {ratios[0]:9.2f} {ratios[1]:13.2f}")


def seconds(call: Callable[[], Any]) -> tuple[float, float]:
    """By the clock, and of CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
