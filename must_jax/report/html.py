"""The report: one HTML file without any outside reference, from values handed in."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import jinja2
import markupsafe
import numpy as np

from must_jax.report import plots, scorecard


@dataclass(frozen=True)
class Stage:
    """One stage of the run; None where it does not apply or is not known yet."""

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
    """A metric on held-out images and the least it had to reach."""

    stage: str
    metric: str
    value: float
    minimum: float | None = None


@dataclass(frozen=True)
class Gallery:
    """Pictures u8 [H, W, 3] RGB: heading of a row -> one picture an image, all rows of the same images."""

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
    """Writes the report as one self-contained file; a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(render(report), encoding="utf-8")
    partial.replace(path)


def render(report: Report) -> str:
    """The report as HTML text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("must_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=duration, picture=picture)
    starts = report.starts
    tables = scorecard.tables(report.rows, starts)
    return environment.get_template("report.html.jinja").render(
        report=report,
        curves=[(curve.title, markupsafe.Markup(plots.curves(curve.series, curve.title))) for curve in report.curves],
        scorecards=[(table, scorecard.differences(table, starts), _bars(table, starts)) for table in tables],
        starts=starts,
    )


def duration(seconds: float | None) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def picture(image: np.ndarray) -> str:
    """u8 [H, W, 3] RGB as a data URI."""
    ok, encoded = cv2.imencode(".webp", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, 88])
    assert ok, image.shape
    return "data:image/webp;base64," + base64.b64encode(encoded.tobytes()).decode()


def _bars(table: scorecard.Table, starts: Mapping[str, scorecard.Start]) -> dict[str, markupsafe.Markup]:
    several = [name for name, start in starts.items() if len(start.tasks) > 1]
    scratch = [name for name, start in starts.items() if not start.tasks]
    figures = {}
    for dataset in table.datasets:
        cells = {init: cells[dataset] for init, cells in table.cells.items() if dataset in cells}
        values = {init: (cell.mean, cell.sd) for init, cell in cells.items()}
        title = f"{dataset}, {table.mode}"
        figures[dataset] = markupsafe.Markup(plots.bars(values, several, scratch, title))
    return figures
