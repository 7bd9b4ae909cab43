"""What finished and unfinished runs have left in their workdirs, as the contents of a report."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

import must_jax
from must_jax import description
from must_jax.config import AuditConfig, EvaluateConfig, LabelConfig, PrepareConfig, SourceConfig, TrainConfig
from must_jax.data import plan
from must_jax.data.shards import COLUMNS
from must_jax.engine import goodput
from must_jax.engine.clock import SPANS
from must_jax.files import MODEL_FILE
from must_jax.inputs.gate import score, score_of_teacher
from must_jax.labels import judging, manifest
from must_jax.reading import read_json
from must_jax.report import html, scorecard
from must_jax.report.details import Details, compared
from must_jax.report.html import Check, Column, Curve, Data, Detail, Report, Stage
from must_jax.reporting import pictures
from must_jax.runs import results
from must_jax.runs.briefs import state
from must_jax.runs.curves import losses, validations
from must_jax.runs.entries import Entry
from must_jax.runs.workdir import CONFIG_FILE, REPORT, RESULT_FILE
from must_jax.tasks import build_task, kind_of
from must_jax.training import validation


def write(
    title: str,
    entries: Sequence[Entry],
    workdir: Path,
    ranked_images: int = 0,
    report_seconds: float = 0.0,
) -> None:
    """Writes `report/index.html` into the workdir: everything about these runs, as far as they are; see `collect`.

    Args:
      report_seconds: of the reports of a pipeline.
    """
    contents = collect(title, entries, ranked_images)
    html.write(replace(contents, report_seconds=report_seconds), workdir / REPORT)


def collect(
    title: str, entries: Sequence[Entry], ranked_images: int, pictured: Sequence[Entry] | None = None
) -> Report:
    """The report of these runs.

    Args:
      ranked_images: on how many images of a task the worst and the best are looked for; 0 = no model is run.
      pictured: those to show pictures of; None = all.
    """
    training = [entry for entry in entries if isinstance(entry.config, TrainConfig)]
    rows, starts = scorecards(entries)
    shown = pictures.collect(entries if pictured is None else pictured, ranked_images)
    return Report(
        title=title,
        facts=_facts(),
        stages=[_stage(entry) for entry in entries],
        data=list(itertools.chain.from_iterable(map(_data, entries))),
        curves=[curve for entry in training if (curve := _losses(entry))],
        validations=list(itertools.chain.from_iterable(map(_validations, training))),
        checks=list(itertools.chain.from_iterable(map(_checks, training))),
        details=list(itertools.chain.from_iterable(map(_details, entries))),
        columns=_columns(entries),
        galleries=shown.galleries,
        extremes=shown.extremes,
        missing=shown.missing,
        rows=rows,
        starts=starts,
        times={entry.name: spent for entry in training if (spent := _spent(entry))},
    )


def scorecards(entries: Iterable[Entry]) -> tuple[list[scorecard.Row], dict[str, scorecard.Start]]:
    """All finished scorecards, and what their starting points were trained with."""
    rows: list[scorecard.Row] = []
    starts: dict[str, scorecard.Start] = {}
    for entry in entries:
        if isinstance(entry.config, EvaluateConfig) and (result := results.read(entry.workdir, results.EvaluateResult)):
            rows += scorecard.read(entry.workdir)
            starts |= {name: start.told for name, start in result.starts.items()}
    return rows, starts


def _facts() -> dict[str, str]:
    devices = jax.devices()
    versions = [f"must_jax {must_jax.__version__}", *(f"{name} {version(name)}" for name in ("jax", "flax"))]
    return {
        "written": f"{datetime.now():%Y-%m-%d %H:%M}",
        "devices": f"{len(devices)} {devices[0].device_kind} devices, {os.cpu_count()} cores",
        "versions": ", ".join(versions),
    }


def _stage(entry: Entry) -> Stage:
    known: dict[str, Any] = {}
    tasks: list[str] = []
    seconds = entry.seconds
    if isinstance(entry.config, TrainConfig):
        told = results.read(entry.workdir, results.TrainResult)
        names = ("steps", "images_per_second", "data_wait_share", "parameters")
        known = {name: getattr(told, name, None) for name in names}
        weighted = told.loss_weights if told else None
        tasks = list(entry.config.tasks if weighted is None else weighted)  # without those that config.columns removes
        seconds = seconds if told is None or seconds is not None else told.seconds
    elif isinstance(entry.config, LabelConfig) and (labelled := results.read(entry.workdir, results.LabelResult)):
        tasks = [column.task for column in labelled.columns.values()]
    elif isinstance(entry.config, AuditConfig) and (audited := results.read(entry.workdir, results.AuditResult)):
        tasks = [column.task for column in audited.columns.values()]
    if seconds is None and (result := results.read(entry.workdir, results.Result)):
        seconds = result.seconds
    return Stage(
        name=entry.name,
        kind=entry.config.stage,
        finished=results.finished(entry.workdir),
        tasks=tasks,
        seconds=seconds,
        batch_size=getattr(entry.config, "batch_size", None),
        state="failed" if entry.failure else state(entry.workdir),
        failure=entry.failure,
        when=_when(entry),
        **known,
    )


def _when(entry: Entry) -> str:
    """When the run was last at work: by its own log, else by its newest file; an image set, when it was made."""
    folder, names = entry.workdir, (RESULT_FILE, CONFIG_FILE)
    if isinstance(entry.config, PrepareConfig):  # reading it again is no work
        made = Path(entry.config.data_dir).expanduser() / entry.config.name
        files = [*made.glob(f"*/{plan.FILE}"), *made.glob(f"{COLUMNS}/*/{manifest.FILE}")]
        last = max((file.stat().st_mtime for file in files), default=None)
    else:
        lines = goodput.read(folder)
        files = [folder / name for name in names if (folder / name).exists()]
        last = lines[-1].time if lines else next((file.stat().st_mtime for file in files), None)
    return "" if last is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(last))


def _data(entry: Entry) -> Iterator[Data]:
    match entry.config:
        case TrainConfig(train=train):
            named = [("training", source) for source in train]
            named += [("validation", source) for source in entry.config.validation]
        case EvaluateConfig(downstream=downstream):
            splits = ("train", "validation", "test")
            named = [
                (f"{name}, {split}", getattr(each, split)) for name, each in downstream.items() for split in splits
            ]
        case LabelConfig(images=images, take=take, teachers=teachers):
            names = tuple(teacher.model for teacher in teachers)
            named = [("to label", SourceConfig(images=images, labels=names, take=take))]
        case AuditConfig(images=images, take=take, columns=columns):
            named = [("to audit", SourceConfig(images=images, labels=columns, take=take))]
        case PrepareConfig(name=name, images=images, labels=labels):
            paths = tuple(f"{task}: {truth.path or truth.format}" for task, truth in labels.items())
            named = [(f"becomes {name}", SourceConfig(images=images, labels=paths))]
        case _:
            return
    for role, source in named:
        yield Data(entry.name, role, source.images, source.labels, source.take)


def _losses(entry: Entry) -> Curve | None:
    series = losses(entry.workdir, entry.config.tasks)
    return Curve(entry.name, series) if series else None


def _validations(entry: Entry) -> Iterator[Curve]:
    """Of each task, the headline metric on every validation source that measured it more than once."""
    measured = validations(entry.workdir)
    for task, options in entry.config.tasks.items():
        metric, series = kind_of(task, options).metric, {}
        for name, points in measured.items():
            of, _, source = name.partition("@")
            if of == f"{task}/{metric}" and len(points[0]) > 1:
                series[source or metric] = points
        if series:
            yield Curve(f"{entry.name}: {task}", series, metric)


def _checks(entry: Entry) -> Iterator[Check]:
    if not (entry.workdir / MODEL_FILE).exists():
        return
    told = description.read(entry.workdir)
    tasks = [build_task(name, of.classes, of.options) for name, of in told.tasks.items()]
    least = {f"{task.name}/{task.metric}": score(task, told.metrics).near_chance for task in tasks}
    for name, value in told.metrics.items():
        yield Check(entry.name, name, value, entry.config.minimum.get(name, least.get(name)))


def _details(entry: Entry) -> Iterator[Detail]:
    if isinstance(entry.config, TrainConfig):
        return _validated(entry)
    return _compared(entry) if isinstance(entry.config, EvaluateConfig) else iter(())


def _validated(entry: Entry) -> Iterator[Detail]:
    path = entry.workdir / validation.FILE
    told = read_json(path, dict[str, results.Validated], "remove it, only details are lost") if path.exists() else {}
    for images, found in told.items():
        for task, details in found.details.items():
            if details != type(details)():
                yield Detail(entry.name, task, images, details)


def _compared(entry: Entry) -> Iterator[Detail]:
    """The starting points of a finished scorecard beside each other, on every set, by class and curve: one seed."""
    rows, _ = scorecards([entry])
    seed = rows[0].seed if rows else 0
    for (mode, dataset), of_cell in itertools.groupby(
        [row for row in rows if row.details and row.seed == seed], key=lambda row: (row.mode, row.dataset)
    ):
        found = {row.init: row for row in of_cell}
        task, images = next(iter(found.values())).task, entry.config.downstream[dataset].test.images
        figure, details = compared({init: row.details for init, row in found.items() if row.details})
        if details != Details():
            by_class = f", {figure} by class" if figure else ""
            yield Detail(f"{entry.name}: {dataset}, {mode}, seed {seed}{by_class}", task, images, details)


def _columns(entries: Sequence[Entry]) -> list[Column]:
    """The columns that label runs have written and audits have looked at, each once."""
    folders: dict[Path, None] = {}
    for entry in entries:
        if isinstance(entry.config, LabelConfig) and (labelled := results.read(entry.workdir, results.LabelResult)):
            folders |= {(entry.workdir / COLUMNS / name).resolve(): None for name in labelled.columns}
        if isinstance(entry.config, AuditConfig) and (audited := results.read(entry.workdir, results.AuditResult)):
            folders |= {Path(name).resolve(): None for name in audited.columns}
    return [_column(folder) for folder in folders if (folder / manifest.FILE).is_file()]


def _column(folder: Path) -> Column:
    about = manifest.read(folder)
    audited, summary = judging.read(folder, about), about.summary()
    findings = audited.findings if audited else ()
    if not audited:
        score = score_of_teacher(about, build_task(about.task, about.classes, about.options))
        findings = tuple(judging.known_from_manifest(about, score))
    told = summary.readable(about.classes)
    return Column(
        name=folder.name,
        task=about.task,
        maker=f"{about.maker} {about.teacher.digest[:8]}" if about.teacher else about.maker,
        images=about.images.length,
        absent=told["absent"],
        empty_share=told["empty_share"],
        bytes_per_image=sum(shard.bytes for shard in about.shards) / max(about.images.length, 1),
        verdict=audited.verdict if audited else judging.verdict(findings),
        findings=[(finding.level, finding.reason) for finding in findings],
        audited=audited is not None,
    )


def _spent(entry: Entry) -> Mapping[str, float]:
    """What the time of a training was spent on, in seconds."""
    seconds = goodput.total(goodput.read(entry.workdir)).seconds
    spans = {name: seconds.get(name, 0.0) for name in (*SPANS, goodput.LOST, goodput.DOWN)}
    return {name.replace("_", " "): value for name, value in spans.items() if value > 0}
