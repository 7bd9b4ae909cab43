"""The columns that label runs have finished in a workdir; without jax."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from must_jax.data.shards import COLUMNS
from must_jax.labels import manifest
from must_jax.stages.workdir import RESULT_FILE

NO_RULE = {"classes", "weight", "max_boxes"}  # options of every task, which do not decide what a label says


def finished_columns(workdir: Path) -> dict[str, dict[str, Any]]:
    """Name -> figures of the columns that earlier runs have finished and that are still there."""
    if not (workdir / RESULT_FILE).exists():
        return {}
    columns = json.loads((workdir / RESULT_FILE).read_text(encoding="utf-8"))["columns"]
    return {name: about for name, about in columns.items() if (workdir / COLUMNS / name / manifest.FILE).is_file()}
