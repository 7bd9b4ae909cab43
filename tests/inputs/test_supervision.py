"""What there is to learn from is said before the first update; nothing is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call, config
from photos import encoded, picture, write_files

from must_jax.data.batching import Source
from must_jax.data.image_sets import ImageSet, open_images
from must_jax.data.kinds import LabelKind
from must_jax.errors import UserError
from must_jax.inputs import supervision
from must_jax.tasks import TASKS, build_task
from must_jax.tasks.base import Task
from must_jax.training import building

JPEG = encoded(picture(120, 160))
ONE = np.float32(1)


class Labels:
    """A column in memory."""

    classes = ("a", "b", "c")

    def __init__(self, task: Task, labels: list[dict[str, Any]]) -> None:
        self.task, self.kind, self._labels = task.name, task.label, labels

    kind: LabelKind

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"present": ONE, **self._labels[index]}


def source(task: Task, labels: list[dict[str, Any]]) -> Source:
    images = ImageSet("photos", len(labels), lambda index: {"image": JPEG, "name": str(index)}, "0")
    return Source(images, (Labels(task, labels),))


def task_of(name: str, classes: tuple[str, ...] = ("a", "b", "c"), **options: Any) -> Task:
    return build_task(name, classes if TASKS[name].has_classes else (), options)


def boxes(*sides: float, classes: int = 1, ignore: float = 0) -> dict[str, Any]:
    """Square-ish ones of so many pixels of an image of 160 x 120."""
    corners = [(0.1, 0.1, 0.1 + side / 120, 0.1 + side / 160) for side in sides]
    ones = np.ones(len(sides), np.float32)
    return {
        "boxes_yxyx": np.array(corners, np.float32).reshape(-1, 4),
        "classes": np.arange(len(sides), dtype=np.int32) % classes,
        "scores": ones,
        "valid": ones,
        "ignore": ignore * ones,
    }


def depth(valid: np.ndarray) -> dict[str, Any]:
    return {"depth": np.full(valid.shape, 2, np.float32), "valid": valid.astype(np.float32)}


def probs(index: int) -> dict[str, Any]:
    return {"probs": np.eye(3, dtype=np.float32)[index]}


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[-1]


def test_boxes_are_counted_as_the_network_gets_them(capsys: pytest.CaptureFixture[str]):
    """At 64 of 160 pixels a box of 2 is smaller than a pixel; of the others the largest find a slot; one is ignored."""
    task = task_of("detection", max_boxes=3)
    labels = [boxes(2, 20, 30, 40, 50, classes=2), boxes(), boxes(2), boxes(40, ignore=1), {"present": np.float32(0)}]
    supervision.check([source(task, labels)], {"detection": task}, (64, 64))
    expected = "detection learns at image_size 64 from 3 of 6 boxes in 1 of 4 labelled images (2 smaller than "
    assert said(capsys) == expected + "a pixel, 1 beyond max_boxes 3); 3 classes, images with each: a 1, b 1, c 0"
    supervision.check([source(task, labels)], {"detection": task}, (160, 160), where="a set")
    assert "a set: detection learns at image_size 160 from 4 of 6 boxes in 2 of 4 labelled images (0" in said(capsys)


def test_maps_are_counted_by_the_cells_that_are_supervised(capsys: pytest.CaptureFixture[str]):
    """Of those that the image covers, three quarters of the input: the left half of one image, and all of another."""
    task, half = task_of("depth"), np.arange(160) < 80
    labels = [depth(np.broadcast_to(half, (120, 160))), depth(np.ones((120, 160))), depth(np.zeros((120, 160)))]
    supervision.check([source(task, labels)], {"depth": task}, (64, 64))
    assert said(capsys) == "depth learns at image_size 64 from 75 % of the cells in 2 of 3 labelled images"
    supervision.check([source(task, labels[1:2])], {"depth": task}, (36, 36))  # 36 x 27 pixels are 9 x 6.75 cells
    assert said(capsys) == "depth learns at image_size 36 from 100 % of the cells in 1 of 1 labelled image"


def test_classes_of_maps_and_of_images_are_counted(capsys: pytest.CaptureFixture[str]):
    task, ids = task_of("segmentation"), np.full((120, 160), 255, np.int32)
    ids[:60], ids[60:, :80] = 0, 2
    supervision.check([source(task, [{"ids": ids}])], {"segmentation": task}, (64, 64))
    expected = "from 75 % of the cells in 1 of 1 labelled image; 3 classes, images with each: a 1, b 0, c 1"
    assert said(capsys).endswith(expected)
    task = task_of("classification")
    supervision.check([source(task, [probs(0), probs(2), probs(2)])], {"classification": task}, (64, 64))
    assert said(capsys).endswith("from 3 of 3 labelled images; 3 classes, images with each: a 1, b 0, c 2")


ABSENT = {"present": np.float32(0)}
NOTHING: dict[str, tuple[str, list[dict[str, Any]], str]] = {
    "no label": ("detection", [ABSENT], "no image has a readable label; provide labels"),
    "labels that cannot be read": ("classification", [{"probs": "?"}], "no image has a readable label"),
    "no box": ("detection", [boxes(), boxes()], "all 2 labels are empty; provide labels that are not empty"),
    "boxes to ignore": ("detection", [boxes(50, ignore=1)], "all 1 labels are empty"),
    "tiny boxes": (
        "detection",
        [boxes(1, 2), boxes(2)],
        "no box is left at image_size 64, 3 of 3 are smaller than a pixel; increase image_size",
    ),
    "no valid pixel": ("depth", [depth(np.zeros((9, 9)))], "all 1 labels are empty"),
    "no class in a map": ("segmentation", [{"ids": np.full((9, 9), 255, np.int32)}], "all 1 labels are empty"),
    "one class of several": ("classification", [probs(1)] * 3, "'b' is the only class"),
    "one class in maps": (
        "segmentation",
        [{"ids": np.ones((9, 9), np.int32)}],
        "'b' is the only class, and one class alone",
    ),
}


@pytest.mark.parametrize("case", NOTHING)
def test_nothing_to_learn_is_refused_unless_it_is_accepted(case: str, capsys: pytest.CaptureFixture[str]):
    name, labels, reason = NOTHING[case]
    task = task_of(name)
    with pytest.raises(
        UserError, match=f"^there is nothing to learn for {name}: {reason}.* config.accept_failed={name}$"
    ):
        supervision.check([source(task, labels)], {name: task}, (64, 64))
    supervision.check([source(task, labels)], {name: task}, (64, 64), accepted=[name])
    assert reason.partition(";")[0] in said(capsys)


@pytest.mark.parametrize("case", ["no label", "no box", "boxes to ignore", "no valid pixel", "no class in a map"])
def test_truth_with_nothing_in_it_is_refused(case: str):
    name, labels, reason = NOTHING[case]
    task = task_of(name)
    with pytest.raises(
        UserError, match=rf"^config\.validation \(photos\): nothing to measure {name} against: {reason}"
    ):
        supervision.check_held_out(source(task, labels), {name: task}, (64, 64), "config.validation")


@pytest.mark.parametrize("case", ["tiny boxes", "one class of several", "one class in maps"])
def test_truth_may_be_what_could_not_be_learnt(case: str, capsys: pytest.CaptureFixture[str]):
    name, labels, _ = NOTHING[case]
    task = task_of(name)
    supervision.check_held_out(source(task, labels), {name: task}, (64, 64), "config.validation")
    assert "learns" not in capsys.readouterr().err


def test_truth_of_one_class_is_told(capsys: pytest.CaptureFixture[str]):
    task = task_of("classification")
    supervision.check_held_out(source(task, [probs(1)] * 3), {task.name: task}, (64, 64), "config.validation")
    expected = "look at config.validation (photos): 'b' is the only class of classification there, so a model that"
    assert expected in said(capsys)
    supervision.check_held_out(source(task, [probs(1), probs(2)]), {task.name: task}, (64, 64), "config.validation")
    boxes_task = task_of("detection", ("a",))
    supervision.check_held_out(
        source(boxes_task, [boxes(50)]), {"detection": boxes_task}, (64, 64), "config.validation"
    )
    assert "only class" not in capsys.readouterr().err


def test_classes_that_are_not_in_training_are_told(capsys: pytest.CaptureFixture[str]):
    task = task_of("classification")
    learnt = supervision.check([source(task, [probs(0), probs(1)])], {task.name: task}, (64, 64))
    held_out = source(task, [probs(1), probs(2)])
    supervision.check_held_out(held_out, {task.name: task}, (64, 64), "config.validation", learnt)
    assert said(capsys) == (
        "look at config.validation (photos): there are labels of c, but none among the 2 labels of classification for "
        "training that were looked at"
    )
    everything = supervision.check([source(task, [probs(0), probs(1), probs(2)])], {task.name: task}, (64, 64))
    supervision.check_held_out(held_out, {task.name: task}, (64, 64), "config.validation", everything)
    assert "none among" not in capsys.readouterr().err


@pytest.mark.parametrize(("share", "told"), [(10, True), (500, False)])
def test_a_class_that_a_sample_of_the_training_labels_lacks_is_told_unless_it_is_rare(
    share: int, told: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """200 of 1,000 labels: of a class with every tenth image it should have 20, of one with every 500th none."""
    monkeypatch.setattr("must_jax.inputs.sampling.SAMPLED", 200)
    task = task_of("classification")
    learnt = supervision.check([source(task, [probs(i % 2) for i in range(1000)])], {task.name: task}, (64, 64))
    held_out = source(task, [probs(0 if i % share else 2) for i in range(1000)])
    monkeypatch.setattr("must_jax.inputs.sampling.SAMPLED", 1000)
    supervision.check_held_out(held_out, {task.name: task}, (64, 64), "config.validation", learnt)
    assert ("there are labels of c, but none among the 200 labels" in capsys.readouterr().err) == told


def test_one_class_in_a_sample_is_told_as_such(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("must_jax.inputs.sampling.SAMPLED", 200)
    task = task_of("classification")
    supervision.check_held_out(source(task, [probs(1)] * 1000), {task.name: task}, (64, 64), "config.validation")
    assert "'b' is the only class of classification there in a sample of 200 images, so" in said(capsys)


def test_images_that_are_in_two_sets_are_counted(tmp_path: Path):
    write_files(tmp_path / "a", {f"{number}.jpg": JPEG for number in range(3)})
    write_files(tmp_path / "a/b", {f"{number}.jpg": JPEG for number in range(2)})
    write_files(tmp_path / "c", {"0.jpg": JPEG})
    (tmp_path / "d").symlink_to("a/b")
    (tmp_path / "e").mkdir()
    (tmp_path / "e/x.jpg").symlink_to("../a/1.jpg")
    os.link(tmp_path / "a/b/1.jpg", tmp_path / "e/y.jpg")
    shutil.copy(tmp_path / "a/0.jpg", tmp_path / "e/z.jpg")
    whole, inside, other, link, links = (
        Source(open_images(f"folder:{tmp_path / name}", ""), ()) for name in ("a", "a/b", "c", "d", "e")
    )
    assert supervision.overlap(links, whole) == "2 of its 3 images"
    assert supervision.overlap(inside, whole) == "2 of its 2 images"
    assert supervision.overlap(whole, link) == "2 of its 5 images"
    assert supervision.overlap(whole, other) == ""


def test_the_only_class_of_a_task_is_one_too_few_but_for_boxes(capsys: pytest.CaptureFixture[str]):
    task = task_of("classification", ("a",))
    with pytest.raises(UserError, match="'a' is the only class, and one class alone teaches nothing; add images"):
        supervision.check([source(task, [{"probs": np.ones(1, np.float32)}])], {task.name: task}, (64, 64))
    task = task_of("detection", ("a",))
    supervision.check([source(task, [boxes(50)])], {task.name: task}, (64, 64))
    assert said(capsys).endswith("1 class, images with each: a 1")


def test_several_sets_add_up_and_other_tasks_can_be_left_out(capsys: pytest.CaptureFixture[str]):
    task, other = task_of("classification"), task_of("detection")
    sources = [source(task, [probs(0)]), source(task, [probs(1)] * 2), source(other, [boxes()])]
    with pytest.raises(UserError, match=r"all 1 labels .*, drop the task with --config.columns.drop=detection"):
        supervision.check(sources, {task.name: task, other.name: other}, (64, 64))
    assert said(capsys).endswith("from 3 of 3 labelled images; 3 classes, images with each: a 1, b 2, c 0")


def test_of_many_labels_a_sample_is_read_and_all_where_there_is_nothing_in_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("must_jax.inputs.sampling.SAMPLED", 10)
    monkeypatch.setattr("must_jax.inputs.sampling.LEAST", 5)
    task, read = task_of("detection"), []

    def of(labels: list[dict[str, Any]]) -> Source:
        made = source(task, labels)
        read.clear()

        def get(column: Labels, index: int) -> dict[str, Any]:
            read.append(index)
            return {"present": ONE, **labels[index]}

        monkeypatch.setattr(Labels, "__getitem__", get)
        return made

    supervision.check([of([boxes(50)] * 100)], {task.name: task}, (64, 64))
    assert sorted(set(read)) == list(range(0, 100, 10))
    assert ", in a sample of 10 of 100 images" in said(capsys)
    supervision.check(
        [of([boxes(50) if index == 77 else boxes() for index in range(100)])], {task.name: task}, (64, 64)
    )
    assert "from 1 of 1 box in 1 of 80 labelled images" in said(capsys)
    with pytest.raises(UserError, match=r"all 100 labels are empty; provide"):
        supervision.check([of([boxes()] * 100)], {task.name: task}, (64, 64))
    with pytest.raises(
        UserError, match=r"10 of 10 are smaller than a pixel, in a sample of 10 of 100 images; increase image_size"
    ):
        supervision.check([of([boxes(2)] * 100)], {task.name: task}, (64, 64))


def test_a_training_on_tiny_boxes_says_so_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Through the real command: boxes of 14 pixels in images of 1600 are gone at 64 pixels, and there at 128."""
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path / "photos", {f"{number}.jpg": encoded(picture(1200, 1600, number)) for number in range(2)})
    truth = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 1600, "height": 1200} for n in range(2)],
        "categories": [{"id": 0, "name": "root"}, {"id": 1, "name": "car"}],
        "annotations": [
            {"id": n, "image_id": n % 2, "category_id": 1, "bbox": [100 + 130 * n, 80, 14, 14], "iscrowd": 0}
            for n in range(10)
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(truth))
    labels = ["--config.labels.detection.format=coco", "--config.labels.detection.path=a.json"]
    assert call(config("prepare"), "--config.images=folder:photos", *labels) == 0
    assert "labels for detection; 2 classes, images with each: root 0, car 2" in capsys.readouterr().err

    def stop(*args: object, **options: object) -> None:
        raise UserError("far enough")

    monkeypatch.setattr(building, "init_state", stop)
    training = [
        config("teacher_detection"),
        "--workdir=run",
        "--config.train.0.images=photos:train",
        "--config.devices=1",
    ]
    training += [
        "--config.validation=None",
        "--config.minimum={}",
        "--config.batch_size=2",
        "--config.model.width=0.125",
    ]
    assert call(*training) == 2
    assert said(capsys).startswith(
        "error: there is nothing to learn for detection: no box is left at image_size 64, 10 of 10 are"
    )
    assert not (tmp_path / "run").exists()
    assert call(*training, "--config.image_size=128") == 2
    *_, told, end = capsys.readouterr().err.splitlines()
    assert told.startswith(
        "detection learns at image_size 128 from 10 of 10 boxes in 2 of 2 labelled images (0 smaller than a"
    )
    assert end == "error: far enough"
