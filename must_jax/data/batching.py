"""From image sets and label columns to batches of NumPy arrays.

A batch of B examples, with inputs of H*W pixels and N box slots:
  image  u8[B, H, W, 3] RGB
  mask   f32[B]   1 = a real image; 0 = padding of the last batch, or an image that cannot be read
  index  i32[B]   position in its image set; -1 = padding
  labels {task: {fields of its kind, "present": f32[B]}}; present is 0 wherever mask is 0

Training batch k depends on (sources, seed, k) alone, so a run's position is just an integer.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from must_jax.config import AugmentConfig, InputConfig
from must_jax.data.augment import Geometry, letterbox_geometry, resized, sample_geometry, sample_scale
from must_jax.data.decoding import decode_reduced
from must_jax.data.image_sets import Column, ImageSet, in_unit_of
from must_jax.data.kinds import Label, LabelKind, place
from must_jax.data.order import Order
from must_jax.data.prefetch import Batch, OnBad, prefetched
from must_jax.data.workers import Unread
from must_jax.errors import UserError

Example = dict[str, Any]

TRAIN_MAP_STRIDE = 4  # stride of the maps that heads predict
CACHED_BYTES = 2**26  # of the truth of one image set
FEW = 4096  # images; threads have read as many about when worker processes have started and done so
_DEFAULT = InputConfig()

cv2.setNumThreads(1)  # whole batches are made in parallel; threads inside one image only get in their way


@dataclass(frozen=True)
class Source:
    """An image set and the columns with its labels; for each task the first column that labels an image wins."""

    images: ImageSet
    columns: tuple[Column, ...]

    def in_units_of(self, kinds: Mapping[str, LabelKind]) -> Source:
        """The columns of these tasks in the units of their kinds, if they can be read in them."""
        columns = tuple(in_unit_of(column, kinds.get(column.task)) for column in self.columns)
        return replace(self, columns=columns)


def train_batches(
    sources: Sequence[Source],
    kinds: Mapping[str, LabelKind],
    *,
    input_hw: tuple[int, int],
    augment: AugmentConfig,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    stop_step: int = sys.maxsize,
    rows: np.ndarray | None = None,
    config: InputConfig = _DEFAULT,
    threads: int = 0,
    on_bad: OnBad | None = None,
) -> Iterator[Batch]:
    """Batches start_step, start_step + 1, ...; every epoch has a new order over all sources, augmented anew.

    Args:
      kinds: the tasks in the batches; images without a label for a task have `present` 0 there. Maps have stride 4.
      stop_step: the batches end before this one.
      rows: i64[n], which examples of each batch to make: those of one host; None = all.
      config: workers, and memory for batches ahead. It does not change the batches. Threads read FEW images or less.
      threads: number of threads that make batches, in all workers together; 0 = one per core. It does not change them.
      on_bad: called for every image and label that cannot be read, each time it is met.

    Raises:
      UserError: a column does not fit its image set or its task.
    """
    _check(sources, kinds)
    rows = np.arange(batch_size) if rows is None else rows
    order_seed, augment_seed = _seeds(seed)
    order = Order([len(source.images) for source in sources], order_seed)
    make = _Training(sources, kinds, input_hw, TRAIN_MAP_STRIDE, batch_size, rows, order, augment_seed, augment)
    like = batch_like(kinds, input_hw=input_hw, batch_size=len(rows))
    return _made(make, range(start_step, stop_step), like, config, threads, on_bad)


def examples_of(sources: Sequence[Source], *, batch_size: int, seed: int, step: int) -> list[str]:
    """The examples in batch `step` of `train_batches`, each as "image set[position]"."""
    order = Order([len(source.images) for source in sources], _seeds(seed)[0])
    chosen = order(np.arange(step * batch_size, (step + 1) * batch_size))
    return [f"{sources[which].images.name}[{index}]" for which, index in zip(*chosen, strict=True)]


def eval_batches(
    source: Source,
    kinds: Mapping[str, LabelKind],
    *,
    input_hw: tuple[int, int],
    batch_size: int,
    map_stride: int = 1,
    start_step: int = 0,
    rows: np.ndarray | None = None,
    config: InputConfig = _DEFAULT,
    threads: int = 0,
    on_bad: OnBad | None = None,
) -> Iterator[Batch]:
    """Every image once and in order, whole and in the top left corner (`letterbox_geometry`); the last batch is padded.

    Batches also have `content_hw` i32[B, 2]: the rows and columns of the input that the image takes up. For arguments
    not listed here, and for errors, see `train_batches`.

    Args:
      kinds: the labels to include in the batches, scaled and padded like the images. To measure a model against the
        truth as stored, pass none, and use a `TruthReader`.
    """
    _check([source], kinds)
    rows = np.arange(batch_size) if rows is None else rows
    make = _Evaluation([source], kinds, input_hw, map_stride, batch_size, rows)
    like = batch_like(kinds, input_hw=input_hw, batch_size=len(rows), map_stride=map_stride)
    like["content_hw"] = np.zeros((len(rows), 2), np.int32)
    steps = range(start_step, math.ceil(len(source.images) / batch_size))
    return _made(make, steps, like, config, threads, on_bad)


def _made(
    make: _Training | _Evaluation, steps: range, like: Batch, config: InputConfig, threads: int, on_bad: OnBad | None
) -> Iterator[Batch]:
    if len(steps) * len(make.rows) <= FEW:
        config = config.model_copy(update={"workers": 0})
    return prefetched(make, steps, like, config, threads, on_bad)


class TruthReader:
    """The labels of a source by index, as stored: whole, and at their own resolution. Thread-safe.

    Decoded labels are kept up to `CACHED_BYTES`, since a scorecard reads them many times.

    Args:
      tasks: the tasks to read; an image has labels for only some of them.
      on_bad: called for every label that cannot be read; the image then has none for that task.
    """

    def __init__(self, source: Source, tasks: Collection[str], on_bad: OnBad | None = None) -> None:
        self._source, self._tasks, self._on_bad = source, tuple(tasks), on_bad
        self._kept: dict[int, dict[str, Label]] = {}
        self._bytes = 0

    def __call__(self, index: int) -> dict[str, Label]:
        if (kept := self._kept.get(index)) is not None:
            return kept
        labels = {}
        for task in self._tasks:
            try:
                label = label_of(self._source, task, index)
            except Exception as error:  # one record, however broken, must not end a run of days
                if self._on_bad is not None:
                    self._on_bad(f"{self._source.images.name}[{index}]", f"{type(error).__name__}: {error}")
                continue
            if label is not None:
                labels[task] = label
        size = sum(np.asarray(value).nbytes for label in labels.values() for value in label.values())
        if self._bytes + size <= CACHED_BYTES:  # a little more, if threads come at the same time
            self._bytes += size
            self._kept[index] = labels
        return labels


def _seeds(seed: int) -> list[int]:
    """The seeds of the order and of augmentation."""
    return np.random.SeedSequence(seed).generate_state(2).tolist()


@dataclass(frozen=True)
class _Examples:
    """Writes examples into batches; the same in any process.

    Attributes:
      rows: i64[n], which examples of a whole batch are in the batches here.
    """

    sources: Sequence[Source]
    kinds: Mapping[str, LabelKind]
    input_hw: tuple[int, int]
    map_stride: int
    batch_size: int
    rows: np.ndarray

    def positions(self, step: int, rows: range) -> np.ndarray:
        """i64[n]: positions in the stream of examples."""
        return step * self.batch_size + self.rows[rows.start : rows.stop]

    def write(
        self,
        out: Batch,
        row: int,
        which: int,
        index: int,
        longest: int,
        lay: Callable[[tuple[float, float]], Geometry],
    ) -> list[Unread]:
        """Writes an image and its labels; blanks, if anything of them cannot be read.

        Args:
          longest: the side with which the image is needed at most, see `decode_reduced`.
          lay: size of the image -> where it goes.
        """
        source = self.sources[which]
        try:
            image, image_hw = decode_reduced(source.images.record(index)["image"], longest)
            labels = {task: label for task in self.kinds if (label := label_of(source, task, index)) is not None}
            geometry, map_hw = lay(image_hw), map_hw_of(self.input_hw, self.map_stride)
            image, targets = resized(geometry, image), place(geometry, labels, self.kinds, map_hw)
        except Exception as error:  # one record, however broken, must not end a run of days
            self.write_blank(out, row, index)
            return [Unread(f"{source.images.name}[{index}]", f"{type(error).__name__}: {error}")]
        _write(out, row, {"image": image, "mask": 1, "index": index, "labels": targets})
        return []

    def write_blank(self, out: Batch, row: int, index: int) -> None:
        _write(out, row, _blank(index, self.kinds, self.input_hw, self.map_stride))


@dataclass(frozen=True)
class _Training(_Examples):
    order: Order
    augment_seed: int
    augment: AugmentConfig

    def __call__(self, step: int, rows: range, out: Batch) -> list[Unread]:
        positions = self.positions(step, rows)
        chosen = (each.tolist() for each in (positions, *self.order(positions)))
        return [each for row, *example in zip(rows, *chosen, strict=True) for each in self._draw(out, row, *example)]

    def _draw(self, out: Batch, row: int, position: int, which: int, index: int) -> list[Unread]:
        rng = np.random.Generator(np.random.Philox(key=[self.augment_seed, position]))
        scale = sample_scale(rng, self.augment)  # first: what is shown small need not be decoded at full size

        def lay(image_hw: tuple[float, float]) -> Geometry:
            return sample_geometry(rng, image_hw, self.input_hw, scale, self.augment.flip)

        return self.write(out, row, which, index, math.ceil(max(self.input_hw) * scale), lay)


@dataclass(frozen=True)
class _Evaluation(_Examples):
    def __call__(self, step: int, rows: range, out: Batch) -> list[Unread]:
        indices = self.positions(step, rows).tolist()
        return [each for row, index in zip(rows, indices, strict=True) for each in self._show(out, row, index)]

    def _show(self, out: Batch, row: int, index: int) -> list[Unread]:
        content_hw = out["content_hw"][row]
        content_hw[:] = 0

        def lay(image_hw: tuple[float, float]) -> Geometry:
            geometry = letterbox_geometry(image_hw, self.input_hw)
            content_hw[:] = geometry.y.out_length, geometry.x.out_length
            return geometry

        if index < len(self.sources[0].images):
            return self.write(out, row, 0, index, 0, lay)
        self.write_blank(out, row, -1)
        return []


def batch_like(
    kinds: Mapping[str, LabelKind], *, input_hw: tuple[int, int], batch_size: int, map_stride: int = TRAIN_MAP_STRIDE
) -> Batch:
    """A batch with the shapes and types of those of `train_batches`; all its examples are the same blank."""

    def repeat(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: repeat(value) for key, value in node.items()}
        return np.broadcast_to(node, (batch_size, *np.shape(node)))  # takes no memory

    return repeat(_blank(-1, kinds, input_hw, map_stride))


def map_hw_of(input_hw: tuple[int, int], map_stride: int = TRAIN_MAP_STRIDE) -> tuple[int, int]:
    """Rows and columns of maps of the whole input."""
    return input_hw[0] // map_stride, input_hw[1] // map_stride


def _blank(index: int, kinds: Mapping[str, LabelKind], input_hw: tuple[int, int], map_stride: int) -> Example:
    map_hw = map_hw_of(input_hw, map_stride)
    return {
        "image": np.zeros((*input_hw, 3), np.uint8),
        "mask": np.float32(0),
        "index": np.int32(index),
        "labels": {task: kind.absent(map_hw) for task, kind in kinds.items()},
    }


def _write(out: Batch, row: int, example: Example) -> None:
    for name in ("image", "mask", "index"):
        out[name][row] = example[name]
    for task, label in example["labels"].items():
        arrays = out["labels"][task]
        for name, value in label.items():
            arrays[name][row] = value


def label_of(source: Source, task: str, index: int) -> Label | None:
    """The first label of the task that is present, if any."""
    for column in source.columns:
        if column.task == task and (label := column[index])["present"]:
            return label
    return None


def _check(sources: Sequence[Source], kinds: Mapping[str, LabelKind]) -> None:
    for source in sources:
        for column in source.columns:
            what = f"the '{column.task}' labels of {source.images.name}"
            if len(column) < len(source.images):
                raise UserError(
                    f"{what} cover {len(column)} of {len(source.images)} images; label the rest, or set take"
                )
            kind = kinds.get(column.task, column.kind)
            if kind.layout() != column.kind.layout():
                raise UserError(
                    f"{what} are {column.kind}, but the model's are {kind}; use other labels or other classes"
                )
