"""The list of keys: complete, readable, and docs/config.md is made from it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import CONFIGS, ROOT, call

from must_jax import keys
from must_jax.config import STAGE_CONFIGS, TrainConfig
from must_jax.main import read_config
from must_jax.tasks import TASKS


def helped(name: str, *overrides: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert call(f"--config={CONFIGS}/{name}.py", *overrides, "--help") == 0
    return capsys.readouterr().out


def test_the_page_of_all_keys_is_fresh():
    assert (ROOT / "docs/config.md").read_text(encoding="utf-8") == keys.markdown()


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.py")), ids=lambda file: file.stem)
def test_every_config_lists_its_keys_within_80_columns(file: Path):
    lines = keys.text(read_config(file)).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) > 10


def test_help_shows_type_default_and_the_value_of_the_config(capsys: pytest.CaptureFixture[str]):
    said = helped("student", "--config.steps=77", "--config.columns.drop=depth", capsys=capsys)
    assert "steps  (integer; default 1000; here 77)" in said
    assert "columns.drop  (list; default none; here depth)" in said
    assert "train.0.images  (text; required; here scenes/unlabelled:train)" in said
    assert "tasks.detection.score_threshold  (number 0 to 1; default 0.5)" in said
    assert "optimizer.warmup_steps  (integer; default 0; here 50)" in said


def test_options_of_formats_are_listed(capsys: pytest.CaptureFixture[str]):
    said = helped("prepare", capsys=capsys)
    assert "labels.TASK.options.unit" in said and "of depth_png" in said
    assert "labels.TASK.options.bbox" in said


def test_stages_of_a_pipeline_have_their_keys(capsys: pytest.CaptureFixture[str]):
    said = helped("quickstart", capsys=capsys)
    assert "stages.NAME.steps  (integer; default 1000; here 900 and 1600)" in said
    names = re.search(r"pipeline, which runs (.*?)\n  title", said, re.S)
    assert names
    order = names[1].replace(",", "").split()
    assert order.index("teacher_depth") < order.index("label") < order.index("student") < order.index("evaluate")
    assert "stages.NAME.transfers.0.learning_rates" in said


def test_values_shown_in_a_pipeline_are_those_of_stages_of_that_kind(capsys: pytest.CaptureFixture[str]):
    """Its trainings have batches of 16; the label stage has 64, which is its default."""
    said = helped("quickstart", capsys=capsys)
    assert said.count("stages.NAME.batch_size  (integer; default 32; here 16)") == 1
    assert said.count("stages.NAME.batch_size  (integer; default 64)") == 1


def test_a_stage_on_top_of_another(capsys: pytest.CaptureFixture[str]):
    said = helped("label", "--config.stage=compile", capsys=capsys)
    assert "compile.topology  (text; required)" in said and "teachers  (list; required" in said


def test_help_without_a_config_names_stages_and_configs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(ROOT)
    assert call("--help") == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in (*STAGE_CONFIGS, "compile", "replay"))
    assert all(f"configs/{file.name}" in said for file in CONFIGS.glob("*.py"))
    assert "--workdir" in said and "none" in said
    assert max(map(len, said.splitlines())) <= 80


def test_help_can_be_piped():
    """Nothing but the list, also where the config is not complete yet."""
    command = [sys.executable, "-m", "must_jax.main", "--config=configs/label.py", "--config.teachers=none", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"COLUMNS": "30"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "teachers  (list; required; here none)" in done.stdout


def test_every_key_is_there_once_and_every_option_of_a_task():
    listed = [key.path for key in keys.keys_of(TrainConfig)]
    assert len(listed) == len(set(listed))
    for name, task in TASKS.items():
        for option in (task.model_fields.keys() | {"kind"}) - {"name", "classes"}:
            assert f"tasks.{name}.{option}" in listed or f"tasks.TASK.{option}" in listed
