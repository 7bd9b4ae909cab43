"""The report: one HTML file without external references, from the given values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import markupsafe
import numpy as np

from must_jax.report import page, plots, scorecard


@dataclass(frozen=True)
class Stage:
    """One stage of the run; values that do not apply or are not known yet are None."""

    name: str
    kind: str
    finished: bool
    tasks: Sequence[str] = ()
    seconds: float | None = None
    steps: int | None = None
    batch_size: int | None = None
    images_per_second: float | None = None
    data_wait_share: float | None = None  # 0..1, of the training time
    parameters: int | None = None

    @property
    def image_steps(self) -> int | None:
        return self.steps * self.batch_size if self.steps and self.batch_size else None


@dataclass(frozen=True)
class Curve:
    """Loss curves of one stage: name -> (steps, values), the total first."""

    title: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]


@dataclass(frozen=True)
class Check:
    """A metric on held-out images and the minimum it had to reach."""

    stage: str
    metric: str
    value: float
    minimum: float | None = None


@dataclass(frozen=True)
class Gallery:
    """Pictures u8 [H, W, 3] RGB: heading of a row -> one picture per image; all rows show the same images."""

    title: str
    note: str
    rows: Mapping[str, Sequence[np.ndarray]]


@dataclass(frozen=True)
class Report:
    """Everything shown. Any part may be empty: a report of an unfinished run is a report too."""

    title: str
    facts: Mapping[str, str]  # date, device, versions, ...
    stages: Sequence[Stage] = ()
    curves: Sequence[Curve] = ()
    checks: Sequence[Check] = ()
    galleries: Sequence[Gallery] = ()
    rows: Sequence[scorecard.Row] = ()
    starts: Mapping[str, scorecard.Start] = field(default_factory=dict)


def write(report: Report, path: Path) -> None:
    """Writes the report; a reader never sees half of it."""
    page.write(render(report), path)


def render(report: Report) -> str:
    """The report as HTML text."""
    starts = report.starts
    tables = scorecard.tables(report.rows, starts)
    return page.render(
        "report.html.jinja",
        report=report,
        curves=[(curve.title, markupsafe.Markup(plots.curves(curve.series, curve.title))) for curve in report.curves],
        scorecards=[(table, scorecard.differences(table, starts), _bars(table, starts)) for table in tables],
        starts=starts,
        rule=scorecard.RULE,
    )


def _bars(table: scorecard.Table, starts: Mapping[str, scorecard.Start]) -> dict[str, markupsafe.Markup]:
    several = [name for name, start in starts.items() if len(start.tasks) > 1]
    scratch = [name for name, start in starts.items() if not start.tasks]
    figures = {}
    for dataset in table.datasets:
        cells = {init: cells[dataset] for init, cells in table.cells.items() if dataset in cells}
        values = {init: (cell.mean, cell.sd or 0.0) for init, cell in cells.items() if cell.mean is not None}
        title = f"{dataset}, {table.mode}"
        figures[dataset] = markupsafe.Markup(plots.bars(values, several, scratch, title))
    return figures
