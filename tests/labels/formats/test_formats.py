"""Each format by itself: a file that is damaged, or contradicts what is declared, is refused by its name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from true_sets import NAMES, SIDE, voc_xml, write_coco, write_palette_png, write_png

from must_jax.data.decoding import ImageShape
from must_jax.data.kinds import (
    BoxesLabel,
    DirectionsLabel,
    IdsLabel,
    Label,
    LabelKind,
    ScalarsLabel,
    VectorLabel,
)
from must_jax.errors import UserError
from must_jax.labels.formats import build_format
from must_jax.labels.formats.base import Photo

KINDS: dict[str, LabelKind] = {
    "vector": VectorLabel(0),
    "boxes": BoxesLabel(1),
    "map of ids": IdsLabel("ids"),
    "map of scalars": ScalarsLabel("depth", "m"),
    "map of vectors": DirectionsLabel("normals"),
}


def read(
    format_: str, path: Path, image_hw: tuple[int, int] = (SIDE, SIDE), turned: int = 1, **options: Any
) -> list[Label | None]:
    """All labels for images of the names `NAMES` and this size, upright, and orientation."""
    chosen = build_format(format_, options)
    annotations = chosen.open(path, NAMES, KINDS[chosen.gives])
    return [annotations.label(Photo(name, ImageShape(*image_hw, turned))) for name in NAMES]


def refused(message: str, *args: Any, **options: Any) -> None:
    """The message, which begins with a file, is one sentence."""
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read(*args, **options)
    assert "\n" not in str(error.value)


def test_class_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    message = "train/dog/2.png has the class 'dog', which is not in classes (cat, cow; 'cow' of them never occurs); "
    refused(message, "class_folders", tmp_path / "x", classes=("cat", "cow"))
    refused("train/cat/0.png lies in 2 folders, so there is none at level 2", "class_folders", tmp_path / "x", level=2)
    capsys.readouterr()
    read("class_folders", tmp_path / "x", classes=("cat", "cow", "dog"))
    assert "look at the classes; 'cow' of them never occurs; those that do: cat, dog" in capsys.readouterr().err


def annotation(**changes: Any) -> dict[str, Any]:
    return {"image_id": 100, "category_id": 3, "bbox": [0, 0, 5, 5]} | changes


def listed(id_: int, file_name: str) -> dict[str, Any]:
    return {"id": id_, "file_name": file_name, "width": SIDE, "height": SIDE}


@pytest.mark.parametrize(
    "changes, options, message",
    [
        ({"annotations": [annotation(category_id=4)]}, {}, " has labels of category 4, which it does not list, but"),
        ({}, {"classes": ("person", "dog")}, " has labels of category 7, 'car', but the classes are person, dog; "),
        ({"annotations": [annotation(image_id=1)]}, {}, " has a box on image 1, which it does not list; "),
        (
            {"annotations": [annotation(bbox=[20, 0, 13.5, 5])]},
            {},
            " has the box [20.0, 0.0, 13.5, 5.0] (x, y, width, height) on train/cat/0.png, which is 32 x 32 pixels; ",
        ),
        ({"annotations": [annotation(bbox=[0, -1.5, 5, 5])]}, {}, " has the box [0.0, -1.5, 5.0, 5.0]"),
        ({"annotations": [annotation(bbox=[0, 0, -1, 5])]}, {}, ", at 'annotations.0.bbox.2': Input should be greater"),
        ({"annotations": [annotation(bbox=[0, 0, float("nan"), 5])]}, {}, ", at 'annotations.0.bbox.2': Input should"),
        ({"annotations": [{"image_id": 100}]}, {}, ", at 'annotations.0.category_id': Field required; "),
        (
            {"annotations": [{"image_id": 100, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]}]},
            {},
            ", at 'annotations.0.bbox': it has no bbox, and boxes are not made from outlines; add the bbox of each; ",
        ),
        ({"categories": [{"id": 3, "name": name} for name in "ab"]}, {}, " lists the id '3' twice; "),
        ({"categories": [{"id": 3, "name": "a"}, {"id": 4, "name": "a"}]}, {}, " lists the name 'a' twice; "),
        ({"images": [listed(1, "a.png"), listed(1, "b.png")]}, {}, " lists the id '1' twice; "),
        (
            {"images": [listed(1, NAMES[0]), listed(2, NAMES[0])], "annotations": []},
            {},
            f" lists the file_name '{NAMES[0]}' twice; ",
        ),
        (
            {"images": [listed(100, "else.png")], "annotations": []},
            {},
            " has a label for none of the 5 images: labels are called like 'else.png', images like 'train/cat/0.png'",
        ),
    ],
)
def test_coco(changes: dict, options: dict, message: str, tmp_path: Path):
    file = write_coco(tmp_path / "coco.json", **changes)
    damaged = " is not as COCO describes it" if message.startswith(", at") else ""
    refused(f"{file}{damaged}{message}", "coco", file, **options)


@pytest.mark.parametrize(("box", "hint"), [([5, 15, 10, 20], True), ([5, 15, 30, 20], False), ([5, -5, 10, 5], False)])
def test_coco_boxes_of_a_turned_photo(box: list[float], hint: bool, tmp_path: Path):
    images = [listed(100, NAMES[0]) | {"width": 40, "height": 20}]
    file = write_coco(tmp_path / "coco.json", images=images, annotations=[annotation(bbox=box)])
    with pytest.raises(UserError, match="which is 40 x 20 pixels; ") as raised:
        read("coco", file, image_hw=(20, 40))
    assert ("give width and height as the box sees the photo" in str(raised.value)) == hint


def test_coco_boxes_at_the_edge(tmp_path: Path):
    """Up to a pixel outside is rounding, and without area there is nothing to see."""
    boxes = [annotation(bbox=[-1, 0, 34, 33]), annotation(bbox=[3, 3, 0, 5]), annotation(bbox=[0, 0, 9, 9], iscrowd=1)]
    label = read("coco", write_coco(tmp_path / "coco.json", annotations=boxes))[0]
    assert label is not None
    np.testing.assert_array_equal(label["boxes_yxyx"], [[0, 0, 1, 1], [0, 0, 9 / 32, 9 / 32]])
    np.testing.assert_array_equal(label["ignore"], [0, 1])


def test_width_and_height_are_not_confused(tmp_path: Path):
    wanted = [[0.5, 0.25, 1, 0.5]]
    images = [listed(100, NAMES[0]) | {"width": 40, "height": 20}]
    file = write_coco(tmp_path / "coco.json", images=images, annotations=[annotation(bbox=[10, 10, 10, 10])])
    label = read("coco", file, image_hw=(20, 40))[0]
    assert label is not None
    np.testing.assert_allclose(label["boxes_yxyx"], wanted)

    (tmp_path / "xml").mkdir()
    xml = voc_xml([("cow", (11, 11, 20, 20))]).replace("<width>32", "<width>40").replace("<height>32", "<height>20")
    (tmp_path / "xml/0.xml").write_text(xml)
    label = read("voc", tmp_path / "xml", image_hw=(20, 40))[0]
    assert label is not None
    np.testing.assert_allclose(label["boxes_yxyx"], wanted)


def test_no_json(tmp_path: Path):
    file = tmp_path / "coco.json"
    file.write_text('{"images": [')
    for format_ in ("coco", "coco_panoptic"):
        (tmp_path / "coco").mkdir(exist_ok=True)
        refused(f"{file} is not as COCO describes it, it is not JSON: ", format_, file)


def test_sizes_of_another_image(tmp_path: Path):
    file = write_coco(tmp_path / "coco.json")
    assert read("coco", file, image_hw=(64, 64))[0] is not None
    assert read("coco", file, image_hw=(33, 33))[0] is not None
    message = f"{file}: {NAMES[0]} is for 32 x 32 pixels, but {NAMES[0]} has 48 x 32 upright; "
    refused(message, "coco", file, image_hw=(32, 48))


@pytest.mark.parametrize(
    "xml, options, message",
    [
        (
            voc_xml([("cow", (1, 1, 9, 9)), ("kow", (1, 1, 9, 9))]),
            {},
            " has the class 'kow', which is not in classes (",
        ),
        (
            voc_xml([("cow", (1, 1, 34, 9))]),
            {},
            " has a box of cow from (1, 1) to (34, 9), outside of its 32 x 32 ",
        ),
        (voc_xml([("cow", (9, 1, 5, 9))]), {}, " has a box that ends before it begins; "),
        (voc_xml([("cow", (float("nan"), 1, 5, 9))]), {}, " has a box with a coordinate that is not a finite number; "),
        (voc_xml([], side=0), {}, " is not as VOC describes it: its size is 0 x 0; "),
        ("<annotation></annotation>", {}, " is not as VOC describes it: it has no size/height in annotation; "),
        (voc_xml([("cow", (1, 1, 9, 9))])[:-20], {}, " is not as VOC describes it: "),
        (voc_xml([("cow", ("one", 1, 9, 9))]), {}, " is not as VOC describes it: could not convert"),  # type: ignore[list-item]
        (
            voc_xml([("&b;", (1, 1, 9, 9))], head='<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'),
            {"classes": ()},
            " is not as VOC describes it: DTDForbidden",
        ),
    ],
)
def test_voc(xml: str, options: dict, message: str, tmp_path: Path):
    (tmp_path / "xml").mkdir()
    (tmp_path / "xml/0.xml").write_text(xml)
    refused(f"{tmp_path / 'xml/0.xml'}{message}", "voc", tmp_path / "xml", **options)


def test_voc_of_another_image(tmp_path: Path):
    (tmp_path / "xml").mkdir()
    (tmp_path / "xml/0.xml").write_text(voc_xml([]))
    refused(f"{tmp_path / 'xml/0.xml'} is for 32 x 32 pixels", "voc", tmp_path / "xml", image_hw=(32, 40))


def grey(dtype: type = np.uint8, value: int = 0, hw: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    return np.full(hw, value, dtype)


def rgb(x: int, y: int, z: int, dtype: type = np.uint8) -> np.ndarray:
    return np.broadcast_to(np.array([x, y, z], dtype), (SIDE, SIDE, 3)).copy()


IDS = {"classes": ("a", "b"), "ignore": (255,)}
MM = {"unit": "mm"}
AXES = {"axes": "x,-y,-z"}


@pytest.mark.parametrize(
    "format_, options, codes, message",
    [
        (
            "id_png",
            IDS,
            grey(value=2),
            " has pixels of code 2, which is neither that of one of the 2 classes nor in",
        ),
        ("id_png", IDS, rgb(1, 2, 3), " is 8-bit RGB, but id_png takes 8-bit grey or 8-bit palette or "),
        ("id_png", IDS, rgb(0, 0, 0), " is 8-bit RGB, but id_png takes 8-bit grey"),
        ("id_png", IDS, grey(hw=(16, 32)), " is for 32 x 16 pixels, but train/cat/0.png has 32 x 32 upright; "),
        ("voc_masks", {}, grey(value=21), " has pixels of code 21, which is neither that of one of the 21 classes"),
        ("depth_png", MM, grey(), " is 8-bit grey, but depth_png takes 16-bit grey; convert or remove it"),
        ("depth_png", MM, rgb(1, 2, 3), " is 8-bit RGB, but depth_png takes 16-bit grey"),
        ("depth_png", MM, rgb(1, 2, 3, np.uint16), " is 16-bit RGB, but depth_png takes 16-bit grey"),
        ("depth_png", MM, grey(np.uint16, hw=(32, 24)), " is for 24 x 32 pixels"),
        (
            "depth_png",
            MM | {"max_m": 10},
            grey(np.uint16, 10001),
            " has depths up to 10.001 m (code 10001), beyond",
        ),
        (
            "depth_png",
            {"unit": 1 / 256, "max_m": 80},
            grey(np.uint16, 20481),
            " has depths up to 80.0039 m (code",
        ),
        ("depth_png", {"unit": "m", "max_m": 80}, grey(np.uint16, 700), " has depths up to 700 m (code 700), beyond"),
        ("normal_png", AXES, grey(), " is 8-bit grey, but normal_png takes 8-bit RGB or 16-bit RGB; "),
        ("normal_png", AXES, rgb(200, 200, 200), " is for 32 x 32 pixels"),
        ("normal_png", AXES, rgb(250, 250, 250), " is not a map of unit vectors: 100 % have another length; "),
        (
            "normal_png",
            {"axes": "x,y,z"},
            rgb(128, 128, 255),
            " has normals that point away from the camera with axes '",
        ),
        ("normal_png", AXES, rgb(128, 128, 0), " has normals that point away from the camera with axes 'x,-y,-z'"),
    ],
)
def test_png(format_: str, options: dict, codes: np.ndarray, message: str, tmp_path: Path):
    write_png(tmp_path / "maps/0.png", codes)
    image_hw = (24, 32) if "for 32 x 32" in message else (32, 32)
    refused(f"{tmp_path / 'maps/0.png'}{message}", format_, tmp_path / "maps", image_hw=image_hw, **options)


@pytest.mark.parametrize("format_, options", [("id_png", IDS), ("depth_png", MM), ("normal_png", AXES)])
@pytest.mark.parametrize(
    "broken", [lambda data: data[:-40], lambda data: data[:20], lambda data: b"\xff\xd8" + data[2:]]
)
def test_damaged_png(format_: str, options: dict, broken: Callable[[bytes], bytes], tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 2, (SIDE, SIDE, 3))
    codes = {
        "id_png": noise[..., 0].astype("u1"),
        "depth_png": noise[..., 0].astype("u2"),
        "normal_png": noise.astype("u1"),
    }
    file = tmp_path / "maps/0.png"
    write_png(file, codes[format_])
    file.write_bytes(broken(file.read_bytes()))
    with pytest.raises(UserError, match=rf"{file} is (truncated or damaged|not a PNG file)"):
        read(format_, tmp_path / "maps", **options)


def test_an_empty_map(tmp_path: Path):
    write_png(tmp_path / "maps/0.png", np.zeros((SIDE, SIDE), "u1"))
    (tmp_path / "maps/0.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"0\.png is empty; replace or remove it"):
        read("id_png", tmp_path / "maps", classes=("a",))


def test_a_folder_without_maps(tmp_path: Path):
    (tmp_path / "maps").mkdir()
    refused(f"there is no .png file in {tmp_path / 'maps'}", "depth_png", tmp_path / "maps", **MM)
    refused(f"there is no .xml file in {tmp_path / 'maps'}", "voc", tmp_path / "maps")


def panoptic(folder: Path, **changes: Any) -> Path:
    file = folder / "panoptic.json"
    segments = [{"id": 1, "category_id": 3}]
    content = {
        "images": [{"id": 100, "file_name": NAMES[0]}],
        "annotations": [{"image_id": 100, "file_name": "0.png", "segments_info": segments}],
        "categories": [{"id": 3, "name": "person"}],
    }
    file.write_text(json.dumps(content | changes))
    return file


def test_coco_panoptic(tmp_path: Path):
    png = tmp_path / "panoptic/0.png"
    write_png(png, rgb(1, 0, 0))
    label = read("coco_panoptic", panoptic(tmp_path))[0]
    assert label is not None and np.all(label["ids"] == 0)
    many = [{"id": i, "name": f"{i}"} for i in range(1203)]
    segments = [{"image_id": 100, "file_name": "0.png", "segments_info": [{"id": 1, "category_id": 1202}]}]
    label = read("coco_panoptic", panoptic(tmp_path, categories=many, annotations=segments))[0]
    assert label is not None and np.all(label["ids"] == 1202)
    write_png(png, rgb(0, 0, 0))
    label = read("coco_panoptic", panoptic(tmp_path, categories=many, annotations=segments))[0]
    assert label is not None and np.all(label["ids"] == 65535)  # as of 255 the class is another
    write_png(png, rgb(1, 0, 0))
    refused(f"{png} is for 32 x 32 pixels", "coco_panoptic", panoptic(tmp_path), image_hw=(32, 40))

    write_png(png, rgb(2, 0, 0))
    file = tmp_path / "panoptic.json"
    refused(f"{png} has pixels of segment 2, which {file} does not list for it; ", "coco_panoptic", file)
    write_png(png, grey())
    refused(f"{png} is 8-bit grey, but coco_panoptic takes 8-bit RGB; ", "coco_panoptic", file)
    twice = [{"id": 1, "category_id": 3}, {"id": 1, "category_id": 4}]
    both = {"categories": [{"id": 3, "name": "person"}, {"id": 4, "name": "sky"}]}
    both["annotations"] = [{"image_id": 100, "file_name": "0.png", "segments_info": twice}]
    refused(f"{file}: 0.png lists the id '1' twice; ", "coco_panoptic", panoptic(tmp_path, **both))
    both["annotations"][0]["segments_info"] = [{"id": 0, "category_id": 3}]
    refused(f"{file} lists segment 0 for 0.png, but ", "coco_panoptic", panoptic(tmp_path, **both))
    panoptic(tmp_path)
    png.unlink()
    refused(f"{file} names 0.png, which is not in {tmp_path / 'panoptic'}; ", "coco_panoptic", file)
    other = [{"image_id": 1, "file_name": "0.png", "segments_info": []}]
    refused(
        f"{file} labels image 1, which is not in its images; ", "coco_panoptic", panoptic(tmp_path, annotations=other)
    )
    refused(
        f"there is no folder {tmp_path / 'x'} with the PNGs of {file}; ",
        "coco_panoptic",
        file,
        masks=str(tmp_path / "x"),
    )


def test_large_maps_become_smaller(tmp_path: Path):
    """Invalid pixels do not leak into valid ones, and classes do not mix."""
    depth = grey(np.uint16, 1000, (64, 64))
    depth[:, 32:] = 3000
    depth[0:64:2, :16] = 0
    write_png(tmp_path / "depth/0.png", depth)
    label = read("depth_png", tmp_path / "depth", unit="mm", max_side=16)[0]
    assert label is not None
    assert label["depth"].shape == (16, 16) and label["valid"].all()
    np.testing.assert_allclose(label["depth"], np.where(np.arange(16) < 8, 1, 3)[None].repeat(16, 0), rtol=1e-6)

    write_palette_png(tmp_path / "ids/0.png", np.where(np.arange(96) < 45, 0, 20)[None].repeat(64, 0))
    label = read("voc_masks", tmp_path / "ids", image_hw=(640, 960), max_side=12)[0]
    assert label is not None
    np.testing.assert_array_equal(label["ids"], np.where(np.arange(12) < 6, 0, 20)[None].repeat(8, 0))


@pytest.mark.parametrize("unit, metres", [("mm", 0.001), ("cm", 0.01), ("m", 1), (1 / 256, 1 / 256)])
def test_units_of_depth(unit: str | float, metres: float, tmp_path: Path):
    write_png(tmp_path / "depth/0.png", grey(np.uint16, 300))
    label = read("depth_png", tmp_path / "depth", unit=unit)[0]
    assert label is not None
    np.testing.assert_allclose(label["depth"], 300 * metres, rtol=1e-6)


def test_a_few_vectors_of_another_length_are_no_normals(tmp_path: Path):
    codes = rgb(128, 128, 255)
    codes[0, :5] = 250
    write_png(tmp_path / "normals/0.png", codes)
    label = read("normal_png", tmp_path / "normals", **AXES)[0]
    assert label is not None
    np.testing.assert_array_equal(label["valid"][0], np.arange(SIDE) >= 5)
    assert label["valid"][1:].all()
    np.testing.assert_allclose(label["normals"][9, 9], [0, 0, -1], atol=0.01)


def test_an_image_that_cannot_be_read_is_not_compared(tmp_path: Path):
    file = write_coco(tmp_path / "coco.json")
    annotations = build_format("coco", {}).open(file, NAMES, KINDS["boxes"])
    assert annotations.label(Photo(NAMES[0], None)) is not None


def test_class_ids_of_more_than_255_classes(tmp_path: Path):
    codes = np.array([[0, 255, 256, 1202, 65535]], np.uint16).repeat(32, 0).repeat(7, 1)[:, :32]
    write_png(tmp_path / "ids/0.png", codes)
    label = read("id_png", tmp_path / "ids", classes=tuple(map(str, range(1203))))[0]
    assert label is not None
    np.testing.assert_array_equal(label["ids"], codes)
    with pytest.raises(UserError, match="has pixels of code 1202, which is neither that of one of the 1202 classes"):
        read("id_png", tmp_path / "ids", classes=tuple(map(str, range(1202))))
