"""A run in one line, from the files of its workdir alone: state, progress and result. Does not load jax."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from must_jax.engine import goodput
from must_jax.engine.metric_log import read_rows
from must_jax.files import is_locked
from must_jax.reading import read_json_lines
from must_jax.runs import results
from must_jax.runs.curves import validations
from must_jax.runs.workdir import CONFIG_FILE, PREEMPTED_FILE, RESULT_FILE


@dataclass(frozen=True)
class Brief:
    """The progress of a run: `done` of `total` `units`; total 0 = unknown. `note`: the result in a few words."""

    done: int = 0
    total: int = 0
    units: str = ""
    seconds: float | None = None
    note: str = ""

    @property
    def progress(self) -> str:
        return f"{self.done:,}/{self.total:,} {self.units}" if self.total else ""


@dataclass(frozen=True)
class LabelledColumn:
    """A label column, finished or not."""

    name: str
    shards: int
    done: int
    images: int
    absent: int
    bytes: int


def state(workdir: Path) -> str:
    """The state of a run in one word."""
    if is_locked(workdir):
        return "running"
    if (workdir / RESULT_FILE).exists():
        return "finished"
    if (workdir / PREEMPTED_FILE).exists():
        return "preempted"
    return "stopped" if (workdir / CONFIG_FILE).exists() else "not started"


def brief(config: Mapping[str, Any], workdir: Path) -> Brief:
    """The brief of any stage's run, from its config as stored in the workdir or in that of its pipeline."""
    make = _BRIEFS.get(config["stage"])
    return make(config, workdir) if make else Brief()


def validated(workdir: Path) -> dict[str, float]:
    """ "task/metric" -> value on the validation images: of the finished model, otherwise the last that was measured."""
    finished = results.read(workdir, results.TrainResult)
    if finished and finished.metrics is not None:
        return finished.metrics
    return {name: values[-1] for name, (_, values) in validations(workdir).items() if not math.isnan(values[-1])}


def labelled_columns(workdir: Path) -> list[LabelledColumn]:
    """The columns of a label run, by name."""
    from must_jax.data.shards import COLUMNS  # loads TFDS
    from must_jax.labels import manifest

    found = []
    for file in sorted((workdir / COLUMNS).glob(f"*/{manifest.FILE}")):
        records = manifest.records_beside(file.parent)  # before the manifest, since other processes may be writing
        column = manifest.read(file.parent)
        done = column.shard_count - len(column.missing(file.parent, records))
        shards = {shard.file: shard for shard in column.shards} | records
        absent = sum(len(shard.absent) for shard in shards.values())
        size = sum(shard.bytes for shard in shards.values())
        found.append(LabelledColumn(file.parent.name, column.shard_count, done, column.images.length, absent, size))
    return found


def _training(config: Mapping[str, Any], workdir: Path) -> Brief:
    spent, rows, finished = (
        goodput.total(goodput.read(workdir)),
        read_rows(workdir),
        results.read(workdir, results.TrainResult),
    )
    done = (finished and finished.steps) or max([spent.steps, *(row["step"] for row in rows)])
    seconds = sum(spent.seconds.values()) if spent.processes else _seconds(finished)
    notes = [f"{name.partition('/')[2]} {value:.4g}" for name, value in validated(workdir).items()]
    notes += [f"loss {row['loss']:.4g}" for row in reversed(rows) if row.get("loss") is not None]
    return Brief(done, config["steps"], "steps", seconds, notes[0] if notes else "")


def _labelling(config: Mapping[str, Any], workdir: Path) -> Brief:
    columns = labelled_columns(workdir)
    done, total = sum(column.done for column in columns), sum(column.shards for column in columns)
    note = f"{columns[0].images:,} images" if columns else ""
    return Brief(done, total, "shards", _seconds(results.read(workdir, results.Result)), note)


def _evaluation(config: Mapping[str, Any], workdir: Path) -> Brief:
    each = [
        (len(transfer["inits"]) or len(config["inits"]))
        * (len(transfer["learning_rates"]) + len(transfer["seeds"]) - 1)
        for transfer in config["transfers"]
    ]
    # One file per process.
    runs = (read_json_lines(file, results.Run) for file in workdir.glob(results.RUNS_FILES))
    done = len({each.run for of_process in runs for each in of_process})
    total = len(config["downstream"]) * sum(each)
    return Brief(
        done, max(done, total), "trainings", _seconds(results.read(workdir, results.Result))
    )  # includes starting points that have changed since


def _audit(config: Mapping[str, Any], workdir: Path) -> Brief:
    finished = results.read(workdir, results.AuditResult)
    verdicts = [column.verdict for column in finished.columns.values()] if finished else []
    return Brief(seconds=_seconds(finished), note=_counts(verdicts))


def _check(config: Mapping[str, Any], workdir: Path) -> Brief:
    finished = results.read(workdir, results.CheckResult)
    verdicts = [verdict for tasks in finished.teachers.values() for verdict in tasks.values()] if finished else []
    return Brief(seconds=_seconds(finished), note=_counts(verdicts))


def _export(config: Mapping[str, Any], workdir: Path) -> Brief:
    finished = results.read(workdir, results.ExportResult)
    return Brief(seconds=_seconds(finished), note=", ".join(finished.files) if finished else "")


def _counts(verdicts: list[str]) -> str:
    return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))


def _pipeline(config: Mapping[str, Any], workdir: Path) -> Brief:
    done = [name for name in config["stages"] if results.finished(workdir / name)]
    return Brief(len(done), len(config["stages"]), "stages", _seconds(results.read(workdir, results.Result)))


def _seconds(result: results.Result | results.TrainResult | None) -> float | None:
    return result.seconds if result else None


_BRIEFS: dict[str, Callable[[Mapping[str, Any], Path], Brief]] = {
    "train": _training,
    "label": _labelling,
    "evaluate": _evaluation,
    "audit": _audit,
    "check": _check,
    "export": _export,
    "pipeline": _pipeline,
}
