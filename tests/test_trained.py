from __future__ import annotations

import dataclasses
import json
import math

import cv2
import jax
import numpy as np
import pytest
from PIL import Image

import must_jax
from must_jax import trained
from must_jax.config import TrainConfig
from must_jax.engine.checkpoint import Checkpoints
from must_jax.engine.mesh import make_mesh
from must_jax.engine.optimizers import build_optimizer
from must_jax.engine.state import digest, init_state
from must_jax.errors import UserError
from must_jax.models.api import STRIDES, build_model
from must_jax.tasks import build_task

SIZE = 32
CONFIG = TrainConfig.model_validate(
    {
        "train": [{"images": "scenes/x:train"}],
        "tasks": {name: {} for name in ("classification", "detection", "segmentation", "depth", "normals")},
        "image_size": SIZE,
        "model": {"backbone": "resnet10", "width": 0.125, "pyramid_channels": 8, "head_channels": 8, "head_convs": 1},
        "batch_size": 16,
        "steps": 3,
    }
)
CLASSES = ("red", "green", "blue")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run as the train stage leaves it, without having trained."""
    workdir = tmp_path_factory.mktemp("runs") / "student"
    workdir.mkdir()
    options = {"detection": {"min_score": 0.0, "score_threshold": 0.0}, "segmentation": {"confidence_threshold": 0.0}}
    tasks = {}
    for name in CONFIG.tasks:
        classes = CLASSES if name in ("classification", "detection", "segmentation") else ()
        tasks[name] = build_task(name, classes, {"max_boxes": 6, **options.get(name, {})})
    model = build_model(CONFIG.model, {name: task.head(CONFIG.model) for name, task in tasks.items()})
    variables = model.init(jax.random.key(0), (SIZE, SIZE))
    state = init_state(variables, build_optimizer(CONFIG.optimizer), make_mesh(1), ema=False)
    with Checkpoints(workdir / trained.CHECKPOINTS, {}) as checkpoints:
        checkpoints.save(3, state, {})
    trained.describe(workdir, CONFIG, tasks, {"depth/delta1": 50.0}, variables=variables, training={"seconds": 1.0})
    return workdir


@pytest.fixture(scope="module")
def model(run):
    return must_jax.load(run)


@pytest.fixture(scope="module")
def photo():
    return cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8), (96, 64))


def test_a_run_comes_back_with_all_it_needs(model, run):
    assert list(model.tasks) == list(CONFIG.tasks)
    assert model.tasks["segmentation"].classes == CLASSES
    assert model.tasks["detection"].max_boxes == 6
    assert model.image_size == SIZE
    assert model.settings == {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 16, "steps": 3}
    assert model.metrics == {"depth/delta1": 50.0}
    assert model.digest == digest(model.variables["params"])
    assert repr(model).startswith(f"Trained('{run}': resnet10, ")
    assert "32 px, classification (3 classes), detection (3 classes), segmentation (3 classes), depth" in repr(model)


def test_labels_cover_the_whole_original_image(model, photo):
    labels = model.predict(photo)
    assert list(labels) == list(CONFIG.tasks)
    assert labels["classification"]["probs"].sum() == pytest.approx(1)
    assert labels["segmentation"]["ids"].shape == (64, 96)
    assert labels["segmentation"]["ids"].dtype == np.int32
    assert set(np.unique(labels["segmentation"]["ids"])) <= {0, 1, 2}
    assert labels["depth"]["depth"].shape == labels["depth"]["valid"].shape == (64, 96)
    assert labels["normals"]["normals"].shape == (64, 96, 3)
    np.testing.assert_allclose(np.linalg.norm(labels["normals"]["normals"], axis=-1), 1, atol=1e-4)
    boxes = labels["detection"]["boxes_yxyx"]
    assert boxes.min() >= 0
    assert boxes.max() <= 1


def test_a_model_that_keeps_its_confidence_still_says_where_it_is_unsure(model, photo):
    probs = model.predict_batch(cv2.resize(photo, (SIZE, SIZE))[None])["segmentation"]["probs"]
    options = {"confidence_threshold": float(np.median(probs.max(-1)))}
    found = {}
    for keep in (False, True):
        task = build_task("segmentation", CLASSES, options | {"keep_confidence": keep})
        found[keep] = dataclasses.replace(model, tasks={"segmentation": task}).predict(photo)["segmentation"]
    assert 0 < np.mean(found[False]["ids"] == 255) < 1
    np.testing.assert_array_equal(found[True]["ids"], found[False]["ids"])
    assert found[True]["confidence"].shape == (64, 96)


@pytest.mark.parametrize("keep", [False, True])
def test_a_threshold_of_a_single_class_reaches_predictions(model, photo, keep):
    probs = model.predict_batch(cv2.resize(photo, (SIZE, SIZE))[None])["segmentation"]["probs"]
    often = int(np.bincount(probs.argmax(-1).ravel()).argmax())
    options = {"confidence_threshold": 0, "confidence_thresholds": {CLASSES[often]: 1.0}, "keep_confidence": keep}
    task = build_task("segmentation", CLASSES, options)
    ids = dataclasses.replace(model, tasks={"segmentation": task}).predict(photo)["segmentation"]["ids"]
    assert often not in ids and 255 in ids


def test_what_is_in_the_padding_does_not_reach_the_labels(model, photo, monkeypatch):
    """A network that reports the position of each cell: its map must come out as positions in the photo."""

    def positions(self, images):
        at = (np.arange(SIZE // 4, dtype=np.float32) + 0.5) * 4 / SIZE
        depth = np.broadcast_to(at[:, None], (SIZE // 4, SIZE // 4))[None].copy()
        box = np.array([[[0.0, 0.25, 1 / 3, 0.5]]], np.float32)  # the upper half of the photo's rows
        one = np.ones((1, 1), np.float32)
        boxes = {
            "boxes_yxyx": box,
            "classes": np.zeros((1, 1), np.int32),
            "scores": one,
            "valid": one,
            "ignore": 0 * one,
        }
        return {"depth": {"depth": depth, "valid": np.ones_like(depth)}, "detection": boxes}

    monkeypatch.setattr(trained.Trained, "predict_batch", positions)
    model = dataclasses.replace(model, tasks={name: model.tasks[name] for name in ("depth", "detection")})
    labels = model.predict(photo)  # 64 x 96: two thirds of the rows of the input (21 of 32 pixels)
    rows = labels["depth"]["depth"]
    np.testing.assert_allclose(rows, np.broadcast_to(rows[:, :1], rows.shape), atol=1e-6)
    expected = (np.arange(64) + 0.5) / 64 * 21 / 32
    np.testing.assert_allclose(rows[8:-8, 0], expected[8:-8], atol=0.01)
    np.testing.assert_allclose(labels["detection"]["boxes_yxyx"], [[0, 0.25, 32 / 3 / 21, 0.5]], atol=1e-5)


def test_array_bytes_and_path_are_the_same_image(model, photo, tmp_path, leaves):
    png = cv2.imencode(".png", photo[..., ::-1])[1].tobytes()
    (tmp_path / "photo.png").write_bytes(png)
    expected = leaves(model.predict(photo))
    for image in (png, tmp_path / "photo.png", str(tmp_path / "photo.png")):
        for name, value in leaves(model.predict(image)).items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_many_images_come_back_in_order_as_one_by_one(run, photo, leaves):
    model = trained.load(run, mesh=make_mesh(2))
    photos = [np.roll(photo, 9 * shift, 1)[: 64 - 7 * shift] for shift in range(7)]
    taken = []
    found = model.predict_many((taken.append(i) or each for i, each in enumerate(photos * 9)), batch_size=3)
    first = next(found)
    assert len(taken) < len(photos * 9) - 1  # a few batches ahead, not all
    for image, labels in zip(photos, [first, *found], strict=False):
        for name, value in leaves(model.predict(image)).items():
            np.testing.assert_allclose(leaves(labels)[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    found = model.predict_many([photo, b"no image", photo])
    next(found)
    with pytest.raises(UserError, match="an image cannot be read"):
        next(found)


def test_boxes_are_only_those_that_were_found(model, photo):
    whole = model.predict(photo)["detection"]
    assert set(whole) >= {"boxes_yxyx", "classes", "scores"}
    scores = np.sort(np.unique(whole["scores"]))
    task = build_task("detection", CLASSES, {"min_score": 0.0, "score_threshold": float(scores[len(scores) // 2])})
    found = dataclasses.replace(model, tasks={"detection": task}).predict(photo)["detection"]
    assert 0 < len(found["scores"]) < len(whole["scores"]) and found["scores"].min() >= task.score_threshold
    assert len(found["boxes_yxyx"]) == len(found["classes"]) == len(found["scores"])
    empty = dataclasses.replace(model, tasks={"detection": build_task("detection", CLASSES, {"score_threshold": 1.0})})
    label = empty.predict(photo)["detection"]
    assert label["boxes_yxyx"].shape == (0, 4)
    assert empty.tasks["detection"].describe(label) == {"boxes": []}


def test_features_of_an_image_do_not_depend_on_the_others(run, photo):
    model = trained.load(run, mesh=make_mesh(2))
    photos = [np.roll(photo, 9 * shift, 1)[: 64 - 7 * shift] for shift in range(5)]
    many = model.features((each for each in photos), levels=list(STRIDES), batch_size=3)
    for row, image in enumerate(photos):
        for name, values in model.features([image], levels=list(STRIDES)).items():
            np.testing.assert_allclose(many[name][row], values[0], rtol=1e-4, atol=1e-5, err_msg=name)
    assert {level: many[level].shape[:3] for level in STRIDES} == {
        level: (5, *[math.ceil(SIZE / stride)] * 2) for level, stride in STRIDES.items()
    }
    assert many["c2"].shape[3] == 8 and many["p7"].shape[3] == CONFIG.model.pyramid_channels
    np.testing.assert_allclose(many["content"], [[round(len(each) / 3) / SIZE, 1] for each in photos])
    assert all(values.dtype == np.float32 for values in many.values())


def test_pooled_features_are_means_over_the_image_alone(model, photo):
    """21 of 32 rows: of stage c2, five cells and a quarter; of the other levels, parts of few cells."""
    maps, means = (
        model.features([photo, photo[:, :64]], list(STRIDES)),
        model.features([photo, photo[:, :64]], list(STRIDES), True),
    )
    assert set(means) == set(STRIDES)
    weights = np.array([1, 1, 1, 1, 1, 0.25, 0, 0])[:, None, None] / 5.25 / 8
    np.testing.assert_allclose(means["c2"][0], (maps["c2"][0] * weights).sum((0, 1)), rtol=1e-4, atol=1e-6)
    for level in ("c2", "c3", "c5", "p3"):  # of the square one, whose levels reach its border exactly
        np.testing.assert_allclose(means[level][1], maps[level][1].mean((0, 1)), rtol=1e-4, atol=1e-6, err_msg=level)
    np.testing.assert_allclose(means["p7"], maps["p7"][:, 0, 0], rtol=1e-5)


def test_features_of_no_image_and_of_no_level(model, photo):
    assert {name: values.shape for name, values in model.features([], "c3").items()} == {
        "c3": (0, 4, 4, 16),
        "content": (0, 2),
    }
    for levels, named in ((["c1"], "level 'c1'"), ([], "no level.* c2, c3")):
        with pytest.raises(UserError, match=named):
            model.features([photo], levels)


def test_batches_of_no_image_are_refused(model, photo):
    """Rather than that nothing comes back."""
    for size in (0, -1):
        with pytest.raises(UserError, match="batch_size"):
            model.features([photo], batch_size=size)


def test_options_of_tasks_can_be_changed(model, photo):
    """Without a copy of the weights, and with the checks of a config."""
    some = model.with_options({"detection": {"score_threshold": 1.0}, "segmentation": {"confidence_threshold": 1.0}})
    labels = some.predict(photo)
    assert len(labels["detection"]["scores"]) == 0 < len(model.predict(photo)["detection"]["scores"])
    assert np.all(labels["segmentation"]["ids"] == 255) and some.variables is model.variables
    for options, named in (
        ({"detektion": {}}, "no task 'detektion'.*'detection'"),
        ({"detection": {"threshold": 0.1}}, "no option 'threshold'.*'score_threshold'"),
        ({"detection": {"score_threshold": 2}}, "option score_threshold"),
        ({"detection": 0.2}, "detection are 0.2"),
        ({"depth": {"depth_kind": "relative"}}, r"tasks\.depth would turn"),
    ):
        with pytest.raises(UserError, match=named):
            model.with_options(options)


def test_a_batch_of_any_size_on_any_mesh(run, model, photo, leaves):
    images = np.stack([np.roll(cv2.resize(photo, (SIZE, SIZE)), shift, 0) for shift in range(3)])
    one, two = model.predict_batch(images), trained.load(run, mesh=make_mesh(2)).predict_batch(images)
    assert one["segmentation"]["probs"].shape == (3, SIZE // 4, SIZE // 4, 3)
    for name, value in leaves(one).items():
        if "detection" not in name:  # the order of equal scores may change
            np.testing.assert_allclose(leaves(two)[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_what_is_dispatched_comes_back_condensed(model, photo):
    images = np.stack([np.roll(cv2.resize(photo, (SIZE, SIZE)), shift, 0) for shift in range(3)])
    whole, condensed = model.predict_batch(images), jax.device_get(model.dispatch(images))
    assert list(condensed) == list(whole)
    probs = whole["segmentation"]["probs"]
    np.testing.assert_array_equal(condensed["segmentation"]["ids"], probs.argmax(-1))
    np.testing.assert_allclose(condensed["segmentation"]["confidence"], probs.max(-1), atol=1e-6)
    np.testing.assert_allclose(condensed["depth"]["depth"], whole["depth"]["depth"], rtol=1e-5)


def test_a_larger_batch_needs_more_memory(model):
    (images, working), (more_images, more_working) = model.memory(2), model.memory(8)
    assert images > 2 * SIZE * SIZE * 3 and more_images == pytest.approx(4 * images, rel=0.01)
    assert more_working > working > 0


def test_what_is_no_finished_run_or_no_image(model, run, tmp_path):
    with pytest.raises(UserError, match="there is no run"):
        must_jax.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not a finished training run"):
        must_jax.load(tmp_path)
    description = json.loads((run / trained.MODEL_FILE).read_text())
    (tmp_path / trained.MODEL_FILE).write_text(json.dumps(description))
    with pytest.raises(UserError, match="train the run again"):
        must_jax.load(tmp_path)
    (tmp_path / trained.MODEL_FILE).write_text(json.dumps(description | {"schema_version": 99}))
    with pytest.raises(UserError, match="another version"):
        must_jax.load(tmp_path)
    with pytest.raises(UserError, match="there is no image"):
        model.predict(tmp_path / "nowhere.jpg")
    with pytest.raises(UserError, match=r"this array is float64\[4, 4\]"):
        model.predict(np.zeros((4, 4)))


GREY = np.zeros((9, 13), np.uint8)
RGB = np.zeros((9, 13, 3), np.uint8)


@pytest.mark.parametrize(
    ("array", "advice"),
    [
        (GREY, "for grey values pass np.stack([array] * 3, -1)"),
        (GREY[..., None], "for grey values"),
        (np.zeros((9, 13, 4), np.uint8), "drop its alpha channel with array[..., :3]"),
        (np.moveaxis(RGB, -1, 0), "move its channels to the end"),
        (RGB.astype(np.float32), "pass np.uint8(array.clip(0, 1) * 255 + 0.5)"),
        (RGB.astype(np.uint16), "pass (array >> 8).astype(np.uint8)"),
        (RGB.astype(np.int64), "pass array.astype(np.uint8)"),
        (RGB[:0], "it is empty"),
        (RGB[None], "u8[height, width, 3] RGB, but this array is uint8[1, 9, 13, 3]"),
    ],
)
def test_other_arrays_are_refused_with_the_conversion(model, array, advice):
    with pytest.raises(UserError) as error:
        model.predict(array)
    assert advice in str(error.value) and str(list(array.shape)) in str(error.value)


def test_bytes_of_any_type_are_decoded_and_other_objects_are_refused(run, model):
    loaded, data = model, cv2.imencode(".png", RGB[..., ::-1])[1].tobytes()
    whole = loaded.predict(data)
    for same in (bytearray(data), memoryview(data)):
        jax.tree.map(np.testing.assert_array_equal, loaded.predict(same), whole)
    for other, sentence in (
        (RGB.tolist(), "RGB, but this is a list; convert it with np.asarray"),
        (Image.fromarray(RGB), "RGB, but this is a Image; convert it with np.asarray"),
        (None, "RGB, but this is a NoneType; pass an array"),
        (np.asarray(None), "RGB, but this array is object.*; pass another array"),
        (RGB[..., :1], r"for grey values pass np\.repeat\(array, 3, -1\)"),
        ("a" * 5000, "there is no image a{300}; check its path"),
        ("a\0b", "there is no image"),
        (run, f"{run} is a folder, not an image"),
        (run / "model.json", "model.json: an image cannot be read"),
        ([RGB, RGB], "a list of 2 images; .* `predict_many`"),
        (np.stack([RGB, RGB]), r"uint8\[2, 9, 13, 3\]; for several images .* `predict_many`"),
    ):
        with pytest.raises(UserError, match=sentence):
            loaded.predict(other)
    for one in (data, "photo.jpg", run / "photo.jpg", RGB, Image.fromarray(RGB), None):
        for method in (loaded.predict_many, loaded.features):
            with pytest.raises(UserError, match=r"for a single image pass \[image\]"):
                method(one)
    assert not list(loaded.predict_many([])) and len(list(loaded.predict_many(np.stack([RGB, RGB]), 1))) == 2


def test_other_batches_are_refused(model):
    for batch, message in (
        (np.zeros((2, SIZE, SIZE, 3), np.float32), "pass np.uint8"),
        (np.zeros((SIZE, SIZE, 3), np.uint8), "images are u8"),
        (np.zeros((2, SIZE + 1, SIZE, 3), np.uint8), "pass each to `predict`"),
        (np.zeros((0, SIZE, SIZE, 3), np.uint8), "it is empty"),
        ([[0]], "this is a list; convert it with np.asarray"),
    ):
        with pytest.raises(UserError, match=message):
            model.predict_batch(batch)
