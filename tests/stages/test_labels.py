"""What is in columns, and whether they are as they were written, through the function that `main` calls."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from hand_made import Images, write_column

from must_jax.config import LabelsConfig
from must_jax.errors import UserError
from must_jax.labels import manifest
from must_jax.labels.columns import find_columns
from must_jax.parsing import parse
from must_jax.stages import labels


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("label")
    for task in ("detection", "depth"):
        write_column(run / "columns" / task, task, Images())
    return run


def test_a_path_may_be_that_of_a_run_of_its_columns_or_of_one(made: Path) -> None:
    depth, detection = made / "columns/depth", made / "columns/detection"
    assert find_columns(made) == find_columns(made / "columns") == [depth, detection]
    assert find_columns(depth) == [depth]
    with pytest.raises(UserError, match="there is no label column in"):
        find_columns(made.parent / "nowhere")


def config_of(run: Path, action: str) -> LabelsConfig:
    config = parse({"stage": "labels", "action": action, "columns": (str(run),)})
    assert isinstance(config, LabelsConfig)
    return config


@pytest.mark.parametrize("action", ["describe", "verify"])
def test_every_column_has_a_row(action: str, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels.run(config_of(made, action), Path())
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["column", "depth", "detection", "depth:", "detection:"]
    classes = manifest.read(made / "columns/detection").classes
    assert re.search(r"^depth: \d+ of \d+ images; depth from \S+ over .* m; valid: \d", out, re.M)
    assert out.splitlines()[-1].startswith(f"detection: {len(classes)} classes, images with each: {classes[0]} ")
    assert ("intact: 2 columns" in err) == (action == "verify")


def test_all_that_is_damaged_is_named(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A manifest that cannot be read does not keep the other column from being looked at."""
    run = Path(shutil.copytree(made, tmp_path / "label"))
    half, shard = run / "columns/depth/manifest.json", next((run / "columns/detection").glob("*.array_record-00000*"))
    half.write_text(half.read_text()[:200])
    shard.unlink()
    with pytest.raises(UserError, match="2 problems in 2 columns, listed above"):
        labels.run(config_of(run, "verify"), Path())
    out, err = capsys.readouterr()
    assert f"damaged: {half} is damaged" in err and f"damaged: {shard} is missing" in err and not out
