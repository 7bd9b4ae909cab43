"""What a stage's config refers to: tasks, sources, runs, batch sizes, and the devices that it runs on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from must_jax.config import AuditConfig, CheckConfig, EvaluateConfig, LabelConfig, SourceConfig, TrainConfig
from must_jax.data.shards import COLUMNS
from must_jax.engine import distributed
from must_jax.engine.mesh import make_mesh, setup_devices
from must_jax.inputs.sources import TRUTH, maker_of
from must_jax.labels import manifest
from must_jax.labels.columns import find_columns
from must_jax.tasks import TASKS
from must_jax.weights import files

StageConfig = TrainConfig | LabelConfig | AuditConfig | CheckConfig | EvaluateConfig


class Named(NamedTuple):
    """What a stage's config refers to: tasks with options, image sets with columns, runs, and batch sizes."""

    tasks: Iterable[tuple[str, Mapping[str, Any]]]
    sources: Sequence[SourceConfig]
    runs: Sequence[tuple[str, str]]  # key and folder
    batch_sizes: Sequence[int]


def mesh_of(config: TrainConfig | LabelConfig | CheckConfig | EvaluateConfig) -> Mesh:
    """The devices that a stage runs on; raises the same errors as `make_mesh`.

    Training uses those of all processes. Other stages divide their work among the processes, each on its own devices.
    """
    batch_sizes = named(config).batch_sizes
    if isinstance(config, TrainConfig):
        setup_devices(config.devices, config.ready_within_s)
        return make_mesh(config.devices, batch_sizes, config.fsdp)
    setup_devices(config.devices)
    own = max(1, config.devices // distributed.processes()) if config.devices else 0
    return make_mesh(own, batch_sizes, devices=jax.local_devices())


def named(config: StageConfig) -> Named:
    match config:
        case TrainConfig():
            sources = [*config.train, *config.validation]
            runs = [("init", config.init)] if config.init else []
            return Named(config.tasks.items(), sources, runs, [config.batch_size // config.accumulate])
        case LabelConfig() | CheckConfig():  # which pad their batches
            runs = [("teachers", str(teacher.run)) for teacher in config.teachers if teacher.run]
            known = TASKS.keys()  # others are checked once their teacher tells what they are
            tasks = [(name, options) for name, options in config.tasks.items() if name in known]
            if isinstance(config, CheckConfig):
                return Named(tasks, [config.source], runs, [])
            sources = [SourceConfig(images=config.images), *([config.check_on] if config.check_on else [])]
            return Named(tasks, sources, runs, [])
        case AuditConfig():
            compared = [SourceConfig(images=name) for name in config.evaluation]
            return Named([], [SourceConfig(images=config.images, labels=config.columns), *compared], [], [])
        case EvaluateConfig():
            sets = config.downstream.values()
            return Named(
                [(each.task, each.options) for each in sets],
                [source for each in sets for source in (each.train, each.validation, each.test)],
                [(f"inits.{name}", run) for name, run in config.inits.items() if run and not files.are_at(run)],
                [transfer.batch_size for transfer in config.transfers],
            )


def names_of(label: str, made: Collection[Path] = ()) -> set[str]:
    """The tasks and makers of the labels; for columns that do not exist yet, from their folder names."""
    if label == TRUTH:
        return {TRUTH}
    path = Path(label)
    coming = [each for each in made if each.parent.name == COLUMNS and path in (each, each.parent.parent)]
    if coming or not path.exists():
        return {name for each in coming or [path] for name in each.name.rpartition("-")[::2]}
    columns = map(manifest.read, find_columns(path))
    return {name for each in columns for name in (each.task, maker_of(each))}
