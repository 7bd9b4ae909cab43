"""Runs of must_jax whose classes are renamed, merged and dropped, by the same files as those of other models."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage

import must_jax
from must_jax import trained
from must_jax.checking import verdicts
from must_jax.config import TeacherConfig
from must_jax.data.fitting import Placed
from must_jax.data.shards import COLUMNS
from must_jax.engine.mesh import make_mesh
from must_jax.errors import UserError
from must_jax.labelling import finished
from must_jax.labels import manifest
from must_jax.parsing import parse
from must_jax.stages import check, label
from must_jax.tasks.classification import Classification
from must_jax.teachers import loading, mapping
from must_jax.teachers.base import Images
from must_jax.teachers.own import Own
from must_jax.trained import Trained

SHAPES = ("round", "boxy", "pointed")
MERGED = """
[merge]
solid = ["boxy", "pointed"]
[rename]
round = "ball"
"""
ROOM = """
drop = ["wall"]
[merge]
shape = ["round", "boxy", "pointed"]
"""


@pytest.fixture(scope="module")
def plain() -> Trained:
    return trained.load(must_jax.EXAMPLE, make_mesh(1))


@pytest.fixture(scope="module")
def pixels(plain: Trained) -> np.ndarray:
    """u8[4, S, S, 3], parts of photographs."""
    from PIL import Image

    size = plain.image_size
    found = []
    for name in ("coffee", "chelsea", "astronaut", "rocket"):
        suffix = "jpg" if name == "rocket" else "png"
        photo = Image.open(Path(skimage.__file__).parent / "data" / f"{name}.{suffix}")
        found.append(np.asarray(photo.convert("RGB").resize((size, size))))
    return np.stack(found)


@pytest.fixture
def own(tmp_path: Path) -> Any:
    def make(mappings: Mapping[str, str], options: Mapping[str, Any] | None = None, **more: Any) -> Own:
        tasks = {}
        for task, text in mappings.items():
            (tmp_path / f"{task}.toml").write_text(text)
            tasks[task] = {"mapping": str(tmp_path / f"{task}.toml")}
        declared = TeacherConfig(model=str(must_jax.EXAMPLE), tasks=tasks, **more)
        teacher = loading.load(declared, options or {}, make_mesh(1))
        assert isinstance(teacher, Own)
        return teacher

    return make


def asked(teacher: Own, pixels: np.ndarray) -> Any:
    size = teacher.input.height
    return teacher.begin(Images(pixels, [Placed(0, 0, size, size)] * len(pixels)))()


def test_probabilities_of_merged_classes_add_up_before_the_best_is_taken(plain: Trained, pixels: np.ndarray, own: Any):
    teacher = own(
        {
            "segmentation": ROOM,
            "classification": 'classes = ["flat", "edged"]\nothers = "drop"\n'
            '[merge]\nedged = ["cube", "cone", "tent"]\n[rename]\nhexagon = "flat"\n',
        }
    )
    assert teacher.tasks["segmentation"].classes == ("floor", "ceiling", "shape")
    assert teacher.tasks["classification"].classes == ("flat", "edged")
    full, found = plain.predict_batch(pixels), asked(teacher, pixels)

    probs = full["segmentation"]["probs"]
    names = plain.tasks["segmentation"].classes
    at = {name: probs[..., names.index(name)] for name in names}
    sums = np.stack([at["floor"], at["ceiling"], at["round"] + at["boxy"] + at["pointed"], at["wall"]], -1)
    best = sums.argmax(-1)
    near = np.sort(sums, -1)[..., -1] - np.sort(sums, -1)[..., -2] < 1e-5
    ids = found["segmentation"]["ids"]
    np.testing.assert_array_equal(np.where(near, 0, ids), np.where(near, 0, np.where(best == 3, 255, best)))
    np.testing.assert_allclose(found["segmentation"]["confidence"], sums.max(-1), atol=1e-5)
    assert {*np.unique(ids)} >= {2, 255} and ids.dtype == np.uint8

    names, probs = plain.tasks["classification"].classes, full["classification"]["probs"]
    edged = probs[:, [names.index(name) for name in ("cube", "cone", "tent")]].sum(-1)
    flat = probs[:, names.index("hexagon")]
    others = (1 - flat - edged) / 2
    np.testing.assert_allclose(
        found["classification"]["probs"], np.stack([flat + others, edged + others], -1), rtol=1e-4, atol=1e-6
    )


def test_boxes_of_merged_classes_are_selected_together(plain: Trained, pixels: np.ndarray, own: Any):
    options = {"detection": {"min_score": 0.01, "nms_iou": 0.3}}
    before = plain.with_options(options).predict_batch(pixels)["detection"]
    renamed = asked(
        own({"detection": 'classes = ["pointed", "ball", "boxy"]\n[rename]\nround = "ball"\n'}, options), pixels
    )
    order = np.array([1, 2, 0])  # of round, boxy, pointed
    real = before["valid"] > 0
    assert real.sum() > 10
    np.testing.assert_array_equal(renamed["detection"]["classes"][real], order[before["classes"][real]])
    np.testing.assert_allclose(renamed["detection"]["boxes_yxyx"], before["boxes_yxyx"], atol=1e-6)

    merged = asked(own({"detection": MERGED}, options), pixels)["detection"]
    for boxes, classes, valid in zip(merged["boxes_yxyx"], merged["classes"], merged["valid"], strict=True):
        for one in (0, 1):
            same = boxes[(classes == one) & (valid > 0)].astype(np.float64)
            low, high = np.maximum(same[:, None, :2], same[:, :2]), np.minimum(same[:, None, 2:], same[:, 2:])
            overlap, area = np.prod(np.maximum(high - low, 0), -1), np.prod(same[:, 2:] - same[:, :2], -1)
            iou = overlap / (area[:, None] + area - overlap)
            assert (iou[~np.eye(len(same), dtype=bool)] <= 0.3 + 1e-6).all()
    alone = asked(own({"detection": 'others = "drop"\n[rename]\nround = "ball"\n'}, options), pixels)["detection"]
    assert alone["valid"].sum() > 0 and not alone["classes"].any()
    best = np.where((before["classes"] == 0) & real, before["scores"], 0).max(-1)
    np.testing.assert_allclose(alone["scores"].max(-1), best, atol=1e-6)


def test_columns_tell_what_became_of_the_classes(tmp_path: Path, own: Any):
    photos, folder = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    for name in ("coffee", "chelsea"):
        shutil.copyfile(Path(skimage.__file__).parent / f"data/{name}.png", photos / f"{name}.png")
    text = tmp_path / "shapes.toml"
    text.write_text(MERGED)
    values = {
        "stage": "label",
        "images": f"folder:{photos}",
        "accept_failed": ["shapes", "classification", "depth", "normals", "segmentation"],
        "teachers": [
            {
                "model": str(must_jax.EXAMPLE),
                "names": {"detection": "shapes"},
                "tasks": {"shapes": {"mapping": str(text)}},
            }
        ],
        "tasks": {"shapes": {"score_thresholds": {"solid": 0.1}, "score_threshold": 0.2}},
    }
    label.run(parse(values), folder)
    column = manifest.read(folder / COLUMNS / "example-shapes")
    assert column.classes == ("ball", "solid") and column.teacher
    assert column.teacher.classes == {"shapes": {"round": "ball", "boxy": "solid", "pointed": "solid"}}
    assert column.min_confidences == {"solid": 0.1}
    about = finished.known(parse(values).teachers[0])
    assert about and about.digest == column.teacher.digest != must_jax.load(must_jax.EXAMPLE).digest

    label.run(parse(values), folder)  # finished
    text.write_text(MERGED.replace("ball", "sphere"))
    with pytest.raises(UserError, match="another"):
        label.run(parse(values), folder)
    assert manifest.read(folder / COLUMNS / "example-shapes") == column


def test_a_class_that_is_left_out_may_be_the_surest_by_far():
    logits = np.array([[0, 1, 500], [500, 0, 1], [0, 0, np.log(2)]], np.float32)
    found = Classification(classes=("a", "b")).merged({"logits": jnp.asarray(logits)}, np.array([0, 1, -1], np.int32))
    np.testing.assert_allclose(jax.nn.softmax(found["logits"]), [[0.5, 0.5], [1, 0], [0.5, 0.5]], atol=1e-6)


def test_thresholds_of_a_run_are_not_those_of_a_class_that_takes_a_name_over(tmp_path: Path):
    file = tmp_path / "shapes.toml"
    file.write_text('drop = ["boxy"]\n[rename]\nround = "boxy"\n')
    mapped = mapping.load(str(file), SHAPES)
    assert mapped.options({"score_thresholds": {"boxy": 0.9, "pointed": 0.2}}) == {"score_thresholds": {"pointed": 0.2}}
    assert mapped.options({"score_thresholds": {"boxy": 0.9}, "min_score": 0.1}) == {"min_score": 0.1}


def test_the_check_compares_true_labels_by_the_names_here(data_dir: Path, tmp_path: Path):
    file = tmp_path / "shapes.toml"
    values = {
        "stage": "check",
        "data_dir": str(data_dir),
        "images": "scenes/teacher_detection_tiny:train",
        "take": 24,
        "page_images": 0,
    }

    def found(text: str, name: str) -> Any:
        file.write_text(text)
        declared = {"model": str(must_jax.EXAMPLE), "tasks": {"detection": {"mapping": str(file)}}}
        check.run(parse({**values, "teachers": [declared]}), tmp_path / name)
        return verdicts.read(tmp_path / name).teachers["example"]

    in_order = found('classes = ["pointed", "round", "boxy"]\n', "order")
    swapped = found('[rename]\nround = "boxy"\nboxy = "round"\n', "swapped")
    right, wrong = (each.tasks["detection"] for each in (in_order, swapped))
    assert right.by == wrong.by == "true labels" and in_order.digest != swapped.digest
    assert right.metrics["ap50"] > wrong.metrics["ap50"] + 10


def test_classes_that_stay_as_they_are_change_nothing(plain: Trained, own: Any):
    assert own({}).record.digest == plain.digest and not own({}).record.classes


@pytest.mark.parametrize(
    ("mappings", "more", "named"),
    [
        ({"detection": '[rename]\nsphere = "ball"\n'}, {}, "'sphere'.*known: boxy"),
        ({"detection": '[rename]\nround = "boxy"\n'}, {}, r"'round'.*merge.*\["),
        ({"detection": '[rename]\nround = "thing"\nboxy = "thing"\n'}, {}, r"thing.*merge"),
        ({"detecton": MERGED}, {}, "tasks.detecton.*called classification"),
        ({"detection": MERGED}, {"names": {"detection": "shapes"}}, "tasks.detection.*shapes"),
        ({"depth": MERGED}, {}, "tasks.depth has no classes"),
    ],
)
def test_mistakes_are_named(mappings: Mapping[str, str], more: Mapping[str, Any], named: str, own: Any):
    with pytest.raises(UserError, match=named):
        own(mappings, **more)


def test_nothing_else_can_be_said_of_its_tasks():
    with pytest.raises(UserError, match=r"tasks\.detection\.boxes"):
        parse(
            {
                "stage": "label",
                "images": "folder:x",
                "teachers": [{"model": "runs/a", "tasks": {"detection": {"boxes": "xyxy"}}}],
            }
        )
