"""What ONNX files and their shapes tell about a model, and what is refused."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphs
import pydantic
import pytest
from asked import BOXES, SIDE, SQUARE, answers, are, config, detects, loaded, planted, png, refused, says
from onnx_graphs import COLOURS, Graph, Input

from must_jax.config.teachers import TeacherConfig
from must_jax.data.shards import COLUMNS
from must_jax.errors import UserError
from must_jax.labels import manifest
from must_jax.labels.columns import LabelColumn
from must_jax.parsing import parse
from must_jax.stages import label
from must_jax.teachers import loading
from must_jax.teachers.files import digest_of, files_of


def test_what_the_file_says_need_not_be_declared(tmp_path: Path):
    said = onnx_graphs.ultralytics("detect", SIDE, end2end=False, args={"nms": False})
    file = onnx_graphs.detector(tmp_path / "yolo.onnx", "yolov8", SQUARE, metadata=said)
    teacher = loaded(file, {"detection": {}})
    assert teacher.tasks["detection"].classes == COLOURS and teacher.record.licence == said["license"]
    (found,) = answers(teacher, [png(planted())], "detection")
    are(found, BOXES, (200, 300))
    assert loaded(file, {"detection": {}}, licence="mine").record.licence == "mine"


def test_of_classes_with_one_name_each_has_its_own(tmp_path: Path):
    """ImageNet has two that are called crane."""
    said = onnx_graphs.ultralytics("detect", SIDE) | {"names": {0: "crane", 1: "crane", 2: "dog"}}
    file = onnx_graphs.detector(tmp_path / "m.onnx", "yolov8", SQUARE, metadata=said)
    assert loaded(file, {"detection": {}}).tasks["detection"].classes == ("crane", "crane (1)", "dog")


def test_nor_where_a_config_was_written_down_with_all_its_keys(tmp_path: Path):
    """As the stages of a pipeline get theirs."""
    said = onnx_graphs.ultralytics("detect", SIDE)
    declared = config(onnx_graphs.detector(tmp_path / "m.onnx", "yolov8", SQUARE, metadata=said), {"detection": {}})
    again = type(declared).model_validate(declared.model_dump(mode="json"))
    teacher, other = (loading.load(each, {}, None) for each in (declared, again))  # type: ignore[arg-type]  # no mesh
    assert other.tasks["detection"].classes == COLOURS and other.record.digest == teacher.record.digest


def test_a_model_of_any_size_gets_the_one_that_its_metadata_say(tmp_path: Path):
    file = onnx_graphs.detector(
        tmp_path / "m.onnx", "end2end", Input("h", "w"), metadata=onnx_graphs.ultralytics("detect", 96, end2end=True)
    )
    assert loaded(file, {"detection": {}}).input.height == 96
    assert loaded(file, {"detection": {}}, input={"size": [64, 96]}).input.width == 96


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ({"task": "classify"}, ["classify", "classification"]),
        ({"task": "obb"}, ["obb"]),
        ({"names": {0: "cat", 1: "dog"}}, ["3", "2", "cat"]),
        ({"names": {0: "red", 1: "grün", 2: "blue"}}, ["class 1", "green", "grün"]),
    ],
)
def test_what_contradicts_the_file_is_named(said: dict[str, Any], names: list[str], tmp_path: Path):
    metadata = onnx_graphs.ultralytics("detect", SIDE) | said
    file = onnx_graphs.detector(tmp_path / "m.onnx", "yolov8", SQUARE, metadata=metadata)
    refused(file, detects(), names)


@pytest.mark.parametrize(
    ("layout", "tasks", "more", "names"),
    [
        ("yolov8", detects(layout="yolov5"), {}, ["yolov5", "[rows, 8]", "output0 [2, 7, ", "yolov8"]),
        ("yolov5", detects(layout="yolov8"), {}, ["yolov8", "[7, rows]", "yolov5"]),
        ("yolov8", {"detection": {"classes": ["a", "b"]}}, {}, ["2 classes", "yolov8 with 3 classes"]),
        ("yolov5", {"detection": {"classes": ["a"]}}, {}, ["1 classes", "yolov5 with 3"]),
        ("detr", detects(first_class=1), {}, ["first_class", "detr"]),
        ("yolov8", detects(), {"input": {"size": 256}}, ["256", "128x128"]),
        ("yolov8", detects(), {"input": {"channels": "last"}}, ["channels"]),
        ("yolov8", detects(), {"input": {"fit": "crop"}}, ["crop"]),
        ("yolov8", detects(), {"input": {"fit": "own"}}, ["own"]),
        ("yolov8", detects(outputs=["boxes"]), {}, ["boxes", "output0"]),
        ("yolov8", {"detection": {}}, {}, ["classes"]),
        ("yolov8", {"segmentation": {"classes": COLOURS}}, {}, ["output0", "map of 3 classes"]),
        ("yolov8", {"depth": {"depth_kind": "metric_m"}}, {}, ["output0", "depth"]),
        ("yolov8", detects(), {"device": "cuda"}, ["GPU"]),
        ("raw", detects(), {}, ["grids", "export"]),
    ],
)
def test_what_cannot_be_read_isrefused(
    layout: str, tasks: dict[str, Any], more: dict[str, Any], names: list[str], tmp_path: Path
):
    file = onnx_graphs.detector(tmp_path / "m.onnx", layout, SQUARE)
    refused(file, tasks, names, **more)


def test_a_layout_that_shapes_do_not_tell_has_to_be_declared(tmp_path: Path):
    """One class: a YOLO v5 has six columns then, as what comes out of non-maximum suppression."""
    colour = {"detection": {"classes": ["any"]}}
    unclear = says(tmp_path / "m.onnx", "o", (2, 5000, 6))
    refused(unclear, colour, ["yolov5", "end2end", "layout"])
    anchors = says(tmp_path / "n.onnx", "o", (2, 3 * (16 * 16 + 8 * 8 + 4 * 4), 6))
    assert loaded(anchors, colour).readings["detection"].declared.layout == "yolov5"
    suppressed = says(tmp_path / "p.onnx", "o", (2, 300, 6))
    assert loaded(suppressed, colour).readings["detection"].declared.layout == "end2end"
    one_per_cell = says(tmp_path / "q.onnx", "o", (2, 16 * 16 + 8 * 8 + 4 * 4, 8))  # YOLOX, whose boxes are offsets
    refused(one_per_cell, detects(), ["yolov5", "layout"])


def test_masks_and_keypoints_after_the_classes_are_not_read(tmp_path: Path):
    def with_more(columns: int, task: str, **said: Any) -> Path:
        graph = Graph(SQUARE)
        centre, side, score = onnx_graphs._rectangles(graph)
        rows = graph("Concat", centre, side, onnx_graphs._class_scores(graph, score, np.arange(3), 3), axis=2)
        rows = graph("Pad", rows, np.array([0, 0, 0, 0, 333, columns]), np.array(0.9, np.float32))
        rows = graph("Mul", rows, np.float32(1))
        keep = np.zeros((1, 336, 7 + columns), np.float32)
        keep[:, :3], keep[:, :, 7:] = 1, 1
        graph.output(graph("Transpose", graph("Mul", rows, keep), perm=[0, 2, 1]), "output0", ("b", 7 + columns, 336))
        if task == "segment":
            masks = graph("AveragePool", graph.rgb, kernel_shape=[4, 4], strides=[4, 4])
            masks = graph(
                "Tile", graph("Slice", masks, np.array([0]), np.array([1]), np.array([1])), np.array([1, 32, 1, 1])
            )
            graph.output(masks, "output1", ("b", 32, 32, 32))
        return graph.save(tmp_path / f"{task}.onnx", onnx_graphs.ultralytics(task, SIDE, **said))

    for file in (with_more(32, "segment"), with_more(51, "pose", kpt_shape=[17, 3])):
        (found,) = answers(loaded(file, {"detection": {}}), [png(planted())], "detection")
        are(found, BOXES, (200, 300))


@pytest.mark.parametrize("columns", [6, 7])
def test_an_rtdetr_of_ultralytics_has_shares_of_a_stretched_image(columns: int, tmp_path: Path):
    """Rows of cx, cy, w, h, score, class, or of all scores, as earlier versions have it."""
    graph = Graph(Input(96, SIDE))
    centre, side, score = onnx_graphs._rectangles(graph)
    shares = [graph("Div", each, np.float32([SIDE, 96])) for each in (centre, side)]
    if columns == 6:
        kind = graph("Add", graph("Mul", score, np.float32(0)), np.float32([[0, 1, 2]]))
        rest = graph("Concat", *(graph("Unsqueeze", each, np.array([2])) for each in (score, kind)), axis=2)
    else:
        rest = onnx_graphs._class_scores(graph, score, np.arange(3), 3)
    graph.output(graph("Concat", *shares, rest, axis=2), "output0", ("batch", 3, columns))
    said = onnx_graphs.ultralytics("detect", end2end=False, description="Ultralytics rtdetr-l model")
    teacher = loaded(graph.save(tmp_path / "m.onnx", said), {"detection": {}})
    assert teacher.input.fit == "stretch"
    are(answers(teacher, [png(planted())], "detection")[0], BOXES, (200, 300))


def test_logits_beside_boxes_are_no_yolo(tmp_path: Path):
    """Six columns of classes are no rows of x0, y0, x1, y1, score, class."""
    file = onnx_graphs.detector(tmp_path / "m.onnx", "rtdetr", SQUARE, classes=(0, 1, 2), count=6)
    teacher = loaded(file, {"detection": {"classes": [*COLOURS, *"xyz"]}})
    are(answers(teacher, [png(planted())], "detection")[0], BOXES, (200, 300))


def test_a_detr_with_other_classes_or_functions(tmp_path: Path):
    softmax = onnx_graphs.detector(tmp_path / "m.onnx", "detr", SQUARE)
    refused(softmax, detects(scores="sigmoid"), ["3 classes", "scores=softmax"])
    others = onnx_graphs.detector(tmp_path / "n.onnx", "detr", SQUARE, count=6)
    refused(others, detects(), ["3 classes", "detr with 6 or 7"])
    declared = loaded(softmax, {"detection": {"classes": [*COLOURS, "nothing"], "scores": "softmax"}})
    (found,) = answers(declared, [png(planted())], "detection")
    assert sorted(found["classes"])[:3] == [0, 2, 3]  # as declared, "nothing" is found, too
    with pytest.raises(UserError, match="classes"):
        loaded(softmax, {"detection": {"classes": COLOURS[:1]}})


def test_weights_in_other_files_are_read_and_count(tmp_path: Path):
    graph = Graph(SQUARE)
    plane = np.random.default_rng(0).random((1, 3, SIDE, SIDE), np.float32)
    graph.output(graph("ReduceMean", graph("Mul", graph.rgb, plane), axes=[1], keepdims=0), "d", ("batch", SIDE, SIDE))
    file, tasks = tmp_path / "m.onnx", {"depth": {"depth_kind": "relative"}}
    onnx.save(onnx.load(graph.save(file)), file, save_as_external_data=True, location="all.bin", size_threshold=1000)
    assert file.stat().st_size < 10_000 and (tmp_path / "all.bin").stat().st_size == plane.nbytes
    assert files_of(config(file, tasks)) == [file, tmp_path / "all.bin"]
    (found,) = answers(loaded(file, tasks), [png(np.full((9, 9, 3), 255, np.uint8))], "depth")
    wanted = plane[0].mean(0).reshape(32, 4, 32, 4).mean((1, 3))
    np.testing.assert_allclose(found["depth"], wanted, atol=1e-5)
    before = digest_of(config(file, tasks))
    (tmp_path / "all.bin").write_bytes((2 * plane).tobytes())
    assert digest_of(config(file, tasks)) != before
    (tmp_path / "all.bin").unlink()
    refused(file, tasks, ["all.bin"])


@pytest.mark.parametrize("what", ["truncated", "empty", "text", "a folder", "missing", "other bytes"])
def test_what_is_no_onnx_file_isrefused(what: str, tmp_path: Path):
    file = onnx_graphs.detector(tmp_path / "whole.onnx", "yolov8", SQUARE)
    bad = tmp_path / "m.onnx"
    data = file.read_bytes()
    contents = {"truncated": data[: len(data) * 2 // 3], "empty": b"", "text": b"hello\n" * 50, "other bytes": data[7:]}
    if what == "a folder":
        bad.mkdir()
    elif what in contents:
        bad.write_bytes(contents[what])
    with pytest.raises(UserError, match=r"m\.onnx"):
        loaded(bad, detects())


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.engine", "m.tflite", "transformers:m.bin", "torchvision:x:m.pth"])
def test_other_formats_are_told_how_to_convert(name: str):
    with pytest.raises(pydantic.ValidationError, match="ONNX"):
        TeacherConfig.model_validate({"model": name})


def test_a_model_that_cannot_be_run_is_refused_and_nothing_else_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    graph = Graph(Input("h", "w"))
    plane = np.ones((1, 3, SIDE, SIDE), np.float32)
    graph.output(graph("ReduceMean", graph("Mul", graph.rgb, plane), axes=[1], keepdims=0), "d", ("batch", "h", "w"))
    file, tasks = graph.save(tmp_path / "m.onnx"), {"depth": {"depth_kind": "relative"}}
    refused(file, tasks, ["input.size"])
    refused(file, tasks, ["96x96"], input={"size": 96})
    assert loaded(file, tasks, input={"size": SIDE}).input.height == SIDE
    assert capfd.readouterr() == ("", "")


def test_a_model_that_only_claims_to_take_batches_gets_one_image_at_a_time(tmp_path: Path):
    graph = Graph(SQUARE)
    mean = graph("ReduceMean", graph.rgb, axes=[1], keepdims=0)
    graph.output(graph("Reshape", mean, np.array([1, SIDE, SIDE])), "d", ("batch", SIDE, SIDE))
    teacher = loaded(graph.save(tmp_path / "m.onnx"), {"depth": {"depth_kind": "relative"}})
    images = [png(np.full((8, 8, 3), value, np.uint8)) for value in (51, 102, 204)]
    found = [float(each["depth"].mean()) for each in answers(teacher, images, "depth")]
    np.testing.assert_allclose(found, [0.2, 0.4, 0.8], atol=1e-5)


def test_metadata_that_cannot_be_read_is_as_if_it_were_not_there(tmp_path: Path):
    said = {"names": "{0: ", "imgsz": "large", "args": "[" * 500, "kpt_shape": "(1, -2)", "end2end": "perhaps"}
    file = onnx_graphs.detector(tmp_path / "m.onnx", "yolov8", SQUARE, metadata=said)
    assert loaded(file, detects()).tasks["detection"].classes == COLOURS
    with pytest.raises((ValueError, SyntaxError, MemoryError, RecursionError)):
        ast.literal_eval(said["args"])


def test_what_goes_wrong_while_asking_is_an_error_of_the_image(tmp_path: Path):
    file = says(tmp_path / "m.onnx", "boxes", (2, 300, 6), float("nan"))
    teacher = loaded(file, detects())
    with pytest.raises(FloatingPointError, match="detection"):
        answers(teacher, [png(planted())], "detection")
    beyond = says(tmp_path / "n.onnx", "boxes", (2, 300, 6), 1.0)
    refused(beyond, {"detection": {"classes": ["a"], "layout": "end2end"}}, ["class 1"])


def test_the_order_of_settings_that_change_nothing_does_not_change_the_digest(tmp_path: Path):
    file = onnx_graphs.detector(tmp_path / "m.onnx", "yolov8", SQUARE)
    first = loaded(file, detects()).record.digest
    assert loaded(file, detects(), threads=1, batch_size=2, device="cpu").record.digest == first
    assert loaded(file, detects(), input={"colour": "bgr"}).record.digest != first


def _label(file: Path, photos: Path, workdir: Path, tasks: Mapping[str, Any]) -> None:
    teacher = {"model": str(file), "tasks": tasks}
    images = {"stage": "label", "images": f"folder:{photos}", "batch_size": 2}
    label.run(parse({**images, "teachers": [teacher], "gallery_images": 2}), workdir)


def test_photographs_in_a_folder_are_labelled(tmp_path: Path):
    said = onnx_graphs.ultralytics("detect", SIDE)
    file = onnx_graphs.detector(tmp_path / "yolo.onnx", "yolov8", SQUARE, metadata=said)
    photos = tmp_path / "photos"
    photos.mkdir()
    sizes = [(200, 300), (301, 211), (90, 90)]
    for i, (height, width) in enumerate(sizes):
        box = {"green": (height // 5, width // 4, height // 2, width - 9)} if i < 2 else {}
        (photos / f"{i}.png").write_bytes(png(planted(height, width, box, 0.9)))
    _label(file, photos, tmp_path / "run", {"detection": {}})
    column = LabelColumn(tmp_path / "run" / COLUMNS / "yolo-detection")
    for i, (height, width) in enumerate(sizes):
        assert column[i]["classes"].tolist() == ([1] if i < 2 else [])
        if i < 2:
            wanted = (height // 5, width // 4, height // 2, width - 9)
            off_px = np.abs(column[i]["boxes_yxyx"][0] * np.tile([height, width], 2) - wanted)
            assert off_px.max() < 0.5 * max(height, width) / SIDE
            np.testing.assert_allclose(column[i]["scores"], 0.9, atol=0.011)
    about = manifest.read(column.folder)
    assert about.teacher and about.teacher.licence == said["license"] and about.classes == COLOURS


def test_a_model_that_fails_on_all_images_ends_the_run(tmp_path: Path):
    file = says(tmp_path / "nan.onnx", "boxes", (2, 300, 6), float("nan"))
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(3):
        (photos / f"{i}.png").write_bytes(png(planted()))
    with pytest.raises(UserError, match=r"nan .*none of its 3 .*detection.* not finite"):
        _label(file, photos, tmp_path / "run", detects())
