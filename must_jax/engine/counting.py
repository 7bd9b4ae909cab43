"""Counts of a task over many images, added up on the devices; the host only cuts truths into tiles."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import NamedSharding

from must_jax.engine import tiles
from must_jax.engine.step import MapTask
from must_jax.engine.tiles import Counts, Tiles

_FEWEST = 32  # tiles in a call; more by powers of 2, so that there are few programs
_FULL = 128  # tiles of a device, half a million pixels, at which a call is made
_MOST_PIXELS = 2**31 - 1  # of a device, until its 32-bit counts are fetched


class Counting:
    """Collects the tiles of images, counts them on the devices, and adds the counts to the task's metrics.

    Args:
      predictions: a batch of the predicted maps, [rows, h, w, ...], over this process's devices.
    """

    def __init__(self, task: MapTask, metrics: Any, predictions: jax.Array) -> None:
        sharding = cast(NamedSharding, predictions.sharding)
        self._task, self._metrics, self._sharding = task, metrics, sharding
        self._devices, self._map_hw = sharding.mesh.size, (predictions.shape[1], predictions.shape[2])
        self._rows = predictions.shape[0] // self._devices  # of a device
        self._side = tiles.side_for(int(np.prod(predictions.shape[3:])))
        self._waiting: list[list[Tiles]] = [[] for _ in range(self._devices)]
        self._counts: Counts | None = None
        self._pixels = 0  # that a device has counted since its counts were fetched, at most

    def cut(self, label: Mapping[str, np.ndarray], content: tuple[float, float]) -> Tiles:
        """The tiles of one image's truth; may be called from threads."""
        return tiles.cut(self._task.truth(label), content, self._map_hw, self._side)

    def add(self, predictions: jax.Array, row: int, image: Tiles) -> None:
        """Counts one image sooner or later, at the latest with `finish`, which has to follow on each batch."""
        device, own = divmod(row, self._rows)
        image = {**image, "row": np.full(len(image["at"]), own, np.int32)}
        # Large images in parts, unless something is counted of the whole image first.
        size = len(image["at"]) if self._task.moments() else _FULL
        for start in range(0, len(image["at"]), size):
            part = jax.tree.map(lambda x: x[start : start + size], image)  # noqa: B023
            if self._waiting[device] and _number(self._waiting[device]) + len(part["at"]) > _FULL:
                self.finish(predictions)
            self._waiting[device].append(part)

    def finish(self, predictions: jax.Array) -> None:
        """Counts what waits; returns before the devices are done."""
        numbers = [_number(each) for each in self._waiting]
        if not any(numbers):
            return
        # A multiple of the tiles that are counted at a time.
        slots = max(_FEWEST, 1 << (max(numbers) - 1).bit_length())
        if self._pixels + slots * self._side**2 > _MOST_PIXELS:
            self.fetch()
        example = next(image for images in self._waiting for image in images)
        batch = jax.tree.map(lambda x: np.zeros((self._devices, slots, *x.shape[1:]), x.dtype), example)
        for device, images in enumerate(self._waiting):
            start = 0
            for image in images:
                stop = start + len(image["at"])
                jax.tree.map(lambda all_, x: all_[device].__setitem__(slice(start, stop), x), batch, image)  # noqa: B023
                start = stop
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
        batch, number = jax.device_put((batch, np.array(numbers, np.int32)), self._sharding)
        count, add = _programs(self._task, self._sharding)
        counts = count(predictions, batch, number)
        self._counts = counts if self._counts is None else add(self._counts, counts)
        self._pixels += slots * self._side**2
        self._waiting = [[] for _ in range(self._devices)]

    def fetch(self) -> None:
        """Adds the devices' counts to the metrics."""
        if self._counts is not None:
            self._metrics.add({name: _wide(each) for name, each in jax.device_get(self._counts).items()})
        self._counts, self._pixels = None, 0


def _number(images: list[Tiles]) -> int:
    return sum(len(image["at"]) for image in images)


def _wide(counts: np.ndarray) -> np.ndarray:
    """The counts of all devices, [devices, ...] or [devices, 2, ...], added up in 64 bits."""
    if np.issubdtype(counts.dtype, np.integer):
        return counts.sum(0, dtype=np.int64)
    return counts.sum((0, 1), dtype=np.float64)


@functools.lru_cache(maxsize=64)
def _programs(task: MapTask, sharding: NamedSharding) -> tuple[Callable[..., Counts], Callable[..., Counts]]:
    """`counted` and `merged`, compiled: every device counts its own tiles, without waiting for the others."""

    def on_each_device(function: Callable[..., Counts]) -> Callable[..., Counts]:
        return jax.shard_map(
            function, mesh=sharding.mesh, in_specs=sharding.spec, out_specs=sharding.spec, check_vma=False
        )

    def count(predictions: jax.Array, batch: Tiles, number: jax.Array) -> Counts:
        return {name: each[None] for name, each in tiles.counted(task, predictions, batch, number[0]).items()}

    def add(*both: Counts) -> Counts:
        a, b = ({name: each[0] for name, each in counts.items()} for counts in both)
        return {name: each[None] for name, each in tiles.merged(a, b).items()}

    return jax.jit(on_each_device(count)), jax.jit(on_each_device(add))
