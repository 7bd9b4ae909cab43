"""Predicted maps under truths of any size, on the devices: pixels are compared at the resolution of the truth.

A truth is cut into square tiles, padded with zeros, which mean "not known". The cells of the predicted map under a tile
lie in a window of a fixed size, so one program serves images of all sizes, and what it needs at a time is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from must_jax.engine.step import MapTask

# {"truth": {name: [n, side, side, ...]}, "row", "at", "first", "step"}; see `cut`.
Tiles = dict[str, Any]
Counts = dict[str, jax.Array]  # integers as they are; of floats [2, ...]: the sum, and what it has lost by rounding

_SIDE = 64  # pixels of a tile that has up to _CHANNELS values for each
_CHANNELS = 256
_TOGETHER = 16  # tiles that a device works on at a time: 64 MiB of values, and about as much to count them


def side_for(channels: int) -> int:
    """Side of a tile in pixels; shorter if a pixel has very many values, so that memory stays bounded."""
    side = _SIDE
    while side > 1 and side**2 * channels > _SIDE**2 * _CHANNELS * _TOGETHER:
        side //= 2
    return side


def together(channels: int) -> int:
    """Tiles that a device works on at a time: a power of 2."""
    fitting = _SIDE**2 * _CHANNELS * _TOGETHER // (side_for(channels) ** 2 * channels)
    return min(_TOGETHER, 1 << max(0, fitting.bit_length() - 1))


def cut(truth: Mapping[str, np.ndarray], content: tuple[float, float], map_hw: tuple[int, int], side: int) -> Tiles:
    """The tiles of one image.

    Args:
      truth: maps [h, w, ...].
      content: the share of the predicted map's rows and columns that the image takes up, from the top left.
      map_hw: of the predicted map.

    Returns:
      truth: {name: [n, side, side, ...]}.
      at: i32[n, 2], the first row and column of the window under each tile.
      first: f32[n, 2], where in its window the tile's first pixel lies, in cells.
      step: f32[n, 2], cells from one pixel to the next.
    """
    hw = next(iter(truth.values())).shape[:2]
    (taken_y, at_y, first_y, step_y), (taken_x, at_x, first_x, step_x) = (
        _along(*axis, side) for axis in zip(hw, map_hw, content, strict=True)
    )
    ys, xs = len(at_y), len(at_x)

    def pairs(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.stack([np.repeat(y, xs), np.tile(x, ys)], -1)

    def tiles(map_: np.ndarray) -> np.ndarray:
        out = np.zeros((ys, xs, side, side, *map_.shape[2:]), map_.dtype)
        for y in range(ys):
            strip = map_[y * taken_y : (y + 1) * taken_y]
            for x in range(xs):
                part = strip[:, x * taken_x : (x + 1) * taken_x]
                out[y, x, : part.shape[0], : part.shape[1]] = part
        return out.reshape(-1, *out.shape[2:])

    return {
        "truth": {name: tiles(map_) for name, map_ in truth.items()},
        "at": pairs(at_y, at_x),
        "first": pairs(first_y, first_x),
        "step": np.tile(np.array([step_y, step_x], np.float32), (ys * xs, 1)),
    }


def counted(task: MapTask, predictions: jax.Array, tiles: Tiles, number: jax.Array) -> Counts:
    """The task's counts over the first `number` tiles, which are those of whole images; jit-able.

    Args:
      predictions: f32[rows, h, w] or f32[rows, h, w, C].
      tiles: as from `cut`, with "row", i32[n]: which row of the predictions belongs to each tile.
    """
    at_a_time = together(predictions[0, 0, 0].size)
    steps, fit = -(-number // at_a_time), dict[str, jax.Array]()

    def part(index: jax.Array) -> tuple[jax.Array, Any, dict[str, jax.Array], jax.Array]:
        some = jax.tree.map(lambda all_: jax.lax.dynamic_slice_in_dim(all_, index * at_a_time, at_a_time), tiles)
        of_image = {name: sums[some["row"]][:, None, None] for name, sums in fit.items()}
        return _resampled(predictions, some), some["truth"], of_image, some["row"]

    for moments in task.moments():  # of each image, before anything can be counted

        def by_row(index: jax.Array, moments: Callable[..., Any] = moments) -> dict[str, jax.Array]:
            predicted, truth, of_image, row = part(index)
            nothing = jnp.zeros(len(predictions), jnp.float32)
            return {
                name: nothing.at[row].add(values.sum((1, 2)))
                for name, values in moments(predicted, truth, of_image).items()
            }

        fit = fit | {name: pair.sum(0) for name, pair in _total(by_row, steps).items()}
    return _total(lambda index: task.counts(*part(index)[:3]), steps)


def merged(a: Counts, b: Counts) -> Counts:
    return {name: _plus(value, b[name]) for name, value in a.items()}


def _along(length: int, cells: int, share: float, side: int) -> tuple[int, np.ndarray, np.ndarray, float]:
    """Along one axis: the pixels in a tile; "at" and "first" of each tile; "step"."""
    window, step = _window(cells, side), cells * share / length
    # The cells beside all of a tile's pixels lie in its window. A truth that is coarser than half of the map's
    # resolution leaves tiles partly empty instead.
    taken = side if window == cells else min(side, int((window - 2) / step) + 1)
    first = (np.arange(0, length, taken) + 0.5) * step - 0.5
    at = np.clip(np.floor(first), 0, cells - window)
    return taken, at.astype(np.int32), (first - at).astype(np.float32), step


def _window(cells: int, side: int) -> int:
    """Cells under a tile: for truths of at least twice the resolution of the map, which most are."""
    return min(cells, side // 2 + 2)


def _resampled(predictions: jax.Array, tiles: Tiles) -> jax.Array:
    """f32[n, side, side] or [n, side, side, C]: the predictions at the pixels of these tiles, linearly interpolated."""
    side = next(iter(tiles["truth"].values())).shape[1]
    planes = predictions.reshape(*predictions.shape[:3], -1)
    windows = [_window(cells, side) for cells in planes.shape[1:3]]

    def under(row: jax.Array, at: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(planes, (row, at[0], at[1], 0), (1, *windows, planes.shape[3]))[0]

    def shares(axis: int) -> jax.Array:
        """f32[n, side, window]: what each cell contributes to a pixel."""
        pixels, cells = jnp.arange(side, dtype=jnp.float32), jnp.arange(windows[axis], dtype=jnp.float32)
        at = tiles["first"][:, axis, None] + tiles["step"][:, axis, None] * pixels[None]
        at = jnp.clip(at, 0, windows[axis] - 1)  # beyond the outermost cells their values go on
        return jnp.maximum(0.0, 1 - jnp.abs(at[:, :, None] - cells[None, None]))

    exact = jax.lax.Precision.HIGHEST  # or rounding would decide between classes
    values = jnp.einsum("tyv,tvuc->tyuc", shares(0), jax.vmap(under)(tiles["row"], tiles["at"]), precision=exact)
    values = jnp.einsum("txu,tyuc->tyxc", shares(1), values, precision=exact)
    return values.reshape(*values.shape[:3], *predictions.shape[3:])


def _total(values: Callable[[jax.Array], dict[str, jax.Array]], steps: jax.Array) -> Counts:
    """The sum of `values(0)` to `values(steps - 1)`."""

    def pair(value: jax.Array) -> jax.Array:
        return jnp.stack([value, jnp.zeros_like(value)]) if jnp.issubdtype(value.dtype, jnp.floating) else value

    def some(index: jax.Array) -> Counts:
        return {name: pair(value) for name, value in values(index).items()}

    zeros = {name: jnp.zeros(new.shape, new.dtype) for name, new in jax.eval_shape(some, jnp.int32(0)).items()}
    return jax.lax.fori_loop(0, steps, lambda index, so_far: merged(so_far, some(index)), zeros)


def _plus(a: jax.Array, b: jax.Array) -> jax.Array:
    if not jnp.issubdtype(a.dtype, jnp.floating):
        return a + b
    total = a[0] + b[0]
    moved = total - a[0]
    lost = (a[0] - (total - moved)) + (b[0] - moved)  # exactly (Knuth's two-sum)
    return jnp.stack([total, a[1] + b[1] + lost])
