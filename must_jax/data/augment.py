"""Geometry of examples: one map from image to network input drives the image, its boxes and its maps alike.

A rectangle of image pixels is resized into a rectangle of the square input, flipped or not; the rest of the input is
padding. Both are whole pixels, so the resize is exact, and boxes and maps, whatever their resolution, follow in
fractions of the image. Pixel i of n covers the fractions i/n to (i+1)/n; its value is that of its centre, (i + 1/2)/n.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from must_jax.config import AugmentConfig
from must_jax.data import encodings
from must_jax.data.encodings import Label
from must_jax.data.kinds import BoxesLabel, LabelKind, MapLabel

PADDING_RGB = (124, 116, 104)  # the mean of ImageNet
_MIN_VISIBLE = 0.25  # share of a box's area that must remain
_SLIVER = 1e-3  # a mean of unit vectors shorter than this counts as none
_GATHERED = 2**22  # pixels that are gathered at a time
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


def letterbox_geometry(image_hw: tuple[float, float], image_size: int) -> Geometry:
    """The whole image, as large as fits, in the top left corner of the input.

    The image occupies `y.out_length` rows and `x.out_length` columns of the input.
    """
    scale = image_size / max(image_hw)
    lengths = [min(image_size, max(1, round(side * scale))) for side in image_hw]
    return Geometry(*(Span(side, 0, int(side), image_size, 0, n) for side, n in zip(image_hw, lengths, strict=True)))


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
    """The labels of an image as targets of static shapes, by task; for the arguments see `apply`.

    Boxes are clipped to the input, and dropped if less than a quarter of their area remains (for boxes to ignore: if
    nothing remains) or if one side is less than a pixel. The largest ones fill the slots, before any box to ignore. Map
    cells are "ignore" or invalid in the padding and where the stored map has nothing valid in them.
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
                out[task] = {kind.field: _ids(geometry, kind, label[kind.field], map_size)}
            case MapLabel():
                out[task] = _values(geometry, label, kind, map_size)
            case _:  # geometry does not change a vector
                out[task] = {name: value for name, value in label.items() if name != "present"}
        out[task]["present"] = label["present"]
    return out


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


def _boxes(geometry: Geometry, label: Label, kind: BoxesLabel) -> Label:
    whole = _moved(geometry, label["boxes_yxyx"])
    clipped = np.minimum(np.maximum(whole, 0), 1)
    height, width = (clipped[:, 2:] - clipped[:, :2]).T
    area = height * width
    thick = np.minimum(height * geometry.y.out, width * geometry.x.out) >= 1
    ignore = label["ignore"] > 0
    seen = area >= _MIN_VISIBLE * (whole[:, 2] - whole[:, 0]) * (whole[:, 3] - whole[:, 1])
    kept = np.flatnonzero(thick & (ignore | seen))
    if len(kept) > kind.max_boxes:
        kept = np.sort(kept[np.lexsort((-area[kept], ignore[kept]))[: kind.max_boxes]])

    out = encodings.absent(kind, (0, 0))
    for name in ("boxes_yxyx", "classes", "scores", "valid", "ignore"):
        out[name][: len(kept)] = (clipped if name == "boxes_yxyx" else label[name])[kept]
    return out


def _moved(geometry: Geometry, boxes_yxyx: np.ndarray) -> np.ndarray:
    """Fractions of the image -> fractions of the input."""
    scale = [span.image / span.length * span.out_length / span.out for span in geometry]
    shift = [(span.out_start - span.start / span.length * span.out_length) / span.out for span in geometry]
    moved = boxes_yxyx * np.array(2 * scale, np.float32) + np.array(2 * shift, np.float32)
    for axis, span in enumerate(geometry):
        if span.flip:
            mirror = (2 * span.out_start + span.out_length) / span.out
            moved[:, axis::2] = mirror - moved[:, axis::2][:, ::-1]
    return moved


def _ids(geometry: Geometry, kind: MapLabel, ids: np.ndarray, map_size: int) -> np.ndarray:
    """The id at each cell's centre; where that is ignored, the nearest id within the cell's footprint, if any."""
    y, x = (_samples(span, length, map_size) for span, length in zip(geometry, ids.shape, strict=True))
    out = np.full((map_size, map_size), kind.ignore_id, np.int32)
    sampled = ids[y.nearest[:, None], x.nearest[None]]
    rows, columns = np.nonzero(sampled == kind.ignore_id)
    if len(rows) and max(len(y.around), len(x.around)) > 1:
        offsets = np.stack(np.meshgrid(y.around, x.around, indexing="ij"), -1).reshape(-1, 2)
        offsets = offsets[np.argsort(np.square(offsets).sum(1), kind="stable")]  # nearest first
        for start in range(0, len(rows), most := max(1, _GATHERED // len(offsets))):
            some = slice(start, start + most)
            places = zip((y, x), (rows[some], columns[some]), offsets.T, strict=True)
            at = [axis.within(cells, offset) for axis, cells, offset in places]
            candidates = ids[at[0], at[1]]
            first = np.argmax(candidates != kind.ignore_id, axis=1)
            sampled[rows[some], columns[some]] = candidates[np.arange(len(first)), first]
    out[y.where, x.where] = sampled
    return out


def _values(geometry: Geometry, label: Label, kind: MapLabel, map_size: int) -> Label:
    """Means over each cell's footprint of what is valid there; a cell with nothing valid in it is invalid.

    Where a cell is smaller than a pixel, values are interpolated linearly between the valid pixels around it.
    """
    valid = label["valid"]
    y, x = (_samples(span, length, map_size) for span, length in zip(geometry, valid.shape, strict=True))
    out = encodings.absent(kind, (map_size, map_size))
    weight = _means(valid, y, x)
    known = weight > 0
    if not valid.all():
        below = valid.take(y.below, 0).take(x.below, 1)
        known &= cv2.resize(below, (len(x.nearest), len(y.nearest)), interpolation=cv2.INTER_AREA) > 0
    values = _means(label[kind.field], y, x)
    if kind.content == "vector":
        norm = np.sqrt(np.einsum("hwc,hwc->hw", values, values))
        known &= norm > _SLIVER * weight  # opposite directions have no mean
        values = values * (known / np.where(known, norm, 1))[..., None]
        if geometry.x.flip:
            values[..., 0] *= -1
    else:
        values = values * known / np.where(known, weight, 1)
    out[kind.field][y.where, x.where] = values
    out["valid"][y.where, x.where] = known
    return out


def _means(plane: np.ndarray, y: _Samples, x: _Samples) -> np.ndarray:
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


class _Samples(NamedTuple):
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
def _samples(span: Span, map_length: int, out_length: int) -> _Samples:
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
    spread = low[:, None] + (high - low)[:, None] * _evenly(max(_DENSE, places))
    first, second = source(begin + 0.5 / places), source(begin + 1.5 / places)
    seen = np.floor(source(np.concatenate([middle, spread.ravel()]))).astype(np.intp)
    np.minimum(np.maximum(seen, 0, out=seen), map_length - 1, out=seen)
    reach = math.ceil(pixels / 2 - 0.5)
    return _Samples(
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
