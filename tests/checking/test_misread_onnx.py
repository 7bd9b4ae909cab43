"""ONNX files: layouts that are declared wrongly, and images that are shown otherwise than the network expects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx_graphs as graphs
import pytest
from checks import corrected, of
from made_column import make_column
from onnx_graphs import COLOURS, Graph, Input
from photos import picture

from must_jax.data.image_sets import ImageSet, open_images
from must_jax.data.kinds import BoxesLabel, DirectionsLabel, IdsLabel, ScalarsLabel, VectorLabel

COUNT = 40
SIDE = 96
SQUARE = Input(height=SIDE, width=SIDE)
ONE = Input(height=SIDE, width=SIDE, batch=1)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
REGIONS = ("none", *COLOURS)


def rectangles(index: int, height: int, width: int) -> dict[str, list[int]]:
    """Of one or two colours, in the left or the right half of the picture."""
    rng, boxes = np.random.default_rng(index), {}
    for half, colour in enumerate(rng.permutation(COLOURS)[: 1 + index % 2]):
        y0, x0 = rng.integers(2, height // 2), half * (width // 2) + rng.integers(2, width // 8)
        boxes[str(colour)] = [int(y0), int(x0), int(y0 + height // 3), int(x0 + width // 4)]
    return boxes


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder = tmp_path_factory.mktemp("photographs")
    for index in range(COUNT):
        height, width = [(60, 96), (96, 60), (80, 120), (64, 64)][index % 4]
        image = graphs.planted(picture(height, width, index), rectangles(index, height, width), 0.9)
        cv2.imwrite(str(folder / f"{index:02d}.png"), image[..., ::-1])
    return open_images(f"folder:{folder}", folder)


def image_of(images: ImageSet, index: int) -> np.ndarray:
    encoded = np.frombuffer(images.record(index)["image"], np.uint8)
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1]


def of_boxes(index: int, image: np.ndarray) -> dict[str, Any]:
    height, width = image.shape[:2]
    found = rectangles(index, height, width)
    return {
        **dict.fromkeys(("scores", "valid"), np.ones(len(found), np.float32)),
        "ignore": np.zeros(len(found), np.float32),
        "boxes_yxyx": np.array(list(found.values()), np.float32) / np.array([height, width] * 2, np.float32),
        "classes": np.array([COLOURS.index(colour) for colour in found], np.int32),
    }


def of_top(index: int, image: np.ndarray) -> dict[str, Any]:
    """Which colour the upper eighth of the picture has most of."""
    return {"probs": np.eye(3, dtype=np.float32)[image[: len(image) // 8].mean((0, 1)).argmax()]}


TRUTHS: dict[str, tuple[Any, tuple[str, ...], Callable[[int, np.ndarray], dict[str, Any]]]] = {
    "detection": (BoxesLabel(8), COLOURS, of_boxes),
    "classification": (VectorLabel(3), COLOURS, of_top),
    "segmentation": (IdsLabel("ids"), REGIONS, lambda _, image: {"ids": graphs.segmenter_answer(image)}),
    "depth": (ScalarsLabel("depth", "m"), (), lambda _, image: {"depth": graphs.depth_answer(image)}),
    "normals": (DirectionsLabel("normals"), (), lambda _, image: {"normals": graphs.normals_answer(image)}),
}


@pytest.fixture(scope="module")
def columns(photographs: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, made = tmp_path_factory.mktemp("columns"), {}
    for task, (kind, classes, label) in TRUTHS.items():
        truth = {
            "kind": kind.to_dict(),
            "classes": classes,
            "unit": kind.unit,
            "min_confidence": 0.0,
            "rule": {"depth_kind": "metric_m"} if task == "depth" else {},
        }

        def of_image(index: int, label: Callable[[int, np.ndarray], Any] = label) -> dict[str, Any]:
            image = image_of(photographs, index)
            return {"valid": np.ones(image.shape[:2], np.float32), **label(index, image)}

        made[task] = make_column(folder / task, task, photographs, of_image, **truth)
    return made


def classifier_of_the_top(file: Path, input_: Input) -> Path:
    """Looks at the upper eighth of its input, where a letterbox has padding."""
    graph = Graph(input_)
    top = graph("Slice", graph.rgb, np.array([0]), np.array([SIDE // 8]), np.array([2]))
    logits = graph("Mul", graph("ReduceMean", top, axes=[2, 3], keepdims=0), np.float32(20))
    graph.output(logits, "logits", ("batch", 3))
    return graph.save(file)


def detector(layout: str, input_: Input = SQUARE, **more: Any) -> Callable[[Path], Path]:
    return lambda file: graphs.detector(file, layout, input_, **more)


BOXES = {"detection": {"classes": COLOURS}}
DARK = Input(height=SIDE, width=SIDE, most=255.0)
NORMED = Input(height=SIDE, width=SIDE, mean=MEAN, std=STD)
BLUE_FIRST = Input(height=SIDE, width=SIDE, order="bgr")

RIGHT = [
    *((name, detector(name, ONE if name == "torchvision" else SQUARE), BOXES, {}) for name in graphs.LAYOUTS[:-1]),
    ("blue first", detector("yolov8", BLUE_FIRST), BOXES, {"colour": "bgr"}),
    ("0..255", detector("end2end", DARK), BOXES, {"range": "0..255"}),
    ("mean and std", detector("detr", NORMED), BOXES, {"mean": MEAN, "std": STD}),
    ("stretched", lambda file: classifier_of_the_top(file, SQUARE), {"classification": {"classes": COLOURS}},
     {"fit": "stretch"}),
    ("regions", lambda file: graphs.segmenter(file, SQUARE),
     {"segmentation": {"classes": COLOURS, "background": 0}}, {}),
    ("ids", lambda file: graphs.segmenter(file, SQUARE, ids=True), {"segmentation": {"classes": REGIONS}}, {}),
    ("depth", lambda file: graphs.depth(file, SQUARE), {"depth": {"depth_kind": "metric_m"}}, {}),
    ("inverse", lambda file: graphs.depth(file, SQUARE, inverse=True),
     {"depth": {"depth_kind": "inverse_relative"}}, {}),
    ("normals", lambda file: graphs.normals(file, SQUARE, axes=(1, -1, -1)), {"normals": {"axes": "opengl"}}, {}),
]  # fmt: skip


def config(file: Path, images: ImageSet, column: Path, tasks: Any, shown: Any) -> dict[str, Any]:
    teacher = {"model": str(file), "tasks": tasks, "input": shown}
    return {
        "stage": "check",
        "images": images.name,
        "labels": (str(column),),
        "page_images": 0,
        "teachers": [teacher],
    }


@pytest.mark.parametrize(("build", "tasks", "shown"), [each[1:] for each in RIGHT], ids=[each[0] for each in RIGHT])
def test_none_that_is_read_rightly_is_accused(
    build: Callable[[Path], Path],
    tasks: Any,
    shown: Any,
    photographs: ImageSet,
    columns: dict[str, Path],
    tmp_path: Path,
) -> None:
    [task] = tasks
    file = build(tmp_path / "model.onnx")
    verdict = of(config(file, photographs, columns[task], tasks, shown), tmp_path / "run")
    assert (verdict.verdict, verdict.findings) == ("passed", ())
    assert next(iter(verdict.metrics.values())) > 80 and len(verdict.tried) > 3


def told(**more: Any) -> dict[str, Any]:
    return {"detection": {"classes": COLOURS, **more}}


WRONG = [
    ("blue first", detector("yolov8", BLUE_FIRST), BOXES, {}, "input.colour=bgr"),
    ("red first", detector("end2end"), BOXES, {"colour": "bgr"}, "input.colour=rgb"),
    ("0..255", detector("yolov8", DARK), BOXES, {}, "input.range=0..255"),
    ("0..1", detector("rtdetr"), BOXES, {"range": "0..255"}, "input.range=0..1"),
    ("mean and std twice", lambda file: graphs.depth(file, SQUARE), {"depth": {"depth_kind": "metric_m"}},
     {"mean": MEAN, "std": STD}, "input.mean=none input.std=none"),
    ("stretched", lambda file: classifier_of_the_top(file, SQUARE), {"classification": {"classes": COLOURS}},
     {"fit": "letterbox"}, "input.fit=stretch"),
    ("YOLO's centres", detector("yolov8"), told(boxes="xyxy"), {}, "tasks.detection.boxes=cxcywh"),
    ("end2end's corners", detector("end2end"), told(boxes="xywh"), {}, "tasks.detection.boxes=xyxy"),
    ("DETR's centres", detector("detr"), told(boxes="xyxy"), {}, "tasks.detection.boxes=cxcywh"),
    ("DETR's fractions", detector("rtdetr"), told(box_unit="pixels"), {}, "tasks.detection.box_unit=fractions"),
    ("no object is the last", detector("detr"), told(background=0), {}, "tasks.detection.background=-1"),
    ("torchvision's first", detector("torchvision", ONE), told(classes=(*COLOURS, "more"), first_class=0), {},
     "tasks.detection.first_class=1"),
    ("background first", lambda file: graphs.segmenter(file, SQUARE),
     {"segmentation": {"classes": COLOURS, "background": -1}}, {}, "tasks.segmentation.background=0"),
    ("ids from 0", lambda file: graphs.segmenter(file, SQUARE, ids=True),
     {"segmentation": {"classes": REGIONS, "first_class": 1}}, {}, "tasks.segmentation.first_class=0"),
    ("inverse", lambda file: graphs.depth(file, SQUARE, inverse=True), {"depth": {"depth_kind": "metric_m"}}, {},
     "tasks.depth.depth_kind=inverse_relative"),
    ("y and z", lambda file: graphs.normals(file, SQUARE, axes=(1, -1, -1)), {"normals": {"axes": "opencv"}}, {},
     "tasks.normals.axes=x,-y,-z"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("build", "tasks", "shown", "change"), [each[1:] for each in WRONG], ids=[each[0] for each in WRONG]
)
def test_what_is_read_wrongly_is_found_and_the_line_that_is_named_puts_it_right(
    build: Callable[[Path], Path],
    tasks: Any,
    shown: Any,
    change: str,
    photographs: ImageSet,
    columns: dict[str, Path],
    tmp_path: Path,
) -> None:
    [task] = tasks
    values = config(build(tmp_path / "model.onnx"), photographs, columns[task], tasks, shown)
    verdict = of(values, tmp_path / "run")
    [finding] = verdict.failures
    assert finding.line == " ".join(f"--config.teachers.0.{each}" for each in change.split())
    again = of(corrected(values, finding.line), tmp_path / "again")
    assert (again.verdict, again.findings) == ("passed", ())
