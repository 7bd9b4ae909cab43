"""Without true labels contradictions count: with the mirrored image, between depth and normals, between teachers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import made_models as models
import numpy as np
import pytest
from checks import checked, config, corrected, of
from made_models import ITEMS, SHAPES, THINGS, Function, Seen
from test_misread import even, formed, turned

DEPTH = {"depth": {"depth_kind": "metric_m"}}
NORMALS = {"normals": {"axes": "opencv"}}
BOXES = {"detection": {"classes": SHAPES}}
REGIONS = {"segmentation": {"classes": THINGS, "scores": "softmax"}}
CLASSES = {"classification": {"classes": ITEMS, "scores": "softmax"}}
SETS = {"depth": "depth", "normals": "normals", "detection": "detection", "segmentation": "segmentation"}


def untold(function: Function, data_dir: Path, tasks: Mapping[str, Any], says: Callable[[Seen], Any]) -> dict[str, Any]:
    """The check on images without any true labels."""
    function.says = says
    [first, *_] = tasks
    return config(function, f"teacher_{first}_tiny", data_dir, tasks, labels=None)


def mostly_of_the_first(seen: Seen) -> dict[str, Any]:
    """In a third of the images nothing is of the first class: they alone can be read with an index that is too high."""
    found = models.boxes(seen, 0)
    classes = np.maximum(found["classes"], 1) if seen.seed[0] % 3 == 0 else np.zeros_like(found["classes"])
    return found | {"classes": classes}


def both(far: Callable[[Seen], np.ndarray], facing: Callable[[Seen], np.ndarray]) -> Callable[[Seen], Any]:
    return lambda seen: {"depth": far(seen), "normals": facing(seen)}


def unsure(seen: Seen) -> np.ndarray:
    """The second class is the most likely one at the bottom, but too unlikely for a label."""
    probs = np.full((*seen.hw, len(THINGS)), 0.05, np.float32)
    half = seen.hw[0] // 2
    probs[:half, :, 0], probs[half:, :, 1] = 0.6, 0.4
    return probs


def rare(seen: Seen) -> dict[str, Any]:
    """Nothing is found anywhere, and a few images are too odd for it."""
    if seen.seed[0] % 16 == 0:
        raise ValueError("odd")
    return {"boxes": np.zeros((0, 4)), "scores": [], "classes": []}


def metres(seen: Seen) -> np.ndarray:
    return models.depth(seen, 0.1)


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        (DEPTH, metres),
        ({"depth": {"depth_kind": "inverse_relative"}}, lambda seen: 1 / models.depth(seen, 0.3)),
        (NORMALS, turned(0, 1, 1, 1)),
        ({"normals": {"axes": "dsine"}}, turned(0.5, -1, -1, -1)),
        (DEPTH | NORMALS, both(metres, turned(0.3, 1, 1, 1))),
        (BOXES, lambda seen: models.boxes(seen, 0)),
        (BOXES, lambda seen: models.boxes(seen, 0.5)),
        ({"detection": {"classes": SHAPES, "boxes": "cxcywh"}}, formed(0.3, "cxcywh")),
        (REGIONS, lambda seen: models.regions(seen, 0.3)),
        (CLASSES, lambda seen: models.scores(seen, 0.3)),
    ],
)
def test_what_is_read_rightly_passes(
    tasks: dict, says: Callable[[Seen], Any], function: Function, data_dir: Path, tmp_path: Path
) -> None:
    [found] = checked(untold(function, data_dir, tasks, says), tmp_path / "run").teachers.values()
    assert {name: each.findings for name, each in found.tasks.items()} == dict.fromkeys(tasks, ())
    assert all(each.images == 50 or name == "detection" for name, each in found.tasks.items())


@pytest.mark.parametrize(
    ("tasks", "says", "change"),
    [
        (NORMALS, turned(0.3, 1, 1, -1), "tasks.normals.axes=x,y,-z"),
        (NORMALS, turned(0.3, -1, -1, -1), "tasks.normals.axes=x,-y,-z"),
        ({"normals": {"axes": "opengl"}}, turned(0.3, 1, 1, 1), "tasks.normals.axes=x,y,z"),
        (NORMALS, turned(0.2, 1, 1, 1, order=(1, 0, 2)), "tasks.normals.axes=y,x,z"),
        (NORMALS, turned(0.2, 1, 1, 1, order=(2, 1, 0)), "tasks.normals.axes=z,y,x"),
        (BOXES, formed(0.2, "yxyx"), "tasks.detection.boxes=yxyx"),
        (BOXES, formed(0.2, "cxcywh"), "tasks.detection.boxes=cxcywh"),
        (
            {"detection": {"classes": SHAPES, "boxes": "cxcywh"}},
            lambda seen: models.boxes(seen, 0),
            "tasks.detection.boxes=xyxy",
        ),
        (CLASSES, lambda seen: even(models.scores(seen, 0.3)), "tasks.classification.scores=probabilities"),
    ],
)
def test_what_contradicts_itself_is_found(
    tasks: dict, says: Callable[[Seen], Any], change: str, function: Function, data_dir: Path, tmp_path: Path
) -> None:
    values = untold(function, data_dir, tasks, says)
    [finding] = of(values, tmp_path / "run").failures
    assert finding.line == f"--config.teachers.0.{change}"
    assert not of(corrected(values, finding.line), tmp_path / "again").failures


@pytest.mark.parametrize(
    ("tasks", "says", "lines"),
    [
        (DEPTH | NORMALS, both(metres, turned(0.2, -1, 1, 1)), {"normals": "axes=-x,y,z"}),
        (DEPTH | NORMALS, both(metres, turned(0.2, 1, -1, 1)), {"normals": "axes=x,-y,z"}),
        (
            DEPTH | NORMALS,
            both(lambda seen: 1 / metres(seen), turned(0.2, 1, 1, 1)),
            {"depth": "depth_kind=inverse_relative", "normals": "axes=-x,-y,z"},
        ),
    ],
)
def test_depth_and_normals_that_contradict_each_other_are_found(
    tasks: dict,
    says: Callable[[Seen], Any],
    lines: dict[str, str],
    function: Function,
    data_dir: Path,
    tmp_path: Path,
) -> None:
    [found] = checked(untold(function, data_dir, tasks, says), tmp_path / "run").teachers.values()
    failed = {name: each.failures for name, each in found.tasks.items() if each.failures}
    assert {name: [each.line for each in some] for name, some in failed.items()} == {
        name: [f"--config.teachers.0.tasks.{name}.{line}"] for name, line in lines.items()
    }


def test_the_truth_of_one_task_is_a_witness_for_the_other(function: Function, data_dir: Path, tmp_path: Path) -> None:
    """There is true depth, and it says which of the two is wrong."""
    function.says = turned(0.2, -1, -1, 1)
    values = config(function, "teacher_depth_tiny", data_dir, NORMALS)
    found = checked(values, tmp_path / "run")
    [finding] = found.teachers["answers"].tasks["normals"].failures
    assert finding.line.endswith("axes=-x,-y,z") and "true depth" in finding.reason
    assert not found.truth["depth"].findings


def test_near_and_far_alone_are_only_to_be_looked_at(function: Function, data_dir: Path, tmp_path: Path) -> None:
    verdict = of(untold(function, data_dir, DEPTH, lambda seen: 1 / metres(seen)), tmp_path / "run")
    [finding] = verdict.findings
    assert verdict.verdict == "look" and finding.line.endswith("depth_kind=inverse_relative")


def test_a_detector_of_rare_things_may_fail_on_a_few_images(function: Function, data_dir: Path, tmp_path: Path) -> None:
    """Images in which nothing is found have an answer, too."""
    verdict = of(untold(function, data_dir, BOXES, rare), tmp_path / "run")
    assert verdict.verdict == "look" and "cannot be read" not in " ".join(each.reason for each in verdict.findings)


def test_two_teachers_that_contradict_each_other_are_named(function: Function, data_dir: Path, tmp_path: Path) -> None:
    """Upside down in most pictures, so that neither is doubted alone."""
    values = untold(function, data_dir, DEPTH, lambda seen: metres(seen))
    [teacher] = values["teachers"]
    other = {**teacher, "name": "other", "tasks": {"depth": {"depth_kind": "inverse_relative"}}}
    found = checked({**values, "teachers": [teacher, other]}, tmp_path / "run").teachers
    reasons = {name: [each.reason for each in about.tasks["depth"].findings] for name, about in found.items()}
    assert any("other" in reason for reason in reasons["answers"])
    assert any("answers" in reason for reason in reasons["other"])
    assert not any(about.tasks["depth"].failures for about in found.values())


@pytest.mark.parametrize(
    ("tasks", "says", "level", "named"),
    [
        (BOXES, lambda seen: {"boxes": np.zeros((0, 4)), "scores": [], "classes": []}, "look", "score_threshold"),
        (DEPTH, lambda seen: np.full(seen.hw, 2.5), "failed", "constant"),
        (NORMALS, lambda seen: np.full((*seen.hw, 3), [0.0, 0.0, -1.0]), "failed", "constant"),
        (CLASSES, lambda seen: [0.0, 5.0, *[0.0] * (len(ITEMS) - 2)], "look", ITEMS[1]),
        (REGIONS, lambda seen: np.zeros(seen.hw, int), "look", THINGS[0]),
        (
            {"segmentation": {"classes": THINGS, "scores": "probabilities"}},
            lambda seen: unsure(seen),
            "look",
            THINGS[0],
        ),
    ],
)
def test_answers_that_are_the_same_everywhere_are_found(
    tasks: dict, says: Callable[[Seen], Any], level: str, named: str, function: Function, data_dir: Path, tmp_path: Path
) -> None:
    verdict = of(untold(function, data_dir, tasks, says), tmp_path / "run")
    [finding] = verdict.findings
    assert (verdict.verdict, finding.level) == (level, level) and named in finding.reason


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        (DEPTH, metres),
        ({"depth": {"depth_kind": "inverse_relative"}}, lambda seen: 1 / models.depth(seen, 0.3)),
        (REGIONS, lambda seen: models.regions(seen, 0.3)),
    ],
)
def test_maps_whose_rows_and_columns_are_exchanged_are_found(
    tasks: dict, says: Callable[[Seen], Any], function: Function, data_dir: Path, tmp_path: Path
) -> None:
    def transposed(seen: Seen) -> np.ndarray:
        return np.swapaxes(says(seen), 0, 1)

    [finding] = of(untold(function, data_dir, tasks, transposed), tmp_path / "run").failures
    assert "[height, width]" in finding.reason


def test_maps_that_do_not_depend_on_the_image_are_to_be_looked_at(
    function: Function, data_dir: Path, tmp_path: Path
) -> None:
    def says(seen: Seen) -> np.ndarray:
        rows, columns = np.indices(seen.hw)
        return seen.hw[0] + columns - rows + np.random.default_rng(0).normal(0, 2, seen.hw)

    verdict = of(untold(function, data_dir, DEPTH, says), tmp_path / "run")
    assert verdict.verdict == "look" and any("look at the image" in each.reason for each in verdict.findings)


def of_two(values: Mapping[str, Any], one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The check of one function, declared twice, as `one` and `other`."""
    [teacher] = values["teachers"]
    return {
        **values,
        "teachers": [{**teacher, "name": name, "tasks": each} for name, each in (("one", one), ("other", other))],
    }


def test_what_follows_the_picture_in_a_third_of_it_is_refused(
    function: Function, data_dir: Path, tmp_path: Path
) -> None:
    """The other two thirds are beyond its list of classes, which is told as well."""
    tasks = {"detection": {"classes": SHAPES, "first_class": 1}}
    verdict = of(untold(function, data_dir, tasks, mostly_of_the_first), tmp_path / "run")
    [finding] = verdict.failures
    assert 0.25 < verdict.tried[0].score / 100 < 0.5 and finding.line.endswith("tasks.detection.first_class=0")
    assert any("below first_class" in each.reason for each in verdict.findings)


TWO = [
    ("detection", BOXES["detection"], SHAPES, lambda seen: models.boxes(seen, 0.1)),
    ("segmentation", REGIONS["segmentation"], THINGS, lambda seen: models.regions(seen, 0.2)),
    ("classification", CLASSES["classification"], ITEMS, lambda seen: models.scores(seen, 0.3)),
]


@pytest.mark.parametrize(("task", "declared", "classes", "says"), TWO)
def test_teachers_that_do_not_agree_on_classes_are_named(
    task: str,
    declared: dict,
    classes: tuple[str, ...],
    says: Callable[[Seen], Any],
    function: Function,
    data_dir: Path,
    tmp_path: Path,
) -> None:
    values = untold(function, data_dir, {task: declared}, says)
    alike = checked(of_two(values, {task: declared}, {task: declared}), tmp_path / "alike").teachers
    assert not any(about.tasks[task].findings for about in alike.values())
    wrong = {**declared, "classes": [*classes[1:], classes[0]]}
    found = checked(of_two(values, {task: declared}, {task: wrong}), tmp_path / "run").teachers
    for name, witness in (("one", "other"), ("other", "one")):
        [finding] = found[name].tasks[task].findings
        assert finding.level == "look" and f"{task} of {witness}" in finding.reason


def test_a_teacher_that_agrees_with_the_truth_is_a_witness(function: Function, data_dir: Path, tmp_path: Path) -> None:
    """The other one's task has another name, for which there is no truth."""
    function.says = lambda seen: models.boxes(seen, 0.1)
    values = config(function, "teacher_detection_tiny", data_dir, BOXES)
    wrong = {"shapes": {"kind": "detection", "classes": [*SHAPES[1:], SHAPES[0]]}}
    found = checked(of_two(values, BOXES, wrong), tmp_path / "run").teachers
    assert found["one"].tasks["detection"].verdict == "passed"
    [finding] = found["other"].tasks["shapes"].failures
    assert "detection of one" in finding.reason and finding.line.startswith("--config.teachers.1.tasks.shapes.")


def test_teachers_that_share_no_class_are_not_compared(function: Function, data_dir: Path, tmp_path: Path) -> None:
    values = untold(function, data_dir, BOXES, lambda seen: models.boxes(seen, 0.1))
    others = {"detection": {"classes": [f"no {name}" for name in SHAPES]}}
    found = checked(of_two(values, BOXES, others), tmp_path / "run").teachers
    assert not any(about.tasks["detection"].findings for about in found.values())
