"""Label: teachers label an image set, one column a teacher and task, and a gallery shows what they say."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import must_jax
from must_jax import trained
from must_jax.config import LabelConfig
from must_jax.data.image_sets import ImageSet, evenly_spread, open_images
from must_jax.data.kinds import MapLabel
from must_jax.data.pipeline import TRAIN_MAP_STRIDE
from must_jax.data.shards import COLUMNS
from must_jax.errors import UserError, nearest
from must_jax.files import check_space, write_json
from must_jax.labels import manifest
from must_jax.labels.budget import most_bytes
from must_jax.labels.columns import LabelColumn
from must_jax.labels.manifest import ImagesRecord, Manifest, TeacherRecord
from must_jax.labels.writer import ColumnWriter
from must_jax.progress import say
from must_jax.stages import budget, inputs
from must_jax.stages.labelling import Column, Teacher, label, warm_up
from must_jax.stages.workdir import RESULT_FILE, check, claim
from must_jax.tasks import build_task
from must_jax.tasks.base import Task
from must_jax.trained import Trained

GALLERY = "gallery.html"
NO_RULE = {"classes", "weight", "max_boxes"}  # options of every task, which do not decide what a label says


def run(config: LabelConfig, workdir: Path) -> None:
    """Writes `columns/TEACHER-TASK/`, `gallery.html` and, last, `result.json` into the workdir.

    A run that was stopped, or has lost shards since, goes on with those that are missing; a finished one says so. A
    further teacher adds its columns. Of several workers the one that writes the last shard finishes the columns.

    Raises:
      UserError: a teacher that is missing, not finished, near chance or there twice, an unknown option, no readable
        images, too little disk, a workdir of another config or of another training of a teacher.
    """
    if config.dry_run:
        budget.show(forecast(config, workdir), config.chips, config.batch_size)
        return
    check(workdir, config)
    if _is_finished(config, workdir):
        say(f"{workdir} is finished; nothing to do")
        return

    # What can be wrong is found out first.
    inputs.check(config)
    models = _load_teachers(config)
    images = open_images(config.images, config.data_dir, config.take)
    _check_space(workdir, images, models.values(), config.shard_images)
    shared = config.worker_of[1] > 1
    claim(workdir, config, config.worker.replace("/", "-of-") if shared else "")

    teachers = begin_columns(workdir, models, images, config)
    compile_seconds = warm_up(teachers, config.batch_size)
    began = time.monotonic()
    labelled = label(images, teachers, config.batch_size)
    columns = [column for teacher in teachers for column in teacher.columns]
    if missing := max(len(column.writer.missing()) for column in columns):
        say(f"worker {config.worker} has labelled {labelled} images; others have {missing} shards to write")
        return
    for column in columns:
        column.writer.finish()
    seconds = time.monotonic() - began

    written = {column.writer.folder.name: column.writer.manifest for column in columns}
    absent = {(image.name, image.reason): None for each in written.values() for image in each.absent()}
    bad = [*images.skipped, *absent]
    result = {
        "images": len(images),
        "seconds": seconds,
        "compile_seconds": compile_seconds,
        "images_per_second": labelled / seconds,
        "columns": _columns_before(workdir) | {name: _told(column) for name, column in written.items()},
        "bad": [{"name": name, "reason": reason} for name, reason in bad],
    }
    shown = [(column.task, LabelColumn(column.writer.folder)) for column in columns]
    _write_gallery(workdir / GALLERY, images, shown, bad, result, config.gallery_images)
    write_json(workdir / RESULT_FILE, result)
    say(f"{workdir}: {len(images)} images in {len(columns)} columns, {len(bad)} not labelled; see {workdir / GALLERY}")


def begin_columns(workdir: Path, models: Mapping[str, Trained], images: ImageSet, config: LabelConfig) -> list[Teacher]:
    """The teachers with their columns in `workdir`, begun or continued; errors as of `ColumnWriter`."""
    return [
        Teacher(model, [_column(workdir, name, model, task, images, config) for task in model.tasks.values()])
        for name, model in models.items()
    ]


def forecast(config: LabelConfig, workdir: Path) -> budget.Forecast:
    """What labelling into the workdir would cost. What is in it does not matter, and stays as it is.

    Raises:
      UserError: as of `run`, but for the workdir and the disk.
    """
    inputs.check(config)
    models, alone = _load_teachers(config), config.model_copy(update={"worker": "0/1"})
    began = time.monotonic()
    images = open_images(config.images, config.data_dir, config.take)
    opening_seconds = time.monotonic() - began
    beside = next(path for path in workdir.resolve().parents if path.is_dir())  # on the same disk
    measured = budget.measure(
        images, lambda folder, sample: begin_columns(folder, models, sample, alone), config.batch_size, beside
    )
    return dataclasses.replace(measured, opening_seconds=opening_seconds)


def _is_finished(config: LabelConfig, workdir: Path) -> bool:
    """Whether the columns of all teachers are there and whole, made by the same parameters and rules as now.

    A teacher that is gone counts as it was. Loads no network.

    Raises:
      UserError: a teacher was trained anew since.
    """
    columns = _columns_before(workdir)
    for path in config.teachers:
        name, file = Path(path).resolve().name, Path(path) / trained.MODEL_FILE
        model = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        there = {
            told["task"]: workdir / COLUMNS / folder for folder, told in columns.items() if told["teacher"] == name
        }
        if not there or (model and not model["tasks"].keys() <= there.keys()):
            return False
        for task, folder in there.items():
            if not manifest.is_whole(folder):
                return False
            column = manifest.read(folder)
            if model is None:
                continue
            if column.teacher is None or column.teacher.digest != model["digest"]:
                raise UserError(
                    f"{workdir} was labelled by another {name} than the one now in {path}; "
                    f"choose another --workdir or delete {folder}"
                )
            rule = {**model["tasks"][task], **config.tasks.get(task, {})}
            if {key: value for key, value in rule.items() if key not in NO_RULE} != column.rule:
                return False
    return True


def _columns_before(workdir: Path) -> dict[str, dict[str, Any]]:
    """Name -> figures of the columns that earlier runs have finished and that are still there."""
    if not (workdir / RESULT_FILE).exists():
        return {}
    columns = json.loads((workdir / RESULT_FILE).read_text(encoding="utf-8"))["columns"]
    return {name: told for name, told in columns.items() if (workdir / COLUMNS / name / manifest.FILE).is_file()}


def _load_teachers(config: LabelConfig) -> dict[str, Trained]:
    """By name, which is that of the run's folder and names its columns."""
    mesh, models = inputs.mesh_of(config), {}
    for path in config.teachers:
        name = Path(path).resolve().name
        if name in models:
            raise UserError(f"two teachers are called '{name}', which names their columns; rename the folder of one")
        models[name] = trained.load(path, mesh)
        for task in models[name].tasks.values():
            _check_learnt(path, task, models[name].metrics)
        models[name] = _with_rules(models[name], config.tasks)
    known = {task for model in models.values() for task in model.tasks}
    for name in config.tasks:
        if name not in known:
            raise UserError(f"config.tasks sets options of '{name}', which no teacher knows; {nearest(name, known)}")
    return models


def _check_learnt(path: str, task: Task, metrics: Mapping[str, float]) -> None:
    value = metrics.get(f"{task.name}/{task.metric}")
    if value is None:
        say(f"{path} was not validated on {task.name}; look at the gallery before you train on its labels")
    elif not value > task.near_chance:  # nor is NaN
        raise UserError(
            f"{path} has hardly learnt {task.name}: its {task.metric} on validation images is {value:.1f}, and up to "
            f"{task.near_chance:.1f} is near chance; train it longer or on more images before it labels"
        )


def _with_rules(model: Trained, overrides: Mapping[str, Mapping[str, Any]]) -> Trained:
    """The teacher, with the pseudo-label options of this run.

    Raises:
      UserError: an option that would change what the teacher's outputs mean.
    """
    tasks = {}
    for name, task in model.tasks.items():
        options = {**task.model_dump(exclude={"classes"}), **overrides.get(name, {})}
        tasks[name] = build_task(name, task.classes, options)
        if tasks[name].model_copy(update={"max_boxes": task.max_boxes}).label != task.label:
            raise UserError(
                f"config.tasks.{name} would turn the labels of {model.workdir} from {task.label} into "
                f"{tasks[name].label}; a teacher's labels are what it was trained on, set only thresholds"
            )
    return dataclasses.replace(model, tasks=tasks)


def _check_space(workdir: Path, images: ImageSet, models: Collection[Trained], shard_images: int) -> None:
    needed = 0
    for model in models:
        side = model.image_size // TRAIN_MAP_STRIDE
        for task in model.tasks.values():
            needed += most_bytes(task.label, (side, side), len(images), shard_images)
    check_space(workdir / COLUMNS, needed, f"labels of {len(images)} images (config.take lowers their number)")


def _column(workdir: Path, name: str, model: Trained, task: Task, images: ImageSet, config: LabelConfig) -> Column:
    kind, size = task.label, model.image_size
    description = Manifest.describe(
        kind,
        task=task.name,
        classes=task.classes,
        map_stride=TRAIN_MAP_STRIDE if isinstance(kind, MapLabel) else 0,
        rule=task.model_dump(mode="json", exclude=NO_RULE),
        min_confidence=task.min_confidence,
        preprocessing=f"fitted into {size}x{size} pixels, aspect kept, padding cut off from the labels",
        images=ImagesRecord(name=images.name, length=len(images), digest=images.digest),
        teacher=TeacherRecord(
            name=name, digest=model.digest, image_size=size, metrics=_metrics_of(task, model), **model.settings
        ),
        shard_images=config.shard_images,
        must_jax=must_jax.__version__,
    )
    writer = ColumnWriter(workdir / COLUMNS / f"{name}-{task.name}", description)
    number, workers = config.worker_of
    return Column(task, writer, frozenset(shard for shard in writer.missing() if shard % workers == number))


def _metrics_of(task: Task, model: Trained) -> dict[str, float]:
    return {name: value for name, value in model.metrics.items() if name.startswith(f"{task.name}/")}


def _told(column: Manifest) -> dict[str, Any]:
    """A finished column in figures, for result.json."""
    size = sum(shard.bytes for shard in column.shards)
    return {
        "teacher": column.maker,
        "task": column.task,
        "bytes": size,
        "bytes_per_image": size / column.images.length,
        **column.summary().readable(column.classes),
    }


def _write_gallery(
    path: Path,
    images: ImageSet,
    columns: Sequence[tuple[Task, LabelColumn]],
    bad: Sequence[tuple[str, str]],
    result: Mapping[str, Any],
    count: int,
) -> None:
    from must_jax.report import gallery  # matplotlib takes a second to load

    rows = []
    for position in evenly_spread(len(images), count):
        labels = [(task, column[position]) for task, column in columns]
        if all(label["present"] for _, label in labels):
            name, image = images.name_of(position), gallery.opened(images, position)
            if isinstance(image, str):
                say(f"not shown in {path.name}: {name}, {image}")
                rows.append(gallery.Row(name, None, image, []))
                continue
            drawn = [(gallery.thumbnail(task.draw(image, label)), task.describe(label)) for task, label in labels]
            rows.append(gallery.Row(name, image.shape[:2], gallery.thumbnail(image), drawn))
    described = [
        gallery.Column(
            teacher=column.manifest.maker,
            task=task.name,
            metrics=column.manifest.teacher.metrics if column.manifest.teacher else {},
            rule=column.manifest.rule,
            images=len(column),
            absent=told["absent"],
            empty_share=told["empty_share"],
            bytes_per_image=told["bytes_per_image"],
        )
        for task, column in columns
        for told in [result["columns"][column.folder.name]]
    ]
    gallery.write(gallery.Gallery(images.name, len(images), result["seconds"], described, rows, bad), path)
