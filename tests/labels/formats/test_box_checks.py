"""Boxes whose numbers contradict what is declared: refused with the likely meaning, which an option sets."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from must_jax.data.decoding import ImageShape
from must_jax.data.kinds import BoxesLabel, IdsLabel, Label
from must_jax.errors import UserError
from must_jax.labels.formats import build_format
from must_jax.labels.formats.base import Photo

WIDTH, HEIGHT = 160, 120
CORNERS = np.array([(10 + 8 * i, 20, 50 + 8 * i, 70) for i in range(6)], np.float64)  # x0, y0, x1, y1; one an image


def read(format_: str, path: Path, **options: Any) -> list[Label]:
    kind = IdsLabel("ids") if format_ == "coco_panoptic" else BoxesLabel(1)
    annotations = build_format(format_, options).open(path, [f"p{i}.jpg" for i in range(6)], kind)
    labels = [annotations.label(Photo(f"p{i}.jpg", ImageShape(HEIGHT, WIDTH, 1))) for i in range(6)]
    assert all(label is not None for label in labels)
    return labels  # type: ignore[return-value]


def refused(message: str, format_: str, path: Path, **options: Any) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}.*{message}"):
        read(format_, path, **options)


def in_pixels(labels: list[Label]) -> list[list[list[float]]]:
    """x0, y0, x1, y1, by image."""
    return [(label["boxes_yxyx"][:, [1, 0, 3, 2]] * ([WIDTH, HEIGHT] * 2)).round(3).tolist() for label in labels]


AS_THEY_ARE = [[corners] for corners in CORNERS.tolist()]


def coco(folder: Path, boxes: np.ndarray, change: Callable[[dict], Any] = lambda content: None, **fields: Any) -> Path:
    """`fields`: of each annotation, from its number."""
    annotations = [
        {"id": i, "image_id": i % 6 + 1, "category_id": 1, "bbox": box}
        | {name: field(i) for name, field in fields.items()}
        for i, box in enumerate(boxes.tolist())
    ]
    content = {
        "images": [{"id": i + 1, "file_name": f"p{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in range(6)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "brick"}],
    }
    change(content)
    (folder / "a.json").write_text(json.dumps(content))
    return folder / "a.json"


def voc(folder: Path, corners: Any, size: tuple[int, int] = (WIDTH, HEIGHT), more: str = "") -> Path:
    (folder / "xml").mkdir(exist_ok=True)
    for i, (x0, y0, x1, y1) in enumerate(corners):
        box = f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
        (folder / f"xml/p{i}.xml").write_text(
            f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>"
            f"<object><name>brick</name>{more}<bndbox>{box}</bndbox></object></annotation>"
        )
    return folder / "xml"


def xywh(corners: np.ndarray) -> np.ndarray:
    return np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])


UNIT = np.array([WIDTH, HEIGHT] * 2)


def test_coco_fractions(tmp_path: Path):
    file = coco(tmp_path, xywh(CORNERS) / UNIT)
    refused(r"6 of 6 boxes lie within the first pixel .* set the option fractions=true$", "coco", file)
    assert in_pixels(read("coco", file, fractions=True)) == AS_THEY_ARE

    some = coco(tmp_path, np.vstack([xywh(CORNERS), xywh(CORNERS)[:1] / UNIT]))
    refused("1 of 7 boxes lie within the first pixel .* give all of them in one unit$", "coco", some)
    refused(
        "6 of 6 boxes reach beyond 1, .* remove the option fractions",
        "coco",
        coco(tmp_path, xywh(CORNERS)),
        fractions=True,
    )
    dots = coco(tmp_path, np.hstack([CORNERS[:, :2], np.full((6, 2), 0.5)]))
    refused("all 6 boxes are smaller than a pixel", "coco", dots)


def test_fractions_of_another_order_are_called_so(tmp_path: Path):
    far = CORNERS + np.array([70, 50, 70, 50])  # were the centres top left corners, all boxes would end below the image
    centres = np.hstack([(far[:, :2] + far[:, 2:]) / 2, far[:, 2:] - far[:, :2]])
    file = coco(tmp_path, centres / UNIT)
    refused("6 of 6 boxes do not lie in their image .* set the option bbox=cxcywh$", "coco", file, fractions=True)
    assert in_pixels(read("coco", file, fractions=True, bbox="cxcywh")) == [[box] for box in far.tolist()]


def test_boxes_of_which_none_is_left_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flat = coco(tmp_path, np.hstack([CORNERS[:, :2], np.zeros((6, 2))]))
    refused("none of 6 boxes is left, so nothing can be learnt from them", "coco", flat)
    assert "of 6 boxes: 6 dropped, because they have no area" in capsys.readouterr().err


def test_true_is_no_number_and_no_name_is_no_class(tmp_path: Path):
    refused(
        "annotations.0.category_id': Input should be a number", "coco", coco(tmp_path, xywh(CORNERS), category_id=bool)
    )
    refused(
        "annotations.1.bbox.0': Input should be a number",
        "coco",
        coco(tmp_path, xywh(CORNERS), bbox=lambda i: [True, 2, 3, 4] if i == 1 else [1, 2, 3, 4]),
    )
    file = coco(tmp_path, xywh(CORNERS), lambda content: content["categories"][0].update(name=""))
    refused("categories.0.name': String should have at least 1 character", "coco", file)


def test_a_key_that_an_object_has_twice(tmp_path: Path):
    file = coco(tmp_path, xywh(CORNERS))
    file.write_text(file.read_text().replace('"categories"', '"annotations": [], "categories"'))
    refused("an object has the key 'annotations' twice", "coco", file)


def test_a_voc_box_that_is_not_a_number(tmp_path: Path):
    folder = voc(tmp_path, [("nan", 20, 50, 70), *CORNERS[1:].tolist()])
    refused("p0.xml has a box with a coordinate that is not a finite number", "voc", folder, classes="brick")


def test_voc_fractions(tmp_path: Path):
    folder = voc(tmp_path, CORNERS / UNIT)
    refused("6 of 6 boxes lie within the first pixel .* fractions=true$", "voc", folder, classes="brick")
    assert in_pixels(read("voc", folder, classes="brick", fractions=True)) == AS_THEY_ARE


@pytest.mark.parametrize("reading", ["xyxy", "cxcywh"])
def test_coco_boxes_that_are_something_else(reading: str, tmp_path: Path):
    """Told from where they would reach; where none leaves its image, from their areas."""
    far = CORNERS + np.array([70.0, 30, 70, 30])
    boxes = {"xyxy": far, "cxcywh": np.hstack([(far[:, :2] + far[:, 2:]) / 2, far[:, 2:] - far[:, :2]])}[reading]
    file = coco(tmp_path, boxes)
    message = rf"[3-6] of 6 boxes do not lie in their image as x, y, width, height, .* set the option bbox={reading}$"
    for options in ({}, {"clip": True}):
        refused(message, "coco", file, **options)
    assert in_pixels(read("coco", file, bbox=reading)) == [[corners] for corners in far.tolist()]


def test_coco_corners_told_from_areas(tmp_path: Path):
    small = np.array([(10 + i, 10, 40 + i, 40) for i in range(6)], np.float64)
    file = coco(tmp_path, small, area=lambda i: 900)
    refused("by their areas 6 of 6 boxes are x0, y0, x1, y1 and not x, y, width, height; .*bbox=xyxy", "coco", file)
    assert in_pixels(read("coco", file, bbox="xyxy")) == [[corners] for corners in small.tolist()]
    outlines = coco(tmp_path, xywh(CORNERS), area=lambda i: 700 + 100 * i)  # smaller than their boxes
    assert in_pixels(read("coco", outlines)) == AS_THEY_ARE
    for odd in (None, "900", float("nan"), -1, 10**400, True):
        assert in_pixels(read("coco", coco(tmp_path, xywh(CORNERS), area=lambda i, odd=odd: odd))) == AS_THEY_ARE


def test_one_pair_of_corners_that_ends_before_it_begins(tmp_path: Path):
    corners = CORNERS.copy()
    corners[2] = corners[2, [2, 1, 0, 3]]
    message = r"the box \[66.0, 20.0, 26.0, 70.0\] \(x0, y0, x1, y1\) on p2.jpg, and it ends before it begins; correct"
    refused(message, "coco", coco(tmp_path, corners), bbox="xyxy", clip=True)


@pytest.mark.parametrize("format_", ["coco", "voc"])
def test_boxes_that_stick_out_are_named_or_clipped(format_: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    corners = np.array([(100, 20, 175 if i % 2 else 155, 70) for i in range(6)], np.float64)
    corners[4] = (170, 20, 190, 70)
    path = coco(tmp_path, xywh(corners)) if format_ == "coco" else voc(tmp_path, corners + np.array([1, 1, 0, 0]))
    options = {"coco": {}, "voc": {"classes": "brick"}}[format_]
    refused(r"160 x 120 pixels; .* clip=true .* \(labels refused: 4\)$", format_, path, **options)
    assert len(re.findall("refused as well: .*160 x 120 pixels", capsys.readouterr().err)) == 3
    cut = np.minimum(corners, [160, 120, 160, 120]).tolist()
    wanted = [[] if i == 4 else [corners] for i, corners in enumerate(cut)]
    assert in_pixels(read(format_, path, clip=True, **options)) == wanted
    said = "of 6 boxes: 3 clipped to their image, 1 dropped, because they lie outside their image\n"
    assert said in capsys.readouterr().err


def test_at_most_twenty_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(UserError, match=r"\(labels refused: 60\)$"):
        read("coco", coco(tmp_path, np.tile([100.0, 20, 75, 50], (60, 1)) + np.arange(60)[:, None] / 100))
    assert capsys.readouterr().err.count("refused as well") == 19


def test_what_is_wrong_in_many_files_is_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = voc(tmp_path, CORNERS)
    for i in (1, 3, 4):
        (folder / f"p{i}.xml").write_text((folder / f"p{i}.xml").read_text().replace("brick", ""))
    with pytest.raises(UserError, match=r"p1\.xml is not as VOC describes it: it has no name .*\(labels refused: 3\)"):
        read("voc", folder, classes="brick")
    assert re.findall(r"refused as well: .*/(p.)\.xml", capsys.readouterr().err) == ["p3", "p4"]


def test_annotations_that_are_there_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = coco(tmp_path, np.tile(xywh(CORNERS), (2, 1)))
    assert in_pixels(read("coco", file)) == AS_THEY_ARE
    assert f"{file}, of 12 boxes: 6 dropped as duplicates\n" in capsys.readouterr().err

    def two_classes(content: dict) -> None:
        content["categories"].append({"id": 2, "name": "stone"})
        content["annotations"][6]["category_id"] = 2

    boxes = read("coco", coco(tmp_path, np.vstack([xywh(CORNERS), xywh(CORNERS)[:1]]), two_classes))
    assert boxes[0]["classes"].tolist() == [0, 1]


@pytest.mark.parametrize("ids", [(int, str), (str, int), (float, int), (int, float), (str, str)])
def test_ids_that_are_numbers_here_and_texts_there(ids: tuple[type, type], tmp_path: Path):
    def change(content: dict) -> None:
        for image, annotation in zip(content["images"], content["annotations"], strict=True):
            image["id"], annotation["image_id"] = ids[0](image["id"]), ids[1](annotation["image_id"])

    assert in_pixels(read("coco", coco(tmp_path, xywh(CORNERS), change))) == AS_THEY_ARE


def test_ids_that_fit_nothing_are_shown_beside_those_that_there_are(tmp_path: Path):
    file = coco(tmp_path, xywh(CORNERS), image_id=lambda i: f"00{i + 1}")
    message = r"a box on image '001', which it does not list; ids of images are like 1; .*\(labels refused: 6\)$"
    refused(message, "coco", file)


@pytest.mark.parametrize("pixels, first, last", [("from_1", 1, 0), ("from_0", 0, -1), ("edges", 0, 0)])
def test_voc_coordinates_that_count_otherwise(pixels: str, first: int, last: int, tmp_path: Path):
    """Boxes at the left and the right edge prove how pixels are counted; others show nothing."""
    wanted = np.array([(0, 20, 40, 70), (120, 20, 160, 70), *CORNERS[2:]], np.float64)
    folder = voc(tmp_path, wanted + np.array([first, first, last, last]))
    assert in_pixels(read("voc", folder, classes="brick", pixels=pixels)) == [[box] for box in wanted.tolist()]
    if pixels == "from_1":
        return
    refused(f".* begin before pixel 1 .* set the option pixels={pixels}", "voc", folder, classes="brick")
    if pixels == "edges":
        refused("set the option pixels=edges", "voc", folder, classes="brick", pixels="from_0")
    clipped = in_pixels(read("voc", folder, classes="brick", clip=True))
    assert clipped[0][0][0] == 0 and clipped[2][0] != wanted[2].tolist()


@pytest.mark.parametrize(
    "text, counts", [("1", False), ("True", False), (" true ", False), ("yes", False), ("0", True), ("False", True)]
)
def test_voc_difficult(text: str, counts: bool, tmp_path: Path):
    folder = voc(tmp_path, CORNERS, more=f"<difficult>{text}</difficult>")
    labels = read("voc", folder, classes="brick")
    assert [label["ignore"].tolist() for label in labels] == [[not counts]] * 6
    kind = build_format("voc", {"classes": "brick"}).open(folder, ["p0.jpg"], BoxesLabel(1)).kind
    assert isinstance(kind, BoxesLabel) and kind.ignore != counts
    assert [label["ignore"].tolist() for label in read("voc", folder, classes="brick", difficult=True)] == [[0]] * 6
    assert in_pixels(read("voc", folder, classes="brick", difficult=True))[1] == [[17, 19, 58, 70]]


@pytest.mark.parametrize("mark, ignored", [(1, 1), (0, 0), (True, 1), ("1", 1), (None, 0)])
def test_coco_crowds(mark: Any, ignored: int, tmp_path: Path):
    file = coco(tmp_path, np.tile(xywh(CORNERS), (2, 1)), iscrowd=lambda i: mark if i < 6 else 0)
    labels = read("coco", file)
    assert [label["ignore"].tolist() for label in labels] == [[1, 0] if ignored else [0]] * 6


def test_voc_difficult_that_means_nothing(tmp_path: Path):
    folder = voc(tmp_path, CORNERS, more="<difficult>perhaps</difficult>")
    refused(
        "p0.xml is not as VOC describes it: difficult is 'perhaps', which is neither 0 nor 1",
        "voc",
        folder,
        classes="brick",
    )


@pytest.mark.parametrize("format_", ["coco", "coco_panoptic"])
@pytest.mark.parametrize(
    "text, message",
    [
        ("[" * 100_000 + "]" * 100_000, "its lists or objects are nested too deeply to be read; correct the file$"),
        ('{"images": ' + '{"a":' * 100_000 + "1" + "}" * 100_001, "nested too deeply"),
        ("[]", "it is not an object with images, annotations and categories"),
        ('{"images": [{"id": ' + "9" * 5000 + "}]}", "is not as COCO describes it"),
    ],
)
def test_json_of_strangers(format_: str, text: str, message: str, tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a.json").write_text(text)
    refused(message, format_, tmp_path / "a.json")


@pytest.mark.parametrize("bbox", [[1e308, 0, 5, 5], [0, -1e300, 5, 5], [0, 0, 1e308, 1e308]])
def test_coordinates_that_no_picture_has(bbox: list[float], tmp_path: Path):
    refused("at 'annotations.0.bbox.[0-3]': Input should be", "coco", coco(tmp_path, np.array([bbox])))
    x, y, width, height = bbox
    folder = voc(tmp_path, [(x, y, x + width, y + height)] * 6)
    refused("p0.xml has a box at 1e\\+30[08], farther than images go", "voc", folder, classes="brick")


def test_sides_that_no_picture_has(tmp_path: Path):
    file = coco(tmp_path, xywh(CORNERS), lambda content: content["images"][0].update(width=10**30))
    refused("at 'images.0.width': Input should be", "coco", file)
