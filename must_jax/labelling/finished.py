"""The columns in the workdir of a label run: which are finished, and which must be made again. Does not load jax."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from must_jax import description
from must_jax.config import LabelConfig, TeacherConfig, in_todays_names
from must_jax.data.image_sets import open_images
from must_jax.data.shards import COLUMNS
from must_jax.errors import UserError
from must_jax.files import MODEL_FILE
from must_jax.labels import manifest
from must_jax.labels.manifest import ImagesRecord, Manifest
from must_jax.runs import results
from must_jax.teachers import mapping
from must_jax.teachers.files import digest_of, digest_of_run

NO_RULE = {"classes", "weight", "max_boxes"}  # options of every task that do not affect its labels
_DECLARED = {"depth_kind"}  # options that the declaration of a model of others decides


def finished_columns(workdir: Path) -> dict[str, dict[str, Any]]:
    """Name -> figures of the columns that earlier runs have finished and that still exist."""
    told = results.read(workdir, results.LabelResult)
    columns = told.columns if told else {}
    there = {name: about for name, about in columns.items() if (workdir / COLUMNS / name / manifest.FILE).is_file()}
    return {name: about.model_dump() for name, about in there.items()}


def outdated_columns(config: LabelConfig, workdir: Path, again: Mapping[str, str]) -> dict[Path, str]:
    """The columns, finished or not, that this config would make otherwise -> why.

    A teacher that no longer exists counts as unchanged. Damaged columns are not judged; the label run names them.

    Args:
      again: folder of a teacher that is about to change -> what is to be said of its columns.
    """
    teachers = {teacher.called: teacher for teacher in config.teachers}
    outdated: dict[Path, str] = {}
    files = sorted((workdir / COLUMNS).glob(f"*/{manifest.FILE}"))
    photos = photos_of(config) if files else None
    for file in files:
        with contextlib.suppress(UserError):
            column = manifest.read(file.parent)
            if photos and are_others(column, photos):
                outdated[file.parent] = f"{config.images} has changed"
            elif column.teacher and (why := _outdated(config, column, teachers.get(column.teacher.name), again)):
                outdated[file.parent] = why
    return outdated


def photos_of(config: LabelConfig) -> ImagesRecord | None:
    """The present state of a folder of photos; None if there is no folder.

    Names and sizes, and which photos can be read: those that are known to be readable are not opened.

    Raises:
      UserError: none can be read.
    """
    folder = config.images.removeprefix("folder:")
    if folder == config.images or not Path(folder).expanduser().is_dir():
        return None
    return ImagesRecord.of(open_images(config.images, config.data_dir, config.take))


def are_others(column: Manifest, photos: ImagesRecord) -> bool:
    """Whether a column labels other photos than there are now, wherever they are."""
    there, here = (each.model_dump(exclude={"name"}) for each in (column.images, photos))
    return there != here


class Known(NamedTuple):
    """What can be known of a teacher without loading it.

    Attributes:
      digest: as its columns have it.
      tasks: those that it labels, by their names here -> what they say of their options themselves.
    """

    digest: str
    tasks: Mapping[str, Mapping[str, Any]]


def known(teacher: TeacherConfig) -> Known | None:
    """None if it no longer exists.

    Raises:
      UserError: its files are damaged, or pickles.
    """
    if teacher.run is None:
        try:
            digest = digest_of(teacher)
        except UserError:
            return None
        return Known(digest, {name: {} for name in teacher.tasks})
    if not (teacher.run / MODEL_FILE).exists():
        return None
    model = description.read(teacher.run)
    tasks = {name: task.options for name, task in model.tasks.items() if name not in model.training.untrained}
    digest = digest_of_run(teacher, model.digest)
    here = {name: teacher.names.get(name, name) for name in tasks}
    for name, called in here.items():
        if called in teacher.tasks and (file := teacher.tasks[called].mapping):
            tasks[name] = mapping.load(file, model.tasks[name].classes).options(tasks[name])
    return Known(digest, {here[name]: options for name, options in tasks.items()})


def rule_of(config: LabelConfig, teacher: TeacherConfig, about: Known, column: Manifest) -> dict[str, Any]:
    """The options by which the predictions of a teacher become labels of this column's task, as far as they are known.

    Those of a model of others are what the config says; where it says nothing, the task's own defaults.
    """
    options = {**about.tasks[column.task], **config.tasks.get(column.task, {})}
    if teacher.run is None:
        from must_jax.tasks import build_task  # loads jax

        kept = {"kind": column.options.get("kind"), **{key: column.rule[key] for key in _DECLARED & column.rule.keys()}}
        options = build_task(column.task, column.classes, kept | options).options
    if options.get("kind") == column.task_kind:
        options.pop("kind", None)
    return {key: value for key, value in options.items() if key not in NO_RULE}


def _outdated(config: LabelConfig, column: Manifest, teacher: TeacherConfig | None, again: Mapping[str, str]) -> str:
    assert column.teacher
    if teacher is None:
        return f"config.teachers no longer names {column.teacher.name}"
    if teacher.run and (why := again.get(str(teacher.run))):
        return why
    if (about := known(teacher)) is None:
        return ""
    if about.digest != column.teacher.digest:
        changed = "has been trained anew" if teacher.run else "has changed, or is read otherwise"
        return f"{teacher.model} {changed}"
    if column.task not in about.tasks:
        return ""
    there, here = in_todays_names(column.rule), rule_of(config, teacher, about, column)
    for key in there.keys() & here.keys():  # a later version may know further options, with defaults
        if not _is_same(there[key], here[key]):
            return f"config.tasks.{column.task}.{key} is {there[key]!r} there and {here[key]!r} here"
    return ""


def _is_same(there: Any, here: Any) -> bool:
    """Whether two values of an option mean the same: as it was understood, and as it is written in a config."""
    with contextlib.suppress(TypeError, ValueError):
        return float(there) == float(here)
    return bool(there == here)
