"""The losses of a training run, from its metrics."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

from must_jax.engine.writer import read_rows

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
