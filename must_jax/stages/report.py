"""Report: one page about any runs: what was run, data, curves, validation, labels, pictures, scorecard, time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from must_jax.config import STAGE_CONFIGS, PipelineConfig, ReportConfig
from must_jax.errors import UserError
from must_jax.planning.sequence import stage_entries
from must_jax.progress import say
from must_jax.reporting import overview
from must_jax.runs.entries import Entry
from must_jax.runs.pipelines import times
from must_jax.runs.workdir import CONFIG_FILE, PLACE, REPORT, home, stored
from must_jax.stages import STAGES


def run(config: ReportConfig, workdir: Path) -> None:
    """Writes `report/index.html` into the workdir, about the run there or those of `config.runs`; changes nothing else.

    Raises:
      UserError: a run that does not exist, or whose files are damaged.
    """
    runs = [Path(folder) for folder in config.runs] or [workdir]
    for folder in runs:
        if not (folder / CONFIG_FILE).exists():
            raise UserError(f"there is no run in {folder}; start it first, or name the folders with --config.runs=")
    entries = [entry for folder in runs for entry in entries_of(folder, config.moved_data_dir)]
    title = title_of(runs[0]) if len(runs) == 1 else ", ".join(folder.name for folder in runs)
    spent = sum(times(folder).get(REPORT.parent.name, 0.0) for folder in runs)
    overview.write(title, _told_apart(entries), workdir, config.ranked_images, spent)
    say(f"report: {workdir / REPORT}")


def entries_of(workdir: Path, moved_data_dir: str = "") -> list[Entry]:
    """The run in a workdir; of a pipeline, its stages.

    Args:
      moved_data_dir: where the image sets are now; "" = where the run found them.
    """
    config = _opened(workdir)
    moved = {"data_dir": moved_data_dir} if moved_data_dir else {}
    if isinstance(config, PipelineConfig):
        return stage_entries(config.model_copy(update=moved), workdir)
    return [Entry(workdir.resolve().name, config.model_copy(update=moved), workdir)]


def title_of(workdir: Path) -> str:
    return getattr(_opened(workdir), "title", workdir.resolve().name)


def _opened(workdir: Path) -> Any:
    """The config of a run, as it was started, with the pipeline's folder for "{workdir}"."""
    values = stored(workdir, STAGES)
    if values["stage"] == "pipeline":  # which places its stages
        return PipelineConfig.model_validate(values)
    text = json.dumps(values).replace(PLACE, json.dumps(str(home(workdir)))[1:-1])
    return STAGE_CONFIGS[values["stage"]].model_validate(json.loads(text))


def _told_apart(entries: list[Entry]) -> list[Entry]:
    """By their paths, those that share a name."""
    names = [entry.name for entry in entries]
    return [entry if names.count(entry.name) == 1 else replace(entry, name=str(entry.workdir)) for entry in entries]
