"""Maps of codes as losslessly compressed pictures, which every image library reads.

16-bit codes become red (high byte) and green (low byte) of a WebP: in a plane of its own the high byte is smooth, and
WebP predicts each plane from its neighbours. A 16-bit PNG interleaves them, and predicts each byte from one other.

A unit vector becomes two numbers, u and v in -1..1, by projection onto the octahedron |x| + |y| + |z| = 1, unfolded
around its corner -z, where the normals of visible surfaces lie (Cigolle et al. 2014, "A survey of efficient
representations for independent unit vectors").
"""

from __future__ import annotations

import functools
import io
from typing import Any

import cv2
import numpy as np
import PIL.Image

from must_jax.config.data import MAX_PIXELS
from must_jax.data import headers

_ZERO, _UNIT = 128, 100  # for u and v: the code of 0, and the steps from there to 1
DIRECTION = f"octahedral u = (R - {_ZERO}) / {_UNIT}, v = (G - {_ZERO}) / {_UNIT} around -z"
_REPEATING = (cv2.IMWRITE_PNG_COMPRESSION, 6, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE)
_SMOOTH = (
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
)
_PNG_START = b"\x89PNG"


def png(values: np.ndarray, *, smooth: bool, wide: bool = False) -> bytes:
    """[h, w], or [h, w, 3] RGB, in 0..255 -> an 8-bit PNG; if `wide`, in 0..65535 -> a 16-bit PNG.

    `smooth` chooses the compression.
    """
    planes = values[..., ::-1] if values.ndim == 3 else values  # cv2 takes BGR
    codes: np.ndarray[Any, np.dtype[Any]] = np.ascontiguousarray(planes, np.uint16 if wide else np.uint8)
    ok, data = cv2.imencode(".png", codes, _SMOOTH if smooth else _REPEATING)
    if not ok:
        raise ValueError(f"OpenCV cannot encode an array of shape {values.shape} as PNG")
    return data.tobytes()  # TFDS writes images that are already encoded without TensorFlow


def webp(codes: np.ndarray) -> bytes:
    """u16[h, w] -> a picture with 256 R + G = code."""
    planes = np.stack([codes >> 8, codes & 255, np.zeros_like(codes)], -1).astype(np.uint8)
    out = io.BytesIO()
    # More effort saves one percent and takes five times as long.
    PIL.Image.fromarray(planes).save(out, "WEBP", lossless=True, quality=0, method=1)
    return out.getvalue()


def codes(data: bytes) -> np.ndarray:
    """A picture made by `webp`, or a 16-bit PNG -> u16[h, w]."""
    values = pixels(data)
    return values if values.ndim == 2 else values[..., 2].astype(np.uint16) << 8 | values[..., 1]  # cv2 gives BGR


def pixels(data: bytes) -> np.ndarray:
    """The values of a picture: [h, w], or u8[h, w, 3] in the order BGR.

    Raises:
      ValueError: it cannot be decoded, or is far too large.
    """
    if headers.pixels(data) > MAX_PIXELS:
        raise ValueError(f"a label's picture has more than {MAX_PIXELS:,} pixels")
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ValueError("a label's picture cannot be decoded")
    return values


def direction_codes(vectors: np.ndarray) -> np.ndarray:
    """Vectors f32[h, w, 3] of any length -> u16[h, w], none of them 0."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    size = np.maximum(np.abs(x) + np.abs(y) + np.abs(z), np.float32(1e-6))
    u, v = x / size, y / size
    away = z > 0  # outside the square |u| + |v| = 1
    folded_u, folded_v = np.copysign(1 - np.abs(v), u), np.copysign(1 - np.abs(u), v)
    high, low = (_ZERO + np.rint(_UNIT * np.where(away, *pair)) for pair in ((folded_u, u), (folded_v, v)))
    return (256 * high + low).astype(np.uint16)


def directions(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A picture of `direction_codes`, or of three components -> vectors f32[h, w, 3] and `valid` f32[h, w]."""
    if data.startswith(_PNG_START):
        components = (pixels(data)[..., ::-1].astype(np.float32) - 128) / 127
        return components, np.any(components, axis=-1).astype(np.float32)
    stored = codes(data)
    return np.take(_directions(), stored, axis=0), (stored > 0).astype(np.float32)


@functools.cache
def _directions() -> np.ndarray:
    """f32[65536, 3]: the unit vector of each code; zeros for code 0, which no vector has."""
    u, v = (np.indices((256, 256)).reshape(2, -1) - _ZERO) / _UNIT
    z = np.abs(u) + np.abs(v) - 1
    behind = np.maximum(z, 0)  # what is folded over belongs on the other side of the edge
    vectors = np.stack([u - np.copysign(behind, u), v - np.copysign(behind, v), z], -1)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    vectors[0] = 0
    return vectors.astype(np.float32)
