"""ONNX files as teachers: every number from the encoded image to the prediction, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnx_graphs
import onnxruntime
import PIL.Image
import pytest
from asked import BOXES, SIDE, SQUARE, answers, are, detects, loaded, planted, png, refused, shown
from onnx import TensorProto, helper
from onnx_graphs import COLOURS, Graph, Input
from photos import encoded, picture

from must_jax.teachers import onnx as onnx_teachers
from must_jax.teachers.base import Images

LAYOUT_OF = {"rtdetr": "detr"}  # a model of the tests -> its layout, if that has another name


@pytest.mark.parametrize("fit", ["letterbox", "letterbox_corner", "stretch"])
@pytest.mark.parametrize("layout", [name for name in onnx_graphs.LAYOUTS if name != "raw"])
def test_boxes_come_out_where_they_are_in_every_layout(layout: str, fit: str, tmp_path: Path):
    input_ = Input(height=SIDE, width=SIDE, batch=1 if layout == "torchvision" else "batch")
    file = onnx_graphs.detector(tmp_path / "m.onnx", layout, input_)
    teacher = loaded(file, detects(), input={"fit": fit})
    assert teacher.readings["detection"].declared.layout == LAYOUT_OF.get(layout, layout)
    upright = planted()
    turned = np.ascontiguousarray(np.rot90(upright))  # stored so that it has to be turned by 90 degrees to the right
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    images = [
        png(upright),
        encoded(turned, "PNG", exif=exif),
        png(onnx_graphs.muted(picture(200, 300))),
        png(planted(333, 217, {"green": (51, 33, 301, 177)}, 0.9)),
    ]
    first, second, nothing, odd = answers(teacher, images, "detection")
    for found in (first, second):
        are(found, BOXES, (200, 300))
        np.testing.assert_allclose(found["scores"], 0.8, atol=0.011)
    assert not len(nothing["scores"])
    are(odd, {"green": (51, 33, 301, 177)}, (333, 217))
    np.testing.assert_allclose(odd["scores"], 0.9, atol=0.011)


@pytest.mark.parametrize("layout", ["yolov8", "end2end", "detr"])
def test_numbers_are_the_ones_that_the_modelsays(layout: str, tmp_path: Path):
    """Of an image that needs no resizing, with the projects' own arithmetic."""
    file = onnx_graphs.detector(tmp_path / "m.onnx", layout, SQUARE)
    teacher = loaded(file, detects(), input={"fit": "letterbox", "padding_rgb": [114, 114, 114]})
    image = planted(96, SIDE, {"red": (11, 22, 60, 77)})
    (found,) = answers(teacher, [png(image)], "detection")
    np.testing.assert_allclose(found["boxes_yxyx"] * [96, SIDE, 96, SIDE], [[11, 22, 60, 77]], atol=1e-3)
    np.testing.assert_allclose(found["scores"], [0.8], atol=1e-5)


def test_a_yolo_gets_letterboxed_images_on_grey(tmp_path: Path):
    teacher = loaded(onnx_graphs.detector(tmp_path / "m.onnx", "yolov8", SQUARE), detects())
    batch = shown(teacher, [png(np.full((64, 128, 3), 200, np.uint8))])
    assert np.all(batch.pixels[0, 32:96] == 200)
    assert np.all(batch.pixels[0, :32] == 114) and np.all(batch.pixels[0, 96:] == 114)


@pytest.mark.parametrize(
    ("input_", "declared"),
    [
        (Input(SIDE, SIDE, order="bgr", most=255), {"colour": "bgr", "range": "0..255"}),
        (Input(SIDE, SIDE, nhwc=True, dtype=TensorProto.UINT8, most=255), {}),
        (Input(SIDE, SIDE, dtype=TensorProto.FLOAT16), {}),
        (
            Input(SIDE, SIDE, order="bgr", mean=(0.406, 0.456, 0.485), std=(0.225, 0.224, 0.229), nhwc=True),
            {"colour": "bgr", "mean": [0.406, 0.456, 0.485], "std": [0.225, 0.224, 0.229]},
        ),
        (Input("h", "w", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), {"range": "-1..1", "size": [SIDE]}),
        (Input("h", "w", most=255, batch=1), {"range": "0..255", "size": [96, 160]}),
    ],
)
def test_images_are_handed_over_as_declared(input_: Input, declared: dict[str, Any], tmp_path: Path):
    file = onnx_graphs.detector(tmp_path / "m.onnx", "end2end", input_)
    teacher = loaded(file, detects(layout="end2end"), input=declared)
    side = max(teacher.input.height, teacher.input.width)
    for found in answers(teacher, [png(planted()), png(planted())], "detection"):
        are(found, BOXES, (200, 300), side)
        np.testing.assert_allclose(found["scores"], 0.8, atol=0.011)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_a_fixed_batch_is_filled_up_and_split(count: int, tmp_path: Path):
    file = onnx_graphs.detector(tmp_path / "m.onnx", "yolov8", Input(SIDE, SIDE, batch=3))
    colours = [COLOURS[i % 3] for i in range(count)]
    images = [png(planted(boxes={colour: (30, 40, 130, 120 + i)})) for i, colour in enumerate(colours)]
    found = answers(loaded(file, detects()), images, "detection")
    for i, (each, colour) in enumerate(zip(found, colours, strict=True)):
        are(each, {colour: (30, 40, 130, 120 + i)}, (200, 300))
    one_by_one = answers(loaded(_with_batch(file, "b"), detects(), batch_size=2), images, "detection")
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(found, one_by_one, strict=True) for name in a)


def test_a_call_returns_no_more_than_there_is_place_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = _with_batch(onnx_graphs.detector(tmp_path / "m.onnx", "yolov8", SQUARE), "b")
    images = [png(planted(boxes={"red": (30, 40, 130, 120 + i)})) for i in range(5)]
    expected = answers(loaded(file, detects()), images, "detection")
    calls = []
    each = sum(4 * np.prod(shape[1:]) for shape in (out.shape for out in _session(file).get_outputs()))
    monkeypatch.setattr(onnx_teachers, "THREADS", 2)  # two calls at a time share the place
    monkeypatch.setattr(onnx_teachers, "ANSWER_BYTES", int(5 * each))
    teacher = loaded(file, detects())
    run = teacher._runner.run
    monkeypatch.setattr(
        teacher._runner, "run", lambda feeds: calls.append(len(next(iter(feeds.values())))) or run(feeds)
    )
    found = answers(teacher, images, "detection")
    assert calls == [2, 2, 1]
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(found, expected, strict=True) for name in a)
    monkeypatch.setattr(onnx_teachers, "ANSWER_BYTES", int(1.5 * each))  # less than two images
    assert loaded(file, detects()).at_once == 1


def _session(file: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def _with_batch(file: Path, batch: str) -> Path:
    model = onnx.load(file)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = batch
    onnx.save(model, file.with_name("dynamic.onnx"))
    return file.with_name("dynamic.onnx")


def test_an_image_that_could_not_be_read_is_left_out(tmp_path: Path):
    teacher = loaded(onnx_graphs.detector(tmp_path / "m.onnx", "yolov8", SQUARE), detects())
    batch = shown(teacher, [png(planted())] * 3)
    some = teacher.begin(Images(batch.pixels, [batch.placed[0], None, batch.placed[2]]))()["detection"]
    assert some["valid"].sum(1).tolist() == [2, 0, 2]
    alone = teacher.alone(batch, 2)["detection"]
    assert all(np.array_equal(alone[name], some[name][2]) for name in some)


def test_sizes_are_given_to_a_model_that_wants_them(tmp_path: Path):
    """As RT-DETR and D-FINE are exported: a second input has the width and the height that boxes are scaled to."""
    graph = Graph(Input(96, SIDE))
    graph._inputs.append(helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, ("batch", 2)))
    centre, side, score = onnx_graphs._rectangles(graph)
    shares = graph("Div", onnx_graphs._corners(graph, centre, side), np.float32([SIDE, 96, SIDE, 96]))
    sizes = graph("Cast", "orig_target_sizes", to=TensorProto.FLOAT)
    sizes = graph("Unsqueeze", graph("Concat", sizes, sizes, axis=1), np.array([1]))
    graph.output(graph("Mul", shares, sizes), "boxes", ("batch", 3, 4))
    labels = graph("Cast", graph("Mul", score, np.float32(0)), to=TensorProto.INT64)
    graph.output(graph("Add", labels, np.array([[0, 1, 2]])), "labels", ("batch", 3), TensorProto.INT64)
    graph.output(score, "scores", ("batch", 3))
    file = graph.save(tmp_path / "m.onnx")
    for found in answers(loaded(file, detects(first_class=0)), [png(planted()), png(planted())], "detection"):
        are(found, BOXES, (200, 300))
    refused(file, detects(), ["orig_target_sizes", "first_class"])


def test_a_model_of_one_image_without_a_batch_axis(tmp_path: Path):
    """As torchvision's detectors are exported: [3, height, width]."""
    file = onnx_graphs.detector(tmp_path / "m.onnx", "torchvision", Input(SIDE, SIDE, batch=1))
    model = onnx.load(file)
    model.graph.input[0].name = "image"
    model.graph.node.insert(0, helper.make_node("Unsqueeze", ["image", "zero"], ["images"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "zero"))
    del model.graph.input[0].type.tensor_type.shape.dim[0]
    onnx.save(model, file)
    first, second = answers(loaded(file, detects()), [png(planted()), png(planted(boxes={}))], "detection")
    are(first, BOXES, (200, 300))
    assert not len(second["scores"])


def test_a_classifier_says_probabilities(tmp_path: Path):
    image = picture(61, 83)
    wanted = onnx_graphs.classifier_answer(cv2.resize(image, (64, 64)))
    for name, probs in (("logits", False), ("probs", True)):
        file = onnx_graphs.classifier(tmp_path / f"{name}.onnx", probs=probs)
        teacher = loaded(file, {"classification": {"classes": COLOURS}}, input={"fit": "stretch"})
        assert teacher.readings["classification"].declared.scores == ("probabilities" if probs else "softmax")
        (found,) = answers(teacher, [png(image)], "classification")
        np.testing.assert_allclose(found["probs"], wanted, atol=0.003)
    refused(tmp_path / "probs.onnx", {"classification": {"classes": COLOURS[:2]}}, ["2 classes", "[2, 3]"])
    refused(tmp_path / "logits.onnx", {"classification": {"classes": COLOURS, "scores": "probabilities"}}, ["scores"])
    refused(tmp_path / "probs.onnx", {"detection": {"classes": COLOURS}}, ["[2, 3]"])


def test_a_classifier_sees_the_middle_unless_declared_otherwise(tmp_path: Path):
    image = np.zeros((50, 100, 3), np.uint8)
    image[:, 25:75] = (200, 100, 50)
    teacher = loaded(onnx_graphs.classifier(tmp_path / "m.onnx"), {"classification": {"classes": COLOURS}})
    (found,) = answers(teacher, [png(image)], "classification")
    np.testing.assert_allclose(found["probs"], onnx_graphs.classifier_answer(image[:, 30:70]), atol=1e-5)


def test_the_background_is_no_class(tmp_path: Path):
    file = onnx_graphs.classifier(tmp_path / "m.onnx")
    tasks = {"classification": {"classes": COLOURS[1:], "background": 0}}
    (found,) = answers(loaded(file, tasks, input={"fit": "stretch"}), [png(picture(64, 64))], "classification")
    full = onnx_graphs.classifier_answer(picture(64, 64))
    np.testing.assert_allclose(found["probs"], full[1:] + full[0] / 2, atol=1e-5)


CASES = [(64, 64), (41, 97), (200, 90)]


@pytest.mark.parametrize("fit", ["letterbox", "letterbox_corner", "stretch"])
@pytest.mark.parametrize("hw", CASES)
@pytest.mark.parametrize("ids", [False, True])
def test_regions_are_where_they_are(ids: bool, hw: tuple[int, int], fit: str, tmp_path: Path):
    file = onnx_graphs.segmenter(tmp_path / "m.onnx", SQUARE, ids=ids)
    names = ("background", *COLOURS)
    teacher = loaded(file, {"segmentation": {"classes": names}}, input={"fit": fit})
    h, w = hw
    image = planted(
        h, w, {"red": (0, 0, h // 2, w // 2), "green": (h // 2, 0, h, w // 2), "blue": (0, w // 2, h, w)}, 1
    )
    (found,) = answers(teacher, [png(image)], "segmentation")
    rows, columns = found["ids"].shape
    y, x = (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns
    top, left = (y < (h // 2) / h)[:, None], (x < (w // 2) / w)[None]
    wanted = np.where(~left, 3, np.where(top, 1, 2))
    edge = (np.abs(y - (h // 2) / h) < 1.5 / rows)[:, None] | (np.abs(x - (w // 2) / w) < 1.5 / columns)[None]
    assert np.array_equal(found["ids"][~edge], wanted[~edge]), found["ids"]
    assert found["confidence"].min() > (0.99 if ids else 0.4)


def test_ids_in_axes_of_channels_and_as_floats(tmp_path: Path):
    graph = Graph(SQUARE)
    ids = graph("Cast", graph("Greater", graph.rgb, np.float32(0.5)), to=TensorProto.FLOAT)
    ids = graph("ReduceSum", ids, np.array([1]), keepdims=1)
    graph.output(ids, "ids", ("batch", 1, SIDE, SIDE))
    graph.output(
        graph("Transpose", graph("Cast", ids, to=TensorProto.UINT8), perm=[0, 2, 3, 1]),
        "u8",
        ("batch", SIDE, SIDE, 1),
        TensorProto.UINT8,
    )
    file = graph.save(tmp_path / "m.onnx")
    tasks = {"segmentation": {"classes": [*"abcd"]}}
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[:, 64:] = (255, 0, 255)
    for name in ("ids", "u8"):
        tasks["segmentation"]["outputs"] = [name]
        (found,) = answers(loaded(file, tasks, input={"fit": "stretch"}), [png(image)], "segmentation")
        assert np.all(found["ids"][:, :16] == 0) and np.all(found["ids"][:, 16:] == 2)
    tasks["segmentation"] |= {"background": 0, "classes": ["one", "two", "three"], "first_class": 1}
    (found,) = answers(loaded(file, tasks, input={"fit": "stretch"}), [png(image)], "segmentation")
    assert np.all(found["ids"][:, :16] == 255) and np.all(found["ids"][:, 16:] == 1)


@pytest.mark.parametrize(
    ("declared", "left", "right"),
    [
        ({"classes": ["text"]}, 255, 0),
        ({"classes": ["ground", "text"]}, 0, 1),
        ({"classes": ["text"], "background": 0}, 255, 0),
    ],
)
def test_one_channel_is_the_probability_of_the_last_class(
    declared: dict[str, Any], left: int, right: int, tmp_path: Path
):
    graph = Graph(SQUARE)
    graph.output(graph("ReduceMean", graph.rgb, axes=[1], keepdims=1), "map", ("batch", 1, SIDE, SIDE))
    file = graph.save(tmp_path / "m.onnx")
    image = np.full((SIDE, SIDE, 3), 25, np.uint8)
    image[:, 64:] = 204
    tasks = {"segmentation": {**declared, "scores": "probabilities"}}
    (found,) = answers(loaded(file, tasks, input={"fit": "stretch"}), [png(image)], "segmentation")
    assert np.all(found["ids"][:, :15] == left) and np.all(found["ids"][:, 17:] == right)
    np.testing.assert_allclose(found["confidence"][:, 17:], 0.8, atol=1e-5)
    np.testing.assert_allclose(found["confidence"][:, :15], 1 - 25 / 255, atol=1e-5)
    refused(file, {"segmentation": declared}, ["map", "scores=probabilities or sigmoid"])


@pytest.mark.parametrize("channel", [False, True])
def test_depth_is_of_the_image_alone(channel: bool, tmp_path: Path):
    """The network says 1e6 of everything that has the colour of the padding."""
    graph = Graph(SQUARE)
    is_padding = graph("Less", graph("ReduceMax", graph.rgb, axes=[1], keepdims=1), np.float32(0.01))
    value = graph("Where", is_padding, np.float32(1e6), graph("ReduceMean", graph.rgb, axes=[1], keepdims=1))
    value = value if channel else graph("Squeeze", value, np.array([1]))
    graph.output(value, "depth", ("batch", *([1] if channel else []), SIDE, SIDE))
    file = graph.save(tmp_path / "m.onnx")
    for fit in ("letterbox", "letterbox_corner"):
        tasks = {"depth": {"depth_kind": "metric_m", "metres_per_unit": 10.0}}
        teacher = loaded(file, tasks, input={"fit": fit, "padding_rgb": [0, 0, 0]})
        for h, w in ((100, 57), (31, 128), (77, 300)):
            rows = np.linspace(40, 220, w)[None].repeat(h, 0)
            image = np.round(rows)[..., None].repeat(3, 2).astype(np.uint8)
            (found,) = answers(teacher, [png(image)], "depth")
            columns = found["depth"].shape[1]
            wanted = 10 / 255 * (40 + 180 * ((np.arange(columns) + 0.5) / columns * w - 0.5) / (w - 1))
            assert found["valid"].all()
            np.testing.assert_allclose(found["depth"], np.broadcast_to(wanted, found["depth"].shape), atol=0.1)


def test_normals_come_out_in_our_axes(tmp_path: Path):
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :32], image[:, 32:] = (230, 120, 40), (20, 200, 90)
    wanted = onnx_graphs.normals_answer(image)[::4, ::4] * [1, -1, -1]
    for last in (False, True):
        file = onnx_graphs.normals(tmp_path / "m.onnx")
        if last:
            model = onnx.load(file)
            model.graph.node[-1].output[0] = "first"
            model.graph.node.append(helper.make_node("Transpose", ["first"], ["normals"], perm=[0, 2, 3, 1]))
            model.graph.output[0].CopyFrom(helper.make_tensor_value_info("normals", 1, ("batch", 64, 64, 3)))
            onnx.save(model, file)
        (found,) = answers(loaded(file, {"normals": {"axes": "opengl"}}), [png(image)], "normals")
        inner = np.r_[0:7, 9:16]
        np.testing.assert_allclose(found["normals"][:, inner], wanted[:, inner], atol=1e-3)


def test_a_model_of_several_tasks_is_read_by_shapes(tmp_path: Path):
    graph = Graph(SQUARE)
    graph.output(graph("ReduceMean", graph.rgb, axes=[1], keepdims=0), "a", ("batch", SIDE, SIDE))
    graph.output(graph("ReduceMax", graph.rgb, axes=[1], keepdims=1), "d", ("batch", 1, SIDE, SIDE))
    graph.output(graph("Sub", graph.rgb, np.float32(0.5)), "b", ("batch", 3, SIDE, SIDE))
    graph.output(graph("Concat", graph.rgb, graph.rgb, axis=1), "c", ("batch", 6, SIDE, SIDE))
    relative = {"depth_kind": "relative"}
    refused(graph.save(tmp_path / "two.onnx"), {"depth": relative}, ["a or d", "outputs"])
    tasks = {
        "depth": {**relative, "outputs": ["a"]},
        "up": {"kind": "normals", "axes": "opencv"},
        "parts": {"kind": "segmentation", "classes": [*"uvwxyz"]},
    }
    teacher = loaded(graph.save(tmp_path / "m.onnx"), tasks)
    image = np.full((20, 20, 3), (200, 50, 110), np.uint8)
    assert np.all(answers(teacher, [png(image)], "parts")[0]["ids"] == 0)
    np.testing.assert_allclose(answers(teacher, [png(image)], "depth")[0]["depth"], 120 / 255, rtol=1e-5)
    vector = np.array([200, 50, 110]) / 255 - 0.5
    up = answers(teacher, [png(image)], "up")[0]["normals"]
    np.testing.assert_allclose(up, np.broadcast_to(vector / np.linalg.norm(vector), up.shape), atol=1e-5)
