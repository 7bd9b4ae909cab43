"""What an import will make, and what is wrong with its labels: looked at before the first stage of a pipeline begins.

Annotations in files are read as a whole, and so are the headers of all maps; of labels that have a position in their
image, a sample is read. All of it is done by the formats themselves, as it will be in the import.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from must_jax.config import PrepareConfig, TruthConfig
from must_jax.data import plan
from must_jax.data.decoding import image_shape
from must_jax.data.order import Order
from must_jax.data.preparing import check, open_source
from must_jax.data.raw import RawImages
from must_jax.errors import UserError
from must_jax.inputs import truth
from must_jax.labels import manifest
from must_jax.labels.formats import build_format
from must_jax.labels.formats.base import Annotations, Photo, Placed
from must_jax.labels.formats.refusals import Refusal
from must_jax.progress import kept, say
from must_jax.tasks import build_task, kind_of

LOOKED_AT = 16  # labels of a task
_SEED = 0  # of the sample
_NOTABLE = "look at "  # begins what is said about labels that may be wrong; the rest is said by the import


class Coming(NamedTuple):
    """An image set as it will be.

    Attributes:
      length: its images, readable or not; None = unknown.
      classes: the tasks that it has labels of -> their classes; () = none, or unknown.
      labelled: task -> bool[length], by position in the set; without those for which it is unknown.
      mistakes: what is wrong with the labels.
    """

    length: int | None
    classes: dict[str, tuple[str, ...]]
    labelled: dict[str, np.ndarray]
    mistakes: list[str]


def look(config: PrepareConfig) -> Coming:
    """Looks at the labels that are not imported yet; only names are read of the photos, except for the sample's."""
    columns = truth.folders_of(config)
    made = {task: found for task, folder in columns.items() if (found := _imported(folder)) is not None}
    length = _prepared(config)
    coming = Coming(length, {task: each.classes for task, each in made.items()}, {}, [])
    for task, column in made.items():
        if length and not column.summary().absent:
            coming.labelled[task] = np.ones(length, bool)
        coming.mistakes.extend(f"config.labels.{task}: {each}" for each in _otherwise(columns[task], column, config))
    left = {task: labels for task, labels in config.labels.items() if task not in made}
    if not left:  # a pile without labels may be large
        return coming
    coming.classes.update({task: declared(labels) for task, labels in left.items()})
    try:
        raw = open_source(config)
        names = raw.names()
    except UserError as error:  # of a finished set the photos may be gone; then their names are in the set alone
        if length is None:
            coming.mistakes.append(str(error))
        return coming
    if names is None:
        return coming
    order = Order([len(names)], plan.SHUFFLE_SEED)(np.arange(len(names)))[1] if config.shuffle else slice(None)
    for task, labels in left.items():
        opened = _annotations(task, labels, names)
        problems = [] if isinstance(opened, Annotations) else opened
        if isinstance(opened, Annotations):
            has = np.fromiter(map(opened.has, names), bool, len(names))
            coming.classes[task], coming.labelled[task] = opened.classes, has[order]
            if isinstance(_format(labels), Placed):
                problems = _refused(opened, raw, names, has)
        coming.mistakes.extend(f"config.labels.{task}: {problem}" for problem in problems)
    return coming._replace(length=len(names))


def _prepared(config: PrepareConfig) -> int | None:
    """The number of images of a set whose shards are all there; None if there is none."""
    folder = Path(config.data_dir).expanduser() / config.name
    for file in folder.glob(f"*/{plan.FILE}"):
        made = plan.read(file.parent)
        if made is not None and not made.missing(file.parent):
            return sum(shard.count for shard in made.shards)
    return None


def _imported(folder: Path) -> manifest.Manifest | None:
    """The manifest of a finished column."""
    if not (folder / manifest.FILE).exists() or not manifest.is_whole(folder):
        return None
    return manifest.read(folder)


def _otherwise(folder: Path, column: manifest.Manifest, config: PrepareConfig) -> list[str]:
    """Why a finished column is not what the config asks for now, as far as its options tell."""
    if column.source is None or column.task not in config.labels:
        return []  # the import tells
    labels = config.labels[column.task]
    there = {"format": column.source.format, **column.source.options}
    here = {"format": labels.format, **_format(labels).model_dump(mode="json")}
    differ = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    told = ", ".join(f"{key} was {there.get(key)!r} and is {here.get(key)!r}" for key in differ)
    return [f"{folder} was imported with other options: {told}; delete it to import the labels again"] * bool(differ)


def _format(labels: TruthConfig) -> Any:
    return build_format(labels.format, labels.options)


def declared(labels: TruthConfig) -> tuple[str, ...]:
    """The classes that the config says; () = they are found in the labels."""
    return tuple(getattr(_format(labels), "classes", ()))


def _annotations(task: str, labels: TruthConfig, names: Sequence[str]) -> Annotations | list[str]:
    """The labels, opened as the import opens them; or what is wrong with them as a whole."""
    options = {"kind": labels.kind} if labels.kind else {}
    try:
        with kept() as said:
            found: Annotations = _format(labels).open(
                Path(labels.path).expanduser(), names, kind_of(task, options)().label
            )
        for line in said:
            if line.startswith(_NOTABLE):
                say(line)
        build_task(task, found.classes, options)
    except Refusal as error:
        return [str(error), *error.problems[1:]]
    except UserError as error:
        return [str(error)]
    return found


def _refused(annotations: Annotations, raw: RawImages, names: Sequence[str], has: np.ndarray) -> list[str]:
    """What is wrong with a sample of the labels, in a sentence."""
    labelled = np.flatnonzero(has)
    chosen = np.random.default_rng(_SEED).choice(labelled, min(LOOKED_AT, len(labelled)), replace=False)
    problems = []
    for position in sorted(chosen.tolist()):
        try:
            (item,) = raw.items(range(position, position + 1))
            photo = Photo(names[position], image_shape(item.load()))
        except (UserError, OSError):  # left out by the import, and counted there
            continue
        try:
            with kept():
                annotations.label(photo)
        except UserError as error:
            problems.append(str(error))
    others = f" (as {len(problems)} of {len(chosen)} labels that were looked at)" if len(problems) > 1 else ""
    return [f"{problems[0]}{others}"] if problems else []


def import_mistakes(config: PrepareConfig) -> list[str]:
    """Everything wrong with it that can be found without opening an image or a label."""
    from must_jax.inputs import truth

    found = []
    for task, labels in config.labels.items():
        try:
            truth.check({task: labels}, truth.folders_of(config))
        except UserError as error:
            found.append(str(error))
    try:
        check(config)
    except UserError as error:
        found.append(str(error))
    return found
