"""The programs that a stage will run, from its config alone: no data is read, and teachers need not be trained yet."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from must_jax import description
from must_jax.compiling.ahead import Step
from must_jax.config import EvaluateConfig, LabelConfig, SourceConfig, TrainConfig, TransferConfig
from must_jax.data import scenes
from must_jax.data.image_sets import open_images
from must_jax.engine.mesh import replicated, split
from must_jax.engine.step import image_forward, make_predict_step
from must_jax.errors import UserError
from must_jax.files import MODEL_FILE
from must_jax.inputs.named import names_of
from must_jax.inputs.sources import TRUTH
from must_jax.labels import manifest
from must_jax.labels.columns import beside
from must_jax.models.api import build_model
from must_jax.scoring.transfer import Downstream, Transfer, Trunk
from must_jax.tasks import build_task, check_options, kind_of
from must_jax.tasks.base import Task
from must_jax.teachers import loading
from must_jax.teachers.own import mapped_network, mapped_tasks
from must_jax.training.building import build, update_shapes

Classes = Mapping[str, int]  # task -> number of classes, if the user gives it


def programs(config: TrainConfig | LabelConfig | EvaluateConfig, mesh: Mesh, classes: Classes) -> Iterator[Step]:
    """The steps, whose names begin with "train", "evaluate", "label" or "features".

    Raises:
      UserError: an unknown task or option, a batch that the devices cannot share evenly, a task whose classes are
        unknown, a labelling teacher that is not trained.
    """
    match config:
        case TrainConfig():
            return _training(config, mesh, classes)
        case LabelConfig():
            return _labelling(config, mesh)
        case EvaluateConfig():
            return _scorecard(config, mesh, classes)


def _training(config: TrainConfig, mesh: Mesh, classes: Classes) -> Iterator[Step]:
    check_batch("batch_size", config.batch_size, mesh, config.accumulate)
    tasks = {name: _task(name, options, config.train, config, classes) for name, options in _learnt(config).items()}
    model, optimizer, step = build(config, tasks, dict.fromkeys(tasks, 1.0), mesh)
    shapes = update_shapes(config, tasks, model, optimizer, mesh)
    yield Step("train", step, shapes, config.batch_size, config.accumulate)
    variables, images = model.shapes(config.input_hw), {"image": shapes[1]["image"]}
    forward = image_forward(model)
    labelled = {
        name
        for source in config.validation
        for name in _names_in([source], tasks, config.data_dir)
        if not source.tasks or name in source.tasks
    }
    measured = {name: task for name, task in tasks.items() if name in labelled} or tasks
    predict = make_predict_step(forward, measured, config.input_hw, mesh)
    yield Step("evaluate", predict, (variables, images), config.batch_size)
    if labelling := {name: task for name, task in tasks.items() if not task.self_supervised}:
        forward = image_forward(model.of_images())
        condensed = make_predict_step(forward, labelling, config.input_hw, mesh, condense=True)
        yield Step("label", condensed, (variables, images), config.batch_size)


def _labelling(config: LabelConfig, mesh: Mesh) -> Iterator[Step]:
    batch_size = mesh.size * math.ceil(config.batch_size / mesh.size)  # it pads its batches
    for teacher in config.teachers:
        if teacher.run is None:  # its own library runs it
            continue
        told = description.read(teacher.run)
        model_config = told.model
        trained_on = {name: build_task(name, task.classes, task.options) for name, task in told.tasks.items()}
        model = build_model(model_config, {name: task.head(model_config) for name, task in trained_on.items()})
        mappings = loading.mappings_of(teacher, {name: task.classes for name, task in trained_on.items()})
        tasks = {
            name: build_task(name, task.classes, task.options | config.tasks.get(teacher.names.get(name, name), {}))
            for name, task in mapped_tasks(trained_on, mappings).items()
        }
        input_hw, network = told.input_hw, mapped_network(model, tasks, mappings)
        predict = make_predict_step(image_forward(network), tasks, input_hw, mesh, condense=True)
        images = jax.ShapeDtypeStruct((batch_size, *input_hw, 3), np.uint8)
        yield Step(f"label {teacher.called}", predict, (model.shapes(input_hw), {"image": images}), batch_size)


def _scorecard(config: EvaluateConfig, mesh: Mesh, classes: Classes) -> Iterator[Step]:
    for transfer in config.transfers:
        check_batch(f"transfers batch_size ({transfer.mode})", transfer.batch_size, mesh)
    featurizes = [transfer.batch_size for transfer in config.transfers if transfer.mode == "frozen"]
    trunk = build_model(config.model, {})
    input_hw, variables = config.input_hw, trunk.shapes(config.input_hw)
    for batch_size in dict.fromkeys(featurizes):
        images = jax.ShapeDtypeStruct((batch_size, *input_hw, 3), np.uint8, sharding=split(mesh))
        placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), variables)
        yield Step("features", jax.jit(trunk.features), (placed, images), batch_size)
    for transfer in config.transfers:
        for name, each in config.downstream.items():
            task = _task(each.task, each.options, [each.train], config, classes)
            yield from _transfer(config, transfer, name, task, mesh)


def _transfer(config: EvaluateConfig, transfer: TransferConfig, name: str, task: Task, mesh: Mesh) -> Iterator[Step]:
    model = build_model(config.model, {task.name: task.head(config.model)})
    downstream = Downstream(name, task, model, config.input_hw, {}, config.input)
    programs = Transfer(transfer, downstream, Trunk.of(model, config.input_hw), mesh)
    step, predict = programs.shapes()
    about, images = f"{transfer.mode} {name}", transfer.batch_size
    yield Step(f"train {about}", programs.step, step, programs.side_by_side * images)
    yield Step(f"evaluate {about}", programs.predict, predict, images)


def check_batch(what: str, size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises UserError if the devices cannot share batches of `size` evenly, each in `accumulate` parts."""
    shares = mesh.size * accumulate
    if size % shares:
        raise UserError(
            f"config.{what} is {size}, which cannot be divided evenly among the {mesh.size} chips of the topology"
            + f", {accumulate} times" * (accumulate > 1)
            + f"; use a multiple, e.g. {shares * math.ceil(size / shares)}, or a smaller topology"
        )


def _learnt(config: TrainConfig) -> dict[str, dict[str, Any]]:
    """The tasks that still have labels after `config.columns`, as `sources.open_training` will find them."""

    def is_left(task: str) -> bool:
        makers = [
            names if label != TRUTH else {task, TRUTH}
            for source in config.train
            for label in source.labels
            if task in (names := names_of(label)) or label == TRUTH
        ]
        return not makers or any(config.columns.reads(*names) for names in makers)

    left = {task: options for task, options in config.tasks.items() if is_left(task)}
    if not left:
        raise UserError("config.columns leaves no labels to train on; drop fewer, or keep more")
    return left


def _task(
    name: str,
    options: Mapping[str, Any],
    sources: Sequence[SourceConfig],
    config: TrainConfig | EvaluateConfig,
    given: Classes,
) -> Task:
    """The task with the class names of its labels; if only their number is given, with names like "class 3".

    Raises:
      UserError: an unknown task or option, or the classes are unknown.
    """
    check_options(name, options)
    known: tuple[str, ...] | None = ()
    if kind_of(name, options).has_classes:
        known = tuple(f"class {index}" for index in range(given.get(name, 0))) or next(
            (found for source in sources if (found := _classes_in(source, name, config.data_dir))), None
        )
    if known is None:
        where = ", ".join(dict.fromkeys(label for source in sources for label in (source.images, *source.labels)))
        raise UserError(
            f"the number of classes of '{name}' is unknown without its labels ({where}); provide them, or set it with "
            f"--config.compile.classes.{name}=80"
        )
    return build_task(name, known, {"max_boxes": config.max_boxes, **options})


def _classes_in(source: SourceConfig, task: str, data_dir: str) -> tuple[str, ...]:
    """The classes of a task, from the first labels of the source that declare them."""
    found = (_labels_of(source, label, data_dir).get(task, ()) for label in source.labels)
    return next(filter(None, found), ())


def _names_in(sources: Sequence[SourceConfig], tasks: Mapping[str, Task], data_dir: str) -> set[str]:
    """The tasks that the sources label."""
    return {
        task
        for source in sources
        for label in source.labels
        for task in _labels_of(source, label, data_dir)
        if task in tasks
    }


def _labels_of(source: SourceConfig, label: str, data_dir: str) -> dict[str, tuple[str, ...]]:
    """Task -> classes of the labels that "truth" or a column's folder refers to, as far as known now."""
    if label == TRUTH:
        return {source.called(task): classes for task, classes in _truth(source.images, data_dir).items()}
    folder = Path(label)
    if (folder / manifest.FILE).is_file():
        column = manifest.read(folder)
        return {source.called(column.task, folder.name): column.classes}
    teacher, _, task = folder.name.rpartition("-")  # it does not exist yet, but its teacher may
    here = source.called(task, folder.name)
    run = folder.parent.parent.parent / teacher
    if (run / MODEL_FILE).is_file():
        known = description.read(run).tasks
        return {here: known[task].classes if task in known else ()}
    truths = scenes.CONFIGS[teacher].truths if teacher in scenes.CONFIGS else {}
    return {here: truths[task].classes} if task in truths else {}


def _truth(images: str, data_dir: str) -> dict[str, tuple[str, ...]]:
    dataset, _, _ = images.partition(":")
    if dataset.startswith("scenes/"):  # need not be rendered
        config = scenes.CONFIGS.get(dataset.removeprefix("scenes/"))
        return {task: truth.classes for task, truth in config.truths.items()} if config else {}
    if dataset == "folder" or not (Path(data_dir).expanduser() / dataset).is_dir():
        return {}
    opened = open_images(images, data_dir)
    columns = [manifest.read(folder) for folder in beside(opened)]
    return {column.task: column.classes for column in columns} | {
        task: column.classes for task, column in opened.labels.items()
    }
