"""The progress of a pipeline, read from the folders of its stages, as the contents of a report."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

import must_jax
from must_jax import description, trained
from must_jax.config import AuditConfig, EvaluateConfig, LabelConfig, PipelineConfig, SourceConfig, TrainConfig, digest
from must_jax.data.decoding import decode_image
from must_jax.data.image_sets import evenly_spread
from must_jax.data.pipeline import Source
from must_jax.engine.mesh import setup_devices
from must_jax.files import MODEL_FILE
from must_jax.report import scorecard
from must_jax.report.gallery import thumbnail
from must_jax.report.html import Check, Curve, Gallery, Report, Stage
from must_jax.stages import results
from must_jax.stages.curves import losses
from must_jax.stages.inputs import TRUTH, open_source
from must_jax.trained import Trained

PICTURES = 6  # images in a gallery


@dataclass(frozen=True)
class Entry:
    """One stage: its workdir, and its result if it is finished."""

    name: str
    config: Any  # TrainConfig | LabelConfig | EvaluateConfig
    workdir: Path
    seconds: float | None


def collect(config: PipelineConfig, stages: Mapping[str, Any], seconds: Mapping[str, float], workdir: Path) -> Report:
    """The report of everything that is finished.

    Args:
      stages: with paths resolved, each in the folder of its name under `workdir`.
      seconds: by stage, over all restarts.
    """
    setup_devices(config.devices)
    entries = [Entry(name, stage, workdir / name, seconds.get(name)) for name, stage in stages.items()]
    training = [entry for entry in entries if isinstance(entry.config, TrainConfig)]
    rows, starts = scorecards(entries)
    return Report(
        title=config.title,
        facts=_facts(config, workdir),
        stages=[_stage(entry) for entry in entries],
        curves=[curve for entry in training if (curve := _curve(entry))],
        checks=list(itertools.chain.from_iterable(map(_checks, training))),
        galleries=_galleries(training),
        rows=rows,
        starts=starts,
    )


def scorecards(entries: Iterable[Entry]) -> tuple[list[scorecard.Row], dict[str, scorecard.Start]]:
    """All finished scorecards, and what their starting points were trained with."""
    rows: list[scorecard.Row] = []
    starts: dict[str, scorecard.Start] = {}
    for entry in entries:
        if isinstance(entry.config, EvaluateConfig) and (result := results.read(entry.workdir, results.EvaluateResult)):
            rows += scorecard.read(entry.workdir)
            starts |= {name: scorecard.Start(start.tasks, start.image_steps) for name, start in result.starts.items()}
    return rows, starts


def _facts(config: PipelineConfig, workdir: Path) -> dict[str, str]:
    devices = jax.devices()
    versions = [f"must_jax {must_jax.__version__}", *(f"{name} {version(name)}" for name in ("jax", "flax"))]
    return {
        "written": f"{datetime.now():%Y-%m-%d %H:%M}",
        "devices": f"{len(devices)} {devices[0].device_kind} devices, {os.cpu_count()} cores",
        "versions": ", ".join(versions),
        "config": f"{digest(config)} (config.json in {workdir})",
    }


def _stage(entry: Entry) -> Stage:
    known: dict[str, Any] = {}
    tasks: list[str] = []
    if isinstance(entry.config, TrainConfig):
        told = results.read(entry.workdir, results.TrainResult)
        names = ("steps", "images_per_second", "data_wait_share", "parameters")
        known = {name: getattr(told, name, None) for name in names}
        weighted = told.loss_weights if told else None
        tasks = list(entry.config.tasks if weighted is None else weighted)  # without those that config.columns removes
    elif isinstance(entry.config, LabelConfig) and (labelled := results.read(entry.workdir, results.LabelResult)):
        tasks = [column.task for column in labelled.columns.values()]
    elif isinstance(entry.config, AuditConfig) and (audited := results.read(entry.workdir, results.AuditResult)):
        tasks = [column.task for column in audited.columns.values()]
    return Stage(
        name=entry.name,
        kind=entry.config.stage,
        finished=results.finished(entry.workdir),
        tasks=tasks,
        seconds=entry.seconds,
        batch_size=getattr(entry.config, "batch_size", None),
        **known,
    )


def _curve(entry: Entry) -> Curve | None:
    series = losses(entry.workdir, entry.config.tasks)
    return Curve(entry.name, series) if series else None


def _checks(entry: Entry) -> Iterator[Check]:
    metrics = description.read(entry.workdir).metrics if (entry.workdir / MODEL_FILE).exists() else {}
    for name, value in metrics.items():
        yield Check(entry.name, name, value, entry.config.minimum.get(name))


def _galleries(training: list[Entry]) -> list[Gallery]:
    """A gallery per task: ground truth beside each model's prediction. Multi-task models come first, with all tasks."""
    models = {entry.name: trained.load(entry.workdir) for entry in training if results.finished(entry.workdir)}
    truths: dict[str, tuple[str, Source]] = {}
    for entry in training:
        for task in entry.config.tasks:
            if task not in truths and (found := _truth(entry.config, task)):
                truths[task] = found

    shown, galleries = [], []
    for task, (note, source) in truths.items():
        able = {name: model for name, model in models.items() if task in model.tasks}
        if able:
            positions = evenly_spread(len(source.images), PICTURES)
            images = [decode_image(source.images.record(i)["image"]) for i in positions]
            shown.append(images)
            draw = next(iter(able.values())).tasks[task].draw
            labels = (source.columns[0][i] for i in positions)
            rows = {"image": images, "ground truth": [draw(*pair) for pair in zip(images, labels, strict=True)]}
            rows |= {name: [_drawn(model, image)[task] for image in images] for name, model in able.items()}
            galleries.append(Gallery(task, note, _thumbnails(rows)))

    # One image from each set in turn.
    mixed = [image for images in itertools.zip_longest(*shown) for image in images if image is not None][:PICTURES]
    for name, model in reversed(models.items()):
        if len(model.tasks) > 1 and mixed:
            drawn = [_drawn(model, image) for image in mixed]
            rows = {"image": mixed} | {task: [pictures[task] for pictures in drawn] for task in model.tasks}
            galleries.insert(0, Gallery(f"{name}, all tasks at once", "One pass of one network.", _thumbnails(rows)))
    return galleries


def _truth(config: TrainConfig, task: str) -> tuple[str, Source] | None:
    """Images with ground truth, held-out ones if there are any, and a sentence that describes them."""
    choices: list[tuple[str, SourceConfig]] = [("Training images", source) for source in config.train]
    choices[:0] = [("Held-out images", source) for source in config.validation]
    for what, chosen in choices:
        if TRUTH in chosen.labels:
            source = open_source(SourceConfig(images=chosen.images, take=chosen.take), config.data_dir, [task])
            if source.columns:
                return f"{what} of {chosen.images}, labelled by the rules for pseudo labels.", source
    return None


def _drawn(model: Trained, image: np.ndarray) -> dict[str, np.ndarray]:
    return {task: model.tasks[task].draw(image, label) for task, label in model.predict(image).items()}


def _thumbnails(rows: Mapping[str, list[np.ndarray]]) -> dict[str, list[np.ndarray]]:
    return {heading: [thumbnail(image) for image in images] for heading, images in rows.items()}
