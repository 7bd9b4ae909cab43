"""The teachers of a label run and the columns that they write, with all their checks."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

import must_jax
from must_jax.config import LabelConfig, TeacherConfig
from must_jax.data.batching import TRAIN_MAP_STRIDE
from must_jax.data.image_sets import ImageSet
from must_jax.data.kinds import MapLabel
from must_jax.data.shards import COLUMNS
from must_jax.errors import UserError, nearest
from must_jax.files import check_space
from must_jax.inputs import gate
from must_jax.inputs.named import mesh_of
from must_jax.labelling.finished import NO_RULE
from must_jax.labelling.one_pass import Column, Writing
from must_jax.labels.judging import NO_CHANCE
from must_jax.labels.manifest import ImagesRecord, Manifest
from must_jax.labels.sizes import most_bytes
from must_jax.labels.writer import ColumnWriter, still_to_write
from must_jax.progress import say
from must_jax.tasks.base import Task
from must_jax.teachers import loading
from must_jax.teachers.base import Teacher
from must_jax.teachers.own import Own


def load(config: LabelConfig) -> list[Teacher]:
    """The teachers with this run's pseudo-label options. Their names become part of their columns' names.

    Raises:
      UserError: as `opened`; runs that are near chance or were not validated, all of them at once; `accept_failed`
        names a task that no teacher knows.
    """
    found = opened(config.teachers, config.tasks, mesh_of(config))
    _check_known("accept_failed names", config.accept_failed, found)
    _check_learnt(found, config.accept_failed)
    return found


def opened(teachers: Sequence[TeacherConfig], options: Mapping[str, Mapping[str, Any]], mesh: Mesh) -> list[Teacher]:
    """The teachers of a config, with the options of its tasks.

    Raises:
      UserError: as `teachers.loading.load`; two of one name; one that has learnt no task; an option of a task that no
        teacher knows.
    """
    names: set[str] = set()
    for declared in teachers:
        if declared.called in names:
            raise UserError(
                f"two teachers are called '{declared.called}', which names their columns; give one of them another "
                "name with config.teachers.N.name"
            )
        names.add(declared.called)
    found = [_able(loading.load(declared, options, mesh)) for declared in teachers]
    _check_known("tasks sets options of", options, found)
    return found


def _check_known(key: str, chosen: Iterable[str], teachers: Iterable[Teacher]) -> None:
    known = {task for teacher in teachers for task in teacher.tasks}
    for name in chosen:
        if name not in known:
            raise UserError(f"config.{key} '{name}', which no teacher knows; {nearest(name, known)}")


def _check_learnt(teachers: Iterable[Teacher], accepted: Collection[str]) -> None:
    """Of runs of must_jax, whose metrics tell whether they have learnt their tasks."""
    refused: dict[str, list[str]] = {}  # task -> what is wrong with its teachers
    remedies: set[str] = set()
    for model, teacher in [(each.model, each) for each in teachers if isinstance(each, Own)]:
        for task in teacher.tasks.values():
            score = gate.score(task, teacher.record.metrics)
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


def _able(teacher: Teacher) -> Teacher:
    """Without the tasks that it has never learnt, which are named: nothing that their heads say is a label."""
    if not isinstance(teacher, Own) or not teacher.model.untrained:
        return teacher
    model = teacher.model
    if not teacher.tasks.keys() - {teacher.called(task) for task in model.untrained}:
        raise UserError(
            f"{model.workdir} has learnt none of its tasks ({', '.join(model.tasks)}): each had no labels, or a loss "
            "weight of 0; train it on labels"
        )
    say(f"{model.workdir} does not label {', '.join(model.untrained)}: it has never learnt that")
    return teacher.without(model.untrained)


def check_columns(workdir: Path, teachers: Sequence[Teacher], images: ImageSet, config: LabelConfig) -> None:
    """Raises UserError if existing columns were made differently, or the disk cannot hold what they lack."""
    needed = 0
    for teacher in teachers:
        for task in teacher.tasks.values():
            column = _describe(teacher, task, images, config)
            missing = still_to_write(_folder(workdir, teacher, task), column)
            count = sum(len(column.shard_range(shard)) for shard in missing)
            needed += most_bytes(task.answer, teacher.map_hw, count, config.shard_images)
    check_space(workdir / COLUMNS, needed, f"labels of {len(images)} images (config.take reduces their number)")


def begin_columns(workdir: Path, teachers: Sequence[Teacher], images: ImageSet, config: LabelConfig) -> list[Writing]:
    """The teachers with their columns in `workdir`, created or resumed; raises the same errors as `ColumnWriter`."""
    return [
        Writing(teacher, [_column(workdir, teacher, task, images, config) for task in teacher.tasks.values()])
        for teacher in teachers
    ]


def _column(workdir: Path, teacher: Teacher, task: Task, images: ImageSet, config: LabelConfig) -> Column:
    writer = ColumnWriter(_folder(workdir, teacher, task), _describe(teacher, task, images, config))
    number, workers = config.worker_of
    return Column(task, writer, frozenset(shard for shard in writer.missing() if shard % workers == number))


def _folder(workdir: Path, teacher: Teacher, task: Task) -> Path:
    return workdir / COLUMNS / f"{teacher.name}-{task.name}"


def _describe(teacher: Teacher, task: Task, images: ImageSet, config: LabelConfig) -> Manifest:
    kind, record = task.answer, teacher.record
    own = {key: value for key, value in record.metrics.items() if key.startswith(f"{task.name}/")}
    return Manifest.describe(
        kind,
        task=task.name,
        task_kind=task.kind if task.kind != task.name else "",
        classes=task.classes,
        map_stride=TRAIN_MAP_STRIDE if isinstance(kind, MapLabel) else 0,
        rule=task.model_dump(mode="json", exclude=NO_RULE),
        min_confidence=task.min_confidence.of_all,
        min_confidences=task.min_confidence.of_class,
        preprocessing=teacher.input.told,
        images=ImagesRecord.of(images),
        teacher=record.model_copy(update={"metrics": own}),
        shard_images=config.shard_images,
        must_jax=must_jax.__version__,
    )
