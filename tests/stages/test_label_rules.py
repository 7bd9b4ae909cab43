"""The rules by which predictions become labels, set for a label run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from label_runs import config_of, contents

from must_jax.data.confidence import Threshold
from must_jax.errors import UserError
from must_jax.labels.columns import LabelColumn
from must_jax.stages import label


def test_rules_can_be_set_for_a_run(photos: Path, teachers: tuple[str, ...], tmp_path: Path) -> None:
    rules = {"segmentation": {"confidence_threshold": 1.0}}
    label.run(config_of(f"folder:{photos}", teachers[:1], tasks=rules, gallery_images=0), tmp_path)
    column = LabelColumn(tmp_path / "columns" / "everything-segmentation")
    assert column.manifest.rule == {"confidence_threshold": 1.0, "keep_confidence": False}
    assert np.all(column[0]["ids"] == 255)
    assert (
        json.loads((tmp_path / "result.json").read_text())["columns"]["everything-segmentation"]["empty_share"] == 100
    )


@pytest.mark.parametrize("keep", [False, True])
def test_a_rule_may_name_single_classes(photos: Path, teachers: tuple[str, ...], tmp_path: Path, keep: bool) -> None:
    """Boxes and pixels of a class that is never sure enough are left out, of the others none."""
    tasks = {
        "segmentation": {"confidence_threshold": 1.0, "confidence_thresholds": {"blue": 0.0}, "keep_confidence": keep},
        "detection": {"score_threshold": 0, "score_thresholds": {"green": 1.0}, "min_score": 0},
    }
    config = config_of(f"folder:{photos}", teachers[:1], tasks=tasks, gallery_images=0)
    label.run(config, tmp_path)
    pixels, boxes = (LabelColumn(tmp_path / f"columns/everything-{task}") for task in ("segmentation", "detection"))
    assert pixels.manifest.threshold == Threshold(1.0, {"blue": 0.0})
    assert boxes.manifest.threshold == Threshold(0.0, {"green": 1.0})
    seen = {int(i) for index in range(8) for i in np.unique(pixels[index]["ids"])}
    assert 2 in seen and seen <= {2, 255}
    assert {int(i) for index in range(8) for i in boxes[index]["classes"]} == {0, 2}
    before = contents(tmp_path)
    label.run(config, tmp_path)
    assert contents(tmp_path) == before


def test_of_a_rule_that_keeps_some_classes_only_these_are_stored(
    photos: Path, teachers: tuple[str, ...], tmp_path: Path
) -> None:
    columns = {}
    for top_k in (0, 1):
        rules = {"classification": {"top_k": top_k}}
        label.run(config_of(f"folder:{photos}", teachers[:1], tasks=rules, gallery_images=0), tmp_path / str(top_k))
        columns[top_k] = LabelColumn(tmp_path / str(top_k) / "columns/everything-classification")
    assert columns[1].manifest.kind == {"kind": "vector", "size": 3, "top_k": 1}
    for index in range(8):
        every, spread = columns[0][index]["probs"], columns[1][index]["probs"]
        assert spread.argmax() == every.argmax()
        others = np.delete(every, every.argmax())
        np.testing.assert_allclose(np.delete(spread, every.argmax()), others.mean(), rtol=2e-3, atol=1e-6)


def test_a_kept_confidence_changes_nothing_but_what_can_be_read_later(
    photos: Path, teachers: tuple[str, ...], tmp_path: Path
) -> None:
    def labelled_by(**rule: object) -> tuple[LabelColumn, dict]:
        workdir, name = tmp_path / str(len(list(tmp_path.iterdir()))), "everything-segmentation"
        label.run(config_of(f"folder:{photos}", teachers[:1], tasks={"segmentation": rule}), workdir)
        told = json.loads((workdir / "result.json").read_text())["columns"][name]
        return LabelColumn(workdir / "columns" / name), told

    bold, _ = labelled_by(keep_confidence=True, confidence_threshold=0)
    codes = np.concatenate([255 * bold[i]["confidence"].ravel() for i in range(8)])
    threshold = float(np.rint(np.median(codes)) - 0.5) / 255  # in the middle between two stored values
    (plain, told), (kept, told_kept) = (
        labelled_by(keep_confidence=keep, confidence_threshold=threshold) for keep in (False, True)
    )
    for i in range(8):
        np.testing.assert_array_equal(kept[i]["ids"], plain[i]["ids"])
        np.testing.assert_array_equal(bold.at_least(threshold)[i]["ids"], plain[i]["ids"])
        assert np.all(bold[i]["ids"] < 255)
    assert 0 < told["labelled_pixels_per_image"] == told_kept["labelled_pixels_per_image"] < 100


@pytest.mark.parametrize(("min_score", "boxes"), [(0.0, True), (1.0, False)])
def test_rules_reach_the_prediction_too(
    photos: Path, teachers: tuple[str, ...], tmp_path: Path, min_score: float, boxes: bool
) -> None:
    rules = {"detection": {"score_threshold": 0.0, "min_score": min_score}}
    label.run(config_of(f"folder:{photos}", teachers[:1], tasks=rules, gallery_images=0), tmp_path)
    assert bool(len(LabelColumn(tmp_path / "columns" / "everything-detection")[0]["classes"])) == boxes


def test_a_rule_does_not_change_what_labels_mean(photos: Path, teachers: tuple[str, ...], tmp_path: Path) -> None:
    tasks = {"depth": {"depth_kind": "relative"}}
    with pytest.raises(UserError, match=r"tasks\.depth would turn the labels"):
        label.run(config_of(f"folder:{photos}", teachers[:1], tasks=tasks), tmp_path / "run")
    assert not (tmp_path / "run").exists()
