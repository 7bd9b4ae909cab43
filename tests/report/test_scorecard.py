"""What the scorecard says about its rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from must_jax.report import scorecard
from must_jax.report.scorecard import Row, Start

STARTS = {
    "student": Start(("depth", "normals"), 640),
    "teacher_a": Start(("depth",), 320),
    "scratch": Start(),
    "teacher_b": Start(("normals",), 320),
}


def rows(values: dict[str, dict[str, list[float]]], mode: str = "frozen") -> list[Row]:
    return [
        Row(init, "depth", dataset, mode, "delta1", value, seed, 0.1, 150)
        for init, by_dataset in values.items()
        for dataset, seeds in by_dataset.items()
        for seed, value in enumerate(seeds)
    ]


VALUES = {
    "student": {"x": [60.0, 70.0], "y": [50.0, 50.0]},
    "teacher_a": {"x": [50.0, 50.0], "y": [80.0, 80.0]},
    "scratch": {"x": [40.0, 44.0], "y": [50.0, 50.0]},
    "teacher_b": {"x": [62.0, 62.0], "y": [40.0, 40.0]},
}


def test_mean_and_sample_deviation_over_seeds():
    (table,) = scorecard.tables(rows(VALUES), STARTS)
    cell = table.cells["student"]["x"]
    assert (cell.mean, cell.sd, cell.seeds) == (65.0, pytest.approx(50**0.5), 2)
    (single,) = scorecard.tables(rows({"scratch": {"x": [5.0]}}), STARTS)
    assert (single.cells["scratch"]["x"].sd, single.cells["scratch"]["x"].seeds) == (0.0, 1)


def test_scratch_comes_first_and_the_student_last():
    (table,) = scorecard.tables(rows(VALUES), STARTS)
    assert list(table.cells) == ["scratch", "teacher_a", "teacher_b", "student"]


def test_best_is_the_highest_mean_of_those_measured():
    (table,) = scorecard.tables(rows(VALUES | {"scratch": {"x": [99.0]}}), STARTS)
    assert [table.best(dataset) for dataset in ("x", "y")] == ["scratch", "teacher_a"]


def test_the_student_is_compared_with_scratch_and_with_the_mean_over_single_teachers():
    (table,) = scorecard.tables(rows(VALUES), STARTS)
    scratch, single = scorecard.differences(table, STARTS)
    assert scratch.by_dataset == {"x": 65.0 - 42.0, "y": 0.0}
    assert single.by_dataset == {"x": 65.0 - 56.0, "y": 50.0 - 60.0}
    assert str(scratch) == "student beats scratch on 1/2"  # a tie is no win
    assert str(single) == "student beats the mean over single teachers on 1/2"


def test_modes_are_kept_apart():
    other = rows({"scratch": {"x": [1.0]}}, "finetune")
    frozen, finetune = scorecard.tables([*rows(VALUES), *other], STARTS)
    assert (frozen.mode, finetune.mode) == ("frozen", "finetune")
    assert list(finetune.cells) == ["scratch"]
    assert scorecard.differences(finetune, STARTS) == []


def test_what_is_written_is_read_again(tmp_path: Path):
    scorecard.write(rows(VALUES), tmp_path)
    assert scorecard.read(tmp_path) == rows(VALUES)
    lines = (tmp_path / "scorecard.csv").read_text().splitlines()
    assert lines[0] == "init,task,dataset,mode,metric,value,seed,learning_rate,steps"
    assert len(lines) == 1 + len(rows(VALUES))
    assert {path.name for path in tmp_path.iterdir()} == {"scorecard.json", "scorecard.csv"}
