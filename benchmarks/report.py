"""What it costs to look for the worst and best images for a report: a ResNet-50-FPN with 150 classes at 640 pixels.

python benchmarks/report.py [--images=10] [--truth=640]

The network has random parameters, photos and truth are noise of `--truth` x 3/4 `--truth` pixels, in a set of 100,000
of which `--images` are ranked. Prints wall-clock and CPU seconds an image, and by how much the peak of memory grows.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import cv2
import jax
import numpy as np

from must_jax.config import ModelConfig
from must_jax.data.batching import Source
from must_jax.data.image_sets import ImageSet
from must_jax.data.kinds import Label
from must_jax.engine.mesh import make_mesh
from must_jax.models.api import build_model
from must_jax.reporting import pictures
from must_jax.tasks import build_task
from must_jax.tasks.base import Task
from must_jax.trained import Trained

IMAGES, CLASSES, SIZE = 100_000, 150, 640


class Noise:
    """Truth of one class a pixel."""

    def __init__(self, task: Task, hw: tuple[int, int]) -> None:
        self.task, self.kind, self.classes = task.name, task.label, task.classes
        self._hw = hw

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> Label:
        ids = np.random.default_rng(index).integers(0, CLASSES, self._hw).astype(np.int32)
        return {"ids": ids, "present": np.ones((), np.float32)}


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--truth", type=int, default=SIZE)
    given = parser.parse_args()

    task = build_task("segmentation", tuple(f"class {i}" for i in range(CLASSES)), {})
    config = ModelConfig()
    network = build_model(config, {task.name: task.head(config)})
    variables = network.init(jax.random.key(0), (SIZE, SIZE))
    mesh = make_mesh(1, devices=jax.local_devices())
    model = Trained(Path("model"), network, variables, config, {task.name: task}, SIZE, {}, {}, "", mesh)
    hw = given.truth * 3 // 4, given.truth
    photo = np.random.default_rng(0).integers(0, 256, (*hw, 3)).astype(np.uint8)
    encoded = cv2.imencode(".jpg", photo)[1].tobytes()
    images = ImageSet("noise", IMAGES, lambda index: {"image": encoded, "name": str(index)}, "")
    model.predict(photo)  # compiles

    before, began, cpu = peak_gib(), time.monotonic(), time.process_time()
    ranked = pictures._ranked(model, task, Source(images, (Noise(task, hw),)), given.images)
    wall, cpu = time.monotonic() - began, time.process_time() - cpu
    each = f"{wall / len(ranked):.2f} s and {cpu / len(ranked):.2f} CPU s an image"
    device = jax.devices()[0].device_kind
    print(f"{device}, truth {hw[1]}x{hw[0]}: {each}; memory {before:.2f} GiB, at most {peak_gib():.2f} while ranking")


if __name__ == "__main__":
    main()
