"""Maps whose codes contradict what is declared: refused with the likely meaning, or told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from true_sets import imported, write_images, write_png

from must_jax.config import TruthConfig
from must_jax.data.image_sets import ImageSet
from must_jax.data.kinds import ScalarsLabel
from must_jax.errors import UserError
from must_jax.inputs import truth
from must_jax.labels.columns import LabelColumn
from must_jax.labels.formats.voc import VOC_CLASSES, colour_map

SIDE = 40
NAMES = tuple(f"p{i}.png" for i in range(3))


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    return write_images(tmp_path / "images", NAMES, SIDE)


def maps(folder: Path, *codes: np.ndarray) -> Path:
    """One an image, the last of them for all further ones."""
    for i, name in enumerate(NAMES):
        write_png(folder / name, codes[min(i, len(codes) - 1)])
    return folder


def column(images: ImageSet, task: str, format_: str, path: Path, **options: Any) -> LabelColumn:
    folder = path.parent / f"{path.name}-{len(list(path.parent.iterdir()))}"
    return imported(images, task, folder, format=format_, path=str(path), options=options)


def refused(message: str, images: ImageSet, task: str, format_: str, path: Path, **options: Any) -> None:
    with pytest.raises(UserError, match=message):
        column(images, task, format_, path, **options)


def stripes(*values: int) -> np.ndarray:
    """u8[40, 40] of stripes of equal width."""
    return np.array(values, np.uint8).repeat(SIDE // len(values))[None].repeat(SIDE, 0)


BINARY = {"classes": "background,object"}


def test_binary_masks_of_0_and_255(images: ImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = maps(tmp_path / "masks", stripes(0, 0, 0, 255))
    message = (
        f"^{path}: 'object' of 2 classes never occurs, but code 255, .* 25 % of the pixels, in 3 of the masks, "
        r"so it looks like 'object'; set the option codes=0,255 \(a code for each class\), or codes=0,1"
    )
    for ignore in ({}, {"ignore": 255}):
        refused(message, images, "segmentation", "id_png", path, **BINARY, **ignore)
    for codes in ("0,255", (0, 255), {"background": 0, "object": (255,)}):
        ids = column(images, "segmentation", "id_png", path, **BINARY, codes=codes)[0]["ids"]
        np.testing.assert_array_equal(ids == 1, stripes(0, 0, 0, 255) == 255)
        assert not np.any(ids == 255)
    assert "of the pixels background 75 %, object 25 %; without label: 0 %" in capsys.readouterr().err
    ids = column(images, "segmentation", "id_png", path, **BINARY, codes="0,1")[0]["ids"]
    np.testing.assert_array_equal(ids, stripes(0, 0, 0, 255))
    assert "'object' of 2 classes never occurs, but code 255" in capsys.readouterr().err


def test_a_class_that_never_occurs_beside_a_code_that_is_ignored(
    images: ImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path, three = maps(tmp_path / "masks", stripes(0, 1, 255, 0)), {"classes": "a,b,c"}
    refused("so it looks like 'c'; set the option codes=0,1,255", images, "segmentation", "id_png", path, **three)
    declared = column(images, "segmentation", "id_png", path, **three, ignore=255)
    assert declared.manifest.summary().images_with_class == [3, 3]
    many = column(images, "segmentation", "id_png", path, classes=[f"c{i}" for i in range(150)])
    assert "'c2', 'c3', 'c4' and 145 others of 150 classes never occur, but code 255" in capsys.readouterr().err
    assert many.manifest.summary().images_with_class == [3, 3]
    column(images, "segmentation", "id_png", maps(tmp_path / "whole", stripes(0, 1, 2, 255)), **three)
    assert "never occur" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "codes, options, message",
    [
        (
            (0, 1, 2, 2),
            {"classes": "a,b"},
            "hold the codes 0, 1, 2; if classes count from 1 and 0 is no label, set the",
        ),
        ((0, 85, 170, 255), {"classes": "a,b,c,d"}, "set the option codes=0,85,170,255$"),
        (
            (7, 9, 7, 9),
            {"classes": "a,b"},
            "p0.png has pixels of code 7, .* as have at least 3 of the .* codes=7,9$",
        ),
        ((1, 2, 3, 4, 5, 6, 7, 8), {"classes": "a,b"}, "if the masks were scaled, or stored as JPEG once"),
        ((0, 1, 5, 6), {"classes": "a,b,c", "offset": 0}, "give each of them to a class by codes, or to ignore"),
    ],
)
def test_codes_that_are_no_class(codes: tuple[int, ...], options: dict, message: str, images: ImageSet, tmp_path: Path):
    refused(message, images, "segmentation", "id_png", maps(tmp_path / "masks", stripes(*codes)), **options)


def test_ids_that_count_from_1(images: ImageSet, tmp_path: Path):
    path = maps(tmp_path / "masks", stripes(0, 1, 2, 2))
    ids = column(images, "segmentation", "id_png", path, classes="a,b", offset=1, ignore="0,255")[0]["ids"]
    np.testing.assert_array_equal(ids, stripes(255, 0, 1, 1))


def test_masks_of_one_bit(images: ImageSet, tmp_path: Path):
    (tmp_path / "masks").mkdir()
    for name in NAMES:
        PIL.Image.fromarray(stripes(0, 1, 0, 0) > 0).save(tmp_path / "masks" / name)
    ids = column(images, "segmentation", "id_png", tmp_path / "masks", **BINARY)[0]["ids"]
    np.testing.assert_array_equal(ids, stripes(0, 1, 0, 0))


def test_colours_in_the_place_of_ids(images: ImageSet, tmp_path: Path):
    path = maps(tmp_path / "masks", colour_map()[stripes(0, 1, 2, 15)])
    message = r"is 8-bit RGB, but id_png takes .*\(where colours stand for classes, write the classes' codes"
    refused(message, images, "segmentation", "id_png", path, classes="a,b")


@pytest.mark.parametrize(
    "codes, message",
    [("0", "1 codes for 2 classes"), ("0,0", "code 0 has two meanings"), ("0,65536", "codes")],
)
def test_codes_that_do_not_fit_the_classes(codes: str, message: str, tmp_path: Path):
    config = TruthConfig(format="id_png", path=str(tmp_path), options=BINARY | {"codes": codes})
    with pytest.raises(UserError, match=f"id_png'.*{message}"):
        truth.check({"segmentation": config})


def palette_png(file: Path, indices: np.ndarray, palette: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = PIL.Image.fromarray(indices.astype(np.uint8), "P")
    picture.putpalette(palette.astype(np.uint8).tobytes())
    picture.save(file)


VOC = stripes(0, 5, 15, 255)
ORDER = np.array([15, 0, 255, 5, *range(1, 5), *range(6, 15), *range(16, 255)])  # of the palette's colours


def test_palettes_with_the_colours_of_voc_in_another_order(
    images: ImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    palette_png(tmp_path / "masks/p0.png", VOC, colour_map())
    palette_png(tmp_path / "masks/p1.png", np.argsort(ORDER)[VOC], colour_map()[ORDER])
    palette_png(tmp_path / "masks/p2.png", stripes(1, 3, 0, 2), colour_map()[ORDER[:4]])
    labels = column(images, "segmentation", "voc_masks", tmp_path / "masks")
    for i in range(3):
        np.testing.assert_array_equal(labels[i]["ids"], VOC)
    assert "2 masks have VOC's colours in another order, so their colours decide" in capsys.readouterr().err

    message = "the colour .* is code .* so some program has re-sorted the palettes"
    refused(message, images, "segmentation", "id_png", tmp_path / "masks", classes=("background", *VOC_CLASSES))


def test_some_colours_of_voc_in_another_order(images: ImageSet, tmp_path: Path):
    palette = np.random.default_rng(0).integers(0, 256, (256, 3))
    palette[5] = colour_map()[15]
    for name in NAMES:
        palette_png(tmp_path / "masks" / name, VOC, palette)
    message = "p0.png has code 5 with VOC's colour of code 15, and colours that VOC does not have"
    refused(message, images, "segmentation", "voc_masks", tmp_path / "masks")


PLANE_M = (2 + 0.03 * np.arange(SIDE))[:, None].repeat(SIDE, 1)
SKY = np.arange(SIDE)[:, None].repeat(SIDE, 1) < 10


def depths(folder: Path, codes_a_metre: float, sky: int = 0) -> Path:
    return maps(folder, np.where(SKY, sky, np.rint(PLANE_M * codes_a_metre)).astype(np.uint16))


@pytest.mark.parametrize(
    "unit, codes_a_metre", [("1/256", 256), ("0.00390625", 256), (1 / 256, 256), ("1 / 5000", 5000), ("mm", 1000)]
)
def test_units_of_depth(unit: Any, codes_a_metre: float, images: ImageSet, tmp_path: Path):
    label = column(images, "depth", "depth_png", depths(tmp_path / "depth", codes_a_metre), unit=unit)[0]
    np.testing.assert_array_equal(label["valid"], ~SKY)
    np.testing.assert_allclose(label["depth"], PLANE_M * ~SKY, atol=0.005)


@pytest.mark.parametrize("unit", ["inch", "1/0", "1/256/2", "", "nan", "-1", "0", "1e999"])
def test_no_units_of_depth(unit: str, tmp_path: Path):
    with pytest.raises(UserError, match="format 'depth_png', option unit: "):
        truth.check({"depth": TruthConfig(format="depth_png", path=str(tmp_path), options={"unit": unit})})


@pytest.mark.parametrize(
    "codes_a_metre, unit, likely",
    [
        (256, 256, "most would be .*, 2.3 to 3.17 m with unit=1/256"),
        (1000, "m", "most would be 2.3 to 3.17 m with unit=mm"),
        (100, "m", ""),
    ],
)
def test_depths_beyond_a_kilometre(codes_a_metre: float, unit: Any, likely: str, images: ImageSet, tmp_path: Path):
    path = depths(tmp_path / "depth", codes_a_metre)
    if likely:
        message = f"p0.png has depths up to .* m .*, beyond 1000 m; correct unit, invalid or max_m, .*{likely}"
        refused(message, images, "depth", "depth_png", path, unit=unit)
    far = column(images, "depth", "depth_png", path, unit=unit, max_m=1e6)  # who says so may have mountains
    assert far[0]["valid"].any()


def test_strange_depths_are_told(images: ImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sky = depths(tmp_path / "sky", 100, 65535)
    column(images, "depth", "depth_png", sky, unit="cm")
    said = capsys.readouterr().err
    assert f"{sky}: 25 % of what is valid has code 65535, and all others are below half of it" in said
    assert "depth from 2.3 over about 2.9 (median) to 655 m; valid: 100 %" in said
    for invalid in (65535, "0,65535"):
        column(images, "depth", "depth_png", sky, unit="cm", invalid=invalid)
        said = capsys.readouterr().err
        assert "65535" not in said and "depth from 2.3 over about 2.7 (median) to 3.17 m; valid: 75 %" in said

    inverse = 1 / PLANE_M
    inverse = (inverse - inverse.min()) / np.ptp(inverse) * 65535
    column(images, "depth", "depth_png", maps(tmp_path / "inverse", inverse.astype(np.uint16)), unit="mm")
    assert "3 of 3 maps begin near 0 and end at code 65535, so they may have been stretched" in capsys.readouterr().err
    column(images, "depth", "depth_png", depths(tmp_path / "metres", 1), unit="mm")
    assert "half of the depths are below 1 cm; see unit" in capsys.readouterr().err


@pytest.mark.parametrize("unit", ["relative", "inverse_relative"])
def test_depths_without_a_unit_are_taken_as_they_are(unit: str, images: ImageSet, tmp_path: Path):
    path = depths(tmp_path / "depth", 20_000)  # which would be kilometres
    read = column(images, "depth", "depth_png", path, unit=unit)
    assert read.kind == ScalarsLabel("depth", unit) and read.manifest.unit == unit
    np.testing.assert_allclose(read[0]["depth"], np.rint(PLANE_M * 20_000) * ~SKY, atol=2)
    with pytest.raises(UserError, match="max_m is in metres"):
        column(images, "depth", "depth_png", path, unit=unit, max_m=3)


def test_depth_of_8_bits(images: ImageSet, tmp_path: Path):
    path = maps(tmp_path / "eight", (255 * PLANE_M / PLANE_M.max()).astype(np.uint8))
    refused(
        r"is 8-bit grey, but .* \(files with 8 bits per pixel, or colours, are usually",
        images,
        "depth",
        "depth_png",
        path,
        unit="mm",
    )


@pytest.mark.parametrize(
    "axes, told",
    [
        ("x,-y,-z", "(0.00, -0.71, -0.71), so they point up and towards the camera"),
        ("x,y,-z", "(0.00, 0.71, -0.71), so they point down and towards the camera"),
    ],
)
def test_directions_of_normals_are_told(
    axes: str, told: str, images: ImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Of a floor, in a file with y up and z towards the camera: a wrong sign of y is seen."""
    floor = np.rint((np.array([0, 0.7071, 0.7071]) + 1) / 2 * 255).astype(np.uint8)
    path = maps(tmp_path / "normals", np.broadcast_to(floor, (SIDE, SIDE, 3)).copy())
    column(images, "normals", "normal_png", path, axes=axes)
    said = capsys.readouterr().err
    assert f"mean of normals (x right, y down, z away from the camera): {told}; valid: 100 %" in said
