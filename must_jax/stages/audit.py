"""Audit: statistics of an image set's label columns, and a verdict on each: the gate before training."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from must_jax.config import AuditConfig
from must_jax.cores import ahead, cores
from must_jax.data import units
from must_jax.data.duplicates import Pair, hash_images, near
from must_jax.data.encodings import Label
from must_jax.data.image_sets import Column, ImageSet, evenly_spread, in_unit_of, open_images
from must_jax.engine.evaluate import CHANCE
from must_jax.files import write_json
from must_jax.labels import gate, manifest
from must_jax.labels.agreement import compared
from must_jax.labels.columns import LabelColumn, beside, open_beside, open_column
from must_jax.labels.gate import Audited, Finding, Score
from must_jax.labels.statistics import Statistics
from must_jax.progress import Progress, say
from must_jax.reading import read_json
from must_jax.stages import inputs
from must_jax.stages.gate import score_of_teacher
from must_jax.stages.labels import find
from must_jax.stages.workdir import RESULT_FILE, check, claim
from must_jax.tasks import TASKS, build_task
from must_jax.tasks.base import Task

JSON_FILE, PAGE = "audit.json", "audit.html"
LEAST_SCORED = 20  # labels; with fewer, a score is mostly chance
_TOGETHER = 64  # labels that a thread processes at a time
_AHEAD = 64  # pairs of labels read ahead of scoring


@dataclass(frozen=True)
class Result:
    """The findings for one column. `scores` are metrics against true labels, empty if there are none."""

    column: LabelColumn
    task: Task
    statistics: Statistics
    scores: Mapping[str, float]
    audited: Audited


@dataclass(frozen=True)
class Duplicate:
    """An image that nearly equals one of the evaluation set `others`."""

    others: ImageSet
    pair: Pair


def run(config: AuditConfig, workdir: Path) -> None:
    """Writes `audit.html`, `audit.json` and, last, `result.json` into the workdir, and a verdict into every column.

    A failed column is not an error here, but training refuses it. A finished audit of the same columns says so.

    Raises:
      UserError: columns or images that are missing or do not match, columns that were changed or damaged since they
        were written, a workdir of another config.
    """
    check(workdir, config)
    inputs.check(config)
    folders = list(dict.fromkeys(folder for path in config.columns for folder in find(Path(path))))
    if _is_finished(workdir, folders):
        say(f"{workdir} is finished; nothing to do, see {workdir / PAGE}")
        return
    images = open_images(config.images, config.data_dir, config.take)
    columns = [open_column(folder, images) for folder in folders]
    inputs.check_unchanged(columns)
    tasks = [build_task(column.task, column.classes, column.manifest.rule) for column in columns]
    evaluation = [open_images(name, config.data_dir) for name in config.evaluation]
    true = [column for column in columns if column.teacher is None]
    beside_images = [open_beside(folder, images) for folder in beside(images, TASKS)]
    truths: list[Column] = [*images.labels.values(), *beside_images, *true]
    claim(workdir, config)

    began = time.monotonic()
    positions = evenly_spread(len(images), config.sample or len(images))
    results = [audit(column, task, truths, positions) for column, task in zip(columns, tasks, strict=True)]
    duplicates = find_duplicates(images, evaluation, config.duplicate_distance) if evaluation else []
    _write(workdir, config, images, len(positions), results, duplicates, time.monotonic() - began)
    for result in results:
        reasons = "; ".join(finding.reason for finding in result.audited.findings) or "nothing found"
        say(f"{result.column.folder}: {result.audited.verdict}, {reasons}")
    if evaluation:
        say(f"{len(duplicates)} of {len(images)} images are near-duplicates of evaluation images")
    say(f"see {workdir / PAGE}")


class _Audited(pydantic.BaseModel):
    checksum: str


class _Record(pydantic.BaseModel):
    """What a restart needs to know from `JSON_FILE`."""

    columns: dict[str, _Audited]


def _is_finished(workdir: Path, folders: Sequence[Path]) -> bool:
    """Whether all columns have been audited here in their present state, and still have their verdicts."""
    if not (workdir / RESULT_FILE).exists():
        return False
    path = workdir / JSON_FILE
    there = read_json(path, _Record, f"remove {workdir / RESULT_FILE}, and start the audit again").columns
    columns = {str(folder): manifest.read(folder) for folder in folders}
    now = {name: column.checksum for name, column in columns.items() if gate.read(Path(name), column)}
    return now == {name: about.checksum for name, about in there.items()}


def audit(column: LabelColumn, task: Task, truths: Sequence[Column], positions: Sequence[int]) -> Result:
    """One pass over a column's labels, another if they can be scored; writes the verdict to the column folder.

    Args:
      task: with the options by which the labels were made.
      truths: columns of true labels of the same images.
      positions: of the images whose labels are read.
    """
    statistics = _read(column, positions)
    findings = [
        *gate.known_from_manifest(column.manifest, score_of_teacher(column.manifest, task)),
        *gate.known_from_labels(column.manifest, statistics),
    ]
    scores: dict[str, float] = {}
    of_task = [each for each in truths if each.task == task.name]
    truth = next((each for each in of_task if each.classes == column.classes), next(iter(of_task), None))
    if truth is not None and column.teacher is not None:
        truth = in_unit_of(truth, column.kind)
        if units.unit_of(truth.kind) != units.unit_of(column.kind):
            reason = f"its labels were not scored, because the true labels have the unit '{units.unit_of(truth.kind)}'"
            findings.append(Finding(level="look", reason=reason))
        elif truth.classes == column.classes:
            scores, scored = _score(column, truth, task, positions)
            if scored >= LEAST_SCORED:
                findings += gate.known_from_truth(Score(task.metric, scores[task.metric], scores[CHANCE]))
            else:
                reason = f"only {scored} of its labels could be scored against true ones, which is too few to judge"
                findings.append(Finding(level="look", reason=reason))
        else:
            reason = "its labels were not scored, because the true labels have other classes"
            findings.append(Finding(level="look", reason=reason))
    audited = gate.write(column.folder, column.manifest, findings, len(positions))
    return Result(column, task, statistics, scores, audited)


def find_duplicates(images: ImageSet, evaluation: Sequence[ImageSet], most: int) -> list[Duplicate]:
    """Per image and evaluation set, the nearest pair if their hashes differ in at most `most` bits; nearest first.

    Evaluation images are also compared mirrored, since training mirrors images.
    """
    found = []
    with Progress("looking for near-duplicates", len(images) + sum(map(len, evaluation))) as progress:
        ours = hash_images(images, progress.advance)
        for others in evaluation:
            theirs = hash_images(others, progress.advance, mirror=True)
            found += [Duplicate(others, pair) for pair in near(ours, theirs, most)]
    return sorted(found, key=lambda duplicate: duplicate.pair.distance)


def _read(column: LabelColumn, positions: Sequence[int]) -> Statistics:
    def part(chunk: Sequence[int]) -> Statistics:
        statistics = Statistics(len(column.classes))
        for position in chunk:
            try:
                label = column[position]
            except Exception:  # broken in any way; the verdict says so
                statistics.images += 1
                statistics.unreadable += 1
            else:
                statistics.add(column.kind, position, label)
        return statistics

    chunks = [positions[start : start + _TOGETHER] for start in range(0, len(positions), _TOGETHER)]
    total = Statistics(len(column.classes))
    with Progress(f"reading {column.folder.name}", len(positions)) as progress, ThreadPoolExecutor(cores()) as pool:
        for statistics in pool.map(part, chunks):
            total.merge(statistics)
            progress.advance(statistics.images)
    return total


def _score(column: LabelColumn, truth: Column, task: Task, positions: Sequence[int]) -> tuple[dict[str, float], int]:
    """The task's metrics of the column's labels, over the images that both label, and the number of these."""
    metrics, scored = task.metrics(), 0
    with Progress(f"scoring {column.folder.name}", len(positions)) as progress:
        for pair in _pairs(column, truth, positions):
            if pair:
                label, true = pair
                label, true = compared(column.kind, label, true)
                metrics.update(task.as_prediction(label), true)
                scored += 1
            progress.advance()
    return ({**metrics.result(), CHANCE: metrics.chance()} if scored else {}), scored


def _pairs(column: LabelColumn, truth: Column, positions: Sequence[int]) -> Iterator[tuple[Label, ...]]:
    """(label, true label) of each image, read ahead by threads; () where either is missing."""

    def read(position: int) -> tuple[Label, ...]:
        try:
            label, true = column[position], truth[position]
        except Exception:  # failures of the column are counted with its statistics
            return ()
        return (label, true) if label["present"] and true["present"] else ()

    with ThreadPoolExecutor(cores()) as pool:
        yield from ahead(positions, lambda position: pool.submit(read, position).result, _AHEAD)


def _write(
    workdir: Path,
    config: AuditConfig,
    images: ImageSet,
    labels_read: int,
    results: Sequence[Result],
    duplicates: Sequence[Duplicate],
    seconds: float,
) -> None:
    from must_jax.stages import audit_page  # matplotlib takes a second to load

    audit_page.write(workdir / PAGE, config, images, labels_read, results, duplicates)
    columns = {str(result.column.folder): _told(result) for result in results}
    about = {
        "images": {"name": images.name, "count": len(images), "digest": images.digest},
        "labels_read": labels_read,
        "columns": columns,
        "evaluation": list(config.evaluation),
        "duplicates": [_named(images, duplicate) for duplicate in duplicates],
    }
    write_json(workdir / JSON_FILE, about)
    short = {name: {"task": told["task"], "verdict": told["verdict"]} for name, told in columns.items()}
    write_json(workdir / RESULT_FILE, {"columns": short, "duplicates": len(duplicates), "seconds": seconds})


def _told(result: Result) -> dict[str, Any]:
    column = result.column
    return {
        "task": column.task,
        "made_by": column.manifest.maker,
        **result.audited.model_dump(mode="json"),
        "validation": column.manifest.teacher.metrics if column.manifest.teacher else {},
        "against_truth": dict(result.scores),
        "statistics": result.statistics.readable(column.kind, column.classes),
    }


def _named(images: ImageSet, duplicate: Duplicate) -> dict[str, Any]:
    pair = duplicate.pair
    return {
        "image": images.name_of(pair.position),
        "evaluation": duplicate.others.name,
        "evaluation_image": duplicate.others.name_of(pair.other),
        "mirrored": pair.mirrored,
        "distance": pair.distance,
    }
