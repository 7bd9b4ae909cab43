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
import jax
import numpy as np

from must_jax.cores import cores
from must_jax.data.augment import apply as place
from must_jax.data.augment import letterbox_geometry
from must_jax.data.encodings import Label
from must_jax.data.image_sets import ImageSet, decode_reduced
from must_jax.errors import UserError
from must_jax.labels.letterbox import cut_padding
from must_jax.labels.writer import ColumnWriter, Shard
from must_jax.progress import Progress
from must_jax.tasks.base import Task
from must_jax.trained import Trained

MAX_BAD_SHARE, MAX_BAD = 0.1, 100  # more images than both of these that cannot be labelled end the run
CHUNKS_AHEAD = 2  # predicted or waiting for it while labels are written

Predictions = Mapping[str, Mapping[str, np.ndarray]]  # by task, with a leading batch axis


@dataclass(frozen=True)
class Answer:
    """What one teacher says about one batch: nothing if it was not asked. `errors`: row -> why it failed there."""

    predictions: Predictions = field(default_factory=dict)
    errors: Mapping[int, str] = field(default_factory=dict)


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

    An image that cannot be read, or that a teacher fails on, has no label in the columns concerned.

    Raises:
      UserError: too many such images.
    """
    columns = [column for teacher in teachers for column in teacher.columns]
    manifest = columns[0].writer.manifest  # all columns are cut into the same shards
    ranges = {shard: manifest.shard_range(shard) for shard in sorted(frozenset().union(*(c.missing for c in columns)))}
    chunks = [
        Chunk(shard, positions[start : start + batch_size])
        for shard, positions in ranges.items()
        for start in range(0, len(positions), batch_size)
    ]
    total, failed = sum(map(len, ranges.values())), []
    with Progress(f"labelling {images.name}", total) as progress:
        results = _predict(images, teachers, chunks, batch_size)
        for shard, group in itertools.groupby(results, key=lambda result: result[0].shard):
            with contextlib.ExitStack() as stack:
                shards = [stack.enter_context(c.writer.shard(shard)) if shard in c.missing else None for c in columns]
                for _, examples, answers in group:
                    failed += _write(teachers, shards, examples, answers)
                    if len(failed) > max(MAX_BAD, MAX_BAD_SHARE * total):
                        raise UserError(f"{len(failed)} images of {images.name} cannot be labelled, e.g. {failed[-1]}")
                    progress.advance(len(examples))
    return total


def _predict(
    images: ImageSet, teachers: Sequence[Teacher], chunks: Sequence[Chunk], batch_size: int
) -> Iterator[tuple[Chunk, list[Example], list[Answer]]]:
    """By chunk, the answers of the teachers.

    A thread feeds the devices, so that these go on with the next chunk while labels of the last one are written. Only
    one: programs over several devices must reach all of them in one order.
    """
    sizes = sorted({teacher.model.image_size for teacher in teachers})

    def predict(chunk: Chunk, examples: Sequence[Example]) -> list[Answer]:
        wanted = [any(chunk.shard in column.missing for column in teacher.columns) for teacher in teachers]
        inputs = {size: _stack(examples, size, batch_size) for size in sizes}
        return [
            _ask(t.model, inputs[t.model.image_size], len(examples)) if w else Answer()
            for t, w in zip(teachers, wanted, strict=True)
        ]

    pending: deque[tuple[Chunk, list[Example], Future[list[Answer]]]] = deque()
    with ThreadPoolExecutor(max_workers=1) as pool:
        for chunk, examples in zip(chunks, _read(images, chunks, sizes), strict=True):
            pending.append((chunk, examples, pool.submit(predict, chunk, examples)))
            if len(pending) > CHUNKS_AHEAD:
                done, read, future = pending.popleft()
                yield done, read, future.result()
        for done, read, future in pending:
            yield done, read, future.result()


def _ask(model: Trained, inputs: np.ndarray, count: int) -> Answer:
    """The answer to the first `count` rows. If the teacher fails on the batch, it is asked row by row."""
    try:
        return Answer(model.predict_batch(inputs))
    except Exception:  # whatever a teacher raises is about these images, or comes again and soon ends the run
        predictions, errors = [], {}
        for row in range(count):
            alone = np.zeros_like(inputs)  # in its place among others, the row has the same answer
            alone[row] = inputs[row]
            try:
                predictions.append(jax.tree.map(lambda x: x[row], model.predict_batch(alone)))  # noqa: B023
            except Exception as error:
                errors[row] = f"{type(error).__name__}: {error}"
                predictions.append(None)
        answered = [each for each in predictions if each is not None]
        if not answered:
            return Answer({}, errors)
        filled = [answered[0] if each is None else each for each in predictions]
        return Answer(jax.tree.map(lambda *rows: np.stack(rows), *filled), errors)


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
    teachers: Sequence[Teacher], shards: Sequence[Shard | None], examples: Sequence[Example], answers: Sequence[Answer]
) -> list[str]:
    """Adds the labels of one chunk to the shards; `shards` are in the order of teachers and their columns.

    Returns the images that have no label in some column, with the reason.
    """
    remaining, failed = iter(shards), {}
    for teacher, answer in zip(teachers, answers, strict=True):
        for column in teacher.columns:
            shard = next(remaining)
            if shard is None:
                continue
            for row, example in enumerate(examples):
                try:
                    reason = example.error or answer.errors.get(row, "")
                    label = None if reason else _label(teacher.model.image_size, column.task, answer, row, example)
                except Exception as error:
                    label, reason = None, f"{type(error).__name__}: {error}"
                if label is None:
                    shard.skip(example.name, reason)
                    failed[row] = f"{example.name}: {reason}"
                else:
                    shard.add(example.name, label)
    return list(failed.values())


def _label(image_size: int, task: Task, answer: Answer, row: int, example: Example) -> Label:
    """The pseudo label of one image.

    Raises:
      FloatingPointError: the teacher's answer has NaN or infinity in it.
    """
    prediction = {name: values[row] for name, values in answer.predictions[task.name].items()}
    for name, values in prediction.items():
        if not np.isfinite(values).all():
            raise FloatingPointError(f"the teacher's {name} has values that are not finite")
    return cut_padding(task.label, task.pseudo_label(prediction), example.content_hw[image_size], image_size)
