"""The pictures of a report: what finished models say about images whose truth is known, beside that truth."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from must_jax import trained
from must_jax.config import LabelConfig, SourceConfig, TrainConfig
from must_jax.cores import ahead, cores
from must_jax.data.augment import letterbox_geometry, resized
from must_jax.data.batching import Source, label_of
from must_jax.data.decoding import decode_image
from must_jax.data.image_sets import evenly_spread, open_images
from must_jax.data.kinds import Label
from must_jax.data.letterbox import content_of
from must_jax.data.shards import COLUMNS
from must_jax.engine.mesh import setup_devices
from must_jax.errors import UserError
from must_jax.inputs.sources import TRUTH, open_source
from must_jax.labelling.finished import finished_columns
from must_jax.labels.columns import open_column
from must_jax.labels.summary import summarize
from must_jax.progress import Progress, say
from must_jax.report.gallery import opened, thumbnail
from must_jax.report.html import Gallery
from must_jax.runs import results
from must_jax.runs.entries import Entry
from must_jax.tasks import build_task
from must_jax.tasks.base import Task
from must_jax.trained import Trained

PICTURES = 6  # images in a gallery
LOOKED_AT = 120  # images of a set, if not all are labelled
SEED = 0  # of the sample in which the worst and best images are looked for
_READERS = 8  # threads, at most: a large photo and its labels take hundreds of megabytes


@dataclass
class Shown:
    """Galleries, those of the worst and best images, and why there are no others."""

    galleries: list[Gallery] = field(default_factory=list)
    extremes: list[Gallery] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def trying(self) -> Iterator[None]:
        """What is gone or damaged meanwhile is told, and ends no report."""
        try:
            yield
        except UserError as error:
            if (why := str(error)) not in self.missing:
                self.missing.append(why)
                say(f"not shown in the report: {why}")


class Truth(NamedTuple):
    """Images with true labels of a task, and in a sentence what they are."""

    note: str
    source: Source


class Example(NamedTuple):
    """An image that could be read, with its true label."""

    position: int
    image: np.ndarray
    label: Label


def collect(runs: Sequence[Entry], ranked_images: int) -> Shown:
    """Pictures of everything that is finished.

    A gallery per task shows the truth beside each model's prediction; before them, one per model of several tasks shows
    all of its tasks. The worst and best images of a task are those of its last model, preferably one of several tasks.

    Args:
      ranked_images: how many images of a task that model is asked about for this; 0 = no model is run at all.
    """
    shown = Shown()
    for run in runs:
        if isinstance(run.config, LabelConfig):
            with shown.trying():
                shown.galleries += _labelled(run)
    training = [run for run in runs if isinstance(run.config, TrainConfig)] if ranked_images else []
    if training:
        setup_devices(max(run.config.devices for run in training))
    models: dict[str, Trained] = {}
    for run in training:
        if results.finished(run.workdir):
            with shown.trying():
                models[run.name] = trained.load(run.workdir)
    truths: dict[str, Truth] = {}
    for run, task in ((each, task) for each in training for task in each.config.tasks):
        if task not in truths and any(task in model.tasks for model in models.values()):
            with shown.trying():
                truths |= _truth(run.config, task)
    for task, truth in truths.items():
        able = {name: model for name, model in models.items() if task in model.tasks}
        with shown.trying():
            shown.galleries.append(_beside_truth(task, truth, able))
            name = max(reversed(able), key=lambda name: len(able[name].tasks) > 1)
            shown.extremes += _extremes(name, able[name], able[name].tasks[task], truth.source, ranked_images)
    for name, model in reversed(models.items()):
        if len(model.tasks) > 1 and truths:
            with shown.trying():
                shown.galleries.insert(0, _together(name, model, [truth.source for truth in truths.values()]))
    return shown


def _truth(config: TrainConfig, task: str) -> dict[str, Truth]:
    """Images with true labels by task, held-out ones if there are any."""
    choices: list[tuple[str, SourceConfig]] = [
        ("Held-out images", each) for each in config.validation if not each.tasks or task in each.tasks
    ]
    true = {"labels": (TRUTH,), "min_confidence": {}}
    choices += [("Training images", each.model_copy(update=true)) for each in config.train if TRUTH in each.labels]
    for what, chosen in choices:
        source = open_source(chosen, config.data_dir, [task])
        if source.columns:
            return {task: Truth(f"{what} of {chosen.images}, labelled by the rules for pseudo labels.", source)}
    return {}


def _beside_truth(task: str, truth: Truth, able: Mapping[str, Trained]) -> Gallery:
    draws = next(iter(able.values())).tasks[task]
    read = _labelled_examples(truth.source.in_units_of({task: draws.label}), task)
    pictures = [draws.draw(each.image, each.label) for each in read]
    rows = {"image": [each.image for each in read], "ground truth": pictures}
    rows |= {name: [_drawn(model, each.image)[task] for each in read] for name, model in able.items()}
    return Gallery(task, truth.note, _thumbnails(rows))


def _together(name: str, model: Trained, sources: Sequence[Source]) -> Gallery:
    """All tasks of a model, on one image of each set in turn: several tasks may have the same set."""
    sets = {source.images.name: source for source in sources}.values()
    each = ([(source, i) for i in evenly_spread(len(source.images), PICTURES)] for source in sets)
    chosen = [place for places in itertools.zip_longest(*each) for place in places if place is not None][:PICTURES]
    images = [image for source, i in chosen if not isinstance(image := opened(source.images, i), str)]
    drawn = [_drawn(model, image) for image in images]
    rows = {"image": images} | {task: [pictures[task] for pictures in drawn] for task in model.tasks}
    return Gallery(f"{name}, all tasks at once", "One pass of one network.", _thumbnails(rows))


def _extremes(name: str, model: Trained, task: Task, source: Source, ranked_images: int) -> Iterator[Gallery]:
    """The worst images and the best ones of the sample; none if all are equal."""
    source = source.in_units_of({task.name: task.label})
    ranked = _ranked(model, task, source, ranked_images)
    worst = [each for each in ranked if each[0] < ranked[-1][0]][:PICTURES]
    best = [each for each in reversed(ranked) if each[0] > ranked[0][0]][:PICTURES]
    for which, end, some in (("worst", "lowest", worst), ("best", "highest", best)):
        if not some:
            return
        values = {position: value for value, position in some}
        read = [each for each in _examples(source, task.name, list(values)) if each]
        rows = {
            "image": [each.image for each in read],
            "ground truth": [task.draw(each.image, each.label) for each in read],
            name: [_drawn(model, each.image)[task.name] for each in read],
        }
        drawn = ", drawn at random," if ranked_images < len(source.images) else ""
        note = f"Of {len(ranked)} images of {source.images.name}{drawn} those with the {end} {task.metric}."
        of = [f"{task.metric} {values[each.position]:.3g}, {source.images.name_of(each.position)}" for each in read]
        yield Gallery(f"{task.name}: {which} of {name}", note, _thumbnails(rows), of)


def _ranked(model: Trained, task: Task, source: Source, ranked_images: int) -> list[tuple[float, int]]:
    """(headline metric of the image alone, its position), ascending; without images that have nothing to find."""
    count = min(ranked_images, len(source.images))
    positions = np.sort(np.random.default_rng(SEED).choice(len(source.images), count, replace=False)).tolist()
    ranked = []
    with Progress(f"{model.workdir.name}: looking for the worst and best of {task.name}", count) as progress:
        for read in _examples(source, task.name, positions):
            if read is not None and not summarize(task.label, read.label).empty:
                ranked.append((_value(model, task, read), read.position))
            progress.advance()
    return sorted(ranked)


def _value(model: Trained, task: Task, example: Example) -> float:
    geometry = letterbox_geometry(example.image.shape[:2], model.input_hw)
    fitted = resized(geometry, example.image)
    content = content_of((geometry.y.out_length, geometry.x.out_length), model.input_hw)
    prediction = {key: value[0] for key, value in model.predict_batch(fitted[None])[task.name].items()}
    metrics = task.metrics()
    metrics.update(task.in_frame_of(example.label, prediction, content), example.label)
    return metrics.result()[task.metric]


def _examples(source: Source, task: str, positions: Sequence[int]) -> Generator[Example | None]:
    """The labelled images at these positions, read ahead by threads; None where there is no label, or it is broken."""

    def read(position: int) -> Example | None:
        try:
            if (label := label_of(source, task, position)) is None:
                return None
            return Example(position, decode_image(source.images.record(position)["image"]), label)
        except Exception:  # one record, however broken, must not end a report
            return None

    readers = min(cores(), _READERS)
    with ThreadPoolExecutor(readers) as pool:
        yield from ahead(positions, lambda position: pool.submit(read, position).result, readers)


def _labelled_examples(source: Source, task: str) -> list[Example]:
    """Up to `PICTURES` labelled images; where few are labelled, they are looked for in more of the set."""
    count = len(source.images)
    positions = dict.fromkeys(itertools.chain(evenly_spread(count, PICTURES), evenly_spread(count, LOOKED_AT)))
    with contextlib.closing(_examples(source, task, list(positions))) as read:
        found = itertools.islice((example for example in read if example), PICTURES)
        return sorted(found, key=lambda example: example.position)


def _labelled(run: Entry) -> Iterator[Gallery]:
    """Images with the labels of each column that a label run has finished."""
    folders = [run.workdir / COLUMNS / name for name in finished_columns(run.workdir)]
    if not folders:
        return
    images = open_images(run.config.images, run.config.data_dir, run.config.take)
    columns = [open_column(folder, images) for folder in folders]
    positions = evenly_spread(len(images), PICTURES)
    found = {position: photo for position in positions if not isinstance(photo := opened(images, position), str)}
    rows = {"image": [*found.values()]}
    for column in columns:
        task = build_task(column.task, column.classes, column.manifest.options)
        rows[column.folder.name] = [
            task.draw(photo, label) if (label := column[position])["present"] else np.full_like(photo, 128)
            for position, photo in found.items()
        ]
    yield Gallery(f"{run.name}: pseudo labels", f"Images of {images.name}. None of this is truth.", _thumbnails(rows))


def _drawn(model: Trained, image: np.ndarray) -> dict[str, np.ndarray]:
    return {task: model.tasks[task].draw(image, label) for task, label in model.predict(image).items()}


def _thumbnails(rows: Mapping[str, list[np.ndarray]]) -> dict[str, list[np.ndarray]]:
    return {heading: [thumbnail(image) for image in images] for heading, images in rows.items()}
