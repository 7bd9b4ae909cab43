"""All teachers label an image set in one pass, shard by shard.

Three steps run concurrently, a few batches apart: threads or processes read images, one thread feeds the devices, and
threads or processes turn predictions into records, which are written in the order of the images and committed as shards
fill up.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from must_jax.config import InputConfig
from must_jax.cores import ahead, cores, divided
from must_jax.data.fitting import Example
from must_jax.data.image_sets import ImageSet
from must_jax.data.kinds import Label
from must_jax.data.layout import Layout
from must_jax.data.letterbox import Content
from must_jax.data.prefetch import Begin, makers
from must_jax.errors import UserError, told
from must_jax.inputs import feeding
from must_jax.labelling.asking import KEYS, Answer, ask, batches_ahead, read, readers, rows_of
from must_jax.labels.writer import ColumnWriter, Encoded, Shard
from must_jax.progress import Progress
from must_jax.tasks.base import NumpyArrays, Task
from must_jax.teachers.base import Teacher

MAX_BAD_SHARE, MAX_BAD = 0.1, 100  # if more images than both cannot be labelled, the run ends
_DEFAULT = InputConfig()


@dataclass(frozen=True)
class Column:
    """One teacher's column for one task, with this run's rule. `missing` are the shards to write."""

    task: Task
    writer: ColumnWriter
    missing: frozenset[int]


@dataclass(frozen=True)
class Writing:
    """A teacher and its columns."""

    teacher: Teacher
    columns: Sequence[Column]

    def is_asked(self, shard: int) -> bool:
        return any(shard in column.missing for column in self.columns)


@dataclass(frozen=True)
class Unlabelled:
    """Takes the place of a label and says why there is none."""

    reason: str


class Chunk(NamedTuple):
    """Positions of the images of one batch. All are in one shard, so its contents do not depend on other shards."""

    shard: int
    positions: range


class Failure(NamedTuple):
    """An image without a label in some column, and why."""

    name: str
    reason: str


class Failures:
    """Counts the images that cannot be labelled, including those in written shards; too many end the run.

    Each of several workers counts its own shards and those that others had written when it started.
    """

    def __init__(self, images: str, columns: Sequence[Column], to_write: Collection[int]) -> None:
        written = [column.writer.written() for column in columns]
        shard_range, covered = columns[0].writer.manifest.shard_range, {*to_write}.union(*written)
        self._before = {(i, image.name) for shards in written for i, shard in shards.items() for image in shard.absent}
        self._images, self._count = images, len(self._before)
        self._most = max(MAX_BAD, MAX_BAD_SHARE * sum(len(shard_range(shard)) for shard in covered))

    def add(self, shard: int, failed: Sequence[Failure]) -> None:
        """Raises UserError if there are too many."""
        self._count += sum((shard, failure.name) not in self._before for failure in failed)
        if failed and self._count > self._most:
            raise UserError(
                f"{self._count} images of {self._images} cannot be labelled, e.g. {': '.join(failed[-1])}; "
                "repair this, then the same command continues with the missing shards"
            )


Entry = Encoded | Unlabelled | None  # a column's entry for an image; None: its shard is already written
Entries = tuple[Sequence[Example], Sequence[Sequence[Entry]]]  # for a chunk; by image, then by column


class Labelled(NamedTuple):
    """How many images had to be read, and the seconds that it took after those in which workers started."""

    images: int
    seconds: float
    start_seconds: float

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.images else 0.0


def warm_up(writings: Sequence[Writing], batch_size: int) -> float:
    """Compiles the teachers that have work to do. Returns the time it took, in seconds."""
    began = time.monotonic()
    for writing in writings:
        if any(column.missing for column in writing.columns):
            writing.teacher.warm_up(batch_size)
    return time.monotonic() - began


def label(images: ImageSet, writings: Sequence[Writing], batch_size: int, config: InputConfig = _DEFAULT) -> Labelled:
    """Writes the missing shards of all columns.

    An image that cannot be read, or that a teacher fails on, has no label in the affected columns.

    Args:
      config: workers, and memory for batches ahead. It does not change the labels.

    Raises:
      UserError: too many such images, including those in existing shards; a shard in which none can be labelled.
      WorkerLost: a worker process has ended.
    """
    columns = [column for writing in writings for column in writing.columns]
    manifest = columns[0].writer.manifest  # all columns have the same shards
    ranges = {shard: manifest.shard_range(shard) for shard in sorted(frozenset().union(*(c.missing for c in columns)))}
    chunks = [
        Chunk(shard, positions[start : start + batch_size])
        for shard, positions in ranges.items()
        for start in range(0, len(positions), batch_size)
    ]
    if not chunks:
        return Labelled(0, 0.0, 0.0)
    workers = feeding.reading(config).workers or 0
    total, failures = sum(map(len, ranges.values())), Failures(images.name, columns, ranges)
    teachers, positions = [writing.teacher for writing in writings], [chunk.positions for chunk in chunks]
    count, began = batches_ahead(teachers, batch_size, config.prefetch_bytes), time.monotonic()
    with (
        Progress(f"labelling {images.name}", total) as progress,
        ThreadPoolExecutor(1) as feeder,  # ends last: it may be waiting for the others
        readers(images, positions, teachers, batch_size, workers) as reading,
        _encoders(writings, batch_size, workers) as encoding,
    ):
        for started in [begin(0, [range(0)] * cores()) for begin in (reading, encoding)]:
            started()
        start_seconds, began = time.monotonic() - began, time.monotonic()
        asked = ([writing.is_asked(chunk.shard) for writing in writings] for chunk in chunks)
        answers = ask(teachers, read(reading, positions, count), asked)
        fed = ahead(chunks, lambda _: feeder.submit(next, answers).result, count)
        entries = ahead(
            zip(chunks, fed, strict=True), lambda e: _begin_encoding(encoding, writings, e[0].shard, *e[1]), count
        )
        for shard, group in itertools.groupby(zip(chunks, entries, strict=True), key=lambda each: each[0].shard):
            with contextlib.ExitStack() as stack:
                shards = [stack.enter_context(c.writer.shard(shard)) if shard in c.missing else None for c in columns]
                bad: list[Failure] = []
                for _, (examples, rows) in group:
                    bad += (failed := _write(shards, examples, rows))
                    failures.add(shard, failed)
                    progress.advance(len(examples))
                if len(bad) == len(ranges[shard]) > 1:  # not the images' fault; nothing is committed
                    raise UserError(
                        f"none of {len(bad)} images of {images.name} in a row can be labelled, "
                        f"e.g. {': '.join(bad[-1])}; repair this, then the same command continues"
                    )
        return Labelled(total, time.monotonic() - began, start_seconds)


def _encoders(
    writings: Sequence[Writing], batch_size: int, workers: int
) -> contextlib.AbstractContextManager[Begin[list[Entry]]]:
    """A context in which predictions become what columns store, see `_begin_encoding`."""
    teachers = [writing.teacher for writing in writings]
    columns = [(number, column) for number, writing in enumerate(writings) for column in writing.columns]
    encoder = _Encoder([(n, teachers[n].name, c.task, c.writer.encode) for n, c in columns])
    like: dict[str, Any] = {}
    if workers:  # threads take the arrays as they are
        rows = rows_of(teachers, batch_size)
        like = {
            "wanted": np.empty((rows, len(columns)), bool),
            "content": {number: np.empty((rows, 2)) for number in range(len(teachers))},
            "predictions": {n: teachers[n].answers(rows) for n, column in columns if column.missing},
        }
    return makers(encoder, Layout(like), workers, cores(), KEYS)


def _begin_encoding(
    begin: Begin[list[Entry]],
    writings: Sequence[Writing],
    shard: int,
    examples: Sequence[Example],
    answers: Sequence[Answer],
) -> Callable[[], Entries]:
    # By image, then by column: why there is no label; "" if there may be one, None if its shard is already written.
    reasons = [
        [
            (example.error or answer.errors.get(row, "")) if shard in column.missing else None
            for writing, answer in zip(writings, answers, strict=True)
            for column in writing.columns
        ]
        for row, example in enumerate(examples)
    ]
    given = {
        "wanted": np.array([[reason == "" for reason in row] for row in reasons]),
        "content": {
            number: np.array([_content(example, writing.teacher) for example in examples])
            for number, writing in enumerate(writings)
        },
        "predictions": {number: each.predictions for number, each in enumerate(answers) if each.predictions},
    }
    encoded = begin(0, divided(len(examples), cores()), given)

    def entries() -> Entries:
        rows = zip(reasons, encoded()[1], strict=True)
        return examples, [
            [Unlabelled(reason) if reason else entry for reason, entry in zip(*row, strict=True)] for row in rows
        ]

    return entries


def _content(example: Example, teacher: Teacher) -> Content:
    placed = example.placed.get(teacher.input)
    return teacher.content(placed) if placed else (0.0, 0.0)


@dataclass(frozen=True)
class _Encoder:
    """Turns predictions into what columns store; see `prefetch.Maker`.

    Attributes:
      columns: of each, the number of its teacher, that one's name, the task, and what encodes a label.
    """

    columns: Sequence[tuple[int, str, Task, Callable[[Label], Encoded]]]

    def __call__(self, _: int, rows: range, given: Mapping[str, Any], /) -> list[list[Entry]]:
        return [
            [
                self._entry(number, given, row) if wanted else None
                for number, wanted in enumerate(given["wanted"][row].tolist())
            ]
            for row in rows
        ]

    def _entry(self, number: int, given: Mapping[str, Any], row: int) -> Entry:
        teacher, name, task, encode = self.columns[number]
        prediction = {field: values[row] for field, values in given["predictions"][teacher][task.name].items()}
        height, width = given["content"][teacher][row].tolist()
        try:
            return encode(_label(task, prediction, (height, width)))
        except Exception as error:
            return Unlabelled(f"{name}: {told(error)}")


def _label(task: Task, prediction: NumpyArrays, content: Content) -> Label:
    """The pseudo label of one image.

    Raises:
      FloatingPointError: the teacher's prediction contains NaN or infinity.
    """
    for name, values in prediction.items():
        if not np.isfinite(values).all():
            raise FloatingPointError(f"its {name} has non-finite values")
    return task.label.cut_padding(task.pseudo_label(prediction), content)


def _write(
    shards: Sequence[Shard | None], examples: Sequence[Example], rows: Sequence[Sequence[Entry]]
) -> list[Failure]:
    """Adds a chunk to the shards of all columns."""
    failed = {}
    for index, (example, row) in enumerate(zip(examples, rows, strict=True)):
        for shard, entry in zip(shards, row, strict=True):
            match shard, entry:
                case Shard(), Encoded():
                    shard.add_encoded(example.name, entry)
                case Shard(), Unlabelled(reason):
                    shard.skip(example.name, reason)
                    failed[index] = Failure(example.name, reason)
    return list(failed.values())
