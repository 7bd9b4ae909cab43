"""Predictions of teachers: each image is read and decoded once for all of them, and the devices never wait."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from must_jax.cores import ahead, cores, divided
from must_jax.data.image_sets import ImageSet
from must_jax.data.inputs import Example, Reader
from must_jax.data.layout import Layout
from must_jax.data.prefetch import Begin, makers
from must_jax.engine.mesh import put_batch
from must_jax.errors import told
from must_jax.trained import Predictions, Trained

AHEAD = 2  # batches by which one step of the work runs ahead of the next, if the memory suffices
IN_HAND = 2  # images for each thread: one that it works on, and the next one
KEYS = "config.input.workers, config.input.prefetch_bytes or config.batch_size"  # to lower if workers are killed
IN_FLIGHT = 2  # batches on the devices: one being computed, one being fetched


class Batch(NamedTuple):
    """Images as the teachers see them.

    Attributes:
      inputs: by side in pixels, u8[rows, side, side, 3]; zeros where there is no image, so that shapes never change.
    """

    inputs: Mapping[int, np.ndarray]
    examples: Sequence[Example]


@dataclass(frozen=True)
class Answer:
    """One teacher's predictions for one batch; None if it was not run. `errors`: row -> why it failed there."""

    predictions: Predictions = field(default_factory=dict)
    errors: Mapping[int, str] = field(default_factory=dict)


def blank(model: Trained, batch_size: int) -> np.ndarray:
    """u8[rows, size, size, 3], zeros; at least `batch_size` rows, rounded up to what the devices can share evenly."""
    return np.zeros((batch_size + -batch_size % model.mesh.size, model.image_size, model.image_size, 3), np.uint8)


def batches_ahead(models: Sequence[Trained], batch_size: int, prefetch_bytes: int) -> int:
    """How many batches one step may run ahead of the next: images before the devices, predictions behind them twice."""
    rows = len(blank(models[0], batch_size))
    inputs = Layout({model.image_size: blank(model, batch_size) for model in models}).bytes
    answers = Layout({number: model.answers(rows) for number, model in enumerate(models)}).bytes
    wanted = max(AHEAD, -(-IN_HAND * cores() // rows))  # so that no thread waits for small batches
    return max(1, min(wanted, prefetch_bytes // (inputs + 2 * answers)))


def readers(
    images: ImageSet, chunks: Sequence[range], models: Sequence[Trained], batch_size: int, workers: int = 0
) -> contextlib.AbstractContextManager[Begin[Example]]:
    """A context in which the images of each chunk of positions, at most `batch_size` of them, can be read.

    Args:
      workers: processes that read; 0 = threads of this one.
    """
    inputs = {model.image_size: blank(model, batch_size) for model in models}
    return makers(Reader(images, chunks), Layout(inputs), workers, cores(), KEYS)


def read(begin: Begin[Example], chunks: Sequence[range], count: int = AHEAD) -> Iterator[Batch]:
    """The batches of `readers`, `count` of them read ahead."""

    def begun(number: int) -> Callable[[], Batch]:
        made = begin(number, divided(len(chunks[number]), cores()))
        return lambda: Batch(*made())

    return ahead(range(len(chunks)), begun, count)


def ask(
    models: Sequence[Trained], batches: Iterable[Batch], wanted: Iterable[Sequence[bool]]
) -> Iterator[tuple[Sequence[Example], list[Answer]]]:
    """The predictions of the models for each batch, fetched once the devices have the next batch.

    Programs over several devices must be launched in the same order on all of them, so only one thread may iterate.

    Args:
      wanted: for each batch, which models are run.
    """

    def begin(batch: Batch, asked: Sequence[bool]) -> Callable[[], tuple[Sequence[Example], list[Answer]]]:
        sent: dict[tuple[int, Mesh], jax.Array] = {}  # each size once for all teachers

        def send(model: Trained) -> jax.Array:
            size, mesh = model.image_size, model.mesh
            if (size, mesh) not in sent:
                sent[size, mesh] = put_batch(mesh, batch.inputs[size])
            return sent[size, mesh]

        begun = [
            _begin(model, send, batch.inputs[model.image_size], len(batch.examples)) if a else Answer
            for model, a in zip(models, asked, strict=True)
        ]
        return lambda: (batch.examples, [answer() for answer in begun])

    return ahead(zip(batches, wanted, strict=True), lambda each: begin(*each), IN_FLIGHT - 1)


def _begin(
    model: Trained, send: Callable[[Trained], jax.Array], inputs: np.ndarray, count: int
) -> Callable[[], Answer]:
    """Starts the model on the first `count` rows. If it fails on them, it is run row by row."""
    try:
        begun = model.dispatch(send(model))
        jax.tree.map(lambda x: x.copy_to_host_async(), begun)
    except Exception:  # either caused by these images, or it recurs and soon ends the run
        return lambda: _ask_one_by_one(model, inputs, count)

    def answer() -> Answer:
        try:
            return Answer(jax.device_get(begun))
        except Exception:  # it may be raised only now
            return _ask_one_by_one(model, inputs, count)

    return answer


def _ask_one_by_one(model: Trained, inputs: np.ndarray, count: int) -> Answer:
    predictions: dict[int, Predictions] = {}
    errors = {}
    for row in range(count):
        alone = np.zeros_like(inputs)  # at its own position, the row gets the same prediction
        alone[row] = inputs[row]
        try:
            predictions[row] = jax.tree.map(itemgetter(row), jax.device_get(model.dispatch(alone)))
        except Exception as error:
            errors[row] = told(error)
    if not predictions:
        return Answer({}, errors)
    any_ = next(iter(predictions.values()))  # in place of those that failed
    rows = (predictions.get(row, any_) for row in range(count))
    return Answer(jax.tree.map(lambda *values: np.stack(values), *rows), errors)
