"""The losses and validations of a training run over its updates, from its metrics."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path

from must_jax.engine.metric_log import VALIDATION, read_rows

Series = tuple[list[int], list[float]]  # steps and values; NaN where not finite


def losses(workdir: Path, tasks: Collection[str]) -> dict[str, Series]:
    """Total loss and its terms; for several tasks, each task's sum of terms. Empty until something is logged."""
    series: dict[str, Series] = {}
    for row in read_rows(workdir):
        if "loss" not in row:
            continue
        row = {name: math.nan if value is None else value for name, value in row.items()}
        values = {"loss": row["loss"]}
        for name, value in row.items():
            task, _, term = name.partition("/")
            if task in tasks:
                name = task if len(tasks) > 1 else term
                values[name] = values.get(name, 0.0) + value
        for name, value in values.items():
            steps, found = series.setdefault(name, ([], []))
            steps.append(row["step"])
            found.append(value)
    if len(series) == 2:  # the only term is the loss
        del series[next(name for name in series if name != "loss")]
    return series


def validations(workdir: Path) -> dict[str, Series]:
    """ "task/metric" or "task/metric@name" -> what was measured on the validation images."""
    series: dict[str, Series] = {}
    for row in read_rows(workdir):
        for name, value in row.items():
            if name.startswith(VALIDATION):
                steps, found = series.setdefault(name.removeprefix(VALIDATION), ([], []))
                steps.append(row["step"])
                found.append(math.nan if value is None else value)
    return series


def headlines(series: Mapping[str, Series]) -> dict[str, Series]:
    """Of each task on each source the metric that comes first."""
    first: dict[tuple[str, str], str] = {}
    for name in series:
        first.setdefault((name.partition("/")[0], name.partition("@")[2]), name)
    return {name: points for name, points in series.items() if name in first.values()}
