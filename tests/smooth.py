"""A smooth picture, different in every corner and channel, and its encoded bytes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import PIL.Image


def picture(height: int, width: int) -> np.ndarray:
    """Smooth, and different in every corner and channel."""
    y, x = np.mgrid[:height, :width]
    return (
        np.dstack([255 * x / width, 255 * y / height, 255 * (1 - x / width) * (1 - y / height)])
        .round()
        .astype(np.uint8)
    )


def encoded(image: np.ndarray, format: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


def jpeg(height: int, width: int) -> bytes:
    return encoded(picture(height, width), "JPEG", quality=95, subsampling=0)
