"""Geometry of examples: one map from image to network input drives the image, its boxes and its maps alike.

A rectangle of image pixels is resized into a rectangle of the square input, flipped or not; the rest of the input is
padding. Both are whole pixels, so the resize is exact, and boxes and maps, whatever their resolution, follow in
fractions of the image. Pixel i of n covers the fractions i/n to (i+1)/n; its value is that of its centre, (i + 1/2)/n.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np

from must_jax.config import AugmentConfig
from must_jax.data import encodings
from must_jax.data.encodings import Label
from must_jax.data.kinds import IGNORE_ID, BoxesLabel, LabelKind, MapLabel

PADDING_RGB = (124, 116, 104)  # the mean of ImageNet
_MIN_VISIBLE = 0.25  # share of a box's area that must remain
_ALL_VALID = 0.999  # of the interpolated validity, up to rounding


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


def letterbox_geometry(image_hw: tuple[float, float], image_size: int) -> Geometry:
    """The whole image, as large as fits, in the top left corner of the input.

    The image occupies `y.out_length` rows and `x.out_length` columns of the input.
    """
    scale = image_size / max(image_hw)
    lengths = [min(image_size, max(1, round(side * scale))) for side in image_hw]
    return Geometry(*(Span(side, 0, int(side), image_size, 0, n) for side, n in zip(image_hw, lengths, strict=True)))


def sample_scale(rng: np.random.Generator, augment: AugmentConfig) -> float:
    """The longer side of the image as it will be shown, in sides of the input."""
    if augment.scale_sampling == "uniform":
        return rng.uniform(augment.scale_min, augment.scale_max)
    return math.exp(rng.uniform(math.log(augment.scale_min), math.log(augment.scale_max)))


def sample_geometry(
    rng: np.random.Generator, image_hw: tuple[float, float], image_size: int, scale: float, flip: bool
) -> Geometry:
    """The image at `scale` (see `sample_scale`); a side that is too long is cropped, one too short padded, at random.

    Args:
      flip: whether left and right change places in half of all cases.
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
      labels: by task, as decoded: un-padded, maps of any size, zeros where invalid. A missing one, and one with
        `present` 0, comes out as absent.
      kinds: the tasks that come out.
      map_size: rows and columns of the maps that come out; they cover the whole input.

    Returns:
      u8[image_size, image_size, 3] and the labels by task, as of `place`.
    """
    return _image(geometry, image), place(geometry, labels, kinds, map_size)


def place(
    geometry: Geometry, labels: Mapping[str, Label], kinds: Mapping[str, LabelKind], map_size: int
) -> dict[str, Label]:
    """The labels of an image as targets of static shapes, by task; arguments as of `apply`.

    Boxes are clipped to the input and dropped where less than a
      quarter of the area remains (of one to ignore: nothing) or one side is under a pixel; the largest ones fill the
      slots, before any that is to be ignored. Maps are "ignore" or
      invalid in the padding and wherever an invalid pixel would have been mixed in.
    """
    out: dict[str, Label] = {}
    for task, kind in kinds.items():
        label = labels.get(task)
        if label is None or not label["present"]:
            out[task] = encodings.absent(kind, (map_size, map_size))
            continue
        match kind:
            case BoxesLabel():
                out[task] = _boxes(geometry, label, kind)
            case MapLabel(content="ids"):
                out[task] = {kind.field: _ids(geometry, label[kind.field], map_size)}
            case MapLabel():
                out[task] = _values(geometry, label, kind, map_size)
            case _:  # geometry does not change a vector
                out[task] = {name: value for name, value in label.items() if name != "present"}
        out[task]["present"] = label["present"]
    return out


def _image(geometry: Geometry, image: np.ndarray) -> np.ndarray:
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
    return cv2.copyMakeBorder(part, y.out_start, below, x.out_start, right, cv2.BORDER_CONSTANT, value=PADDING_RGB)


def _boxes(geometry: Geometry, label: Label, kind: BoxesLabel) -> Label:
    (y0, y1), (x0, x1) = (_moved(span, label["boxes_yxyx"][:, axis::2].T) for axis, span in enumerate(geometry))
    whole = np.stack([y0, x0, y1, x1], axis=-1)
    clipped = np.clip(whole, 0, 1)
    height, width = (clipped[:, 2:] - clipped[:, :2]).T
    area = height * width
    thick = np.minimum(height * geometry.y.out, width * geometry.x.out) >= 1
    ignore = label["ignore"] > 0
    kept = np.flatnonzero(thick & (ignore | (area >= _MIN_VISIBLE * (y1 - y0) * (x1 - x0))))
    if len(kept) > kind.max_boxes:
        kept = np.sort(kept[np.lexsort((-area[kept], ignore[kept]))[: kind.max_boxes]])

    out = encodings.absent(kind, (0, 0))
    for name in ("boxes_yxyx", "classes", "scores", "valid", "ignore"):
        out[name][: len(kept)] = (clipped if name == "boxes_yxyx" else label[name])[kept]
    return out


def _moved(span: Span, ends: np.ndarray) -> np.ndarray:
    """Fractions of the image, [low | high, n], -> fractions of the input."""
    scale = span.image / span.length * span.out_length / span.out
    shift = (span.out_start - span.start / span.length * span.out_length) / span.out
    moved = ends * scale + shift
    return (2 * span.out_start + span.out_length) / span.out - moved[::-1] if span.flip else moved


def _ids(geometry: Geometry, ids: np.ndarray, map_size: int) -> np.ndarray:
    y, x = (_samples(span, length, map_size) for span, length in zip(geometry, ids.shape, strict=True))
    out = np.full((map_size, map_size), IGNORE_ID, np.int32)
    out[y.where, x.where] = ids[y.nearest][:, x.nearest]
    return out


def _values(geometry: Geometry, label: Label, kind: MapLabel, map_size: int) -> Label:
    valid = label["valid"]
    y, x = (_samples(span, length, map_size) for span, length in zip(geometry, valid.shape, strict=True))
    out = encodings.absent(kind, (map_size, map_size))
    if not (len(x.nearest) and len(y.nearest)):  # the image is thinner than a pixel of the map
        return out
    to_source, size = np.array([[x.step, 0, x.first], [0, y.step, y.first]]), (len(x.nearest), len(y.nearest))
    values, weight = (
        cv2.warpAffine(
            plane, to_source, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
        )
        for plane in (label[kind.field], valid)
    )
    if kind.content == "vector":
        norm = np.sqrt(np.einsum("hwc,hwc->hw", values, values))
        values = values * ((weight > _ALL_VALID) / np.maximum(norm, 1e-6))[..., None]
        if geometry.x.flip:
            values[..., 0] *= -1
    else:
        values = values * (weight > _ALL_VALID) / np.maximum(weight, _ALL_VALID)
    out[kind.field][y.where, x.where] = values
    out["valid"][y.where, x.where] = weight > _ALL_VALID
    return out


class _Samples(NamedTuple):
    """Where the pixels `where` of an output axis lie on a map's axis: pixel i of them at index first + step * i."""

    where: slice
    first: float
    step: float
    nearest: np.ndarray  # i[n], the indices rounded


@functools.lru_cache(64)  # the maps of one image mostly share their size, and evaluation mostly its geometry
def _samples(span: Span, map_length: int, out_length: int) -> _Samples:
    step = span.out / out_length  # from one output pixel to the next, in input pixels
    begin = math.ceil(span.out_start / step - 0.5)  # the first centre inside of the image, and after it
    end = math.ceil((span.out_start + span.out_length) / step - 0.5)

    def source(index: float) -> float:
        share = ((index + 0.5) * step - span.out_start) / span.out_length
        share = 1 - share if span.flip else share
        return (span.start + share * span.length) / span.image * map_length - 0.5

    first, source_step = source(begin), source(1) - source(0)
    nearest = np.floor(first + source_step * np.arange(end - begin) + 0.5).astype(np.intp)
    return _Samples(slice(begin, end), first, source_step, np.clip(nearest, 0, map_length - 1))
