"""A training does not start on a column that nothing can be learnt from, unless it is told to."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hand_made import KINDS
from made_column import make_column

from must_jax.config import TrainConfig
from must_jax.data.image_sets import ImageSet, open_images
from must_jax.data.sample import drawn
from must_jax.errors import UserError
from must_jax.labels import judging, manifest
from must_jax.labels.judging import Finding, Score
from must_jax.parsing import parse
from must_jax.stages import train
from must_jax.training import building

MODEL = {"backbone": "resnet10", "width": 0.125, "pyramid_channels": 8, "head_channels": 8, "head_convs": 1}
IMAGES = "scenes/teacher_depth_tiny:train"
FEW = set(drawn(48, 16).tolist())  # of its images, with take=16
PLACES = {image: place for place, image in enumerate(drawn(48, 40).tolist())}  # of its images, with take=40


@pytest.fixture(scope="module")
def images(data_dir: Path) -> ImageSet:
    return open_images(IMAGES, data_dir)


@pytest.fixture
def start(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Starts a training on columns, which ends with "far enough" where its first step would come."""

    def stop(*args: object, **options: object) -> None:
        raise UserError("far enough")

    def start(task: str, *columns: Path, **changes: Any) -> None:
        values = {
            "stage": "train",
            "data_dir": str(data_dir),
            "train": [{"images": IMAGES, "labels": [str(column) for column in columns]}],
            "tasks": {task: {}},
            "image_size": 32,
            "model": MODEL,
            "batch_size": 8,
            "devices": 1,
        }
        config = parse(values | changes)
        assert isinstance(config, TrainConfig)
        train.run(config, tmp_path / "run")

    monkeypatch.setattr(building, "init_state", stop)
    return start


def probs(*values: float) -> dict[str, np.ndarray]:
    return {"probs": np.array(values, np.float32)}


def varied(index: int) -> dict[str, np.ndarray]:
    return {"probs": np.roll(np.array([0.8, 0.1, 0.1], np.float32), index)}


def no_boxes(index: int) -> dict[str, np.ndarray]:
    slots = np.zeros(4, np.float32)
    return {
        "boxes_yxyx": np.zeros((4, 4), np.float32),
        "classes": np.zeros(4, np.int32),
        "scores": slots,
        "valid": slots,
        "ignore": slots,
    }


def nothing_known(index: int) -> dict[str, np.ndarray]:
    return {"depth": np.ones((4, 4), np.float32), "valid": np.zeros((4, 4), np.float32)}


def ramp(index: int) -> dict[str, np.ndarray]:
    return {"depth": np.linspace(1, 2, 16, dtype=np.float32).reshape(4, 4), "valid": np.ones((4, 4), np.float32)}


FAILING: dict[str, tuple[str, Callable[[int], dict[str, Any]], dict[str, Any], str]] = {
    "no box anywhere": ("detection", no_boxes, {}, "all 48 labels are empty"),
    "no pixel anywhere": ("depth", nothing_known, {}, "all 48 labels are empty"),
    "nothing labelled": ("depth", lambda i: nothing_known(i) | {"present": np.float32(0)}, {}, "no image has a label"),
    "one class only": ("classification", lambda i: probs(0.1, 0.6, 0.3), {}, "of 3 classes only 'b' occurs"),
    "NaN": (
        "classification",
        lambda i: probs(np.nan, 0.5, np.inf) if i == 20 else varied(i),
        {},
        "2 values are NaN or infinite",
    ),
    "near chance": (
        "depth",
        ramp,
        {"metrics": {"depth/delta1": 32.3, "depth/chance": 27.3}},
        r"on its teacher's validation images delta1 is 32\.3, and up to 32\.3 is near chance \(.* gets 27\.3\)",
    ),
    "not validated": ("depth", ramp, {"metrics": {}}, r"its teacher was not validated \(delta1 is not known\)"),
}


@pytest.mark.parametrize("case", FAILING)
def test_a_column_that_nothing_can_be_learnt_from_is_refused_unless_told_to(
    case: str,
    images: ImageSet,
    start: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task, label_of, options, reason = FAILING[case]
    column = make_column(tmp_path / "column", task, images, label_of, **options)
    advice = f"; re-create them, drop them, or train on them anyway with config.accept_failed={task}"
    with pytest.raises(UserError, match=f"^the {task} labels in {column} failed: .*{reason}{advice}$"):
        start(task, column)
    assert not (tmp_path / "run").exists()

    with pytest.raises(UserError, match="far enough"):
        start(task, column, accept_failed=task)
    said = capsys.readouterr().err
    assert f"look at {column}: " in said and "(failed; accepted by config.accept_failed)" in said


def two_boxes(index: int) -> dict[str, np.ndarray]:
    """The surer one always of the same class."""
    slots = {
        "classes": np.array([1, index % 3]),
        "scores": np.array([0.9, 0.6]),
        "valid": np.ones(2),
        "ignore": np.zeros(2),
    }
    return {"boxes_yxyx": np.tile(np.float32([0.1, 0.1, 0.9, 0.9]), (2, 1))} | slots


def one_in_few(index: int) -> dict[str, np.ndarray]:
    """Of one class in FEW, of the others elsewhere."""
    return varied(0 if index in FEW else 1 + index % 2)


@pytest.mark.parametrize(
    ("task", "label_of", "read", "reason"),
    [
        ("detection", two_boxes, {"min_confidence": {"detection": 0.6}}, ""),
        ("detection", two_boxes, {"min_confidence": {"detection": 0.7}}, "of 3 classes only 'b' occurs"),
        ("detection", two_boxes, {"min_confidence": {"detection": 0.95}}, "all 48 labels are empty"),
        ("classification", varied, {"min_confidence": {"classification": 0.75}}, ""),
        ("classification", varied, {"min_confidence": {"classification": 0.85}}, "no image has a label"),
        ("classification", one_in_few, {"take": 40}, ""),
        ("classification", one_in_few, {"take": 16}, "of 3 classes only 'a' occurs"),
    ],
)
def test_what_the_student_would_read_is_judged(
    task: str,
    label_of: Callable[[int], dict[str, np.ndarray]],
    read: dict[str, Any],
    reason: str,
    images: ImageSet,
    start: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By their manifests all of these columns pass."""
    column = make_column(tmp_path / "column", task, images, label_of)
    train = [{"images": IMAGES, "labels": [str(column)], **read}]
    if reason:
        threshold = "".join(f", with min_confidence {least}" for least in read.get("min_confidence", {}).values())
        where = rf" \(in the {read.get('take', 48)} images that are read{threshold}\)"
        with pytest.raises(UserError, match=f"labels in {column} failed: {reason}{where}; re-create them"):
            start(task, column, train=train)
    else:
        with pytest.raises(UserError, match="far enough"):
            start(task, column, train=train)
        assert "look at" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("least", "said"),
    [
        (2, r"look at .*: 80 % of the labels are empty \(in a sample of 10 of the 40 images that are read\)"),
        (3, r"look at .*: 95 % of the labels are empty \(in the 40 images that are read\)"),
    ],
)
def test_of_many_labels_a_sample_is_judged_if_there_is_enough_in_it(
    least: int,
    said: str,
    images: ImageSet,
    start: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("must_jax.inputs.sampling.SAMPLED", 10)
    monkeypatch.setattr("must_jax.inputs.sampling.LEAST", least)
    column = make_column(
        tmp_path / "column", "depth", images, lambda i: nothing_known(i) if PLACES.get(i, 1) % 20 else ramp(i)
    )
    with pytest.raises(UserError, match="far enough"):
        start("depth", train=[{"images": IMAGES, "labels": [str(column)], "take": 40}])
    assert re.search(said, capsys.readouterr().err)


@pytest.mark.parametrize(("labelled", "read"), [({7, 30}, 40), ({*range(0, 40, 4), 30}, 30)])
def test_no_column_fails_by_a_sample(
    labelled: set[int],
    read: int,
    images: ImageSet,
    start: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All labels are of one class but for that of the image at 30; a sample says nothing of 'c', which has none."""
    monkeypatch.setattr("must_jax.inputs.sampling.SAMPLED", 10)
    monkeypatch.setattr("must_jax.inputs.sampling.LEAST", 2)

    def sparse(index: int) -> dict[str, Any]:
        place = PLACES.get(index, -1)
        return varied(int(place == 30)) | {"present": np.float32(place in labelled)}

    column = make_column(tmp_path / "column", "classification", images, sparse)
    with pytest.raises(UserError, match="far enough"):
        start("classification", train=[{"images": IMAGES, "labels": [str(column)], "take": 40}])
    said = capsys.readouterr().err
    assert f"checking a sample of column {read}/40" in said
    assert ("1 of 3 classes never occur: c (in the 40 images" in said) == (read == 40)


def test_a_broken_label_outside_of_what_is_read_makes_the_column_fail(
    images: ImageSet, start: Callable[..., None], tmp_path: Path
) -> None:
    column = make_column(
        tmp_path / "column", "classification", images, lambda i: varied(i) if i in PLACES else probs(np.nan, 1, 0)
    )
    with pytest.raises(UserError, match="failed: 8 values are NaN or infinite; re-create them"):
        start("classification", train=[{"images": IMAGES, "labels": [str(column)], "take": 40}])


def test_a_lower_threshold_can_make_a_column_worth_reading(
    images: ImageSet, start: Callable[..., None], tmp_path: Path
) -> None:
    """Where the confidence is kept: by the rule of the column nothing is left, which its audit has said as well."""

    def unsure(index: int) -> dict[str, np.ndarray]:
        return {"ids": np.array([[0, 1, 2]]), "confidence": np.full((1, 3), 0.4, np.float32)}

    kept = {"kind": KINDS["segmentation kept"].to_dict(), "min_confidence": 0.5}
    column = make_column(tmp_path / "column", "segmentation", images, unsure, **kept)
    made = manifest.read(column)
    judging.write(column, made, judging.known_from_manifest(made, Score("miou", 50.0, 20.0)), 48)
    with pytest.raises(UserError, match="all 48 labels are empty; re-create"):
        start("segmentation", column)
    lower = [{"images": IMAGES, "labels": [str(column)], "min_confidence": {"segmentation": 0.3}}]
    with pytest.raises(UserError, match="far enough"):
        start("segmentation", column, train=lower)


def test_a_depth_teacher_on_rooms_where_depths_vary_may_teach(
    images: ImageSet, start: Callable[..., None], tmp_path: Path
) -> None:
    """47.3 is far more than 27.3, the best constant there, and less than it is on other rooms."""
    metrics = {"depth/delta1": 47.3, "depth/chance": 27.3}
    column = make_column(tmp_path / "column", "depth", images, ramp, metrics=metrics)
    with pytest.raises(UserError, match="far enough"):
        start("depth", column)


def test_all_refusals_come_at_once(images: ImageSet, start: Callable[..., None], tmp_path: Path) -> None:
    depth = make_column(tmp_path / "depth", "depth", images, nothing_known)
    boxes = make_column(tmp_path / "boxes", "detection", images, no_boxes)
    with pytest.raises(UserError, match=f"{depth} failed: .*{boxes} failed: .*accept_failed=depth,detection$"):
        start("depth", depth, boxes, tasks={"depth": {}, "detection": {}})


def test_one_good_column_does_not_excuse_another(images: ImageSet, start: Callable[..., None], tmp_path: Path) -> None:
    good = make_column(tmp_path / "good", "depth", images, ramp)
    bad = make_column(tmp_path / "bad", "depth", images, nothing_known)
    with pytest.raises(UserError, match=f"labels in {bad} failed"):
        start("depth", good, bad)


def test_to_accept_one_task_is_not_to_accept_another(
    images: ImageSet, start: Callable[..., None], tmp_path: Path
) -> None:
    depth = make_column(tmp_path / "depth", "depth", images, nothing_known)
    boxes = make_column(tmp_path / "boxes", "detection", images, no_boxes)
    both = {"tasks": {"depth": {}, "detection": {}}}
    with pytest.raises(UserError, match=f"the detection labels in {boxes} failed"):
        start("depth", depth, boxes, **both, accept_failed="depth")
    with pytest.raises(UserError, match="far enough"):
        start("depth", depth, boxes, **both, accept_failed="depth,detection")


def test_a_column_of_a_task_that_is_not_learnt_is_not_looked_at(
    images: ImageSet, start: Callable[..., None], tmp_path: Path
) -> None:
    good = make_column(tmp_path / "good", "depth", images, ramp)
    bad = make_column(tmp_path / "bad", "detection", images, no_boxes)
    with pytest.raises(UserError, match="far enough"):
        start("depth", good, bad)


def test_what_deserves_a_look_is_said_and_no_more(
    images: ImageSet, start: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A column from before chance was measured: on these rooms a constant gets 27.3, on others twice that."""
    column = make_column(tmp_path / "column", "depth", images, ramp, metrics={"depth/delta1": 47.3})
    with pytest.raises(UserError, match="far enough"):
        start("depth", column)
    assert f"look at {column}: its teacher's delta1 of 47.3 may be near chance: the version" in capsys.readouterr().err


def test_the_verdict_of_an_audit_counts_as_long_as_the_column_is_the_same(
    images: ImageSet, start: Callable[..., None], tmp_path: Path
) -> None:
    column = make_column(tmp_path / "column", "depth", images, ramp)
    judging.write(column, manifest.read(column), [Finding(level="failed", reason="every map is of yesterday")], 48)
    with pytest.raises(UserError, match=f"{column} failed: every map is of yesterday; re-create them"):
        start("depth", column)

    for file in (path for path in column.iterdir() if path.name != judging.FILE):
        file.unlink()
    make_column(column, "depth", images, lambda i: ramp(i + 1), preprocessing="another")
    with pytest.raises(UserError, match="far enough"):
        start("depth", column)


def test_a_verdict_that_cannot_be_read_is_no_verdict_in_favour(
    images: ImageSet, start: Callable[..., None], tmp_path: Path
) -> None:
    column = make_column(tmp_path / "column", "depth", images, ramp)
    (column / judging.FILE).write_text('{"verdict": "passed"')
    with pytest.raises(UserError, match=f"{column / judging.FILE} is damaged; delete it, and rerun the audit stage"):
        start("depth", column)


def test_only_tasks_can_be_accepted(images: ImageSet, start: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="accept_failed names 'dept', which is not a task here; did you mean 'depth'"):
        start("depth", tmp_path, accept_failed="dept")
