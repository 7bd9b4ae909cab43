"""Imports true labels as columns, after checking what the config declares about them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import must_jax
from must_jax import files
from must_jax.config import PrepareConfig, TruthConfig
from must_jax.data.image_sets import ImageSet
from must_jax.data.shards import COLUMNS
from must_jax.errors import UserError
from must_jax.labels import manifest, truth
from must_jax.labels.formats import FORMATS, build_format
from must_jax.labels.formats.base import Format, Placed, shape
from must_jax.labels.manifest import ImagesRecord, Manifest, SourceRecord
from must_jax.labels.told import told
from must_jax.progress import say
from must_jax.tasks import TASKS, build_task, check_options

SHARD_IMAGES = 1024


def check(labels: Mapping[str, TruthConfig]) -> None:
    """Checks `labels`, task -> config, before any image or annotation is read.

    Raises:
      UserError: an unknown task, format or option, a format for another kind of label than the task's, a missing file.
    """
    for task, config in labels.items():
        _format(task, config)


def folder_of(config: PrepareConfig, task: str) -> Path:
    """Where "truth" looks for the columns of a prepared image set."""
    return Path(config.data_dir).expanduser() / config.name / COLUMNS / task


def write(images: ImageSet, task: str, config: TruthConfig, folder: Path, shard_images: int = SHARD_IMAGES) -> Manifest:
    """Imports the labels of one task as the column `folder`. Images are matched by name.

    An interrupted import resumes; a finished one says so.

    Returns:
      The manifest of the finished column.

    Raises:
      UserError: as `check`; annotations that changed since they were imported, are damaged, or contradict what is
        declared: unit, range, class list, the images' names and shapes; another process is using the column.
    """
    format_ = _format(task, config)
    path = Path(config.path).expanduser()
    source = SourceRecord(
        format=config.format,
        path=config.path,
        options=format_.model_dump(mode="json"),
        digest=format_.digest(path, images),
        licence=config.licence,
    )
    if truth.is_finished(folder, images, source):
        say(f"{folder} is finished; nothing to do")
        return manifest.read(folder)
    photos = truth.Photos(images, shapes=isinstance(format_, Placed))
    annotations = format_.open(path, photos.names, TASKS[task]().label)
    build_task(task, annotations.classes)  # raises if classes are missing, or superfluous
    description = Manifest.describe(
        annotations.kind,
        task=task,
        classes=annotations.classes,
        rule={},
        preprocessing="",
        images=ImagesRecord.of(images),
        source=source,
        shard_images=shard_images,
        must_jax=must_jax.__version__,
    )
    statistics = truth.check(description, photos, annotations)
    column = truth.write(folder, description, photos, annotations)
    labelled = f"{len(images) - statistics.absent} of {len(images)} images have labels for {task}"
    say(f"{folder}: {labelled}; {told(annotations.kind, annotations.classes, statistics)}")
    return column


def _format(task: str, config: TruthConfig) -> Format:
    check_options(task, {})
    try:
        format_ = build_format(config.format, config.options)
    except UserError as error:
        raise UserError(f"config.labels.{task}: {error}") from None
    wanted = shape(TASKS[task]().label)
    if format_.gives != wanted:
        fitting = [name for name, each in FORMATS.items() if each.gives == wanted]
        raise UserError(
            f"config.labels.{task}: format '{config.format}' holds labels of the kind {format_.gives}, but the task "
            f"takes {wanted}; use {' or '.join(fitting) or 'another way to create its column'}"
        )
    if format_.holds == "" and config.path:
        raise UserError(f"config.labels.{task}.path is set, but '{config.format}' reads the images' names; remove it")
    path, holds = Path(config.path).expanduser(), format_.holds
    if holds and not config.path:
        raise UserError(f"config.labels.{task}.path is missing; set it to the {holds} with the labels")
    if holds and (kind := files.kind_of(path)) != f"a {holds}":
        what = f"there is no {holds} '{config.path}'"
        if kind:
            what = f"'{config.path}' is {kind}, but '{config.format}' reads a {holds}"
        raise UserError(f"config.labels.{task}: {what}; correct its path")
    return format_
