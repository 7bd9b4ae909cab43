"""Pipelines whose stages do nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from made_teacher import HEADLINES, make_teacher

from must_jax.config import PipelineConfig
from must_jax.planning import renewal
from must_jax.report.html import Report
from must_jax.runs import workdir
from must_jax.runs.pipelines import timed, times
from must_jax.stages import pipeline


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of depth from elsewhere."""
    return make_teacher(tmp_path_factory.mktemp("elsewhere") / "second", ("depth",), 32, HEADLINES)


@pytest.fixture
def ran(
    second: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[Path, Any]]:
    """Stages and report do nothing, and list their calls (folder, config)."""
    monkeypatch.chdir(tmp_path_factory.mktemp("home"))
    shutil.copytree(second, "elsewhere/second")
    calls: list[tuple[Path, Any]] = []

    def stage(config: Any, folder: Path) -> None:
        workdir.claim(folder, config, changed=("steps",))  # as training does
        (folder / workdir.RESULT_FILE).write_text("{}")
        calls.append((folder, config))

    monkeypatch.setattr(pipeline, "STAGES", dict.fromkeys(("prepare", "train", "label", "audit", "evaluate"), stage))

    def report(config: PipelineConfig, home: Path, *_: Any) -> Report:
        with timed("report", home):
            calls.append((Path("report"), None))
        return Report("", {}, report_seconds=sum(times(home).values()))

    monkeypatch.setattr(pipeline, "_write_report", report)
    return calls


@pytest.fixture
def digests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are their configs."""

    def digest(folder: str) -> str | None:
        file = Path(folder) / workdir.CONFIG_FILE
        return file.read_text() if file.exists() else None

    monkeypatch.setattr(renewal, "run_digest", digest)
