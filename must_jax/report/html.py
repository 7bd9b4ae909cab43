"""The report: one HTML file without external references, from the given values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import markupsafe
import numpy as np

from must_jax.report import page, plots, scorecard
from must_jax.report.details import Confusion, Details, Lines


@dataclass(frozen=True)
class Stage:
    """One stage of the run; values that do not apply or are not known yet are None.

    Attributes:
      data_wait_share: 0..1, of the training time.
      state: "finished", "running", "failed", ...
      failure: why it has failed.
      when: when it was last at work, ready to read.
    """

    name: str
    kind: str
    finished: bool
    tasks: Sequence[str] = ()
    seconds: float | None = None
    steps: int | None = None
    batch_size: int | None = None
    images_per_second: float | None = None
    data_wait_share: float | None = None
    parameters: int | None = None
    state: str = ""
    failure: str = ""
    when: str = ""

    @property
    def image_steps(self) -> int | None:
        return self.steps * self.batch_size if self.steps and self.batch_size else None


@dataclass(frozen=True)
class Data:
    """Images that a stage reads. `labels`: where theirs come from; `take`: how many of them are read, 0 = all."""

    stage: str
    role: str
    images: str
    labels: Sequence[str] = ()
    take: int = 0


@dataclass(frozen=True)
class Curve:
    """Curves of one stage over its updates: name -> (steps, values), the most important first."""

    title: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    y: str = ""


@dataclass(frozen=True)
class Check:
    """A metric on held-out images and the minimum that it had to reach: the config's, else the gate's near chance."""

    stage: str
    metric: str
    value: float
    minimum: float | None = None


@dataclass(frozen=True)
class Detail:
    """What lies behind the metrics of `task` on one image set."""

    title: str
    task: str
    images: str
    details: Details


@dataclass(frozen=True)
class Column:
    """A label column with its verdict; `findings` are (level, reason)."""

    name: str
    task: str
    maker: str
    images: int
    absent: int
    empty_share: float  # in percent
    bytes_per_image: float
    verdict: str
    findings: Sequence[tuple[str, str]] = ()
    audited: bool = False


@dataclass(frozen=True)
class Gallery:
    """Pictures u8 [H, W, 3] RGB: heading of a row -> one picture per image; all rows show the same images."""

    title: str
    note: str
    rows: Mapping[str, Sequence[np.ndarray]]
    captions: Sequence[str] = ()  # of the images


@dataclass(frozen=True)
class Report:
    """Everything shown. Any part may be empty, and is then left out: a report of an unfinished run is a report too.

    Attributes:
      facts: date, device, versions, ...
      checks, validations, details: what was measured on held-out images: figures, curves, and what lies behind them.
      extremes: the images of each task on which a model is worst, and those on which it is best.
      missing: why pictures are not there.
      times: stage -> {what the time was spent on: seconds}.
      report_seconds: of this report and those before it.
    """

    title: str
    facts: Mapping[str, str]
    stages: Sequence[Stage] = ()
    data: Sequence[Data] = ()
    curves: Sequence[Curve] = ()
    validations: Sequence[Curve] = ()
    checks: Sequence[Check] = ()
    details: Sequence[Detail] = ()
    columns: Sequence[Column] = ()
    galleries: Sequence[Gallery] = ()
    extremes: Sequence[Gallery] = ()
    missing: Sequence[str] = ()
    rows: Sequence[scorecard.Row] = ()
    starts: Mapping[str, scorecard.Start] = field(default_factory=dict)
    times: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    report_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """Of everything."""
        return sum(stage.seconds or 0.0 for stage in self.stages) + self.report_seconds


def write(report: Report, path: Path) -> None:
    """Writes the report; a reader never sees half of it."""
    page.write(render(report), path)


def render(report: Report) -> str:
    """The report as HTML text."""
    starts = report.starts
    tables = scorecard.tables(report.rows, starts)
    return page.render(
        "report.html.jinja",
        {"figure": _figure, "lines": _lines, "matrix": _matrix, "value": _value},
        report=report,
        scorecards=[(table, scorecard.differences(table, starts), _bars(table, starts)) for table in tables],
        starts=starts,
        rule=scorecard.RULE,
        one_seed=scorecard.ONE_SEED,
        shares=markupsafe.Markup(_shares(report.times)) if report.times else "",
    )


def _bars(table: scorecard.Table, starts: Mapping[str, scorecard.Start]) -> dict[str, markupsafe.Markup]:
    several = [name for name, start in starts.items() if len(start.tasks) > 1]
    scratch = [name for name, start in starts.items() if not start.tasks]
    figures = {}
    for dataset in table.datasets:
        cells = {init: cells[dataset] for init, cells in table.cells.items() if dataset in cells}
        values = {init: (cell.mean, cell.sd) for init, cell in cells.items() if cell.mean is not None}
        if values:  # not if every training diverged
            title = f"{dataset}, {table.mode}"
            figures[dataset] = markupsafe.Markup(plots.bars(values, several, scratch, title))
    return figures


def _figure(curve: Curve, linear: bool = False) -> markupsafe.Markup:
    return markupsafe.Markup(plots.curves(curve.series, curve.title, y=curve.y, linear=linear))


def _lines(lines: Lines, title: str) -> markupsafe.Markup:
    return markupsafe.Markup(
        plots.curves(lines.series, f"{title}, {lines.title}", plots.shown(lines.x, 48), lines.y, linear=True)
    )


def _matrix(confusion: Confusion, title: str) -> markupsafe.Markup:
    return markupsafe.Markup(plots.confusion(confusion.shares, confusion.classes, confusion.predicted, title))


def _shares(times: Mapping[str, Mapping[str, float]]) -> str:
    spent = {name: max(sum(parts.values()), 1e-9) for name, parts in times.items()}
    rows = {name: {part: 100 * s / spent[name] for part, s in parts.items()} for name, parts in times.items()}
    return plots.shares(rows, "time spent on")


def _value(value: float | None) -> str:
    """A figure of a table: counts whole, others with four digits."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
