"""Examples as a network sees them: an image and its labels, scaled, cropped, padded and flipped alike."""

from __future__ import annotations

import math
from collections.abc import Mapping

import cv2
import numpy as np

from must_jax.config import AugmentConfig
from must_jax.data.kinds import Label, LabelKind
from must_jax.data.placing import Geometry, Span

PADDING_RGB = (124, 116, 104)  # the mean of ImageNet


def sample_scale(rng: np.random.Generator, augment: AugmentConfig) -> float:
    """Draws the longer side of the image as it will be shown, in units of the input's side."""
    if augment.scale_sampling == "uniform":
        return rng.uniform(augment.scale_min, augment.scale_max)
    return math.exp(rng.uniform(math.log(augment.scale_min), math.log(augment.scale_max)))


def sample_geometry(
    rng: np.random.Generator, image_hw: tuple[float, float], image_size: int, scale: float, flip: bool
) -> Geometry:
    """The image at `scale` (see `sample_scale`); a side that is too long is cropped, a short one padded, at random.

    Args:
      flip: whether to swap left and right in half of all cases.
    """
    zoom = scale * image_size / max(image_hw)
    spans = []
    for side, flipped in zip(image_hw, (False, flip and rng.random() < 0.5), strict=True):
        length = min(int(side), max(1, round(image_size / zoom)))
        out_length = min(image_size, max(1, round(side * zoom)))
        start, out_start = rng.integers(int(side) - length + 1), rng.integers(image_size - out_length + 1)
        spans.append(Span(side, int(start), length, image_size, int(out_start), out_length, flipped))
    return Geometry(*spans)


def apply(
    geometry: Geometry,
    image: np.ndarray,
    labels: Mapping[str, Label],
    kinds: Mapping[str, LabelKind],
    map_size: int,
) -> tuple[np.ndarray, dict[str, Label]]:
    """An image and its labels -> network input and targets, all of static shapes.

    Args:
      image: u8[h, w, 3].
      labels: by task, as decoded: un-padded, maps of any size, zeros where invalid. One that is missing, or has
        `present` 0, comes out as absent.
      kinds: the tasks to return.
      map_size: rows and columns of the returned maps; they cover the whole input.

    Returns:
      u8[image_size, image_size, 3] and the labels by task, as `place` returns them.
    """
    return resized(geometry, image), place(geometry, labels, kinds, map_size)


def place(
    geometry: Geometry, labels: Mapping[str, Label], kinds: Mapping[str, LabelKind], map_size: int
) -> dict[str, Label]:
    """The labels of an image as targets of static shapes, by task; for the arguments see `apply`."""
    return {
        task: kind.placed(geometry, label, map_size)
        if (label := labels.get(task)) is not None and label["present"]
        else kind.absent((map_size, map_size))
        for task, kind in kinds.items()
    }


def resized(geometry: Geometry, image: np.ndarray, padding_rgb: tuple[int, int, int] = PADDING_RGB) -> np.ndarray:
    """The image as network input: u8[h, w, 3] -> u8[y.out, x.out, 3]."""
    y, x = geometry
    part = image[y.start : y.start + y.length, x.start : x.start + x.length]
    # Linear interpolation that shrinks by 2 or more would alias: the last factors of 2 are exact means, and fast.
    halvings = max(1, min(y.length // y.out_length, x.length // x.out_length)).bit_length() - 1
    for n in reversed(range(halvings + 1)):
        method = cv2.INTER_LINEAR if n == halvings else cv2.INTER_AREA
        part = cv2.resize(part, (x.out_length << n, y.out_length << n), interpolation=method)
    if x.flip:
        part = cv2.flip(part, 1)
    if (y.out_length, x.out_length) == (y.out, x.out):
        return part
    below, right = (span.out - span.out_start - span.out_length for span in geometry)
    return cv2.copyMakeBorder(part, y.out_start, below, x.out_start, right, cv2.BORDER_CONSTANT, value=padding_rgb)
