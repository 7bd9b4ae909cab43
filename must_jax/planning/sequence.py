"""The stages of a pipeline: in which order they run, and with which configs."""

from __future__ import annotations

import graphlib
import re
from pathlib import Path
from typing import Any

from must_jax.config import AuditConfig, LabelConfig, PipelineConfig, PrepareConfig, TrainConfig
from must_jax.errors import UserError
from must_jax.runs.pipelines import failures, times
from must_jax.runs.workdir import PLACE


def ordered(config: PipelineConfig) -> list[str]:
    """The stages' names, each after those whose folders or image sets its config refers to, otherwise as written.

    Training also comes after the audits of what it reads.

    Raises:
      UserError: two stages wait for each other.
    """
    sets = {stage.name: name for name, stage in config.stages.items() if isinstance(stage, PrepareConfig)}
    reads = {}
    for name, stage in config.stages.items():
        text = stage.model_dump_json()
        reads[name] = [other for other in re.findall(r"{workdir}/([^/\"]+)", text) if other in config.stages]
        reads[name] += [sets[each] for each in re.findall(r'"([a-z][a-z0-9_]*):', text) if sets.get(each, name) != name]
    labelled = {name for name, stage in config.stages.items() if isinstance(stage, LabelConfig)}
    audits = {n: labelled & set(read) for n, read in reads.items() if isinstance(config.stages[n], AuditConfig)}
    for name, stage in config.stages.items():
        if isinstance(stage, TrainConfig):
            reads[name] += [audit for audit, read in audits.items() if read & set(reads[name])]
    try:
        return list(graphlib.TopologicalSorter(reads).static_order())
    except graphlib.CycleError as error:
        raise UserError(
            f"config.stages: {' waits for '.join(error.args[1])}; let one of them read another folder"
        ) from None


def placed(stage: Any, config: PipelineConfig, workdir: Path) -> Any:
    """The stage's config inside this pipeline: with its folder for "{workdir}", its data folder and its devices."""

    def fill(value: Any) -> Any:
        match value:
            case str():
                return value.replace(PLACE, str(workdir))
            case dict():
                return {key: fill(item) for key, item in value.items()}
            case list() | tuple():
                return [fill(item) for item in value]
        return value

    handed_on = {"data_dir": config.data_dir} | ({"devices": config.devices} if config.devices else {})
    known = {key: value for key, value in handed_on.items() if key in type(stage).model_fields}
    return type(stage).model_validate(fill(stage.model_dump()) | known)


def stage_entries(config: PipelineConfig, workdir: Path) -> list[Any]:
    """The stages in their order, for `overview.collect`."""
    from must_jax.runs.entries import Entry

    seconds, failed = times(workdir), failures(workdir)
    return [
        Entry(
            name, placed(config.stages[name], config, workdir), workdir / name, seconds.get(name), failed.get(name, "")
        )
        for name in ordered(config)
    ]
