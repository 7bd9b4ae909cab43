"""Predictions of teachers: each image is read and decoded once for all of them, and the devices never wait."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import numpy as np

from must_jax.cores import ahead, cores, divided
from must_jax.data.fitting import Example, Input, Reader
from must_jax.data.image_sets import ImageSet
from must_jax.data.layout import Layout
from must_jax.data.prefetch import Begin, makers
from must_jax.errors import told
from must_jax.teachers.base import Images, Predictions, Teacher

AHEAD = 2  # batches by which one step of the work runs ahead of the next, if the memory suffices
IN_HAND = 2  # images for each thread: one that it works on, and the next one
KEYS = "config.input.workers, config.input.prefetch_bytes or config.batch_size"  # to lower if workers are killed


class Batch(NamedTuple):
    """Images as the teachers see them.

    Attributes:
      inputs: by kind of input, u8[rows, height, width, 3]; zeros where there is no image, so that shapes never change.
    """

    inputs: Mapping[Input, np.ndarray]
    examples: Sequence[Example]


@dataclass(frozen=True)
class Answer:
    """One teacher's predictions for one batch; None if it was not run. `errors`: row -> why it failed there."""

    predictions: Predictions = field(default_factory=dict)
    errors: Mapping[int, str] = field(default_factory=dict)


def rows_of(teachers: Sequence[Teacher], batch_size: int) -> int:
    """Rows of the arrays that hold a batch for all of them."""
    return max(teacher.rows(batch_size) for teacher in teachers)


def in_flight(teachers: Sequence[Teacher]) -> int:
    """Batches that all of them are shown before the answers to the first one are awaited."""
    return max(teacher.in_flight for teacher in teachers)


def blanks(teachers: Sequence[Teacher], batch_size: int) -> dict[Input, np.ndarray]:
    """Zeros by kind of input: u8[rows, height, width, 3]."""
    rows = rows_of(teachers, batch_size)
    inputs = dict.fromkeys(teacher.input for teacher in teachers)
    return {each: np.zeros((rows, each.height, each.width, 3), np.uint8) for each in inputs}


def batches_ahead(teachers: Sequence[Teacher], batch_size: int, prefetch_bytes: int) -> int:
    """How many batches one step may run ahead of the next: images before the devices, predictions behind them twice."""
    rows = rows_of(teachers, batch_size)
    inputs = Layout(blanks(teachers, batch_size)).bytes
    answers = Layout({number: teacher.answers(rows) for number, teacher in enumerate(teachers)}).bytes
    wanted = max(AHEAD, -(-IN_HAND * cores() // rows))  # so that no thread waits for small batches
    return max(1, min(wanted, prefetch_bytes // (inputs + 2 * answers)))


def readers(
    images: ImageSet, chunks: Sequence[range], teachers: Sequence[Teacher], batch_size: int, workers: int = 0
) -> contextlib.AbstractContextManager[Begin[Example]]:
    """A context in which the images of each chunk of positions, at most `batch_size` of them, can be read.

    Args:
      workers: processes that read; 0 = threads of this one.
    """
    return makers(Reader(images, chunks), Layout(blanks(teachers, batch_size)), workers, cores(), KEYS)


def read(begin: Begin[Example], chunks: Sequence[range], count: int = AHEAD) -> Iterator[Batch]:
    """The batches of `readers`, `count` of them read ahead."""

    def begun(number: int) -> Callable[[], Batch]:
        made = begin(number, divided(len(chunks[number]), cores()))
        return lambda: Batch(*made())

    return ahead(range(len(chunks)), begun, count)


def ask(
    teachers: Sequence[Teacher], batches: Iterable[Batch], wanted: Iterable[Sequence[bool]]
) -> Iterator[tuple[Sequence[Example], list[Answer]]]:
    """The predictions of the teachers for each batch, fetched once all have begun with the next batch.

    Programs over several devices must be launched in the same order on all of them, so only one thread may iterate.

    Args:
      wanted: for each batch, which teachers are asked.
    """

    def begin(batch: Batch, asked: Sequence[bool]) -> Callable[[], tuple[Sequence[Example], list[Answer]]]:
        images = {
            kind: Images(pixels, [example.placed.get(kind) for example in batch.examples])
            for kind, pixels in batch.inputs.items()
        }
        begun = [
            _begin(teacher, images[teacher.input]) if a else Answer for teacher, a in zip(teachers, asked, strict=True)
        ]
        return lambda: (batch.examples, [answer() for answer in begun])

    return ahead(zip(batches, wanted, strict=True), lambda each: begin(*each), in_flight(teachers) - 1)


def _begin(teacher: Teacher, images: Images) -> Callable[[], Answer]:
    """Shows the teacher a batch. If it fails on it, it is asked image by image."""
    try:
        begun = teacher.begin(images)
    except Exception:  # either caused by these images, or it recurs and soon ends the run
        return lambda: _ask_one_by_one(teacher, images)

    def answer() -> Answer:
        try:
            return Answer(begun())
        except Exception:  # it may be raised only now
            return _ask_one_by_one(teacher, images)

    return answer


def _ask_one_by_one(teacher: Teacher, images: Images) -> Answer:
    predictions: dict[int, Predictions] = {}
    errors = {}
    for row, placed in enumerate(images.placed):
        if placed is None:
            continue
        try:
            predictions[row] = teacher.alone(images, row)
        except Exception as error:
            errors[row] = f"{teacher.name}: {told(error)}"
    if not predictions:
        return Answer({}, errors)
    any_ = next(iter(predictions.values()))  # in place of those that failed
    rows = (predictions.get(row, any_) for row in range(len(images.placed)))
    return Answer(jax.tree.map(lambda *values: np.stack(values), *rows), errors)
