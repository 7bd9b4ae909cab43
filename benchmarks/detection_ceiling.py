"""What average precision is left to a network that has learnt its targets perfectly, on images with many objects.

    python benchmarks/detection_ceiling.py

Every cell that is taught a box says exactly that box and its class, and no other cell says anything. What is missing to
100 is lost by the detector's design: to cells that several objects share, to candidates, slots and suppression.

20 images of 640 pixels, 80 classes. AP50 before: 100 candidates and 20 slots in all, levels by the root of the area.

    objects  sides in pixels   before    AP50     AP
         10     16 to   64    100.0   100.0  100.0
         10     16 to  256    100.0   100.0  100.0
         40     16 to   64     49.9   100.0  100.0
         40     16 to  256     48.5   100.0  100.0
         60     16 to   64     31.6    99.8   99.8
         60     16 to  256     34.2    99.7   99.7
        100     16 to   64     20.5    99.5   99.5
        100     16 to  256     20.0    99.8   99.8
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from must_jax.models.heads import detector_points
from must_jax.tasks import box_geometry
from must_jax.tasks.base import NumpyArrays
from must_jax.tasks.detection import Detection

SURE, NOT = 8.0, -12.0  # logits


def crowd(
    rng: np.random.Generator, objects: int, classes: int, sides_px: tuple[int, int], image_size: int
) -> NumpyArrays:
    """A label of one image: boxes of log-uniform sides, none of which has an IoU over 0.5 with another."""
    low, high = np.zeros((0, 2)), np.zeros((0, 2))
    while len(low) < objects:
        sides = np.exp(rng.uniform(*np.log(np.array(sides_px) / image_size), 2))
        corner = rng.uniform(0, 1 - sides)
        shared = np.prod(np.maximum(np.minimum(high, corner + sides) - np.maximum(low, corner), 0), 1)
        if np.all(shared <= 0.5 * (np.prod(high - low, 1) + np.prod(sides) - shared)):
            low, high = np.vstack([low, corner]), np.vstack([high, corner + sides])
    ones = np.ones(objects, np.float32)
    boxes_yxyx = np.concatenate([low, high], 1).astype(np.float32)
    label = {"boxes_yxyx": boxes_yxyx, "classes": rng.integers(0, classes, objects).astype(np.int32), "scores": ones}
    return label | {"valid": ones, "ignore": 0 * ones, "present": np.float32(1)}


def perfect_outputs(task: Detection, label: NumpyArrays, image_size: int) -> dict[str, jax.Array]:
    """What a head says that has learnt the `max_boxes` largest boxes of the label: one image, with its batch axis."""
    centers, strides = detector_points((image_size, image_size))
    boxes_px = image_size * label["boxes_yxyx"]
    taught = np.argsort(-np.prod(boxes_px[:, 2:] - boxes_px[:, :2], 1), kind="stable")[: task.max_boxes]
    boxes_px, classes = boxes_px[taught], label["classes"][taught]
    positive, slot = map(np.asarray, _assign(boxes_px, np.ones(len(taught), np.float32), centers, strides))
    logits = np.full((len(strides), len(task.classes)), NOT, np.float32)
    logits[positive, classes[slot[positive]]] = SURE
    y0, x0, y1, x1 = boxes_px[slot].T
    y, x = centers.T
    ltrb = np.stack([x - x0, y - y0, x1 - x, y1 - y], -1) / strides[:, None]
    offset = np.abs(centers - (boxes_px[slot, :2] + boxes_px[slot, 2:]) / 2).max(1) / strides
    outputs = {
        "class_logits": logits,
        "box_ltrb": ltrb.astype(np.float32),
        "centerness": (SURE - offset).astype(np.float32),
    }
    return {key: jnp.asarray(value)[None] for key, value in outputs.items()}


_assign = jax.jit(box_geometry.assign)


def ceiling(
    objects: int, sides_px: tuple[int, int], *, image_size: int = 640, classes: int = 80, images: int = 20
) -> dict[str, float]:
    """The measures of a perfect network on images with so many objects each."""
    rng, task = np.random.default_rng(objects), Detection(classes=tuple(map(str, range(classes))))
    labels = (crowd(rng, objects, classes, sides_px, image_size) for _ in range(images))
    metrics, predict = task.metrics(), jax.jit(task.predict, static_argnums=1)
    for label in labels:
        found = jax.device_get(predict(perfect_outputs(task, label, image_size), (image_size, image_size)))
        metrics.update(found, {key: np.asarray(value)[None] for key, value in label.items()})
    return metrics.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=640)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--images", type=int, default=20)
    arguments = parser.parse_args()
    print("objects  sides in pixels    AP50     AP")
    for objects in (10, 40, 60, 100):
        for sides_px in ((16, 64), (16, 256)):
            result = ceiling(objects, sides_px, **vars(arguments))
            print(f"{objects:7}  {sides_px[0]:5} to {sides_px[1]:4}  {result['ap50']:9.1f}  {result['ap']:5.1f}")


if __name__ == "__main__":
    main()
