"""The audit through the function that `main` calls, on columns whose labels are known."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from made_column import like_truth, make_column

from must_jax.auditing import presenting
from must_jax.auditing.findings import Result, audit_column
from must_jax.config import AuditConfig
from must_jax.data import image_sets
from must_jax.data.decoding import decode_image
from must_jax.data.image_sets import Column, ImageSet, open_images
from must_jax.data.kinds import IGNORE_ID, DirectionsLabel, ScalarsLabel
from must_jax.errors import UserError
from must_jax.labels import judging, manifest
from must_jax.labels.columns import LabelColumn, open_column
from must_jax.labels.judging import Finding
from must_jax.parsing import parse
from must_jax.stages import audit, train
from must_jax.tasks import TASKS, build_task

Labels = Callable[[int], dict[str, Any]]
EVERY = range(48)


@pytest.fixture(scope="module")
def opened(data_dir: Path) -> Callable[[str], ImageSet]:
    return lambda task: open_images(f"scenes/teacher_{task}_tiny:train", data_dir)


def audited(folder: Path, images: ImageSet, task: str, **options: Any) -> Result:
    column = open_column(folder, images)
    built = build_task(task, column.classes, options)
    return audit_column(column, built, list(images.labels.values()), EVERY)


@pytest.mark.parametrize("task", [name for name, task in TASKS.items() if not task.self_supervised])
def test_labels_like_the_truth_score_best(task: str, opened: Callable[[str], ImageSet], tmp_path: Path) -> None:
    images = opened(task)
    folder = make_column(tmp_path, task, images, images.labels[task].__getitem__, **like_truth(images, task))
    result = audited(folder, images, task)
    assert result.scores[TASKS[task].metric] == pytest.approx(100, abs=0.01)
    assert result.audited.verdict == "passed" and result.statistics.images == len(EVERY)


@pytest.mark.parametrize("task", ["segmentation", "depth", "normals"])
def test_coarse_labels_are_compared_at_the_resolution_of_the_truth(
    task: str, opened: Callable[[str], ImageSet], tmp_path: Path
) -> None:
    """As teachers make them: at a quarter of their input, whatever the size of the truth."""
    images, field = opened(task), {"segmentation": "ids"}.get(task, task)

    def coarse(index: int) -> dict[str, Any]:
        label = images.labels[task][index]
        assert label[field].shape[:2] == (64, 64)
        return {name: value[2::5, 2::4] if value.ndim else value for name, value in label.items()}

    result = audited(make_column(tmp_path, task, images, coarse, **like_truth(images, task)), images, task)
    assert 80 < result.scores[TASKS[task].metric] < 100
    assert result.audited.verdict == "passed"


@pytest.mark.parametrize("task", ["classification", "detection", "normals"])
def test_labels_of_other_images_fail(task: str, opened: Callable[[str], ImageSet], tmp_path: Path) -> None:
    images = opened(task)
    spoilt: dict[str, Labels] = {
        "classification": lambda i: images.labels[task][(i + 1) % len(images)],
        "detection": lambda i: images.labels[task][(i + 1) % len(images)],
        "normals": lambda i: upside_down(images.labels[task][i]),
    }
    folder = make_column(tmp_path, task, images, spoilt[task], **like_truth(images, task))
    result = audited(folder, images, task)
    assert result.audited.verdict == "failed"
    assert any(each.reason.startswith("against true labels") for each in result.audited.findings)


def upside_down(label: dict[str, Any]) -> dict[str, Any]:
    return label | {"normals": -label["normals"]}


def test_normals_in_another_frame_deserve_a_look(opened: Callable[[str], ImageSet], tmp_path: Path) -> None:
    images = opened("normals")
    folder = make_column(tmp_path, "normals", images, lambda i: upside_down(images.labels["normals"][i]))
    result = audited(folder, images, "normals")
    assert any("point away from the camera" in each.reason for each in result.audited.findings)


def test_pixels_that_were_left_out_lower_no_score(opened: Callable[[str], ImageSet], tmp_path: Path) -> None:
    images = opened("segmentation")

    def half(index: int) -> dict[str, Any]:
        label = images.labels["segmentation"][index]
        wrong_but_ignored = np.where(np.arange(64)[:, None] % 2, IGNORE_ID, label["ids"])
        return label | {"ids": wrong_but_ignored.astype(np.int32)}

    folder = make_column(tmp_path, "segmentation", images, half, **like_truth(images, "segmentation"))
    result = audited(folder, images, "segmentation")
    assert result.scores["miou"] == 100
    assert result.column.kind.readable(result.statistics, result.column.classes)["labelled_pixels"] == 50


@pytest.mark.parametrize(("kind", "scored"), [("relative", 99.9), ("inverse_relative", 99.9), ("metric_m", None)])
def test_depths_up_to_scale_and_shift_are_scored_against_metres(
    kind: str, scored: float | None, opened: Callable[[str], ImageSet], tmp_path: Path
) -> None:
    """Each with a scale and a shift of its own; metres are not scored against what is none."""
    images = opened("depth")
    truth = images.labels["depth"]

    def label_of(index: int) -> dict[str, Any]:
        label = truth[index]
        depth = 1 / label["depth"] if kind == "inverse_relative" else label["depth"]
        return label | {"depth": (1 + index) * depth + 3 * index}

    unit = {"metric_m": "m"}.get(kind, kind)
    folder = make_column(tmp_path, "depth", images, label_of, kind=ScalarsLabel("depth", unit).to_dict(), unit=unit)
    column, task = open_column(folder, images), build_task("depth", (), {"depth_kind": kind})
    true: Column = truth if scored else truth.in_unit("relative")
    result = audit_column(column, task, [true], EVERY)
    if scored:
        assert result.scores["delta1"] > scored
    else:
        assert not result.scores
        assert any("unit 'relative'" in each.reason for each in result.audited.findings)


def test_truth_with_other_classes_scores_nothing(opened: Callable[[str], ImageSet], tmp_path: Path) -> None:
    images = opened("detection")
    about = like_truth(images, "detection") | {"classes": ("x", "y", "z")}
    folder = make_column(tmp_path, "detection", images, images.labels["detection"].__getitem__, **about)
    result = audited(folder, images, "detection")
    assert not result.scores and result.audited.verdict == "look"
    assert result.audited.findings[0].reason.startswith("its labels were not scored")


def test_labels_that_cannot_be_read_are_counted(
    opened: Callable[[str], ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = opened("depth")
    folder = make_column(tmp_path, "depth", images, images.labels["depth"].__getitem__)
    whole = LabelColumn.__getitem__

    def broken(self: LabelColumn, index: int) -> Any:
        return whole(self, index) if index % 10 else 1 / 0

    monkeypatch.setattr(LabelColumn, "__getitem__", broken)
    result = audited(folder, images, "depth")
    assert (result.statistics.images, result.statistics.unreadable) == (48, 5)
    assert [each.reason for each in result.audited.findings] == ["5 labels cannot be read"]
    assert result.scores["delta1"] == pytest.approx(100)


@pytest.fixture
def label_run(opened: Callable[[str], ImageSet], tmp_path: Path) -> Path:
    """Depth as it is, and boxes that are nowhere, of the same images."""
    images, depth = opened("depth"), opened("depth").labels["depth"]
    nowhere = {"boxes_yxyx": np.zeros((0, 4)), "classes": np.zeros(0, int), "scores": np.zeros(0), "valid": np.zeros(0)}
    nowhere["ignore"] = np.zeros(0)
    make_column(tmp_path / "label/columns/a-depth", "depth", images, depth.__getitem__)
    make_column(tmp_path / "label/columns/b-detection", "detection", images, lambda i: nowhere)
    return tmp_path / "label"


def config_of(data_dir: Path, columns: Path, **changes: Any) -> AuditConfig:
    values = {"images": "scenes/teacher_depth_tiny:train", "data_dir": str(data_dir), "columns": (str(columns),)}
    config = parse({"stage": "audit"} | values | changes)
    assert isinstance(config, AuditConfig)
    return config


def test_a_verdict_a_column_as_page_as_json_and_for_the_training(
    label_run: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit.run(config_of(data_dir, label_run), tmp_path / "audit")
    told = json.loads((tmp_path / "audit/audit.json").read_text())
    depth, boxes = (told["columns"][str(label_run / "columns" / name)] for name in ("a-depth", "b-detection"))
    assert (depth["verdict"], boxes["verdict"]) == ("passed", "failed")
    assert depth["against_truth"]["delta1"] == pytest.approx(100)
    assert depth["validation"]["depth/delta1"] == 90 and boxes["against_truth"] == {}
    assert boxes["findings"] == [{"level": "failed", "reason": "all 48 labels are empty"}]
    assert boxes["checksum"] == json.loads((label_run / "columns/b-detection/manifest.json").read_text())["checksum"]
    assert 1 < depth["statistics"]["quantiles"]["0.5"] < 8
    result = json.loads((tmp_path / "audit/result.json").read_text())
    assert [each["verdict"] for each in result["columns"].values()] == ["passed", "failed"]

    page = (tmp_path / "audit/audit.html").read_text()
    assert "all 48 labels are empty" in page and page.count("<img ") == 2 * 16  # depth and image, from either end
    assert f"{label_run / 'columns/b-detection'}: failed, all 48 labels are empty" in capsys.readouterr().err

    values = {
        "stage": "train",
        "train": [{"images": "scenes/teacher_depth_tiny:train", "labels": [str(label_run / "columns/b-detection")]}],
        "data_dir": str(data_dir),
        "tasks": {"detection": {}},
    }
    with pytest.raises(UserError, match="b-detection failed: all 48 labels are empty; re-create them"):
        train.run(parse(values), tmp_path / "student")


def test_a_finished_audit_says_so_until_a_column_or_its_verdict_is_another(
    label_run: Path,
    data_dir: Path,
    opened: Callable[[str], ImageSet],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, workdir = config_of(data_dir, label_run), tmp_path / "audit"

    def runs_again() -> bool:
        capsys.readouterr()
        audit.run(config, workdir)
        return "is finished; nothing to do" not in capsys.readouterr().err

    assert runs_again() and not runs_again()
    (label_run / "columns/a-depth" / judging.FILE).unlink()
    assert runs_again() and not runs_again()
    shutil.rmtree(label_run / "columns/b-detection")
    assert runs_again() and not runs_again()
    shutil.rmtree(label_run / "columns/a-depth")
    images = opened("depth")
    make_column(label_run / "columns/a-depth", "depth", images, lambda i: images.labels["depth"][i // 2])
    assert runs_again() and not runs_again()


def test_of_a_sample_only_its_labels_are_read(label_run: Path, data_dir: Path, tmp_path: Path) -> None:
    audit.run(config_of(data_dir, label_run / "columns/a-depth", sample=7), tmp_path / "audit")
    told = json.loads((tmp_path / "audit/audit.json").read_text())
    (column,) = told["columns"].values()
    assert told["labels_read"] == column["statistics"]["images"] == 7
    assert told["images"]["count"] == 48


def test_the_verdict_on_more_labels_stays(
    label_run: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For what an audit of a part has not seen; it has its own verdict in its own workdir, and is finished, too."""
    folder = label_run / "columns/a-depth"
    made = manifest.read(folder)
    judging.write(folder, made, [Finding(level="failed", reason="a label that only a full audit reads")], 40)
    full = (folder / judging.FILE).read_bytes()
    for _ in range(2):
        audit.run(config_of(data_dir, folder, sample=7), tmp_path / "part")
        assert (folder / judging.FILE).read_bytes() == full
    said = capsys.readouterr().err
    assert said.count(f"{folder} keeps 'failed', the verdict of an audit of 40 labels; this one has read 7") == 1
    assert "is finished; nothing to do" in said
    told = json.loads((tmp_path / "part/audit.json").read_text())["columns"][str(folder)]
    assert (told["verdict"], told["labels_read"]) == ("look", 7)  # few of them could be scored

    audit.run(config_of(data_dir, folder), tmp_path / "all")
    audited = judging.read(folder, made)
    assert audited is not None and (audited.verdict, audited.labels_read) == ("passed", 48)


def test_copies_of_evaluation_images_are_named(data_dir: Path, tmp_path: Path) -> None:
    """In a folder of photographs, two of which are in the test set as well."""
    evaluation, own = (open_images(f"scenes/teacher_depth_tiny:{split}", data_dir) for split in ("test", "train"))
    (tmp_path / "photos").mkdir()
    for index in range(6):
        image = decode_image((evaluation if index in (1, 4) else own).record(index)["image"])
        image = cv2.resize(image[:, ::-1] if index == 4 else image, (150, 130))
        cv2.imwrite(str(tmp_path / f"photos/{index}.jpg"), image[..., ::-1])
    photos = open_images(f"folder:{tmp_path / 'photos'}", "")
    flat = {"depth": np.ones((8, 8), np.float32), "valid": np.ones((8, 8), np.float32)}
    column = make_column(tmp_path / "column", "depth", photos, lambda i: flat)
    config = config_of(data_dir, column, images=photos.name, evaluation="scenes/teacher_depth_tiny:test")
    audit.run(config, tmp_path / "audit")
    told = json.loads((tmp_path / "audit/audit.json").read_text())
    names = [evaluation.record(index)["name"] for index in (1, 4)]
    found = {each["image"]: (each["evaluation_image"], each["mirrored"]) for each in told["duplicates"]}
    assert found == {"1.jpg": (names[0], False), "4.jpg": (names[1], True)}
    assert told["columns"][str(column)]["findings"] == [{"level": "failed", "reason": "every map is constant"}]
    page = (tmp_path / "audit/audit.html").read_text()
    assert "2 found" in page and all(name in page for name in names)


def test_a_damaged_column_gets_no_verdict(label_run: Path, data_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(label_run / "columns/a-depth", tmp_path / "a-depth"))
    shard = next(folder.glob("*.array_record-00001-of-*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match=f"^{shard} has other bytes than were written .*; delete the file and rerun"):
        audit.run(config_of(data_dir, folder), tmp_path / "audit")
    assert not (tmp_path / "audit").exists() and not (folder / judging.FILE).exists()


def test_figures_are_short() -> None:
    known = {"images": 1200, "absent": 0, "unreadable": 0, "not_finite": 0, "empty_share": 0.0}
    depth = known | {"min": 0.00123456, "mean": 12.345, "max": 999.6, "quantiles": {"0.5": 1234.5}}
    facts = presenting._facts(depth, ScalarsLabel("depth", "m"))
    wanted = {"min": "0.00123 m", "mean": "12.3 m", "max": "1,000 m", "50 % are below": "1,234 m"}
    assert facts | wanted == facts
    normals = known | {"mean_vector": [-0.001, 0.2, -0.9], "away": 0.0, "not_of_length_1": 0.0}
    assert "0.00, 0.20, -0.90" in presenting._facts(normals, DirectionsLabel("normals")).values()


def test_images_that_are_gone_by_then_are_named_on_the_page(
    opened: Callable[[str], ImageSet],
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rendered = opened("depth")
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.png").write_bytes(rendered.record(index)["image"])
    photos = open_images(f"folder:{folder}", "")
    column = make_column(tmp_path / "column", "depth", photos, rendered.labels["depth"].__getitem__)
    write = audit._write

    def later(*args: Any) -> None:
        (folder / "0.png").unlink()
        (folder / "1.png").write_bytes(b"another")
        write(*args)

    monkeypatch.setattr(audit, "_write", later)
    monkeypatch.setattr(image_sets, "_CACHED_RECORDS", 0)
    config = config_of(data_dir, column, images=photos.name, evaluation="scenes/teacher_depth_tiny:train")
    audit.run(config, tmp_path / "audit")
    page = (tmp_path / "audit/audit.html").read_text()
    assert page.count("<img ") == (2 + 2) + (0 + 2)  # of the label that is left, and pairs of duplicates
    assert page.count('<div class="gone">No such file or directory</div>') == 2
    assert page.count('<div class="gone">an image cannot be read: ') == 2
    assert all(f"{index}.png</" in page for index in range(3))
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("not shown: ")]
    assert said.startswith("not shown: 2 images that can no longer be read; the first is ")
    assert len(json.loads((tmp_path / "audit/audit.json").read_text())["duplicates"]) == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"columns": ("nowhere",)}, "there is no label column nowhere"),
        ({"images": "scenes/teacher_depth_tiny:tran"}, "there is no split 'tran'; did you mean 'train'"),
        (
            {"images": "scenes/unlabelled_tiny:train", "take": 48},
            "labels scenes/teacher_depth_tiny:train, not scenes/unlabelled_tiny:train; read it with images='scenes",
        ),
        ({"evaluation": ("scenes/teacher_dept_tiny:train",)}, "'scenes/teacher_dept_tiny' is not a config of scenes"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(
    changes: dict[str, Any], sentence: str, label_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        audit.run(config_of(data_dir, label_run).model_copy(update=changes), tmp_path / "audit")
    assert not (tmp_path / "audit").exists() and not list(label_run.rglob(judging.FILE))
