"""Turns configs into what a training run reads: image sets with their label columns, tasks, loss weights."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from must_jax import description
from must_jax.config import (
    SourceConfig,
    TrainConfig,
)
from must_jax.data.batching import Source
from must_jax.data.image_sets import Column, ImageSet, open_images
from must_jax.data.kinds import Label, LabelKind, NoLabel
from must_jax.engine import distributed
from must_jax.errors import UserError
from must_jax.files import MODEL_FILE
from must_jax.labels import manifest, verify
from must_jax.labels.columns import LabelColumn, beside, find_columns, is_of, open_beside, open_column
from must_jax.labels.manifest import Manifest
from must_jax.tasks import without_labels
from must_jax.weights import files

TRUTH = "truth"
IMAGES = "images"  # who has made the labels of tasks that need none


def run_digest(run: str) -> str | None:
    """The digest of a finished run's parameters, or of a file of weights; None without such. Reads no checkpoint."""
    if files.are_at(run):
        return files.digest(run) if Path(run).expanduser().exists() else None
    return description.read(run).digest if run and (Path(run) / MODEL_FILE).exists() else None


class _Offered(NamedTuple):
    """A column that can be read with an image set; `maker` is its teacher's name, TRUTH or IMAGES."""

    task: str
    maker: str
    open: Callable[[], Column]


class ImagesAlone:
    """The column of a task that needs no labels: every image has the same, which says nothing."""

    def __init__(self, task: str, images: ImageSet) -> None:
        self.task, self._count = task, len(images)
        self.kind: LabelKind = NoLabel()
        self.classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Label:
        return {"present": np.float32(1)}

    def in_unit(self, unit: str) -> Column:
        return self


def open_source(
    config: SourceConfig, data_dir: str, tasks: Collection[str], unlabelled: Collection[str] = ()
) -> Source:
    """The image set with its label columns for `tasks`.

    Args:
      unlabelled: those of `tasks` that need no labels.

    Raises:
      UserError: images or a column that are missing or do not match, a threshold that cannot be applied.
    """
    images = open_images(config.images, data_dir, config.take)
    return Source(images, tuple(column.open() for column in _offered(config, images, tasks, unlabelled)))


def open_training(config: TrainConfig) -> tuple[list[Source], dict[str, dict[str, Any]]]:
    """The training sources with the labels that `config.columns` chooses, and the tasks that remain.

    Sources without any labels left are removed. So are tasks; but one that had no labels to begin with stays, since
    that is an error rather than a choice, unless `drop` names it, or `keep` names other tasks. Columns that are not
    chosen are not opened.

    Raises:
      UserError: as `open_source`, or nothing remains.
    """
    drop, keep = {*config.columns.drop}, {*config.columns.keep}
    images = [open_images(source.images, config.data_dir, source.take) for source in config.train]
    alone = without_labels(config.tasks)
    offered = [_offered(source, each, config.tasks, alone) for source, each in zip(config.train, images, strict=True)]
    chosen = [[column for column in columns if config.columns.reads(column.task, column.maker)] for columns in offered]
    before, after = ({column.task for columns in each for column in columns} for each in (offered, chosen))
    kept = config.tasks.keys() & keep or config.tasks.keys()
    wanted = after | (kept - before - drop)
    left = {name: options for name, options in config.tasks.items() if name in wanted}
    if not left:
        raise UserError("config.columns leaves no labels to train on; drop fewer, or keep more")
    sources = [
        Source(each, tuple(column.open() for column in columns))
        for each, columns, all_ in zip(images, chosen, offered, strict=True)
        if columns or not all_
    ]
    return sources, left


def _offered(
    config: SourceConfig, images: ImageSet, tasks: Collection[str], unlabelled: Collection[str]
) -> list[_Offered]:
    """The columns of a source for these tasks, true ones first; those of tasks that need no labels last."""

    used: set[str] = set()

    def named(task: str, folder: str) -> str:
        """What labels of a task, in a column's folder of this name, are called here."""
        used.update((folder, task))
        return config.called(task, folder)

    def opened(folder: Path, task: str) -> Column:
        column = open_column(folder, images).called(task)
        return column.at_least(config.min_confidence[task]) if task in config.min_confidence else column

    true: list[_Offered] = []
    predicted: list[_Offered] = []
    stored = set()
    for label in config.labels:
        if label == TRUTH:
            for task in images.labels:
                here = named(task, task)
                true.append(_Offered(here, TRUTH, functools.partial(_called, images.labels[task], here)))
            for folder in beside(images):
                here = named(folder.name, folder.name)
                if here in tasks and is_of(folder, images):
                    true.append(_Offered(here, TRUTH, functools.partial(_open_beside, folder, images, here)))
            continue
        for folder in find_columns(Path(label)):
            made = manifest.read(folder)
            here = named(made.task, folder.name)
            if folder != Path(label) and here not in tasks:  # of a label run, the columns of these tasks
                continue
            stored.add(here)
            column = _Offered(here, maker_of(made), functools.partial(opened, folder, here))
            (predicted if made.teacher else true).append(column)
    for key in config.names:
        if key not in used:
            raise UserError(
                f"names.{key} is set, but {images.name} is read without labels of that task or column; remove it, or "
                "correct it"
            )
    for task in config.min_confidence:
        if task not in stored:
            raise UserError(
                f"min_confidence.{task} is set, but {images.name} is read without a label column of that task; "
                "remove it, or add the column to labels"
            )
    alone = [_Offered(task, IMAGES, functools.partial(ImagesAlone, task, images)) for task in unlabelled]
    labelled = [column for column in (*true, *predicted) if column.task in tasks and column.task not in unlabelled]
    return [*labelled, *alone]


def _called(column: Column, task: str) -> Column:
    """The same labels as those of another task."""
    if column.task == task:
        return column
    other = copy.copy(column)
    other.task = task
    return other


def _open_beside(folder: Path, images: ImageSet, task: str) -> Column:
    return open_beside(folder, images).called(task)


def maker_of(column: Manifest) -> str:
    """The teacher's name, or TRUTH."""
    return column.teacher.name if column.teacher else TRUTH


def check_unchanged(columns: Iterable[Column], within_s: float = distributed.READY_WITHIN_S) -> None:
    """Reads the label columns that have changed since they were last read, every byte of them.

    An unreadable label should not end a training run of days. Processes that see the same files share them.

    Args:
      within_s: how long to wait for the other processes; without them, this one reads all.

    Raises:
      UserError: labels were changed or damaged since they were written.
    """
    stored = {column.folder: column.manifest for column in columns if isinstance(column, LabelColumn)}  # each once
    shards = [(folder, shard) for folder, column in stored.items() for shard in column.shards]
    if not shards:
        return
    alike = distributed.are_alike(verify.state(shards), within_s)
    verify.check_unchanged(shards, (distributed.position(), distributed.processes()) if alike else (0, 1))


def licences_of(sources: Iterable[Source]) -> dict[str, str]:
    """Teachers and labels -> the licence, "" if it is not known, with those that the teachers were trained on."""
    found: dict[str, str] = {}
    for source in sources:
        for column in source.columns:
            made = column.manifest if isinstance(column, LabelColumn) else None
            if made and made.teacher:
                found |= made.teacher.licences
                if made.teacher.licence or made.teacher.declared:  # of runs of must_jax, those of what they learnt from
                    found[made.teacher.name] = made.teacher.licence
            elif made and made.source and made.source.licence:
                found[f"{column.task} of {source.images.name}"] = made.source.licence
    return found


def fingerprint_of(sources: Sequence[Source], key: str = "train") -> dict[str, Any]:
    """Identifies images and labels: a resumed run must read the same data. `key`: where the config names them."""
    data: dict[str, Any] = {}
    for i, (images, columns) in enumerate((source.images, source.columns) for source in sources):
        data |= {f"{key}.{i}.images": images.digest, f"{key}.{i}.length": len(images)}
        data |= {f"{key}.{i}.sampled": images.which()} if images.sampled else {}
        for j, column in enumerate(columns):
            made = getattr(column, "manifest", None)
            maker = f"{made.teacher.digest if made.teacher else made.maker}, {_content(made)}" if made else TRUTH
            data[f"{key}.{i}.labels.{j}"] = f"{column.task} by {maker}"
            least = getattr(column, "min_confidence", None)
            if made and least and least != made.threshold:
                data[f"{key}.{i}.labels.{j}.min_confidence"] = str(least) if least.of_class else least.of_all
    return data


def _content(column: Manifest) -> str:
    """Changes with the rule and with any label of the column."""
    made_of = [column.rule, [shard.sha256 for shard in column.shards]]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
