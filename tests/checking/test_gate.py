"""A teacher that is read wrongly does not label: what is refused, what is accepted, and what is remembered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import made_models as models
import numpy as np
import pytest
from checks import checked, config, corrected
from made_models import ALL, ITEMS, THINGS, Function, Seen, rendered
from test_misread import turned

from must_jax.checking import verdicts
from must_jax.data.shards import COLUMNS
from must_jax.errors import UserError
from must_jax.labels import judging, manifest
from must_jax.parsing import parse
from must_jax.stages import label

NORMALS = {"normals": {"axes": "opencv"}}
DEPTH = {"depth": {"depth_kind": "metric_m"}}


def labels(function: Function, set_: str, data_dir: Path, tasks: dict[str, Any], **more: Any) -> dict[str, Any]:
    function.rendered = rendered(set_, data_dir)
    return {
        "stage": "label",
        "data_dir": str(data_dir),
        "images": f"scenes/{set_}:{ALL}",
        "gallery_images": 0,
        "teachers": [{"model": function.model, "tasks": tasks}],
        **more,
    }


def refused(values: dict[str, Any], workdir: Path) -> str:
    with pytest.raises(UserError) as error:
        label.run(parse(values), workdir)
    assert "\n" not in str(error.value) and not (workdir / COLUMNS).exists()
    return str(error.value)


def on_truth(set_: str) -> dict[str, Any]:
    return {"images": f"scenes/{set_}:train"}


def test_what_contradicts_itself_is_refused_with_the_line_to_change(
    function: Function, data_dir: Path, tmp_path: Path
) -> None:
    function.says = turned(0.2, 1, -1, -1)
    values = labels(function, "teacher_normals_tiny", data_dir, NORMALS)
    line = "--config.teachers.0.tasks.normals.axes=x,-y,-z"
    said = refused(values, tmp_path / "run")
    assert line in said and "accept_failed=normals" in said and "answers" in said
    label.run(parse(corrected(values, line)), tmp_path / "run")
    assert manifest.read(tmp_path / "run" / COLUMNS / "answers-normals").complete


def test_what_is_accepted_labels(function: Function, data_dir: Path, tmp_path: Path, capsys) -> None:
    function.says = turned(0.2, 1, -1, -1)
    values = labels(function, "teacher_normals_tiny", data_dir, NORMALS, accept_failed="normals")
    label.run(parse(values), tmp_path / "run")
    assert "accepted by config.accept_failed" in capsys.readouterr().err
    assert manifest.read(tmp_path / "run" / COLUMNS / "answers-normals").complete


def test_a_set_with_true_labels_shows_what_nothing_else_could(
    function: Function, data_dir: Path, tmp_path: Path
) -> None:
    function.says = lambda seen: models.depth(seen, 0.1) * 1000
    values = labels(function, "teacher_depth_tiny", data_dir, DEPTH)
    label.run(parse(values), tmp_path / "blind")
    said = refused({**values, "check_on": on_truth("teacher_depth_tiny")}, tmp_path / "run")
    assert "tasks.depth.metres_per_unit=0.001" in said


def test_metrics_on_true_labels_become_those_of_the_teacher(function: Function, data_dir: Path, tmp_path: Path) -> None:
    function.says = lambda seen: models.depth(seen, 0.1)
    values = labels(function, "teacher_depth_tiny", data_dir, DEPTH, check_on=on_truth("teacher_depth_tiny"))
    label.run(parse(values), tmp_path / "run")
    folder = tmp_path / "run" / COLUMNS / "answers-depth"
    metrics = manifest.read(folder).teacher.metrics
    assert metrics["depth/delta1"] > 80 > metrics["depth/chance"]
    score = judging.Score("delta1", metrics["depth/delta1"], metrics["depth/chance"])
    assert not list(judging.known_from_teacher(manifest.read(folder), score))


def test_a_finished_check_counts_for_the_same_teacher_alone(
    function: Function, data_dir: Path, tmp_path: Path, capsys
) -> None:
    function.says = lambda seen: models.depth(seen, 0.1) * 1000
    check = config(function, "teacher_depth_tiny", data_dir, DEPTH)
    checked(check, tmp_path / "check")
    values = labels(function, "teacher_depth_tiny", data_dir, DEPTH, checked=str(tmp_path / "check"))
    assert "metres_per_unit=0.001" in refused(values, tmp_path / "run")
    assert "metres_per_unit=0.001" in refused({**values, "check_images": 0}, tmp_path / "run")
    capsys.readouterr()
    right = {"depth": {"depth_kind": "metric_m", "metres_per_unit": 0.001}}
    teachers = [{"model": function.model, "tasks": right}]
    label.run(parse({**values, "teachers": teachers}), tmp_path / "run")
    assert "checking" in capsys.readouterr().err  # it is read otherwise, so the check says nothing about it
    again = {**values, "teachers": teachers, "check_images": 0}
    assert "answers" in refused(again, tmp_path / "unchecked") and "check_images=32" in refused(again, tmp_path / "x")


def test_a_run_that_goes_on_does_not_check_again(function: Function, data_dir: Path, tmp_path: Path, capsys) -> None:
    function.says = lambda seen: models.depth(seen, 0.1)
    values = labels(function, "teacher_depth_tiny", data_dir, DEPTH, shard_images=40)
    label.run(parse(values), tmp_path / "run")
    before = (tmp_path / "run" / "check.json").read_bytes()
    (tmp_path / "run" / "result.json").unlink()
    next((tmp_path / "run" / COLUMNS / "answers-depth").glob("*.array_record*")).unlink()
    capsys.readouterr()
    label.run(parse(values), tmp_path / "run")
    assert "config.check_images" not in capsys.readouterr().err
    assert (tmp_path / "run" / "check.json").read_bytes() == before


def test_true_labels_that_are_named_later_are_looked_at(function: Function, data_dir: Path, tmp_path: Path) -> None:
    function.says = lambda seen: models.depth(seen, 0.1) * 1000
    values = labels(function, "teacher_depth_tiny", data_dir, DEPTH)
    label.run(parse(values), tmp_path / "run")
    next((tmp_path / "run" / COLUMNS / "answers-depth").glob("*.array_record*")).unlink()
    with pytest.raises(UserError, match=r"metres_per_unit=0\.001"):
        label.run(parse({**values, "check_on": on_truth("teacher_depth_tiny")}), tmp_path / "run")


@pytest.mark.parametrize(
    "change", [{"check_images": 40}, {"check_on": {"images": "scenes/teacher_depth_tiny:train", "take": 20}}]
)
def test_a_check_on_other_images_is_another(
    change: dict[str, Any], function: Function, data_dir: Path, tmp_path: Path, capsys
) -> None:
    function.says = lambda seen: models.depth(seen, 0.1)
    values = labels(function, "teacher_depth_tiny", data_dir, DEPTH, check_on=on_truth("teacher_depth_tiny"))
    label.run(parse(values), tmp_path / "run")
    next((tmp_path / "run" / COLUMNS / "answers-depth").glob("*.array_record*")).unlink()
    capsys.readouterr()
    label.run(parse({**values, **change}), tmp_path / "run")
    assert "config.check_images" in capsys.readouterr().err


def test_few_images_are_asked_about(function: Function, data_dir: Path, tmp_path: Path) -> None:
    asked = []

    def says(seen: Seen) -> np.ndarray:
        asked.append(tuple(seen.seed))
        return models.depth(seen, 0)

    function.says = says
    values = labels(function, "teacher_depth_tiny", data_dir, DEPTH, check_images=12)
    label.run(parse(values), tmp_path / "run")
    assert len(asked) == 80 + 2 * 12  # mirrored, too
    again = labels(function, "teacher_depth_tiny", data_dir, DEPTH, check_images=0)
    asked.clear()
    label.run(parse(again), tmp_path / "off")
    assert len(asked) == 80 and not (tmp_path / "off" / "check.json").exists()


def test_in_a_pipeline_the_line_leads_to_its_stage(function: Function, data_dir: Path, tmp_path: Path) -> None:
    function.says = turned(0.2, 1, -1, -1)
    stage = labels(function, "teacher_normals_tiny", data_dir, NORMALS)
    (tmp_path / "config.json").write_text(json.dumps({"stage": "pipeline", "stages": {"first": stage}}))
    said = refused(stage, tmp_path / "first")
    assert "--config.stages.first.teachers.0.tasks.normals.axes=x,-y,-z" in said


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"checked": "no/such/check"}, "no/such/check"),
        ({"check_on": {"images": "scenes/teacher_depht:train"}}, "teacher_depth"),
        ({"check_on": {"images": "scenes/teacher_depth_tiny:train", "labels": ["no/column"]}}, "no/column"),
        ({"check_on": {"images": "scenes/teacher_depth_tiny:train", "labels": []}}, "check_on"),
        ({"check_image": 3}, "check_images"),
    ],
)
def test_mistakes_are_named_before_any_work(
    change: dict[str, Any], named: str, function: Function, data_dir: Path, tmp_path: Path
) -> None:
    function.says = lambda seen: models.depth(seen, 0)
    assert named in refused(labels(function, "teacher_depth_tiny", data_dir, DEPTH, **change), tmp_path / "run")


CLASSES = {"classification": {"classes": ITEMS, "scores": "softmax"}}
REGIONS = {"segmentation": {"classes": THINGS, "scores": "softmax"}}


@pytest.mark.parametrize(
    "answer", [None, "a word", np.array([object()]), [[1.0], [1.0, 2.0]]], ids=["none", "word", "object", "ragged"]
)
@pytest.mark.parametrize("on_true_labels", [False, True])
def test_an_answer_that_cannot_be_read_is_left_to_labelling(
    on_true_labels: bool, answer: Any, function: Function, data_dir: Path, tmp_path: Path
) -> None:
    function.says = lambda seen: models.scores(seen, 0.1) if seen.seed[0] % 4 else answer
    set_ = "teacher_classification_tiny"
    more = {"check_on": on_truth(set_)} if on_true_labels else {}
    label.run(parse(labels(function, set_, data_dir, CLASSES, **more)), tmp_path / "run")
    column = manifest.read(tmp_path / "run" / COLUMNS / "answers-classification")
    assert column.complete and len(list(column.absent())) == 20


def test_outputs_that_are_no_numbers_are_not_taken_for_probabilities(
    function: Function, data_dir: Path, tmp_path: Path
) -> None:
    function.says = lambda seen: models.regions(seen, 0.1) * np.nan
    said = refused(labels(function, "teacher_segmentation_tiny", data_dir, REGIONS), tmp_path / "run")
    assert "finite" in said and "probabilities" not in said


@pytest.mark.parametrize("on_true_labels", [False, True])
def test_a_teacher_that_never_answers_is_refused_before_it_labels(
    on_true_labels: bool, function: Function, data_dir: Path, tmp_path: Path
) -> None:
    asked = []

    def says(seen: Seen) -> np.ndarray:
        asked.append(seen)
        raise RuntimeError("out of luck")

    function.says = says
    set_ = "teacher_segmentation_tiny"
    more = {"check_on": on_truth(set_)} if on_true_labels else {}
    assert "out of luck" in refused(labels(function, set_, data_dir, REGIONS, **more), tmp_path / "run")
    assert len(asked) <= 2 * 32


def test_why_true_labels_say_nothing_is_told(function: Function, data_dir: Path, tmp_path: Path, capsys) -> None:
    function.says = lambda seen: models.scores(seen, 0.1)
    others = {"classification": {"classes": [f"other {name}" for name in ITEMS], "scores": "softmax"}}
    set_ = "teacher_classification_tiny"
    label.run(parse(labels(function, set_, data_dir, others, check_on=on_truth(set_))), tmp_path / "run")
    said = capsys.readouterr().err
    assert "tasks.classification.mapping" in said and ITEMS[0] in said


def test_what_says_nothing_has_not_passed(function: Function, data_dir: Path, tmp_path: Path) -> None:
    function.says = lambda seen: np.zeros_like(seen.depth_m)  # no depth at all
    values = labels(function, "teacher_depth_tiny", data_dir, DEPTH, check_on=on_truth("teacher_depth_tiny"))
    label.run(parse(values), tmp_path / "run")
    assert verdicts.read(tmp_path / "run").teachers["answers"].tasks["depth"].verdict == "look"
