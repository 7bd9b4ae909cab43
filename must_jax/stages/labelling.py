"""All teachers pass over an image set at once: an image is read and decoded once, shards are committed as they fill."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import grain
import numpy as np

from must_jax.cores import cores
from must_jax.data.augment import apply as place
from must_jax.data.augment import letterbox_geometry
from must_jax.data.image_sets import ImageSet, decode_reduced
from must_jax.errors import UserError
from must_jax.labels.letterbox import cut_padding
from must_jax.labels.writer import ColumnWriter, Shard
from must_jax.progress import Progress
from must_jax.tasks.base import Task
from must_jax.trained import Trained

MAX_BAD_SHARE, MAX_BAD = 0.1, 100  # more images than both of these that cannot be read end the run
CHUNKS_AHEAD = 2  # predicted or waiting for it while labels are written

Predictions = Mapping[str, Mapping[str, np.ndarray]]  # by task, with a leading batch axis


@dataclass(frozen=True)
class Column:
    """What one teacher writes for one task, which has the rule of this run. `missing` are the shards to write."""

    task: Task
    writer: ColumnWriter
    missing: frozenset[int]


@dataclass(frozen=True)
class Teacher:
    model: Trained
    columns: Sequence[Column]


@dataclass(frozen=True)
class Example:
    """One image as the teachers see it, or why it cannot be read.

    Attributes:
      inputs: by side in pixels, u8[side, side, 3] with the image in the top left corner.
      content_hw: by side, the pixels of the input that the image fills.
    """

    name: str
    inputs: Mapping[int, np.ndarray] = field(default_factory=dict)
    content_hw: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Chunk:
    """Positions of the images of one batch. All are of one shard, so what it holds does not depend on the others."""

    shard: int
    positions: Sequence[int]


def warm_up(teachers: Sequence[Teacher], batch_size: int) -> float:
    """Compiles the teachers that have something to do. Returns the seconds that took."""
    began = time.monotonic()
    for teacher in teachers:
        if any(column.missing for column in teacher.columns):
            teacher.model.predict_batch(_stack([], teacher.model.image_size, batch_size))
    return time.monotonic() - began


def label(images: ImageSet, teachers: Sequence[Teacher], batch_size: int) -> int:
    """Writes the missing shards of all columns. Returns the number of images that had to be read.

    Raises:
      UserError: too many images cannot be read.
    """
    columns = [column for teacher in teachers for column in teacher.columns]
    manifest = columns[0].writer.manifest  # all columns are cut into the same shards
    ranges = {shard: manifest.shard_range(shard) for shard in sorted(frozenset().union(*(c.missing for c in columns)))}
    chunks = [
        Chunk(shard, positions[start : start + batch_size])
        for shard, positions in ranges.items()
        for start in range(0, len(positions), batch_size)
    ]
    total, errors = sum(map(len, ranges.values())), []
    with Progress(f"labelling {images.name}", total) as progress:
        results = _predict(images, teachers, chunks, batch_size)
        for shard, group in itertools.groupby(results, key=lambda result: result[0].shard):
            with contextlib.ExitStack() as stack:
                shards = [stack.enter_context(c.writer.shard(shard)) if shard in c.missing else None for c in columns]
                for _, examples, predictions in group:
                    _write(teachers, shards, examples, predictions)
                    errors += [f"{example.name}: {example.error}" for example in examples if example.error]
                    if len(errors) > max(MAX_BAD, MAX_BAD_SHARE * total):
                        raise UserError(f"{len(errors)} images of {images.name} cannot be read, e.g. {errors[-1]}")
                    progress.advance(len(examples))
    return total


def _predict(
    images: ImageSet, teachers: Sequence[Teacher], chunks: Sequence[Chunk], batch_size: int
) -> Iterator[tuple[Chunk, list[Example], list[Predictions]]]:
    """By chunk, the predictions of each teacher that has to label it, else none.

    A thread feeds the devices, so that these go on with the next chunk while labels of the last one are written. Only
    one: programs over several devices must reach all of them in one order.
    """
    sizes = sorted({teacher.model.image_size for teacher in teachers})

    def predict(chunk: Chunk, examples: Sequence[Example]) -> list[Predictions]:
        wanted = [any(chunk.shard in column.missing for column in teacher.columns) for teacher in teachers]
        inputs = {size: _stack(examples, size, batch_size) for size in sizes}
        return [
            t.model.predict_batch(inputs[t.model.image_size]) if w else {}
            for t, w in zip(teachers, wanted, strict=True)
        ]

    pending: deque[tuple[Chunk, list[Example], Future[list[Predictions]]]] = deque()
    with ThreadPoolExecutor(max_workers=1) as pool:
        for chunk, examples in zip(chunks, _read(images, chunks, sizes), strict=True):
            pending.append((chunk, examples, pool.submit(predict, chunk, examples)))
            if len(pending) > CHUNKS_AHEAD:
                done, read, future = pending.popleft()
                yield done, read, future.result()
        for done, read, future in pending:
            yield done, read, future.result()


def _read(images: ImageSet, chunks: Sequence[Chunk], sizes: Sequence[int]) -> Iterator[list[Example]]:
    """The examples of each chunk, read ahead by threads."""

    def read(chunk: Chunk) -> list[Example]:
        return [_example(images, position, sizes) for position in chunk.positions]

    threads = cores()
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(grain.MapDataset.source(chunks).map(read).to_iter_dataset(options))


def _example(images: ImageSet, position: int, sizes: Sequence[int]) -> Example:
    name = f"{images.name}[{position}]"
    try:
        record = images.record(position)
        name = record["name"]
        image, image_hw = decode_reduced(record["image"], max(sizes))
    except Exception as error:  # one record, broken in whatever way, must not end a run of days
        return Example(name, error=str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
    geometries = {size: letterbox_geometry(image_hw, size) for size in sizes}
    inputs = {size: place(geometry, image, {}, {}, map_size=0)[0] for size, geometry in geometries.items()}
    return Example(name, inputs, {size: (g.y.out_length, g.x.out_length) for size, g in geometries.items()})


def _stack(examples: Sequence[Example], size: int, batch_size: int) -> np.ndarray:
    """u8[batch_size, size, size, 3]; zeros where there is no image, so that shapes never change."""
    batch = np.zeros((batch_size, size, size, 3), np.uint8)
    for row, example in zip(batch, examples, strict=False):
        row[:] = example.inputs.get(size, 0)
    return batch


def _write(
    teachers: Sequence[Teacher],
    shards: Sequence[Shard | None],
    examples: Sequence[Example],
    predictions: Sequence[Predictions],
) -> None:
    """Adds the labels of one chunk to the shards; `shards` are in the order of teachers and their columns."""
    remaining = iter(shards)
    for teacher, predicted in zip(teachers, predictions, strict=True):
        size = teacher.model.image_size
        for column in teacher.columns:
            shard = next(remaining)
            if shard is None:
                continue
            for row, example in enumerate(examples):
                if example.error:
                    shard.skip(example.name, example.error)
                    continue
                prediction = {name: values[row] for name, values in predicted[column.task.name].items()}
                pseudo = column.task.pseudo_label(prediction)
                shard.add(cut_padding(column.task.label, pseudo, example.content_hw[size], size))
