"""Time of the look at labels before a pipeline begins, by task: their names, all boxes and headers, and a sample.

python benchmarks/importing.py [--images=100000]

Photos and depth maps are hard links to a few files, in a folder with as many names; boxes are 10 an image, in COCO
JSON. `listing` is the time to list the photos, which is part of the others. CPU time is that of all threads.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import coco_memory
import cv2
import numpy as np

from must_jax.config import PrepareConfig
from must_jax.data.preparing import open_source
from must_jax.planning import importing

SIDE = coco_memory.SIDE
LINKS = 50_000  # to one file, at most


def write(folder: Path, images: int) -> None:
    """Photos, depth maps and boxes of the same names."""
    rng = np.random.default_rng(0)
    values = rng.integers(500, 9000, (SIDE, SIDE), np.uint16)
    encoded = {
        ("photos", ".jpg"): cv2.imencode(".jpg", (values // 40).astype(np.uint8))[1].tobytes(),
        ("depth", ".png"): cv2.imencode(".png", values)[1].tobytes(),
    }
    first = Path()
    for (kind, suffix), data in encoded.items():
        for number in range(images):
            path = (folder / kind / coco_memory.name_of(number)).with_suffix(suffix)
            if number % LINKS:
                os.link(first, path)
            else:
                first = path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
    coco_memory.write(folder / "boxes.json", images * coco_memory.BOXES_OF_IMAGE)


def timed(what: str, images: int, work: Callable[[], object]) -> None:
    wall, cpu = time.monotonic(), time.process_time()
    work()
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    each = 1e6 / images
    print(f"{what:10} {wall:7.1f} s   {cpu:7.1f} s CPU   {cpu * each:6.0f} us CPU an image", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    images = parser.parse_args().images
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        write(folder, images)
        labels = {
            "depth": {"format": "depth_png", "path": f"{folder}/depth", "options": {"unit": "mm"}},
            "detection": {"format": "coco", "path": f"{folder}/boxes.json"},
        }
        common = {"name": "own", "images": f"folder:{folder}/photos", "data_dir": f"{folder}/data", "shuffle": True}
        timed("listing", images, lambda: open_source(PrepareConfig.model_validate(common)).names())
        for task, each in labels.items():
            config = PrepareConfig.model_validate({**common, "labels": {task: each}})

            def look(config: PrepareConfig = config, task: str = task) -> None:
                found = importing.look(config)
                assert not found.mistakes, found.mistakes
                assert found.labelled[task].all()

            timed(task, images, look)


if __name__ == "__main__":
    main()
