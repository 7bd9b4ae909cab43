"""Imports true labels as columns, after checking what the config declares about them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import must_jax
from must_jax import files
from must_jax.config import PrepareConfig, TruthConfig
from must_jax.data.image_sets import ImageSet
from must_jax.data.shards import COLUMNS
from must_jax.errors import UserError
from must_jax.labels import manifest, matching
from must_jax.labels.formats import FORMATS, build_format
from must_jax.labels.formats.base import Format, Placed, shape
from must_jax.labels.manifest import ImagesRecord, Manifest, SourceRecord
from must_jax.labels.told import told
from must_jax.progress import say
from must_jax.reading import read_json
from must_jax.tasks import build_task, kind_of

SHARD_IMAGES = 1024
MOVED_FILE = "moved.json"  # in a finished column


def check(labels: Mapping[str, TruthConfig], folders: Mapping[str, Path] | None = None) -> None:
    """Checks `labels`, task -> config, before any image or annotation is read.

    Args:
      folders: task -> its column. Of a finished one the labels may be gone.

    Raises:
      UserError: an unknown task, format or option, a format for another kind of label than the task's, a missing file.
    """
    for task, config in labels.items():
        _format(task, config, (folders or {}).get(task))


def folders_of(config: PrepareConfig) -> dict[str, Path]:
    """Task -> where "truth" looks for its column of a prepared image set."""
    columns = Path(config.data_dir).expanduser() / config.name / COLUMNS
    return {task: columns / task for task in config.labels}


def write(images: ImageSet, task: str, config: TruthConfig, folder: Path, shard_images: int = SHARD_IMAGES) -> Manifest:
    """Imports the labels of one task as the column `folder`. Images are matched by name.

    An interrupted import resumes; a finished one says so, and no longer needs the labels that it was made from.

    Returns:
      The manifest of the finished column.

    Raises:
      UserError: as `check`; annotations that changed since they were imported, are damaged, or contradict what is
        declared: unit, range, class list, the images' names and shapes; another process is using the column.
    """
    format_ = _format(task, config, folder)
    path = Path(config.path).expanduser()
    made = _imported(folder, config, format_) if config.path and not files.kind_of(path) else None
    source = SourceRecord(
        format=config.format,
        path=config.path,
        options=format_.model_dump(mode="json"),
        digest=made.digest if made else format_.digest(path, images),
        licence=config.licence,
    )
    if matching.is_finished(folder, images, source):
        _remember_move(folder, config)
        say(f"{folder} is finished; nothing to do")
        return manifest.read(folder)
    photos = matching.Photos(images, shapes=isinstance(format_, Placed))
    options = {"kind": config.kind} if config.kind else {}
    kind = kind_of(task, options)
    annotations = format_.open(path, photos.names, kind().label)
    build_task(task, annotations.classes, options)  # raises if classes are missing, or superfluous
    description = Manifest.describe(
        annotations.kind,
        task=task,
        task_kind=kind.kind if kind.kind != task else "",
        classes=annotations.classes,
        rule={},
        preprocessing="",
        images=ImagesRecord.of(images),
        source=source,
        shard_images=shard_images,
        must_jax=must_jax.__version__,
    )
    statistics = matching.check(description, photos, annotations)
    column = matching.write(folder, description, photos, annotations)
    labelled = f"{len(images) - statistics.absent} of {len(images)} images have labels for {task}"
    say(f"{folder}: {labelled}; {told(annotations.kind, annotations.classes, statistics)}")
    return column


def _imported(folder: Path, config: TruthConfig, format_: Format) -> SourceRecord | None:
    """What a finished column was made from, if the config still means that; otherwise None."""
    source = _source_of(folder, config, format_)
    found_at = [source.path, *_moved(folder)] if source else []
    return source if any(files.is_same_path(config.path, path) for path in found_at) else None


def _source_of(folder: Path, config: TruthConfig, format_: Format) -> SourceRecord | None:
    """What a finished column was made from, if the config names its format and options; otherwise None."""
    if not (folder / manifest.FILE).exists() or not manifest.is_whole(folder):
        return None
    source = manifest.read(folder).source
    wanted = {"format": config.format, "options": format_.model_dump(mode="json")}
    return source if source and source.model_dump(mode="json", include={*wanted}) == wanted else None


def _moved(folder: Path) -> list[str]:
    """Where the labels of a finished column have been found since it was made: none, or the last place."""
    file = folder / MOVED_FILE
    return [*read_json(file, dict[str, str], "remove it").values()] if file.exists() else []


def _remember_move(folder: Path, config: TruthConfig) -> None:
    """From where they are now, too, the labels of a finished column may be gone later."""
    source = manifest.read(folder).source
    known = [source.path if source else "", *_moved(folder)][-1]
    if config.path and not files.is_same_path(config.path, known) and files.kind_of(Path(config.path).expanduser()):
        with contextlib.suppress(OSError, UserError):  # a folder that cannot be written to
            files.write_json(folder / MOVED_FILE, {"path": os.path.abspath(os.path.expanduser(config.path))})


def _format(task: str, config: TruthConfig, folder: Path | None = None) -> Format:
    task_kind = kind_of(task, {"kind": config.kind} if config.kind else {})
    try:
        format_ = build_format(config.format, config.options)
    except UserError as error:
        raise UserError(f"config.labels.{task}: {error}") from None
    wanted = shape(task_kind().label)
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
        if not kind and folder and _imported(folder, config, format_):
            return format_
        what, advice = f"there is no {holds} '{config.path}'", "correct its path"
        if kind:
            what = f"'{config.path}' is {kind}, but '{config.format}' reads a {holds}"
        elif folder and (made := _source_of(folder, config, format_)):
            advice = f"the finished {folder} was made from '{made.path}': name that, or correct its path"
        raise UserError(f"config.labels.{task}: {what}; {advice}")
    return format_
