"""Verdicts on columns; that a training obeys them is in tests/inputs/test_gate.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hand_made import KINDS, TEACHER, Images, describe

from must_jax.data.kinds.statistics import Statistics
from must_jax.errors import UserError
from must_jax.labels import judging
from must_jax.labels.judging import Finding, Score
from must_jax.labels.manifest import Manifest, ShardRecord, SourceRecord
from must_jax.labels.summary import Summary

NEAR_CHANCE = "top1 is 50.0, and up to 50.0 is near chance (the best constant prediction gets 45.0)"
BACKWARDS = "50 % of the vectors point away from the camera; their frame should be x right, y down, z forward"
GOOD_TEACHER = Score("top1", 90.0, 40.0)
GOOD = {"images": 10, "images_with_class": [4, 3, 3], "confidence": 9.0, "confident": 10}


def column(task: str = "classification", **summary: Any) -> Manifest:
    shard = ShardRecord(file="x", count=10, bytes=1, sha256="", names="", summary=Summary(**(GOOD | summary)))
    return describe(task, Images(), teacher=TEACHER, shards=(shard,), complete=True, checksum="c")


def reasons(findings: Any) -> dict[str, str]:
    return {finding.reason: finding.level for finding in findings}


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (column(), {}),
        (column(absent=10), {"no image has a label": "failed"}),
        (column(absent=2, empty=8), {"all 8 labels are empty": "failed"}),
        (column(images_with_class=[0, 10]), {"of 3 classes only 'b' occurs": "failed"}),
        (column(images_with_class=[5, 5]), {"1 of 3 classes never occur: c": "look"}),
        (column(confidence=6.7), {}),
        (column(confidence=6.6), {"the mean top probability is 0.66, hardly above even odds for 3 classes": "look"}),
        (column(empty=6), {"60 % of the labels are empty": "look"}),
        (column(empty=5), {}),
        (column(absent=2), {"20 % of the images have no label": "look"}),
        (column("segmentation", covered=4.0), {"60 % of the pixels have no label": "look"}),
        (column(not_finite=3), {"3 values are NaN or infinite": "failed"}),
    ],
)
def test_what_the_manifest_tells(made: Manifest, expected: dict[str, str]) -> None:
    assert reasons(judging.known_from_manifest(made, GOOD_TEACHER)) == expected


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [
        (GOOD_TEACHER, {}),
        (Score("top1", 50.1, 45.0), {}),
        (Score("top1", 50.0, 45.0), {f"on its teacher's validation images {NEAR_CHANCE}": "failed"}),
        (Score("top1"), {"its teacher was not validated (top1 is not known)": "failed"}),
        (Score("top1", 50.0), {f"its teacher's top1 of 50.0 {judging.NO_CHANCE}": "look"}),
        (
            Score("top1", 1.0),
            {"on its teacher's validation images top1 is 1.0, and up to 1.0 is near chance": "failed"},
        ),
    ],
)
def test_what_the_teachers_validation_tells(teacher: Score, expected: dict[str, str]) -> None:
    assert reasons(judging.known_from_manifest(column(), teacher)) == expected


def test_a_model_of_others_has_no_validation_that_could_be_missed() -> None:
    foreign = column().model_copy(update={"teacher": TEACHER.model_copy(update={"declared": {"model": "m.onnx"}})})
    assert set(reasons(judging.known_from_manifest(foreign, Score("top1"))).values()) == {"look"}
    bad = foreign.model_copy(update={"shards": column(absent=10).shards})
    assert reasons(judging.known_from_manifest(bad, Score("top1")))["no image has a label"] == "failed"


@pytest.mark.parametrize(
    ("chance", "least"), [(0.0, 1.0), (0.1, 1.1), (4.0, 6.0), (27.3, 32.3), (50.0, 55.0), (96.0, 98.0), (100.0, 100.0)]
)
def test_the_margin_over_chance(chance: float, least: float) -> None:
    assert Score("top1", None, chance).near_chance == pytest.approx(least)
    assert Score("top1", least - 0.01, chance).is_near_chance
    assert Score("top1", float("nan"), chance).is_near_chance
    assert chance == 100 or not Score("top1", least + 0.01, chance).is_near_chance


def test_true_labels_may_be_few_and_have_no_teacher() -> None:
    source = SourceRecord(format="coco", path="x", options={}, digest="")
    made = column(absent=8).model_copy(update={"teacher": None, "source": source})
    assert reasons(judging.known_from_manifest(made, Score("top1"))) == {}


def statistics(**values: Any) -> Statistics:
    made = Statistics(3)
    vars(made).update({"images": 10, **values})
    return made


@pytest.mark.parametrize(
    ("task", "values", "expected"),
    [
        ("classification", {"class_amount": np.array([5, 5, 0])}, {}),
        ("classification", {"unreadable": 2}, {"2 labels cannot be read": "failed"}),
        ("classification", {"not_finite": 2}, {"2 values are NaN or infinite": "failed"}),
        ("detection", {"class_amount": np.array([1, 0, 99])}, {"99 % of all labels are of class 'c'": "look"}),
        ("detection", {"class_amount": np.array([1, 0, 9999])}, {"99.9 % of all labels are of class 'c'": "look"}),
        ("depth", {"flat": 8, "empty": 2, "known": 90}, {"every map is constant": "failed"}),
        ("depth", {"flat": 2, "known": 90}, {"20 % of the maps are constant": "look"}),
        ("normals", {"known": 100, "off_unit": 3}, {"3 % of the vectors do not have length 1": "look"}),
        ("normals", {"known": 100, "away": 50}, {BACKWARDS: "look"}),
    ],
)
def test_what_a_pass_over_the_labels_tells(task: str, values: dict[str, Any], expected: dict[str, str]) -> None:
    assert reasons(judging.known_from_labels(column(task), statistics(**values))) == expected


def test_what_true_labels_tell() -> None:
    assert reasons(judging.known_from_truth(Score("top1", 50.1, 45.0))) == {}
    for score in (50.0, float("nan")):
        ((reason, level),) = reasons(judging.known_from_truth(Score("top1", score, 45.0))).items()
        assert level == "failed" and reason.startswith(f"against true labels top1 is {score:.1f}, and up to 50.0")


def test_the_worst_finding_decides() -> None:
    look, failed = Finding(level="look", reason="a"), Finding(level="failed", reason="b")
    assert [judging.verdict(found) for found in ([], [look], [look, failed])] == ["passed", "look", "failed"]


def test_a_verdict_belongs_to_one_column(tmp_path: Path) -> None:
    made = column()
    assert judging.read(tmp_path, made) is None
    written = judging.write(tmp_path, made, [Finding(level="look", reason="a")], 10)
    assert judging.read(tmp_path, made) == written and written.verdict == "look"
    assert judging.write(tmp_path, made, [], 9).verdict == "passed" and judging.read(tmp_path, made) == written
    again = judging.write(tmp_path, made, [Finding(level="look", reason="as many")], 10)
    assert judging.read(tmp_path, made) == again != written
    assert judging.read(tmp_path, made.model_copy(update={"checksum": "another"})) is None
    (tmp_path / judging.FILE).write_text("")
    with pytest.raises(UserError, match="is damaged; delete it"):
        judging.read(tmp_path, made)
    another = made.model_copy(update={"checksum": "another"})
    for column_now in (made, another):  # neither what is damaged nor what is of another column is kept
        assert judging.write(tmp_path, column_now, [], 1) == judging.read(tmp_path, column_now)


def test_a_part_that_fails_counts_whatever_a_fuller_audit_has_said(tmp_path: Path) -> None:
    made, failed = column(), Finding(level="failed", reason="2 labels cannot be read")
    judging.write(tmp_path, made, [], 10)
    assert judging.write(tmp_path, made, [failed], 3) == judging.read(tmp_path, made)
    assert judging.write(tmp_path, made, [], 10) == judging.read(tmp_path, made)


def test_every_kind_has_a_verdict() -> None:
    for task, kind in KINDS.items():
        made = Statistics(3)
        kind.count({"present": np.float32(0)}, 0, made)
        assert made.absent == 1 and reasons(judging.known_from_labels(column(task), made)) == {}
