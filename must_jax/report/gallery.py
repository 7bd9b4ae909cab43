"""The gallery: what the teachers say about the images, as one HTML file to look at before training on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from must_jax.data.decoding import decode_image
from must_jax.data.image_sets import ImageSet
from must_jax.errors import UserError
from must_jax.report import page

Picture = np.ndarray | str  # u8 [H, W, 3], or why there is none

LONGEST_PX = 448  # longer side of a picture in the file
LISTED = 4  # items of a list in a caption


@dataclass(frozen=True)
class Column:
    """One teacher's labels of one task. `rule` says how predictions became labels; `empty_share` is in percent."""

    teacher: str
    task: str
    metrics: Mapping[str, float]
    rule: Mapping[str, Any]
    images: int
    absent: int
    empty_share: float
    bytes_per_image: float


@dataclass(frozen=True)
class Row:
    """One image and its label in each column: the picture and what `Task.describe` says. Pictures are `thumbnail`s.

    `image_hw` is the size of the original; an image that cannot be read has none, and no labels.
    """

    name: str
    image_hw: tuple[int, int] | None
    image: Picture
    labels: Sequence[tuple[np.ndarray, Mapping[str, Any]]]


@dataclass(frozen=True)
class Gallery:
    """Everything shown. `bad` are files that could not be read: (name, reason)."""

    images: str
    image_count: int
    seconds: float
    columns: Sequence[Column]
    rows: Sequence[Row]
    bad: Sequence[tuple[str, str]]


def render(gallery: Gallery) -> str:
    """The gallery as HTML text."""
    return page.render("gallery.html.jinja", {"caption": caption}, gallery=gallery)


def write(gallery: Gallery, path: Path) -> None:
    """Writes the gallery; a reader never sees half of it."""
    page.write(render(gallery), path)


def caption(description: Mapping[str, Any]) -> list[str]:
    """A description in short parts: {"cat": 0.9, "boxes": [{"class": "a", ...}]} -> ["cat 0.9", "1 boxes", "a ..."]."""
    parts = []
    for name, value in description.items():
        if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
            parts.append(f"{len(value)} {name}")
            parts += [" ".join(str(v) for v in item.values() if not isinstance(v, list)) for item in value[:LISTED]]
            parts += ["…"] if len(value) > LISTED else []
        elif isinstance(value, list):
            parts.append(f"{name} ({', '.join(map(str, value))})")
        else:
            parts.append(f"{name} {value}")
    return parts


def opened(images: ImageSet, position: int) -> Picture:
    """An image as it is now: it may have been removed or replaced since its set was opened."""
    try:
        return decode_image(images.record(position)["image"])
    except (UserError, OSError) as error:
        return getattr(error, "strerror", None) or str(error)  # without the path, which is shown beside it


def thumbnail(image: np.ndarray) -> np.ndarray:
    """u8 [H, W, 3], its longer side at most LONGEST_PX."""
    factor = LONGEST_PX / max(image.shape[:2])
    if factor >= 1:
        return image
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
