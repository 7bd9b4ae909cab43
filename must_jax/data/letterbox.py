"""From a network's input back to the image: without the padding, at any resolution.

The image lies in the top left corner of the input (`augment.letterbox_geometry`) and takes up the share `content` of
its rows and columns, two fractions. Pixel i of n covers i/n to (i+1)/n of an axis; its value is that of its centre.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

Content = tuple[float, float]

_ALL_VALID = 0.999  # interpolated validity where all is valid, up to rounding
_CHANNELS = 4  # channels that OpenCV warps at a time
_BLOCK_PX = 2**20  # pixels that are warped at a time, so that large images with many channels fit into memory
_LONGEST_PX = 2**14  # longest side of a block; OpenCV warps to fewer than 2^15 pixels
_STRIP_CELLS = 8  # the fewer cells lie in a tile, the fewer classes can be the best of one
_STRIP_PX = 64, 128  # at least, so that not the calls take the time; at most, so that all classes fit into memory
_ROUNDED = np.float32(1 - 1e-5)  # what may be as large, since sums are rounded


def content_of(content_hw: tuple[int, int], input_hw: tuple[int, int]) -> Content:
    """Pixels of the input that the image takes up -> shares of its rows and columns."""
    return content_hw[0] / input_hw[0], content_hw[1] / input_hw[1]


def most_likely(probs: np.ndarray, content: Content, hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """f32[h, w, K] for the whole input -> for each pixel of the image, its class i32[*hw] and the probability f32[*hw].

    The probabilities are interpolated linearly before the best one is taken.
    """
    ids, best = np.zeros(hw, np.int32), np.full(hw, -1, np.float32)
    rows, columns = (_strips(*axis) for axis in zip(hw, probs.shape[:2], content, strict=True))
    for y, x in itertools.product(rows, columns):
        cells = probs[y.cells, x.cells]
        if len(numbers := _candidates(cells)):
            planes = y.shares @ np.ascontiguousarray(np.moveaxis(cells[..., numbers], -1, 0)) @ x.shares.T
            largest = cv2.reduceArgMax(planes.reshape(len(planes), -1), 0)  # a third of the time of `planes.argmax(0)`
            ids[y.pixels, x.pixels] = numbers[largest].reshape(planes.shape[1:])
            best[y.pixels, x.pixels] = planes.max(0)
    return ids, best


class _Strip(NamedTuple):
    """Some pixels of an axis, the cells that they lie between, and what each cell adds to each: f32[pixels, cells]."""

    pixels: slice
    cells: slice
    shares: np.ndarray


@functools.lru_cache(64)
def _strips(length: int, count: int, share: float) -> list[_Strip]:
    """An axis of so many pixels, over the first `share` of so many cells."""
    step = count * share / length
    side = min(max(round(_STRIP_CELLS / step), _STRIP_PX[0]), _STRIP_PX[1])
    at = np.clip((np.arange(length) + 0.5) * step - 0.5, 0, count - 1)  # beyond the outermost cells their values go on
    strips = []
    for first in range(0, length, side):
        some = at[first : first + side]
        cells = np.arange(int(some[0]), min(int(some[-1]) + 2, count))
        shares = np.maximum(0, 1 - np.abs(some[:, None] - cells)).astype(np.float32)
        strips.append(_Strip(slice(first, first + len(some)), slice(cells[0], cells[-1] + 1), shares))
    return strips


def _candidates(probs: np.ndarray) -> np.ndarray:
    """The classes that can be the best somewhere between the cells of f32[h, w, K], ascending.

    What is interpolated between four cells is at least their least value, and at most their largest. So between these,
    a class is out whose largest value is below the least one of another class.
    """
    least = largest = probs
    if len(least) > 1:
        least, largest = np.minimum(least[1:], least[:-1]), np.maximum(largest[1:], largest[:-1])
    if least.shape[1] > 1:
        least, largest = np.minimum(least[:, 1:], least[:, :-1]), np.maximum(largest[:, 1:], largest[:, :-1])
    return np.flatnonzero((largest >= least.max(-1, keepdims=True) * _ROUNDED).any((0, 1)))


def whole_valid(label: dict[str, Any]) -> dict[str, Any]:
    """A label whose validity was interpolated: what is not wholly valid is not."""
    return {**label, "valid": (label["valid"] > _ALL_VALID).astype(np.float32)}


def resampled(label: Mapping[str, np.ndarray], content: Content, hw: tuple[int, int]) -> dict[str, Any]:
    """`resample` for all maps of a label."""
    return {name: resample(map_, content, hw) if map_.ndim > 1 else map_ for name, map_ in label.items()}


def resample(map_: np.ndarray, content: Content, hw: tuple[int, int]) -> np.ndarray:
    """The top left `content` of f32[h, w] or f32[h, w, C] -> f32[*hw] or f32[*hw, C], linearly."""
    cells = map_.shape[0] * content[0], map_.shape[1] * content[1]
    if cells == hw:
        return map_[: hw[0], : hw[1]]
    planes = map_.reshape(*map_.shape[:2], -1)
    out = np.empty((*hw, planes.shape[2]), np.float32)
    for block in _blocks(hw):
        for first in range(0, planes.shape[2], _CHANNELS):
            some = slice(first, first + _CHANNELS)
            out[(*block, some)] = _warped(planes[..., some], content, hw, block)
    return out.reshape(*hw, *map_.shape[2:])


def nearest(map_: np.ndarray, content: Content, hw: tuple[int, int]) -> np.ndarray:
    """Like `resample`, but every pixel has the value of the cell that it lies in; for any type of number."""
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * (side * share / n)).astype(np.intp), side - 1)
        for side, share, n in zip(map_.shape, content, hw, strict=False)
    )
    return map_[rows[:, None], columns[None]]


def _blocks(hw: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    columns = max(1, min(hw[1], _LONGEST_PX))
    rows = max(1, min(_BLOCK_PX // columns, _LONGEST_PX))
    for top in range(0, hw[0], rows):
        for left in range(0, hw[1], columns):
            yield slice(top, min(top + rows, hw[0])), slice(left, min(left + columns, hw[1]))


def _warped(planes: np.ndarray, content: Content, hw: tuple[int, int], block: tuple[slice, slice]) -> np.ndarray:
    """Pixels `block` of the image with `hw` pixels, from [h, w, up to 4] of the whole input: f32[rows, columns, C]."""
    (step_y, step_x) = (side * share / n for side, share, n in zip(planes.shape, content, hw, strict=False))
    y, x = block
    to_source = np.array([[step_x, 0, (x.start + 0.5) * step_x - 0.5], [0, step_y, (y.start + 0.5) * step_y - 0.5]])
    warped = cv2.warpAffine(
        np.ascontiguousarray(planes, np.float32),
        to_source,
        (x.stop - x.start, y.stop - y.start),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return warped.reshape(*warped.shape[:2], -1)
