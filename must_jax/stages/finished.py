"""The columns that label runs have finished in a workdir. Does not load jax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from must_jax.data.shards import COLUMNS
from must_jax.labels import manifest
from must_jax.stages import results

NO_RULE = {"classes", "weight", "max_boxes"}  # options of every task that do not affect its labels


def finished_columns(workdir: Path) -> dict[str, dict[str, Any]]:
    """Name -> figures of the columns that earlier runs have finished and that still exist."""
    told = results.read(workdir, results.LabelResult)
    columns = told.columns if told else {}
    there = {name: about for name, about in columns.items() if (workdir / COLUMNS / name / manifest.FILE).is_file()}
    return {name: about.model_dump() for name, about in there.items()}
