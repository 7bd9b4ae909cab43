"""`result.json`, which every run writes last: each stage's contents, and reading it. Does not load jax."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import pydantic

from must_jax.description import TrainingRecord
from must_jax.reading import read_json
from must_jax.report.details import Details
from must_jax.report.scorecard import Start
from must_jax.runs.workdir import RESULT_FILE

RUNS_FILES = "runs*.jsonl"  # of an evaluation; every process has its own


class Result(pydantic.BaseModel):
    """The fields that the results of all stages have."""

    model_config = pydantic.ConfigDict(extra="ignore", frozen=True)

    seconds: float | None = None


class TrainResult(TrainingRecord):
    metrics: dict[str, float] | None = None


class ColumnFigures(pydantic.BaseModel):
    """A finished column; the other figures are for readers only."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)

    teacher: str
    task: str


class Named(pydantic.BaseModel):
    """An image, and why it has no label."""

    name: str
    reason: str


class LabelResult(Result):
    columns: dict[str, ColumnFigures]
    images_per_second: float = 0.0
    compile_seconds: float = 0.0
    bad: list[Named] = []


class StartRecord(pydantic.BaseModel):
    """A starting point of an evaluation; `digest` is None for random parameters, and missing in earlier versions."""

    tasks: tuple[str, ...]
    image_steps: pydantic.NonNegativeInt
    digest: str | None = None
    is_baseline: bool = False

    @property
    def told(self) -> Start:
        """As the scorecard takes it."""
        return Start(self.tasks, self.image_steps, self.is_baseline)


class EvaluateResult(Result):
    starts: dict[str, StartRecord]


class ExportResult(Result):
    """Of the model with this digest, these files were written."""

    digest: str
    files: tuple[str, ...] = ()


class Run(pydantic.BaseModel):
    """A finished training run of an evaluation: one line of a `RUNS_FILES` file."""

    run: str


class RunRecord(Run):
    """A run with its measured values."""

    validation: float | None = None  # None: it diverged, or was not measured
    test: float | None
    details: Details | None = None  # of the test images, for the first seed


class Verdict(pydantic.BaseModel):
    task: str = ""
    verdict: str


class AuditResult(Result):
    columns: dict[str, Verdict]


class CheckResult(Result):
    teachers: dict[str, dict[str, str]]  # task -> verdict


class Validated(pydantic.BaseModel):
    """What was measured on one set of held-out images."""

    metrics: dict[str, float]
    details: dict[str, Details]  # by task


ADVICE = "remove it and start the run again, which rewrites this file from its results"

_Result = TypeVar("_Result", Result, TrainResult, LabelResult, EvaluateResult, AuditResult, CheckResult, ExportResult)


def read(workdir: Path, kind: type[_Result]) -> _Result | None:
    """The result of a run; None until it is finished.

    Raises:
      UserError: the file is damaged.
    """
    path = workdir / RESULT_FILE
    if not path.exists():
        return None
    return read_json(path, kind, ADVICE)


def finished(workdir: Path) -> bool:
    """Whether the run is finished, whatever its stage.

    Raises:
      UserError: its result is damaged.
    """
    return read(workdir, Result) is not None
