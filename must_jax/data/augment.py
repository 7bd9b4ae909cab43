"""Geometry of examples: one map from image to network input drives the image, its boxes and its maps alike.

A rectangle of image pixels is resized into a rectangle of the network's input, flipped or not; the rest of the input is
padding. Both are whole pixels, so the resize is exact, and boxes and maps, whatever their resolution, follow in
fractions of the image. Pixel i of n covers the fractions i/n to (i+1)/n; its value is that of its centre, (i + 1/2)/n.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import cv2
import numpy as np

from must_jax.config import AugmentConfig

PADDING_RGB = (124, 116, 104)  # the mean of ImageNet
_DENSE = 4  # at least so many places along a side of a cell are searched for valid pixels


class Span(NamedTuple):
    """What happens along one axis: `length` pixels from `start` become `out_length` pixels from `out_start`.

    `image` is the image's size along this axis, a whole number unless it was decoded at reduced size.
    """

    image: float
    start: int
    length: int
    out: int
    out_start: int
    out_length: int
    flip: bool = False


class Geometry(NamedTuple):
    """From the image to the network input, rows and columns."""

    y: Span
    x: Span


def letterbox_geometry(image_hw: tuple[float, float], input_hw: tuple[int, int]) -> Geometry:
    """The whole image, as large as fits, in the top left corner of the input.

    The image occupies `y.out_length` rows and `x.out_length` columns of the input.
    """
    sides = list(zip(image_hw, input_hw, strict=True))
    scale = min(out / side for side, out in sides)
    return Geometry(*(Span(side, 0, int(side), out, 0, min(out, max(1, round(side * scale)))) for side, out in sides))


def sample_scale(rng: np.random.Generator, augment: AugmentConfig) -> float:
    """Draws how large the image will be shown, relative to the largest size that fits into the input."""
    if augment.scale_sampling == "uniform":
        return rng.uniform(augment.scale_min, augment.scale_max)
    return math.exp(rng.uniform(math.log(augment.scale_min), math.log(augment.scale_max)))


def sample_geometry(
    rng: np.random.Generator, image_hw: tuple[float, float], input_hw: tuple[int, int], scale: float, flip: bool
) -> Geometry:
    """The image at `scale` (see `sample_scale`); a side that is too long is cropped, a short one padded, at random.

    Args:
      flip: whether to swap left and right in half of all cases.
    """
    zoom = min(scale * out / side for side, out in zip(image_hw, input_hw, strict=True))
    spans = []
    for side, out, flipped in zip(image_hw, input_hw, (False, flip and rng.random() < 0.5), strict=True):
        length = min(int(side), max(1, round(out / zoom)))
        out_length = min(out, max(1, round(side * zoom)))
        start, out_start = rng.integers(int(side) - length + 1), rng.integers(out - out_length + 1)
        spans.append(Span(side, int(start), length, out, int(out_start), out_length, flipped))
    return Geometry(*spans)


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


def moved(geometry: Geometry, boxes_yxyx: np.ndarray) -> np.ndarray:
    """Fractions of the image -> fractions of the input."""
    scale = [span.image / span.length * span.out_length / span.out for span in geometry]
    shift = [(span.out_start - span.start / span.length * span.out_length) / span.out for span in geometry]
    moved = boxes_yxyx * np.array(2 * scale, np.float32) + np.array(2 * shift, np.float32)
    for axis, span in enumerate(geometry):
        if span.flip:
            mirror = (2 * span.out_start + span.out_length) / span.out
            moved[:, axis::2] = mirror - moved[:, axis::2][:, ::-1]
    return moved


def means(plane: np.ndarray, y: Samples, x: Samples) -> np.ndarray:
    """[h, w, ...], 0 where invalid -> [rows, columns, ...]: means of places in each cell, a pixel or less apart."""
    to_source = np.array([[x.step, 0, x.first], [0, y.step, y.first]])
    cells = len(x.nearest), len(y.nearest)
    warped = cv2.warpAffine(
        plane,
        to_source,
        (cells[0] * x.places, cells[1] * y.places),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return cv2.resize(warped, cells, interpolation=cv2.INTER_AREA)


class Samples(NamedTuple):
    """Where the cells `where` of an output axis, and evenly spread places in them, lie on a map's axis.

    Attributes:
      places: number of places in each cell, a pixel or less apart; place i of them all lies at index first + step * i.
      nearest: i[n], the pixel at each cell's centre.
      below: i[n * m], the pixels that each cell sees at least in part.
      around: i[k], offsets from `nearest` of the pixels in a cell's footprint.
    """

    where: slice
    places: int
    first: float
    step: float
    nearest: np.ndarray
    below: np.ndarray
    around: np.ndarray

    def within(self, cells: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """i[n, k]: the pixels at these offsets from the centres of these cells, kept within each cell."""
        below = self.below.reshape(len(self.nearest), -1)[cells]
        pixels = self.nearest[cells, None] + offsets[None]
        return np.clip(pixels, below.min(1, keepdims=True), below.max(1, keepdims=True))


def shown_cells(span: Span, cells: int) -> slice:
    """Of an output axis with `cells` cells, those whose centre is in the image; one, if it is thinner than a cell."""
    step = span.out / cells
    begin = math.ceil(span.out_start / step - 0.5)
    end = math.ceil((span.out_start + span.out_length) / step - 0.5)
    if begin == end:
        begin = min(int((span.out_start + span.out_length / 2) / step), cells - 1)
        end = begin + 1
    return slice(begin, end)


@functools.lru_cache(64)  # the maps of one image mostly share their size, and evaluation mostly its geometry
def samples(span: Span, map_length: int, out_length: int) -> Samples:
    step = span.out / out_length  # from one output pixel to the next, in input pixels
    where = shown_cells(span, out_length)
    begin, end = where.start, where.stop
    shown = span.out_start / step, (span.out_start + span.out_length) / step

    def source(cell: Any) -> Any:
        """Cells, one or an array of them -> pixels of the map."""
        share = (cell * step - span.out_start) / span.out_length
        share = 1 - share if span.flip else share
        return (span.start + share * span.length) / span.image * map_length

    cells = np.arange(begin, end)
    centre = cells + 0.5
    low, high = np.maximum(cells, shown[0]), np.minimum(cells + 1, shown[1])
    middle = np.where((shown[0] <= centre) & (centre < shown[1]), centre, (low + high) / 2)
    pixels = abs(source(begin + 1) - source(begin))
    places = max(1, math.ceil(pixels - 1e-6))
    # One more than pixels: a pixel apart, places on the pixels' borders are rounded to either side, and miss some.
    spread = low[:, None] + (high - low)[:, None] * _evenly(max(_DENSE, places + 1))
    first, second = source(begin + 0.5 / places), source(begin + 1.5 / places)
    seen = np.floor(source(np.concatenate([middle, spread.ravel()]))).astype(np.intp)
    np.minimum(np.maximum(seen, 0, out=seen), map_length - 1, out=seen)
    reach = math.ceil(pixels / 2 - 0.5)
    return Samples(
        where=where,
        places=places,
        first=first - 0.5,
        step=second - first,
        nearest=seen[: len(cells)],
        below=seen[len(cells) :],
        around=np.arange(-reach, reach + 1),
    )


@functools.cache
def _evenly(count: int) -> np.ndarray:
    """f64[1, count]: as many places in a cell, as shares of its side."""
    return ((np.arange(count) + 0.5) / count)[None]
