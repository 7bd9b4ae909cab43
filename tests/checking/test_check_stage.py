"""The stage as a whole: its page, what it says where there is no truth, and mistakes in its config."""

from __future__ import annotations

import json
from pathlib import Path

import made_models as models
import numpy as np
import pytest
from checks import checked, config, of
from made_column import like_truth, make_column
from made_models import ALL, SHAPES, THINGS, Function
from made_teacher import make_teacher

from must_jax.checking import verdicts
from must_jax.data.image_sets import open_images
from must_jax.errors import UserError
from must_jax.parsing import parse
from must_jax.stages import check

DEPTH = {"depth": {"depth_kind": "metric_m"}}


def test_its_page_shows_the_reading_that_wins_beside_the_declared_one(
    function: Function, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    function.says = lambda seen: models.normals(seen, 0.2) * [1, 1, -1]
    values = config(function, "teacher_normals_tiny", data_dir, {"normals": {"axes": "opencv"}}, page_images=2)
    workdir = tmp_path / "run"
    found = checked(values, workdir)
    line = "--config.teachers.0.tasks.normals.axes=x,y,-z"
    assert line in capsys.readouterr().err
    page = (workdir / "check.html").read_text()
    assert page.count("data:image/webp") == 2 * 4 + 2 * 2  # image, truth, declared, winner; of the truth itself
    assert line in page and "failed" in page
    [verdict] = found.teachers["answers"].tasks.values()
    assert verdict.tried[0].what == "" and verdict.tried[1].line == line
    assert verdict.metrics["within_11_25"] < verdict.tried[1].metric
    assert json.loads((workdir / "result.json").read_text())["teachers"] == {"answers": {"normals": "failed"}}
    assert found.truth["normals"].verdict == "passed"


def test_a_finished_check_of_the_same_teacher_says_so(
    function: Function, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    function.says = lambda seen: models.depth(seen, 0)
    values = config(function, "teacher_depth_tiny", data_dir, DEPTH)
    digest = checked(values, tmp_path / "run").teachers["answers"].digest
    capsys.readouterr()
    checked(values, tmp_path / "run")
    assert "nothing to do" in capsys.readouterr().err
    module = tmp_path / f"{function.module}.py"
    module.write_text(module.read_text() + "# another\n")
    assert checked(values, tmp_path / "run").teachers["answers"].digest != digest
    assert "nothing to do" not in capsys.readouterr().err


def test_classes_are_matched_by_their_names_also_through_a_mapping(
    function: Function, data_dir: Path, tmp_path: Path
) -> None:
    """In another order, spelled otherwise, with more of them, two of which are merged."""
    mapping = tmp_path / "classes.toml"
    mapping.write_text('[merge]\npointed = ["cone", "tent"]\n')
    given = ("Boxy", "cone", "tent", "round", "car")
    order = {"round": 3, "boxy": 0, "pointed": 2}
    index = np.array([order[name] for name in SHAPES])

    def says(seen: models.Seen) -> dict[str, np.ndarray]:
        said = models.boxes(seen, 0.2)
        return {**said, "classes": index[said["classes"]]}

    function.says = says
    tasks = {"detection": {"classes": given, "mapping": str(mapping)}}
    verdict = of(config(function, "teacher_detection_tiny", data_dir, tasks), tmp_path / "run")
    assert verdict.verdict == "passed" and verdict.metrics["ap50"] > 60


def test_without_truth_it_says_what_was_done_instead(
    function: Function, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    function.says = lambda seen: models.depth(seen, 0)
    values = config(function, "teacher_depth_tiny", data_dir, {"far": {"kind": "depth", "depth_kind": "metric_m"}})
    assert of(values, tmp_path / "run").by != "true labels"
    assert "no truth for far" in capsys.readouterr().err
    assert of({**values, "names": {"depth": "far"}}, tmp_path / "named").by == "true labels"


def test_true_classes_that_the_teacher_does_not_have_are_named(
    function: Function, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    function.says = lambda seen: models.boxes(seen, 0)
    values = config(function, "teacher_detection_tiny", data_dir, {"detection": {"classes": ("cat", "dog", "cow")}})
    checked(values, tmp_path / "run")
    said = capsys.readouterr().err
    assert "round" in said and "cat" in said and "tasks.detection.mapping" in said


@pytest.mark.parametrize(
    ("task", "changed", "finding"),
    [
        ("normals", lambda values: values * np.array([1, -1, -1], np.float32), ("failed", "away from the camera")),
        ("depth", lambda values: 1 / values, ("look", "near and far")),
        ("depth", lambda values: values, None),
    ],
)
def test_true_labels_are_checked_themselves(
    task: str, changed, finding: tuple[str, str] | None, data_dir: Path, tmp_path: Path
) -> None:
    images = open_images(f"scenes/teacher_{task}_tiny:{ALL}", data_dir)
    truth = images.labels[task]
    column = make_column(
        tmp_path / "column",
        task,
        images,
        lambda index: {**truth[index], task: changed(truth[index][task])},
        **like_truth(images, task),
    )
    values = {"stage": "check", "data_dir": str(data_dir), "images": images.name, "labels": (str(column),)}
    verdict = checked(values, tmp_path / "run").truth[task]
    assert [each.level for each in verdict.findings] == ([finding[0]] if finding else [])
    assert not finding or finding[1] in verdict.findings[0].reason


def test_a_run_of_must_jax_is_checked_on_true_labels(data_dir: Path, tmp_path: Path) -> None:
    """This one has learnt nothing."""
    teacher = make_teacher(tmp_path / "teacher", ("depth",), 64, {})
    values = {
        "stage": "check",
        "data_dir": str(data_dir),
        "images": "scenes/teacher_depth_tiny:train",
        "take": 16,
        "teachers": str(teacher),
        "page_images": 1,
    }
    [verdict] = checked(values, tmp_path / "run").teachers["teacher"].tasks.values()
    assert verdict.verdict == "failed" and not any(each.line for each in verdict.findings)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"teachers": "none", "labels": "none"}, "config.teachers"),
        ({"teachers": []}, "no true depth or normals"),
        ({"images": "scenes/teacher_depht:train"}, "teacher_depth"),
        ({"tasks": {"depht": {}}}, "depht"),
        ({"names": {"normals": "facing"}}, "names.normals"),
        ({"teachers": [{"model": "python:MODULE:answers", "tasks": {"depth": {}}}]}, "tasks.depth.depth_kind"),
        ({"teachers": [{"model": "python:no_such_module:answers", "tasks": DEPTH}]}, "no_such_module"),
    ],
)
def test_mistakes_are_named_before_any_work(
    function: Function, data_dir: Path, tmp_path: Path, change: dict, named: str
) -> None:
    values = config(function, "teacher_segmentation_tiny", data_dir, DEPTH)
    change = json.loads(json.dumps(change).replace("MODULE", function.module).replace('"none"', "null"))
    with pytest.raises(UserError) as error:
        check.run(parse({**values, **change}), tmp_path / "run")
    assert named in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_an_image_that_cannot_be_read_or_answered_is_left_out(
    function: Function, data_dir: Path, tmp_path: Path
) -> None:
    failing = set(range(0, 50, 7))

    def says(seen: models.Seen) -> np.ndarray:
        if seen.seed[0] in failing:
            raise ZeroDivisionError("seven")
        return models.regions(seen, 0.3)

    function.says = says
    tasks = {"segmentation": {"classes": THINGS, "scores": "softmax"}}
    verdict = of(config(function, "teacher_segmentation_tiny", data_dir, tasks), tmp_path / "run")
    assert verdict.verdict == "passed" and 35 < verdict.images < 50


def test_what_was_found_is_read_again_or_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"check\.json"):
        verdicts.read(tmp_path)
    (tmp_path / "check.json").write_text("{}")
    with pytest.raises(UserError, match=r"check\.json"):
        verdicts.read(tmp_path)
