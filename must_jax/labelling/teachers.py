"""The teachers of a label run and the columns that they write, with all their checks."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import must_jax
from must_jax import trained
from must_jax.config import LabelConfig
from must_jax.data.batching import TRAIN_MAP_STRIDE
from must_jax.data.image_sets import ImageSet
from must_jax.data.kinds import MapLabel
from must_jax.data.shards import COLUMNS
from must_jax.errors import UserError, nearest
from must_jax.files import check_space
from must_jax.inputs import gate
from must_jax.inputs.named import mesh_of
from must_jax.labelling.finished import NO_RULE
from must_jax.labelling.one_pass import Column, Teacher
from must_jax.labels.judging import NO_CHANCE
from must_jax.labels.manifest import ImagesRecord, Manifest, TeacherRecord
from must_jax.labels.sizes import most_bytes
from must_jax.labels.writer import ColumnWriter, still_to_write
from must_jax.progress import say
from must_jax.tasks.base import Task
from must_jax.trained import Trained


def load(config: LabelConfig) -> dict[str, Trained]:
    """Name -> teacher, with this run's pseudo-label options. Its folder's name becomes part of its columns' names.

    Raises:
      UserError: a teacher that is missing, unfinished or listed twice, or has learnt no task; teachers that are near
        chance or were not validated, all of them at once; an option that is unknown or would change the meaning of
        labels.
    """
    mesh, models = mesh_of(config), {}
    for path in config.teachers:
        name = Path(path).resolve().name
        if name in models:
            raise UserError(f"two teachers are called '{name}', which names their columns; rename the folder of one")
        model = _able(trained.load(path, mesh))
        models[name] = model.with_options({task: config.tasks[task] for task in config.tasks if task in model.tasks})
    known = {task for model in models.values() for task in model.tasks}
    for key, names in (("tasks sets options of", config.tasks), ("accept_failed names", config.accept_failed)):
        for name in names:
            if name not in known:
                raise UserError(f"config.{key} '{name}', which no teacher knows; {nearest(name, known)}")
    _check_learnt(models.values(), config.accept_failed)
    return models


def _check_learnt(models: Iterable[Trained], accepted: Collection[str]) -> None:
    refused: dict[str, list[str]] = {}  # task -> what is wrong with its teachers
    remedies: set[str] = set()
    for model, task in [(each, task) for each in models for task in each.tasks.values()]:
        score = gate.score(task, model.metrics)
        if score.value is None:
            wrong = f"{model.workdir} was not validated on {task.name}, so it is unknown whether it has learnt it"
            remedy = "train with config.validation"
        elif score.is_near_chance:
            wrong = f"{model.workdir} has hardly learnt {task.name}: on its validation images {score}"
            remedy = "train longer or on more images"
            if score.chance == 100:
                remedy = f"validate {task.name} on images of more than one class"
        else:
            if score.chance is None:
                say(f"look at the gallery: the {score.metric} of {score.value:.1f} of {model.workdir} {NO_CHANCE}")
            continue
        if task.name in accepted:
            say(f"look at the gallery: {wrong} (accepted by config.accept_failed)")
        else:
            refused.setdefault(task.name, []).append(wrong)
            remedies.add(remedy)
    if refused:
        raise UserError(
            f"{'; '.join(itertools.chain(*refused.values()))}; {' and '.join(sorted(remedies))}, "
            f"or label with them anyway with config.accept_failed={','.join(refused)}"
        )


def _able(model: Trained) -> Trained:
    """Without the tasks that it has never learnt, which are named: nothing that their heads say is a label."""
    tasks = {name: task for name, task in model.tasks.items() if name not in model.untrained}
    if not tasks:
        raise UserError(
            f"{model.workdir} has learnt none of its tasks ({', '.join(model.tasks)}): each had no labels, or a loss "
            "weight of 0; train it on labels"
        )
    if model.untrained:
        say(f"{model.workdir} does not label {', '.join(model.untrained)}: it has never learnt that")
    return dataclasses.replace(model, tasks=tasks)


def check_columns(workdir: Path, models: Mapping[str, Trained], images: ImageSet, config: LabelConfig) -> None:
    """Raises UserError if existing columns were made differently, or the disk cannot hold what they lack."""
    needed = 0
    for name, model in models.items():
        side = model.image_size // TRAIN_MAP_STRIDE
        for task in model.tasks.values():
            column = _describe(name, model, task, images, config)
            missing = still_to_write(_folder(workdir, name, task), column)
            count = sum(len(column.shard_range(shard)) for shard in missing)
            needed += most_bytes(task.answer, (side, side), count, config.shard_images)
    check_space(workdir / COLUMNS, needed, f"labels of {len(images)} images (config.take reduces their number)")


def begin_columns(workdir: Path, models: Mapping[str, Trained], images: ImageSet, config: LabelConfig) -> list[Teacher]:
    """The teachers with their columns in `workdir`, created or resumed; raises the same errors as `ColumnWriter`."""
    return [
        Teacher(model, [_column(workdir, name, model, task, images, config) for task in model.tasks.values()])
        for name, model in models.items()
    ]


def _column(workdir: Path, name: str, model: Trained, task: Task, images: ImageSet, config: LabelConfig) -> Column:
    writer = ColumnWriter(_folder(workdir, name, task), _describe(name, model, task, images, config))
    number, workers = config.worker_of
    return Column(task, writer, frozenset(shard for shard in writer.missing() if shard % workers == number))


def _folder(workdir: Path, teacher: str, task: Task) -> Path:
    return workdir / COLUMNS / f"{teacher}-{task.name}"


def _describe(teacher: str, model: Trained, task: Task, images: ImageSet, config: LabelConfig) -> Manifest:
    kind, size = task.answer, model.image_size
    return Manifest.describe(
        kind,
        task=task.name,
        classes=task.classes,
        map_stride=TRAIN_MAP_STRIDE if isinstance(kind, MapLabel) else 0,
        rule=task.model_dump(mode="json", exclude=NO_RULE),
        min_confidence=task.min_confidence.of_all,
        min_confidences=task.min_confidence.of_class,
        preprocessing=f"fitted into {size}x{size} pixels, aspect kept, padding cut off from the labels",
        images=ImagesRecord.of(images),
        teacher=TeacherRecord(
            name=teacher, digest=model.digest, image_size=size, metrics=_metrics_of(task, model), **model.settings
        ),
        shard_images=config.shard_images,
        must_jax=must_jax.__version__,
    )


def _metrics_of(task: Task, model: Trained) -> dict[str, float]:
    return {name: value for name, value in model.metrics.items() if name.startswith(f"{task.name}/")}
