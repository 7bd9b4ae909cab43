"""What the scorecard says about its rows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import scipy.stats

from must_jax.report import scorecard
from must_jax.report.scorecard import Row, Start

STARTS = {
    "student": Start(("depth", "normals"), 640),
    "teacher_a": Start(("depth",), 320),
    "scratch": Start(),
    "teacher_b": Start(("normals",), 320),
}


def rows(values: dict[str, dict[str, list[float | None]]], mode: str = "frozen") -> list[Row]:
    return [
        Row(init, "depth", dataset, mode, "delta1", value, seed, 0.1, 150, 4800)
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
    assert (cell.mean, cell.sd, str(cell)) == (65.0, pytest.approx(50**0.5), "65.0 ± 7.1")


def test_one_seed_has_no_spread_and_that_is_told():
    (single,) = scorecard.tables(rows({init: {"x": seeds["x"][:1]} for init, seeds in VALUES.items()}), STARTS)
    cell = single.cells["scratch"]["x"]
    assert (cell.mean, cell.sd, cell.spread, str(cell)) == (40.0, None, "", "40.0")
    assert single.has_one_seed and scorecard.told(single, STARTS) == [scorecard.ONE_SEED]
    (several,) = scorecard.tables(rows(VALUES), STARTS)
    assert not several.has_one_seed
    assert scorecard.told(several, STARTS) == list(map(str, scorecard.differences(several, STARTS)))
    (some,) = scorecard.tables(rows({"scratch": {"x": [5.0, None]}}), STARTS)
    assert not some.has_one_seed and str(some.cells["scratch"]["x"]) == "5.0 (1 of 2 diverged)"


def test_a_training_that_diverged_is_counted_and_no_value() -> None:
    runs = {"scratch": {"x": [40.0, None, 44.0], "y": [None, None, None]}, "student": {"x": [50.0, 52.0, 54.0]}}
    (table,) = scorecard.tables(rows(runs), STARTS)
    some, none = table.cells["scratch"]["x"], table.cells["scratch"]["y"]
    assert (some.mean, str(some)) == (42.0, "42.0 ± 2.8, 1 of 3 diverged")
    assert (none.mean, str(none)) == (None, "3 of 3 diverged")
    assert (table.best("x"), table.best("y")) == ("student", "")
    (gap,) = scorecard.differences(table, STARTS)[0].by_dataset.values()
    assert (gap.mean, gap.is_beyond_noise) == (10.0, False)  # over the seeds of which both finished


def test_scratch_comes_first_and_the_student_last():
    (table,) = scorecard.tables(rows(VALUES), STARTS)
    assert list(table.cells) == ["scratch", "teacher_a", "teacher_b", "student"]


def test_best_is_the_highest_mean_of_those_measured():
    (table,) = scorecard.tables(rows(VALUES | {"scratch": {"x": [99.0]}}), STARTS)
    assert [table.best(dataset) for dataset in ("x", "y")] == ["scratch", "teacher_a"]


def test_the_student_is_compared_with_scratch_and_with_the_mean_over_single_teachers():
    (table,) = scorecard.tables(rows(VALUES), STARTS)
    scratch, single = scorecard.differences(table, STARTS)
    assert {name: gap.mean for name, gap in scratch.by_dataset.items()} == {"x": 65.0 - 42.0, "y": 0.0}
    assert {name: gap.mean for name, gap in single.by_dataset.items()} == {"x": 65.0 - 56.0, "y": 50.0 - 60.0}
    assert str(scratch) == "student beats scratch on 0/2 (2 within noise)"  # 20 and 26 are far apart
    assert str(single) == "student beats the mean over single teachers on 0/2 (1 within noise, 1 lost)"


def test_all_trained_starts_are_compared_with_a_baseline_which_is_none_of_the_single_teachers():
    starts = STARTS | {"teacher_a": dataclasses.replace(STARTS["teacher_a"], is_baseline=True)}
    (table,) = scorecard.tables(rows(VALUES), starts)
    found = {(each.init, each.against): each for each in scorecard.differences(table, starts)}
    assert list(found) == [
        ("student", "scratch"),
        ("student", "the mean over single teachers"),
        ("student", "teacher_a"),
        ("teacher_b", "teacher_a"),
        ("teacher_a", "scratch"),
    ]
    of_singles = found["student", "the mean over single teachers"].by_dataset
    assert {name: gap.mean for name, gap in of_singles.items()} == {"x": 65.0 - 62.0, "y": 50.0 - 40.0}
    assert found["teacher_b", "teacher_a"].by_dataset["y"].mean == 40.0 - 80.0


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ([50.0, 52.0, 54.0], [40.0, 42.1, 43.9], "1/1"),  # paired, 10 each; the spread over seeds does not matter
        ([40.0, 42.1, 43.9], [50.0, 52.0, 54.0], "0/1 (1 lost)"),
        ([50.0, 60.0, 70.0], [40.0, 61.0, 50.0], "0/1 (1 within noise)"),
        ([50.0, 52.0, 54.0], [48.0, 51.9, 53.9], "0/1 (1 within noise)"),
        ([50.0], [40.0], "0/1 (1 within noise)"),  # one seed says nothing of noise
        ([50.0, 50.0], [50.0, 50.0], "0/1 (1 within noise)"),
    ],
)
def test_only_what_is_beyond_noise_is_a_win(ours: list[float], theirs: list[float], said: str) -> None:
    (table,) = scorecard.tables(rows({"student": {"x": ours}, "scratch": {"x": theirs}}), STARTS)
    (difference,) = scorecard.differences(table, STARTS)
    assert str(difference) == f"student beats scratch on {said}"


def test_the_interval_is_that_of_students_t() -> None:
    ours, theirs = [50.0, 52.0, 57.0], [40.0, 43.0, 45.0]
    (table,) = scorecard.tables(rows({"student": {"x": ours}, "scratch": {"x": theirs}}), STARTS)
    (gap,) = scorecard.differences(table, STARTS)[0].by_dataset.values()
    low, high = scipy.stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (gap.mean - gap.margin, gap.mean + gap.margin) == pytest.approx((low, high))


def test_what_a_transfer_costs() -> None:
    (table,) = scorecard.tables(rows(VALUES), STARTS)
    assert table.cost == "150 steps, 4,800 image-steps"


def test_a_scorecard_from_before_is_read(tmp_path: Path) -> None:
    """Without image-steps, and with 0 for what diverged."""
    old = {name: value for name, value in dataclasses.asdict(rows(VALUES)[0]).items() if name != "image_steps"}
    (tmp_path / "scorecard.json").write_text(json.dumps([old]))
    (table,) = scorecard.tables(scorecard.read(tmp_path), STARTS)
    assert table.cost == "150 steps"


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
    assert lines[0] == "init,task,dataset,mode,metric,value,seed,learning_rate,steps,image_steps"
    assert len(lines) == 1 + len(rows(VALUES))
    assert {path.name for path in tmp_path.iterdir()} == {"scorecard.json", "scorecard.csv"}
