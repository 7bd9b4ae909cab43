"""How an import goes: begun by the command, refused, stopped, at work twice; each image is read once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest
from command_line import call
from command_line import config as config_file
from true_sets import (
    BOXES_XYWH,
    CATEGORIES,
    NAMES,
    SIDE,
    imported,
    write_coco,
    write_images,
    write_png,
)

from must_jax import files
from must_jax.config import PrepareConfig, SourceConfig, TruthConfig
from must_jax.data import image_sets
from must_jax.data.image_sets import ImageSet, open_images
from must_jax.data.preparing import prepare
from must_jax.errors import UserError
from must_jax.inputs import truth
from must_jax.inputs.sources import open_source
from must_jax.labels import manifest, verify
from must_jax.labels.columns import LabelColumn
from must_jax.labels.writer import Shard
from must_jax.tasks import TASKS

Labels = Mapping[int, Mapping[str, np.ndarray]]  # by image; one that is not there has none


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    return write_images(tmp_path / "images")


def test_what_is_imported_is_a_column_like_any_other(images: ImageSet, tmp_path: Path, capsys: Any):
    file, folder = write_coco(tmp_path / "coco.json"), tmp_path / "c"
    column = imported(images, "detection", folder, format="coco", path=str(file), licence="CC BY 4.0")
    assert column.teacher is None
    source, summary = column.manifest.source, column.manifest.summary()
    assert (source.format, source.path, source.licence) == ("coco", str(file), "CC BY 4.0")
    assert (summary.images, summary.absent, summary.empty) == (5, 1, 1)
    assert [(image.name, image.reason) for image in column.manifest.absent()] == [(NAMES[4], "not in the coco labels")]
    assert verify.damage(folder, column.manifest) == []
    assert list(verify.other_images(folder, column.manifest, images)) == []
    assert "4 of 5 images have labels for detection" in capsys.readouterr().err

    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    imported(images, "detection", folder, format="coco", path=str(file))
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    assert "is finished; nothing to do" in capsys.readouterr().err

    lost = folder / column.manifest.shards[1].file
    before = lost.read_bytes()
    lost.unlink()
    with pytest.raises(UserError, match="rerun the prepare stage"):
        LabelColumn(folder)
    imported(images, "detection", folder, format="coco", path=str(file), licence="CC BY 4.0")
    assert lost.read_bytes() == before

    with pytest.raises(UserError, match=f"{folder} was made from other options than those now in {file}"):
        imported(
            images, "detection", folder, format="coco", path=str(file), options={"classes": tuple(CATEGORIES.values())}
        )
    write_coco(file, info={})
    with pytest.raises(UserError, match=f"{folder} was made from other annotations than those now in {file}"):
        imported(images, "detection", folder, format="coco", path=str(file))
    more = write_images(tmp_path / "more", (*NAMES, "train/cat/5.png"))
    with pytest.raises(UserError, match="delete it to start over"):
        imported(more, "detection", folder, format="coco", path=str(file))


def test_refused_files_are_all_named_and_nothing_is_written(images: ImageSet, tmp_path: Path, capsys: Any):
    for i, name in enumerate(NAMES):
        write_png(tmp_path / "depth" / name, np.full((SIDE, SIDE), 1000 * (i + 1), np.uint16))
    config = {"format": "depth_png", "path": str(tmp_path / "depth"), "options": {"unit": "mm", "max_m": 3}}
    with pytest.raises(
        UserError, match=r"train/dog/3\.png has depths up to 4 m \(code 4000\), .* max_m 3; .*refused: 2"
    ):
        imported(images, "depth", tmp_path / "c", **config)
    assert "train/dog/4.png has depths up to 5 m" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
    for name in NAMES[3:]:
        (tmp_path / "depth" / name).unlink()
    column = imported(images, "depth", tmp_path / "c", **config)
    assert [float(column[i]["present"]) for i in range(5)] == [1, 1, 1, 0, 0]


def test_a_stopped_import_goes_on(images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file, folder = write_coco(tmp_path / "coco.json"), tmp_path / "c"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    imported(images, "detection", tmp_path / "undisturbed", format="coco", path=str(file))
    with monkeypatch.context() as patch:
        add = Shard.add_encoded
        stop = NAMES[3]
        patch.setattr(Shard, "add_encoded", lambda self, name, label: 1 / (name != stop) and add(self, name, label))
        with pytest.raises(ZeroDivisionError):
            imported(images, "detection", folder, format="coco", path=str(file))
    assert manifest.read(folder).missing(folder) == [1, 2]
    with pytest.raises(UserError, match="is not finished, 1 of 3 shards are written; rerun the prepare stage"):
        LabelColumn(folder)
    first = folder / manifest.read(folder).shard_file(0)
    written = first.stat().st_mtime_ns
    respelt = f"{tmp_path}/images/../coco.json"
    imported(images, "detection", folder, format="coco", path=respelt, licence="CC BY 4.0")
    assert first.stat().st_mtime_ns == written
    undisturbed = tmp_path / "undisturbed"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in undisturbed.iterdir()
    }


def test_at_work_in_one_column_is_one_process(images: ImageSet, tmp_path: Path):
    config = {"format": "coco", "path": str(write_coco(tmp_path / "coco.json"))}
    (tmp_path / "c").mkdir()
    other = files.lock(tmp_path / "c")  # two descriptors of one process exclude each other as well
    with pytest.raises(UserError, match=f"another process is using {tmp_path / 'c'}; wait for it$"):
        imported(images, "detection", tmp_path / "c", **config)
    assert [path.name for path in (tmp_path / "c").iterdir()] == [files.LOCK_FILE]
    imported(images, "detection", tmp_path / "d", **config)  # another column
    files.unlock(other)
    imported(images, "detection", tmp_path / "c", **config)
    other = files.lock(tmp_path / "c")
    imported(images, "detection", tmp_path / "c", **config)  # is finished
    files.unlock(other)


@pytest.mark.parametrize(
    "task, config, message",
    [
        ("detektion", {"format": "coco"}, "did you mean 'detection'"),
        (
            "detection",
            {"format": "cocoo"},
            r"config\.labels\.detection: there is no format 'cocoo'; did you mean 'coco'",
        ),
        ("detection", {"format": "coco", "path": "none.json"}, r"there is no file 'none\.json'"),
        (
            "detection",
            {"format": "voc"},
            r"config\.labels\.detection\.path is missing; set it to the folder with the labels",
        ),
        ("detection", {"format": "coco", "path": "/"}, "'/' is a folder, but 'coco' reads a file; correct its path"),
        ("detection", {"format": "coco", "path": "/dev/zero"}, "'/dev/zero' is a device, but 'coco' reads a file"),
        ("detection", {"format": "voc", "path": __file__}, "is a file, but 'voc' reads a folder; correct its path"),
        ("detection", {"format": "coco", "options": {"clases": ()}}, "no option 'clases'; did you mean 'classes'"),
        ("detection", {"format": "voc", "options": {"classes": ("a", "a")}}, "classes: the class 'a' is listed twice"),
        ("detection", {"format": "depth_png", "options": {"unit": "m"}}, "takes boxes; use coco or voc"),
        ("depth", {"format": "id_png", "options": {"classes": ("a",)}}, "of ids, but the task takes map of scalars"),
        ("depth", {"format": "depth_png"}, "format 'depth_png' needs the option 'unit'"),
        (
            "depth",
            {"format": "depth_png", "options": {"unit": "inch"}},
            "option unit: Input should be 'mm', 'cm' or 'm'",
        ),
        ("segmentation", {"format": "id_png"}, "needs the option 'classes'"),
        (
            "segmentation",
            {"format": "id_png", "options": {"classes": ("a", "b"), "ignore": 1}},
            "code 1 has two meanings",
        ),
        (
            "segmentation",
            {"format": "id_png", "options": {"classes": ("a", "b"), "offset": 65535, "ignore": 0}},
            "2 classes from code 65535 need more than 16 bits",
        ),
        (
            "segmentation",
            {"format": "id_png", "options": {"classes": ("sky", "b"), "codes": {"ski": 3}}},
            "codes names 'ski', which is not in classes; did you mean 'sky'",
        ),
        ("segmentation", {"format": "id_png", "options": {"classes": ("a", "b"), "codes": {"a": 3}}}, "none for 'b'"),
        (
            "segmentation",
            {"format": "id_png", "options": {"classes": ("a", "b"), "replace": "_left"}},
            "option replace: give a text and what replaces it, as in '_leftImg8bit,_gt",
        ),
        ("normals", {"format": "normal_png", "options": {"axes": "x,y,y"}}, "write 'x,y,z' or 'x,-y,-z'"),
        ("classification", {"format": "class_folders", "path": "x"}, "remove it"),
    ],
)
def test_mistakes_are_found_before_anything_is_read(task: str, config: dict, message: str):
    with pytest.raises(UserError, match=message):
        truth.check({task: TruthConfig(**config)})


def test_images_and_labels_are_prepared_together(images: ImageSet, tmp_path: Path, capsys: Any):
    """By the real command; a further task later, and only it is imported."""
    prepare = (config_file("prepare"), f"--config.images={images.name}", f"--config.data_dir={tmp_path / 'data'}")
    boxes = ("--config.labels.detection.format=coco", f"--config.labels.detection.path={tmp_path / 'coco.json'}")
    assert call(*prepare, *boxes) == 2
    assert "error: config.labels.detection: there is no file" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
    write_coco(tmp_path / "coco.json")
    assert call(*prepare, *boxes) == 0
    column = tmp_path / "data/photos/columns/detection"
    made = (column / "manifest.json").stat().st_mtime_ns
    assert call(*prepare, *boxes, "--config.labels.classification.format=class_folders") == 0
    assert f"{column} is finished; nothing to do" in capsys.readouterr().err
    assert (column / "manifest.json").stat().st_mtime_ns == made

    source = open_source(SourceConfig(images="photos:train"), str(tmp_path / "data"), TASKS)
    labels = {column.task: column for column in source.columns}
    names = [source.images.name_of(i) for i in range(len(images))]
    assert sorted(names) == sorted(NAMES)
    for i, name in enumerate(names):
        assert labels["classification"][i]["probs"].argmax() == ("dog" in name)
        assert np.count_nonzero(labels["detection"][i]["ignore"] == 0) == len(BOXES_XYWH.get(NAMES.index(name), []))

    write_coco(tmp_path / "coco.json", info={})
    assert call(*prepare, *boxes) == 2
    assert "was made from other annotations than those now in" in capsys.readouterr().err

    (tmp_path / "coco.json").unlink()  # no longer needed, until there is something to import
    assert call(*prepare, *boxes) == 0
    assert (column / "manifest.json").stat().st_mtime_ns == made
    other = (boxes[0], f"--config.labels.detection.path={tmp_path / 'other.json'}")
    for flags in (other, (*boxes, "--config.labels.detection.options.orientation=stored")):
        assert call(*prepare, *flags) == 2
        assert "config.labels.detection: there is no file" in capsys.readouterr().err
    next(column.glob("*array_record*")).unlink()
    assert call(*prepare, *boxes) == 2
    assert "config.labels.detection: there is no file" in capsys.readouterr().err


@pytest.mark.parametrize("replace, suffix", [("train/,train/gt_", ""), (",_ids", "_ids")])
def test_maps_called_otherwise_are_found_by_an_option_of_the_command(
    replace: str, suffix: str, images: ImageSet, tmp_path: Path
):
    for name in NAMES:
        file = f"{name.removesuffix('.png')}{suffix}.png" if suffix else name.replace("train/", "train/gt_")
        write_png(tmp_path / "masks" / file, np.zeros((SIDE, SIDE), np.uint8))
    labels = {"format": "id_png", "path": tmp_path / "masks", "options.classes": "a,b", "options.replace": replace}
    flags = [f"--config.labels.segmentation.{key}={value}" for key, value in labels.items()]
    data_dir = tmp_path / "data"
    assert call(config_file("prepare"), f"--config.images={images.name}", f"--config.data_dir={data_dir}", *flags) == 0
    assert manifest.read(data_dir / "photos/columns/segmentation").summary().absent == 0


@pytest.mark.parametrize(
    "task, format_, code, options, told",
    [
        (
            "segmentation",
            "id_png",
            255,
            ("classes=CLASSES", "codes=0,255"),
            "background 4, object 4; of the pixels backg",
        ),
        ("segmentation", "id_png", 255, ("classes=CLASSES",), "so it looks like 'object'; set the option codes=0,255"),
        ("depth", "depth_png", 512, ("unit=1/256",), "depth from 2 over about 2 (median) to 2 m; valid: 25 %"),
        ("depth", "depth_png", 65535, ("unit=mm", "invalid=0,65535"), "no pixel with a label"),
        ("depth", "depth_png", 512, ("unit=256",), "2 to 2 m with unit=1/256"),
    ],
)
def test_options_of_the_command(
    task: str, format_: str, code: int, options: tuple[str, ...], told: str, tmp_path: Path, capsys: Any
):
    images = write_images(tmp_path / "images", NAMES[:4])
    codes = np.zeros((SIDE, SIDE), np.uint16 if task == "depth" else np.uint8)
    codes[: SIDE // 2, : SIDE // 2] = code
    for name in NAMES[:4]:
        write_png(tmp_path / "maps" / name, codes)
    (tmp_path / "classes.txt").write_text("background\nobject\n")
    labels = f"--config.labels.{task}."
    flags = [f"{labels}format={format_}", f"{labels}path={tmp_path / 'maps'}"]
    flags += [f"{labels}options.{each.replace('CLASSES', str(tmp_path / 'classes.txt'))}" for each in options]
    code = call(config_file("prepare"), f"--config.images={images.name}", f"--config.data_dir={tmp_path / 'd'}", *flags)
    assert code == (2 if "unit=256" in options or options == ("classes=CLASSES",) else 0)
    assert told in capsys.readouterr().err


def test_formats_of_classes_need_some(images: ImageSet, tmp_path: Path):
    file = write_coco(tmp_path / "coco.json", annotations=[], categories=[])
    with pytest.raises(UserError, match="task 'detection' needs class names"):
        imported(images, "detection", tmp_path / "c", format="coco", path=str(file))
    assert not (tmp_path / "c").exists()


def test_every_image_is_read_once(images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """For its name and shape; labels are checked, then written, without it."""
    monkeypatch.setattr(image_sets, "_CACHED_RECORDS", 0)
    prepared = prepare(PrepareConfig(name="photos", images=images.name, data_dir=str(tmp_path / "data")))
    read, record = [], ImageSet.record
    monkeypatch.setattr(ImageSet, "record", lambda self, index: read.append(index) or record(self, index))
    truth.write(
        prepared,
        "detection",
        TruthConfig(format="coco", path=str(write_coco(tmp_path / "coco.json"))),
        tmp_path / "c",
        shard_images=2,
    )
    assert sorted(read) == list(range(len(images)))


def test_images_of_a_folder_are_not_read_for_class_folders(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ImageSet, "record", lambda self, index: pytest.fail("read"))
    column = imported(images, "classification", tmp_path / "c", format="class_folders")
    assert column.manifest.summary().absent == 0


@pytest.mark.parametrize("format_", ["coco", "depth_png"])
def test_labels_of_photos_as_they_are_stored(format_: str, tmp_path: Path):
    """As tools that ignore Exif make them: refused, unless that is said; then they are where the photo shows it."""
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6  # a quarter turn clockwise
    (tmp_path / "in").mkdir()
    PIL.Image.new("RGB", (48, 32)).save(tmp_path / "in/1.jpg", exif=exif)
    images = open_images(f"folder:{tmp_path}/in", "")
    near = np.full((32, 48), 9000, np.uint16)
    near[:8, 36:] = 1000  # top right, and upright at the bottom right
    write_png(tmp_path / "depth/1.png", near)
    file = write_coco(
        tmp_path / "coco.json",
        images=[{"id": 1, "file_name": "1.jpg", "width": 48, "height": 32}],
        annotations=[{"image_id": 1, "category_id": 3, "bbox": [36, 0, 12, 8]}],
    )
    task, config = {
        "coco": ("detection", {"path": str(file), "options": {}}),
        "depth_png": ("depth", {"path": str(tmp_path / "depth"), "options": {"unit": "mm"}}),
    }[format_]
    message = "is for 48 x 32 pixels, but 1.jpg has 32 x 48 upright; set the option orientation=stored"
    with pytest.raises(UserError, match=message):
        imported(images, task, tmp_path / "c", format=format_, **config)
    config["options"]["orientation"] = "stored"
    label = imported(images, task, tmp_path / "c", format=format_, **config)[0]
    if format_ == "coco":
        np.testing.assert_allclose(label["boxes_yxyx"], [[36 / 48, 24 / 32, 1, 1]])
    else:
        assert label["depth"].shape == (48, 32)
        np.testing.assert_array_equal(label["depth"] < 5, (np.arange(48) >= 36)[:, None] & (np.arange(32) >= 24))


def test_columns_from_before_orientation_was_an_option_are_finished(images: ImageSet, tmp_path: Path):
    config = {"format": "coco", "path": str(write_coco(tmp_path / "coco.json"))}
    column = imported(images, "detection", tmp_path / "c", **config)
    assert column.manifest.source.options == {"classes": []}
    with pytest.raises(UserError, match="was made from other options"):
        imported(images, "detection", tmp_path / "c", **config, options={"orientation": "stored"})
