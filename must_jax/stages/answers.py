"""Predictions of teachers: each image is read and decoded once for all of them, and the devices never wait."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

import jax
import numpy as np

from must_jax.cores import ahead, spread
from must_jax.data.augment import apply as place
from must_jax.data.augment import letterbox_geometry
from must_jax.data.decoding import decode_reduced
from must_jax.data.image_sets import ImageSet
from must_jax.errors import UserError
from must_jax.trained import Predictions, Trained

AHEAD = 2  # batches by which one step of the work runs ahead of the next
IN_FLIGHT = 2  # batches on the devices: one being computed, one being fetched


@dataclass(frozen=True)
class Example:
    """An image that was read, or the reason why it cannot be.

    Attributes:
      content_hw: by input side in pixels, the height and width that the image fills, from the top left corner.
    """

    name: str
    content_hw: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    error: str = ""


class Batch(NamedTuple):
    """Images as the teachers see them.

    Attributes:
      inputs: by side in pixels, u8[rows, side, side, 3]; zeros where there is no image, so that shapes never change.
    """

    examples: Sequence[Example]
    inputs: Mapping[int, np.ndarray]


@dataclass(frozen=True)
class Answer:
    """One teacher's predictions for one batch; None if it was not run. `errors`: row -> why it failed there."""

    predictions: Predictions = field(default_factory=dict)
    errors: Mapping[int, str] = field(default_factory=dict)


def blank(model: Trained, batch_size: int) -> np.ndarray:
    """u8[rows, size, size, 3], zeros; at least `batch_size` rows, rounded up to what the devices can share evenly."""
    return np.zeros((batch_size + -batch_size % model.mesh.size, model.image_size, model.image_size, 3), np.uint8)


def told(error: Exception) -> str:
    """The error in one line, for messages about a missing label."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def read(
    pool: ThreadPoolExecutor, images: ImageSet, chunks: Iterable[range], models: Sequence[Trained], batch_size: int
) -> Iterator[Batch]:
    """The images of each chunk of positions, at most `batch_size` of them; `pool` reads them ahead."""

    def begin(positions: range) -> Callable[[], Batch]:
        inputs = {model.image_size: blank(model, batch_size) for model in models}

        def draw(rows: range) -> list[Example]:
            return [_draw(images, positions[row], {size: batch[row] for size, batch in inputs.items()}) for row in rows]

        examples = spread(pool, len(positions), draw)
        return lambda: Batch(examples(), inputs)

    return ahead(chunks, begin, AHEAD)


def _draw(images: ImageSet, position: int, inputs: Mapping[int, np.ndarray]) -> Example:
    """Puts an image into the inputs, u8[size, size, 3] by size."""
    name = f"{images.name}[{position}]"
    try:
        record = images.record(position)
        name = record["name"]
        image, image_hw = decode_reduced(record["image"], max(inputs))
    except Exception as error:  # one broken record must not end a run of days
        return Example(name, error=told(error))
    geometries = {size: letterbox_geometry(image_hw, size) for size in inputs}
    for size, geometry in geometries.items():
        inputs[size][:] = place(geometry, image, {}, {}, map_size=0)[0]
    return Example(name, {size: (g.y.out_length, g.x.out_length) for size, g in geometries.items()})


def ask(
    models: Sequence[Trained], batches: Iterable[Batch], wanted: Iterable[Sequence[bool]]
) -> Iterator[tuple[Sequence[Example], list[Answer]]]:
    """The predictions of the models for each batch, fetched once the devices have the next batch.

    Programs over several devices must be launched in the same order on all of them, so only one thread may iterate.

    Args:
      wanted: for each batch, which models are run.
    """

    def begin(batch: Batch, asked: Sequence[bool]) -> Callable[[], tuple[Sequence[Example], list[Answer]]]:
        begun = [
            _begin(model, batch.inputs[model.image_size], len(batch.examples)) if a else Answer
            for model, a in zip(models, asked, strict=True)
        ]
        return lambda: (batch.examples, [answer() for answer in begun])

    return ahead(zip(batches, wanted, strict=True), lambda each: begin(*each), IN_FLIGHT - 1)


def _begin(model: Trained, inputs: np.ndarray, count: int) -> Callable[[], Answer]:
    """Starts the model on the first `count` rows. If it fails on them, it is run row by row."""
    try:
        begun = model.dispatch(inputs)
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
