"""Audit: statistics of an image set's label columns, and a verdict on each: the gate before training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic

from must_jax.auditing.findings import Duplicate, Result, audit_column, find_duplicates
from must_jax.config import AuditConfig
from must_jax.data.image_sets import Column, ImageSet, evenly_spread, open_images
from must_jax.files import write_json
from must_jax.inputs.mistakes import check_config
from must_jax.inputs.sources import check_unchanged
from must_jax.labels import judging, manifest
from must_jax.labels.columns import beside, find_columns, open_beside, open_column
from must_jax.progress import say
from must_jax.reading import read_json
from must_jax.runs.workdir import RESULT_FILE, check, claim
from must_jax.tasks import build_task

JSON_FILE, PAGE = "audit.json", "audit.html"


def run(config: AuditConfig, workdir: Path) -> None:
    """Writes `audit.html`, `audit.json` and, last, `result.json` into the workdir, and a verdict into every column.

    A failed column is not an error here, but training refuses it. A finished audit of the same columns says so.

    Raises:
      UserError: columns or images that are missing or do not match, columns that were changed or damaged since they
        were written, a workdir of another config.
    """
    check(workdir, config)
    check_config(config)
    folders = list(dict.fromkeys(folder for path in config.columns for folder in find_columns(Path(path))))
    if _is_finished(workdir, folders):
        say(f"{workdir} is finished; nothing to do, see {workdir / PAGE}")
        return
    images = open_images(config.images, config.data_dir, config.take)
    columns = [open_column(folder, images) for folder in folders]
    check_unchanged(columns)
    tasks = [build_task(column.task, column.classes, column.manifest.options) for column in columns]
    evaluation = [open_images(name, config.data_dir) for name in config.evaluation]
    true = [column for column in columns if column.teacher is None]
    beside_images = [open_beside(folder, images) for folder in beside(images, {column.task for column in columns})]
    truths: list[Column] = [*images.labels.values(), *beside_images, *true]
    claim(workdir, config)

    began = time.monotonic()
    positions = evenly_spread(len(images), config.sample or len(images))
    results = [audit_column(column, task, truths, positions) for column, task in zip(columns, tasks, strict=True)]
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
    now = {name: column.checksum for name, column in columns.items() if judging.read(Path(name), column)}
    return now == {name: about.checksum for name, about in there.items()}


def _write(
    workdir: Path,
    config: AuditConfig,
    images: ImageSet,
    labels_read: int,
    results: Sequence[Result],
    duplicates: Sequence[Duplicate],
    seconds: float,
) -> None:
    from must_jax.auditing import presenting  # matplotlib takes a second to load

    presenting.write(workdir / PAGE, config, images, labels_read, results, duplicates)
    columns = {str(result.column.folder): _as_json(result) for result in results}
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


def _as_json(result: Result) -> dict[str, Any]:
    column = result.column
    return {
        "task": column.task,
        "made_by": column.manifest.maker,
        **result.audited.model_dump(mode="json"),
        "validation": column.manifest.teacher.metrics if column.manifest.teacher else {},
        "against_truth": dict(result.scores),
        "statistics": column.kind.readable(result.statistics, column.classes),
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
