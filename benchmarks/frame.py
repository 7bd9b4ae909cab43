"""Whether a model's maps of depth and normals have a frame of odd cells around them.

    python benchmarks/frame.py RUN [RUN...] [--data_dir=data]

For each finished run and each of its two tasks, by the distance from the border in cells of 4 pixels:

  change    how much neighbouring cells differ across the border's direction, relative to the middle of the map, on 210
            squares cut out of the photographs in scikit-image's wheel. Without a frame it is about 1 everywhere.
  error     on the held-out images of scenes/teacher_TASK: mean of |log depth ratio|, or of the angle in degrees.

docs/images.md ("The frame of maps") has figures and what was found out with it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import skimage

from must_jax import trained
from must_jax.data.decoding import decode_image
from must_jax.data.image_sets import open_images
from must_jax.trained import Trained

PHOTOS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png", "ihc.png")
SQUARES, BATCH, CELL_PX, HELD_OUT = 35, 50, 4, 300
SHOWN = 5  # cells


def squares(size: int) -> np.ndarray:
    """u8[n, size, size, 3]: random squares of the photographs, reduced."""
    rng, found = np.random.default_rng(0), []
    for name in PHOTOS:
        photo = decode_image((Path(skimage.__file__).parent / "data" / name).read_bytes())
        for _ in range(SQUARES):
            side = int(rng.integers(min(photo.shape[:2]) // 3, min(photo.shape[:2])))
            y, x = (int(rng.integers(n - side + 1)) for n in photo.shape[:2])
            part = photo[y : y + side, x : x + side]
            found.append(cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA))
    return np.stack(found)


def maps(model: Trained, task: str, images: np.ndarray) -> np.ndarray:
    """f32[n, h, w, C]: the logarithm of depth, or normals."""
    parts = [model.predict_batch(images[i : i + BATCH])[task][task] for i in range(0, len(images), BATCH)]
    whole = np.concatenate(parts)
    return np.log(whole)[..., None] if task == "depth" else whole


def change(values: np.ndarray) -> np.ndarray:
    """Between cells i and i + 1 from the border, over all four sides, relative to the mean of the middle half."""
    across = sum(np.abs(np.diff(values, axis=axis)).sum(-1).mean((0, 3 - axis)) for axis in (1, 2))
    both = (across + across[::-1]) / 2
    quarter = len(both) // 4
    return both[: len(both) // 2] / both[quarter:-quarter].mean()


def error(task: str, predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, float]:
    """By the distance from the border, and over all cells."""
    if task == "depth":
        each = np.abs(predicted - truth)[..., 0]
    else:
        each = np.rad2deg(np.arccos(np.clip((predicted * truth).sum(-1), -1, 1)))
    side = each.shape[1]
    away = np.minimum(np.arange(side), np.arange(side)[::-1])
    ring = np.minimum(away[:, None], away[None])
    return np.array([each[:, ring == distance].mean() for distance in range(ring.max() + 1)]), float(each.mean())


def held_out(task: str, data_dir: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and the truth of each cell, as `maps` gives it."""
    images = open_images(f"scenes/teacher_{task}:validation", data_dir, HELD_OUT)
    column = images.labels[task]
    pixels = np.stack([decode_image(images.record(i)["image"]) for i in range(len(images))])
    truth = np.stack([column[i][task] for i in range(len(images))])
    cells = truth.reshape(len(truth), size // CELL_PX, CELL_PX, size // CELL_PX, CELL_PX, -1).mean((2, 4))
    return pixels, np.log(cells) if task == "depth" else cells / np.linalg.norm(cells, axis=-1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--data_dir", default="data")
    arguments = parser.parse_args()
    print(f"{'run':>32} {'task':>8} {'':>7} " + " ".join(f"{i:>6}" for i in range(SHOWN)) + "   mean")
    for run in arguments.runs:
        model = trained.load(run)
        for task in (name for name in ("depth", "normals") if name in model.tasks):
            images, truth = held_out(task, arguments.data_dir, model.image_size)
            errors, mean = error(task, maps(model, task, images), truth)
            ratios = change(maps(model, task, squares(model.image_size)))
            for what, row, note in (("change", ratios, ""), ("error", errors, f" {mean:6.4g}")):
                print(f"{run[-32:]:>32} {task:>8} {what:>7} {' '.join(f'{each:6.3g}' for each in row[:SHOWN])}{note}")


if __name__ == "__main__":
    main()
