"""Whatever the sizes: boxes and maps of a network's input come out where they are in the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from must_jax.config.teachers import TeacherTaskConfig
from must_jax.data import axes
from must_jax.data.fitting import Fit, Input, Placed
from must_jax.tasks import build_task
from must_jax.teachers import layouts, mapping
from must_jax.teachers.reading import Reading, as_yxyx
from must_jax.teachers.said import Boxes, cells_of, content_of, predicted

CLASSES = tuple(f"c{i}" for i in range(200))
sides = st.integers(1, 3000)
inputs = st.builds(
    Input,
    st.integers(8, 1024),
    st.integers(8, 1024),
    st.sampled_from([*cast(tuple[Fit, ...], ("letterbox", "corner", "stretch"))]),
)


def reading(kind: str, classes: tuple[str, ...] = CLASSES, **declared: Any) -> Reading:
    options = {"depth_kind": declared["depth_kind"]} if "depth_kind" in declared else {}
    task = build_task(kind, () if kind in ("depth", "normals") else classes, options)
    turned = axes.parse(declared["axes"]) if "axes" in declared else None
    return Reading(task, TeacherTaskConfig.model_validate(declared), mapping.same(classes), turned)


def placed(input_: Input, image_hw: tuple[int, int]) -> Placed:
    return input_.placed(input_.geometry(image_hw))


def map_hw(input_: Input) -> tuple[int, int]:
    return -(-input_.height // 4), -(-input_.width // 4)


@given(inputs, sides, sides, st.data())
@settings(deadline=None)
def test_boxes_come_back_to_the_fraction_of_a_pixel(input_: Input, height: int, width: int, data: st.DataObject):
    shares = st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4)
    y, x = np.sort(np.array(data.draw(shares)).reshape(2, 2))
    geometry = input_.geometry((height, width))
    (y0, y1), (x0, x1) = (
        span.out_start + share * span.out_length for share, span in zip((y, x), geometry, strict=True)
    )
    written = {
        "xyxy": [x0, y0, x1, y1],
        "yxyx": [y0, x0, y1, x1],
        "xywh": [x0, y0, x1 - x0, y1 - y0],
        "cxcywh": [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0],
    }
    format_ = data.draw(st.sampled_from([*written]))
    unit = data.draw(st.sampled_from(["pixels", "fractions"]))
    size = np.array([input_.height, input_.width] if format_ == "yxyx" else [input_.width, input_.height])
    box = np.array(written[format_]) / (np.tile(size, 2) if unit == "fractions" else 1)
    read = reading("detection", boxes=format_, box_unit=unit)
    at = placed(input_, (height, width))
    said = read.boxes(box[None], np.array([0.9], np.float32), np.array([7]), (input_.height, input_.width))
    out = predicted(read.task, said, input_, at, map_hw(input_))
    assert out["valid"].sum() == 1 and out["classes"][0] == 7
    found = out["boxes_yxyx"][0].astype(np.float64) / np.tile(content_of(input_, at, map_hw(input_)), 2)
    assert np.abs(found - [y[0], x[0], y[1], x[1]]).max() * max(geometry.y.out_length, geometry.x.out_length) < 1e-4


@given(inputs, sides, sides, st.integers(1, 33), st.booleans())
@example(Input(8, 32, "letterbox"), 1, 2, 3, False)  # the centre of a cell is on the image's edge
@settings(deadline=None)
def test_a_plane_of_any_stride_stays_the_same_plane(input_: Input, height: int, width: int, stride: int, up: bool):
    """Padding says 1e6. Within a cell of the map from the image's edge, values are those of the nearest cell."""
    at, hw = placed(input_, (height, width)), map_hw(input_)
    map_shape = tuple(-(-n // stride) if up else max(1, n // stride) for n in (input_.height, input_.width))
    y, x = ((np.arange(n) + 0.5) / n * side for n, side in zip(map_shape, (input_.height, input_.width), strict=True))
    inside_y, inside_x = (y > at.top) & (y < at.top + at.height), (x > at.left) & (x < at.left + at.width)
    plane = np.where(inside_y[:, None] & inside_x[None], 3 + 0.01 * y[:, None] + 0.02 * x[None], 1e6)
    read = reading("depth", depth_kind="relative")
    out = predicted(read.task, read.depth(plane.astype(np.float32)), input_, at, hw)
    rows, columns = cells_of(input_, at, hw)
    found = out["depth"][:rows, :columns]
    assert out["valid"][:rows, :columns].all() and out["valid"].sum() == rows * columns
    if not inside_y.any() or not inside_x.any():
        return  # an image thinner than a cell has that cell's value
    assert found.max() < 1000
    wanted_y = at.top + (np.arange(rows) + 0.5) / rows * at.height
    wanted_x = at.left + (np.arange(columns) + 0.5) / columns * at.width
    margin_y, margin_x = (side / n / 2 for n, side in zip(map_shape, (input_.height, input_.width), strict=True))
    margin_y, margin_x = margin_y + at.height / rows / 2, margin_x + at.width / columns / 2
    inner_y = (wanted_y - margin_y >= y[inside_y][0] - 1e-6) & (wanted_y + margin_y <= y[inside_y][-1] + 1e-6)
    inner_x = (wanted_x - margin_x >= x[inside_x][0] - 1e-6) & (wanted_x + margin_x <= x[inside_x][-1] + 1e-6)
    wanted = 3 + 0.01 * wanted_y[:, None] + 0.02 * wanted_x[None]
    np.testing.assert_allclose(found[inner_y][:, inner_x], wanted[inner_y][:, inner_x], atol=2e-3)
    assert np.all(np.abs(found - wanted) <= 0.01 * 2 * margin_y + 0.02 * 2 * margin_x + 2e-3)


@given(inputs, sides, sides, st.integers(1, 33))
@settings(deadline=None)
def test_ids_are_those_of_the_cells_in_which_they_lie(input_: Input, height: int, width: int, stride: int):
    at, hw = placed(input_, (height, width)), map_hw(input_)
    shape = tuple(-(-n // stride) for n in (input_.height, input_.width))
    ids = (np.arange(shape[0])[:, None] * 31 + np.arange(shape[1])[None] * 7) % len(CLASSES)
    read = reading("segmentation")
    out = predicted(read.task, read.ids(ids), input_, at, hw)
    rows, columns = cells_of(input_, at, hw)
    y = at.top + (np.arange(rows) + 0.5) / rows * at.height
    x = at.left + (np.arange(columns) + 0.5) / columns * at.width
    cell_y, cell_x = y / input_.height * shape[0], x / input_.width * shape[1]
    clear_y, clear_x = (np.abs(cell - np.rint(cell)) > 1e-6 for cell in (cell_y, cell_x))
    wanted = ids[cell_y.astype(int).clip(0, shape[0] - 1)][:, cell_x.astype(int).clip(0, shape[1] - 1)]
    # A cell of the map whose centre is in the padding does not count; the nearest one that lies in the image does.
    centre_y, centre_x = (
        (cell.astype(int) + 0.5) * n / k
        for cell, n, k in ((cell_y, input_.height, shape[0]), (cell_x, input_.width, shape[1]))
    )
    clear_y &= (centre_y > at.top + 1e-6) & (centre_y < at.top + at.height - 1e-6)
    clear_x &= (centre_x > at.left + 1e-6) & (centre_x < at.left + at.width - 1e-6)
    assert np.array_equal(out["ids"][:rows, :columns][clear_y][:, clear_x], wanted[clear_y][:, clear_x])
    probs = np.eye(len(CLASSES), dtype=np.float32)[ids]
    if stride == 4 and max(hw) <= 64:
        out = predicted(read.task, read.regions(probs), input_, at, hw)
        assert out["ids"][:rows, :columns].max() < len(CLASSES)


@given(st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=4))
def test_formats_of_boxes_say_the_same(values: list[float]):
    y0, x0, h, w = values[0], values[1], abs(values[2]), abs(values[3])
    wanted = [[y0, x0, y0 + h, x0 + w]]
    for format_, box in (
        ("yxyx", [y0, x0, y0 + h, x0 + w]),
        ("xyxy", [x0, y0, x0 + w, y0 + h]),
        ("xywh", [x0, y0, w, h]),
        ("cxcywh", [x0 + w / 2, y0 + h / 2, w, h]),
    ):
        np.testing.assert_allclose(as_yxyx(np.array([box]), format_), wanted, atol=1e-9)  # type: ignore[arg-type]


@given(inputs, sides, sides, st.integers(1, 9), st.integers(0, 2**32 - 1), st.sampled_from([0.2, 1.0, 5.0]))
@settings(deadline=None, max_examples=50)
def test_the_best_class_is_that_of_all_planes_resampled(
    input_: Input, height: int, width: int, stride: int, seed: int, sharpness: float
):
    """Each class resampled as a map of values; others included. However unlikely each is, none is forgotten."""
    at, hw = placed(input_, (height, width)), map_hw(input_)
    shape = (-(-input_.height // (8 * stride)), -(-input_.width // (8 * stride)))
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, sharpness, (*shape, 6)).astype(np.float32)
    read = reading("segmentation", CLASSES[:5], scores="softmax" if seed % 2 else "sigmoid", background=2)
    regions = read.regions(logits - (0 if seed % 2 else 3))
    out = predicted(read.task, regions, input_, at, hw)
    rows, columns = cells_of(input_, at, hw)
    assert regions.probs is not None and regions.others is not None
    depth = reading("depth", depth_kind="relative")
    planes = [
        predicted(depth.task, depth.depth(each), input_, at, hw)["depth"][:rows, :columns]
        for each in (*np.moveaxis(regions.probs, -1, 0), regions.others)
    ]
    best = np.argmax(planes, 0)
    ordered = np.sort(planes, 0)
    clear = ordered[-1] - ordered[-2] > 1e-5
    assert np.array_equal(out["ids"][:rows, :columns][clear], np.where(best == 5, 255, best)[clear])
    np.testing.assert_allclose(out["confidence"][:rows, :columns], ordered[-1], atol=1e-6)


def test_normals_of_other_lengths_and_axes_are_unit_vectors_of_ours():
    read = reading("normals", axes="-y,x,-z")
    vectors = np.random.default_rng(0).normal(size=(9, 7, 3)).astype(np.float32)
    vectors[0, 0] = 0
    said = read.normals(vectors)
    assert said.valid is not None and said.valid[0, 0] == 0 and said.valid.sum() == 62
    turned = np.stack([-vectors[..., 1], vectors[..., 0], -vectors[..., 2]], -1)[1:]
    wanted = turned / np.linalg.norm(turned, axis=-1, keepdims=True)
    np.testing.assert_allclose(said.values[1:], wanted, atol=1e-6)


def test_of_boxes_that_overlap_the_best_of_each_class_stays():
    read = reading("detection", nms_iou=0.5, box_unit="pixels")
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [40, 40, 50, 50], [0, 0, 10, 10]], np.float32)
    said = read.boxes(boxes, np.float32([0.6, 0.9, 0.8, 0.3, 0.01]), np.array([1, 1, 2, 1, 1]), (100, 100))
    assert said.scores.tolist() == pytest.approx([0.9, 0.8, 0.3]) and said.classes.tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("scores", "outputs", "names"),
    [
        ("softmax", np.full((8, 8, 5), 0.2), "probabilities already"),
        ("probabilities", np.full((8, 8, 5), 3.0), "3"),
        (None, np.full((8, 8, 5), -0.5), "-0.5"),
        ("softmax", np.zeros((8, 8, 4)), "4 outputs for 5"),
    ],
)
def test_outputs_that_cannot_be_what_is_declared_are_refused(scores: str | None, outputs: np.ndarray, names: str):
    read = reading("segmentation", CLASSES[:5], scores=scores)
    with pytest.raises(ValueError, match=names):
        read.regions(outputs.astype(np.float32))


def test_logits_of_few_classes_may_look_like_probabilities():
    assert np.all(reading("classification", CLASSES[:2], scores="softmax").vector(np.float32([0.3, 0.7])).probs > 0.4)


def test_what_is_no_class_of_an_image_is_spread_evenly():
    """So an image that shows none of the classes is not taken for one of them, however likely it is among them."""
    read = reading("classification", CLASSES[:4], scores="probabilities", background=0)
    np.testing.assert_allclose(
        read.vector(np.float32([0.96, 0.04, 0, 0, 0])).probs, [0.28, 0.24, 0.24, 0.24], atol=1e-6
    )
    np.testing.assert_allclose(read.vector(np.float32([0, 0.5, 0.3, 0.2, 0])).probs, [0.5, 0.3, 0.2, 0], atol=1e-6)


def mapped(kind: str, text: str, count: int, folder: Path, **declared: Any) -> Reading:
    file = folder / "mapping.toml"
    file.write_text(text)
    found = mapping.load(str(file), CLASSES[:count])
    task = build_task(kind, found.classes, {})
    return Reading(task, TeacherTaskConfig.model_validate(declared), found)


def test_of_classes_that_may_be_true_at_once_the_largest_counts_not_the_sum(tmp_path: Path):
    """Of 147 dropped ones at 0.03 each, none is likely; and two at 0.88 are not 1.76."""
    text = 'others = "drop"\n[merge]\nroad = ["c0", "c1"]\n[rename]\nc2 = "car"\n'
    read = mapped("segmentation", text, 150, tmp_path, scores="sigmoid")
    logits = np.full((8, 8, 150), -3.5, np.float32)
    logits[:, :4, 2], logits[:, 4:, :2] = 4, 2
    said = read.regions(logits)
    assert said.probs is not None and said.others is not None and said.others.max() < 0.04
    car, road = (read.task.classes.index(name) for name in ("car", "road"))
    np.testing.assert_allclose(said.probs[0, 0, car], 0.982, atol=1e-3)
    np.testing.assert_allclose(said.probs[0, 7, road], 0.881, atol=1e-3)

    read = mapped("classification", 'others = "drop"\n[rename]\nc0 = "a"\nc1 = "b"\n', 200, tmp_path, scores="sigmoid")
    sure, none = np.full(200, -5, np.float32), np.full(200, -5, np.float32)
    sure[1] = 5
    assert read.vector(sure).probs[1] > 0.98
    np.testing.assert_allclose(read.vector(none).probs, 0.5, atol=1e-6)


@pytest.mark.parametrize("answer", [np.float32(3), np.zeros((1, 5), np.float32)])
def test_an_answer_about_an_image_is_a_number_for_each_class(answer: np.ndarray):
    with pytest.raises(ValueError, match=r"should be \[5\]"):
        reading("classification", CLASSES[:5]).vector(np.asarray(answer))


@pytest.mark.parametrize("shape", [(8, 8, 1), (4, 8), (8,)])
def test_what_is_valid_has_the_size_of_its_map(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"valid has shape"):
        reading("depth", depth_kind="relative").depth(np.ones((8, 8), np.float32), np.ones(shape))


@pytest.mark.parametrize("label", [0, -1])
def test_rows_that_fill_up_are_no_boxes(label: int):
    read = reading("detection", CLASSES[:3], boxes="xyxy", box_unit="pixels", first_class=1)
    boxes = np.float32([[0, 0, 5, 10], [0, 0, 0, 0], [0, 0, 0, 0]])
    said = layouts._read_torchvision(read, [boxes, np.array([2, label, label]), np.float32([0.9, 0, 0])], (10, 10))
    assert isinstance(said, Boxes) and said.classes.tolist() == [1]
    with pytest.raises(ValueError, match="below first_class"):
        layouts._read_torchvision(read, [boxes, np.array([2, label, label]), np.float32([0.9, 0.5, 0])], (10, 10))
    with pytest.raises(FloatingPointError, match="finite"):
        layouts._read_torchvision(read, [boxes, np.array([2, 1, 1]), np.float32([0.9, np.nan, 0])], (10, 10))


@pytest.mark.parametrize("scale", [1e30, 1e38])
def test_a_depth_that_no_camera_sees_is_an_error(scale: float):
    read = reading("depth", depth_kind="metric_m", metres_per_unit=1e6)
    with pytest.raises(ValueError, match="metres_per_unit"):
        read.depth(np.full((4, 4), scale, np.float32))
    assert np.all(read.depth(np.full((4, 4), 1e-5, np.float32)).values == 10)


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_a_map_with_a_number_that_is_none_is_an_error_not_a_map_without_labels(scores: str):
    outputs = np.zeros((16, 16, 5), np.float32)
    outputs[..., 2], outputs[5, 6] = 4, np.nan
    read, input_ = reading("segmentation", CLASSES[:5], scores=scores), Input(16, 16, "stretch")
    with pytest.raises(FloatingPointError, match="segmentation"):
        predicted(read.task, read.regions(outputs), input_, Placed(0, 0, 16, 16), (4, 4))
    # Padding may say anything.
    said = predicted(read.task, read.regions(outputs), input_, Placed(8, 0, 8, 16), (4, 4))
    assert np.all(said["ids"][:2] == 2)


@pytest.mark.parametrize(
    ("boxes", "scores", "classes"), [((3, 4), 2, 2), ((2, 4), 2, 1), ((4, 2), 2, 2), ((2, 5), 2, 2), ((4,), 1, 1)]
)
def test_boxes_scores_and_classes_are_as_many(boxes: tuple[int, ...], scores: int, classes: int):
    read = reading("detection", CLASSES[:5])
    with pytest.raises(ValueError, match="shapes"):
        read.boxes(np.zeros(boxes), np.full(scores, 0.5), np.zeros(classes, np.int64), (10, 10))


@pytest.mark.parametrize("count", [2, 200])
def test_ids_below_0_are_no_label_however_many_classes_there_are(count: int):
    ids = reading("segmentation", CLASSES[:count]).ids(np.array([[0, 1, -1, -100, -200]])).ids
    assert ids is not None and ids.tolist() == [[0, 1, -1, -1, -1]]
    with pytest.raises(ValueError, match="class -9, below"):
        reading("detection", CLASSES[:count]).boxes(np.zeros((1, 4)), np.ones(1), np.array([-9]), (10, 10))


@pytest.mark.parametrize(
    ("background", "first", "here"),
    [
        (0, 0, [-1, 0, 1, 2]),
        (2, 0, [0, 1, -1, 2]),
        (-1, 0, [0, 1, 2, -1]),
        (0, 1, [-1, 0, 1, 2]),
        (3, 1, [-1, 0, 1, -1]),
    ],
)
def test_the_background_is_no_class_of_indices_either(background: int, first: int, here: list[int]):
    """What follows it moves up, as among probabilities; before the first class it moves nothing."""
    read = reading("segmentation", CLASSES[:3], background=background, first_class=first)
    ids = read.ids(np.array([[0, 1, 2, 3]])).ids
    assert ids is not None and ids.tolist() == [here]
    known = [i for i in range(4) if i >= first]
    boxes = reading("detection", CLASSES[:3], background=background, first_class=first).boxes(
        np.tile([0.0, 0, 5, 5], (len(known), 1)), np.full(len(known), 0.5), np.array(known), (10, 10)
    )
    assert sorted(boxes.classes.tolist()) == [here[i] for i in known if here[i] >= 0]
