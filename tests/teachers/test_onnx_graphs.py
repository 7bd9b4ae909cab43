"""The models that other tests label with say what is in the picture, in every layout."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx_graphs
import onnxruntime
import pytest
from onnx import TensorProto
from onnx_graphs import COLOURS, Input
from photos import picture

BOXES = {"red": (10, 20, 60, 50), "blue": (70, 8, 100, 90)}
SIZE = Input(height=128, width=96)


def answers(file: Path, image: np.ndarray, input: Input) -> dict[str, np.ndarray]:
    """What the model says about u8 [height, width, 3], handed over as `input` says."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    x = image[..., ::-1] if input.order == "bgr" else image
    if input.dtype == TensorProto.FLOAT:
        x = ((x / 255 * input.most - input.mean) / input.std).astype(np.float32)
    x = np.ascontiguousarray(x if input.nhwc else x.transpose(2, 0, 1))[None]
    return dict(zip([out.name for out in session.get_outputs()], session.run(None, {input.name: x}), strict=True))


def boxes_of(layout: str, out: dict[str, np.ndarray], count: int = 3) -> list[tuple[float, int, list[float]]]:
    """(score, class, y0, x0, y1, x1 in pixels of the input), read naively, best first, scores above 0.05."""
    found = []
    if layout in ("yolov5", "yolov8"):
        rows = out["output0"][0] if layout == "yolov5" else out["output0"][0].T
        scores = rows[:, 4:5] * rows[:, 5:] if layout == "yolov5" else rows[:, 4:]
        found = [(scores[i].max(), scores[i].argmax(), _yxyx(*rows[i, :4])) for i in range(len(rows))]
    elif layout == "end2end":
        found = [(row[4], int(row[5]), list(row[[1, 0, 3, 2]])) for row in out["output0"][0]]
    elif layout == "torchvision":
        found = [
            (score, label - 1, list(box[[1, 0, 3, 2]]))
            for box, label, score in zip(out["boxes"], out["labels"], out["scores"], strict=True)
        ]
    else:
        logits = out["logits"][0]
        probs = (
            1 / (1 + np.exp(-logits)) if layout == "rtdetr" else np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        )
        boxes = out["pred_boxes"][0] * np.tile([SIZE.width, SIZE.height], 2)
        found = [(p[:count].max(), p[:count].argmax(), _yxyx(*box)) for p, box in zip(probs, boxes, strict=True)]
    return sorted(((s, int(c), b) for s, c, b in found if s > 0.05), key=lambda each: -each[0])


def _yxyx(cx: float, cy: float, w: float, h: float) -> list[float]:
    return [cy - h / 2, cx - w / 2, cy + h / 2, cx + w / 2]


@pytest.mark.parametrize("layout", [name for name in onnx_graphs.LAYOUTS if name != "raw"])
def test_a_detector_finds_the_rectangles(layout: str, tmp_path: Path):
    input = Input(height=128, width=96, batch=1 if layout == "torchvision" else "batch")
    file = onnx_graphs.detector(tmp_path / "m.onnx", layout, input, classes=(4, 0, 2), count=5)
    image = onnx_graphs.planted(picture(128, 96), BOXES, 0.8)
    found = boxes_of(layout, answers(file, image, input), count=5)
    if layout in ("yolov5", "yolov8"):
        assert [round(score, 2) for score, *_ in found[2:]] == [0.72, 0.72]
        found = found[:2]
    assert {kind: np.round(box, 2).tolist() for _, kind, box in found} == {4: [*BOXES["red"]], 2: [*BOXES["blue"]]}
    assert [round(float(score), 2) for score, *_ in found] == [0.8, 0.8]
    assert boxes_of(layout, answers(file, onnx_graphs.muted(picture(128, 96)), input), count=5) == []


@pytest.mark.parametrize(
    "input",
    [
        Input(height=128, width=96, order="bgr", most=255),
        Input(height=128, width=96, nhwc=True, dtype=TensorProto.UINT8, most=255, name="x"),
        Input(height="h", width="w", batch=1, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    ],
)
def test_an_image_must_be_handed_over_as_the_model_wants_it(input: Input, tmp_path: Path):
    file = onnx_graphs.detector(tmp_path / "m.onnx", "end2end", input)
    image = onnx_graphs.planted(picture(128, 96), BOXES)
    right = boxes_of("end2end", answers(file, image, input))
    assert [(kind, np.round(box).tolist()) for _, kind, box in right] == [(0, [*BOXES["red"]]), (2, [*BOXES["blue"]])]
    turned = boxes_of("end2end", answers(file, image[..., ::-1], input))
    assert [kind for _, kind, _ in turned] == [0, 2] and np.allclose(turned[0][2], BOXES["blue"], atol=0.5)


def test_a_box_is_known_to_a_fraction_of_a_pixel_after_resizing(tmp_path: Path):
    file = onnx_graphs.detector(tmp_path / "m.onnx", "end2end", SIZE)
    image = cv2.resize(
        onnx_graphs.planted(picture(301, 223), {"green": (33, 47, 190, 120)}), (96, 128), interpolation=cv2.INTER_AREA
    )
    [(_, kind, box)] = boxes_of("end2end", answers(file, image, SIZE))
    assert kind == 1
    np.testing.assert_allclose(box, np.array([33, 47, 190, 120]) * np.tile([128 / 301, 96 / 223], 2), atol=0.3)


def test_the_other_models_say_what_numpy_says(tmp_path: Path):
    image = onnx_graphs.planted(picture(128, 96), BOXES)
    logits = answers(onnx_graphs.classifier(tmp_path / "c.onnx", SIZE), image, SIZE)["logits"][0]
    probs = answers(onnx_graphs.classifier(tmp_path / "p.onnx", SIZE, probs=True), image, SIZE)["probs"][0]
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), probs, rtol=1e-5)
    np.testing.assert_allclose(onnx_graphs.classifier_answer(image), probs, rtol=1e-5)
    ids = answers(onnx_graphs.segmenter(tmp_path / "s.onnx", SIZE, ids=True), image, SIZE)["ids"][0]
    assert np.array_equal(ids, onnx_graphs.segmenter_answer(image)) and set(np.unique(ids)) == {0, 1, 3}
    coarse = answers(onnx_graphs.segmenter(tmp_path / "s4.onnx", SIZE, stride=4), image, SIZE)["logits"]
    assert coarse.shape == (1, 4, 32, 24)
    metres = answers(onnx_graphs.depth(tmp_path / "d.onnx", SIZE), image, SIZE)["predicted_depth"]
    inverse = answers(onnx_graphs.depth(tmp_path / "i.onnx", SIZE, inverse=True, channel=True), image, SIZE)
    np.testing.assert_allclose(metres[0], onnx_graphs.depth_answer(image), rtol=1e-5)
    np.testing.assert_allclose(1 / inverse["predicted_depth"][0, 0], metres[0], rtol=1e-5)
    vectors = answers(onnx_graphs.normals(tmp_path / "n.onnx", SIZE, axes=(1, -1, -1)), image, SIZE)["normals"]
    np.testing.assert_allclose(
        vectors[0].transpose(1, 2, 0), onnx_graphs.normals_answer(image) * [1, -1, -1], atol=1e-5
    )


def test_what_ultralytics_writes_is_in_the_file(tmp_path: Path):
    file = onnx_graphs.detector(tmp_path / "m.onnx", "yolov8", metadata=onnx_graphs.ultralytics("detect"))
    told = onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map
    assert told["names"] == str(dict(enumerate(COLOURS))) and told["imgsz"] == "[640, 640]" and told["stride"] == "32"
    assert told["license"].startswith("AGPL")


def test_raw_grids_are_three(tmp_path: Path):
    file = onnx_graphs.detector(tmp_path / "m.onnx", "raw")
    shapes = [out.shape[1:] for out in onnxruntime.InferenceSession(file).get_outputs()]
    assert shapes == [[3, 80, 80, 8], [3, 40, 40, 8], [3, 20, 20, 8]]
