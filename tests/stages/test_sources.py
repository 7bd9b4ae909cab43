"""What is an image and what is a class in the data that people have, through the real command."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import call, config
from photos import encoded, jpeg, picture, write_files, write_tar

from must_jax.data.image_sets import ImageSet, open_images
from must_jax.labels import manifest

CLASS_FOLDERS = "--config.labels.classification.format=class_folders"
ROWS = pa.struct({"bytes": pa.binary(), "path": pa.string()})


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def prepare(capsys: pytest.CaptureFixture[str]) -> Any:
    """Prepares `images` -> the exit code, and the last lines of what was said."""

    def prepare(images: str, *options: str) -> tuple[int, str]:
        code = call(config("prepare"), f"--config.images={images}", *options)
        return code, capsys.readouterr().err

    return prepare


def images() -> ImageSet:
    return open_images("photos:train", "data")


def names() -> list[str]:
    return [images().name_of(index) for index in range(len(images()))]


def classes() -> tuple[str, ...]:
    return manifest.read(Path("data/photos/columns/classification")).classes


def test_folders_of_editors_and_viewers_are_no_classes(home: Path, prepare: Any):
    photos = {f"{name}/{name[0]}{number}.jpg": jpeg(number) for name in ("cat", "dog") for number in range(6)}
    left_out = {"cat/.ipynb_checkpoints/c0-checkpoint.jpg": jpeg(), "dog/@eaDir/d0.jpg/SYNOPHOTO_THUMB_M.jpg": jpeg()}
    write_files(home / "in", photos | left_out)
    code, said = prepare("folder:in", CLASS_FOLDERS)
    assert (code, names(), classes()) == (0, sorted(photos), ("cat", "dog"))
    assert "12 images, 0 unreadable, other files: 0; skipped: 2 images, hidden, or in a" in said
    assert (
        "hidden or system folder (cat/.ipynb_checkpoints: 1, dog/@eaDir: 1); skipped.json lists those that are not"
        in said
    )
    assert "the class is the innermost folder (level -1), cat/c0.jpg is a 'cat'\n" in said
    assert said.endswith("2 classes, images with each: cat 6, dog 6\n")
    listed = json.loads(Path("data/photos/1.0.0/skipped.json").read_text())
    assert [(each["name"], each["images"]) for each in listed] == [("cat/.ipynb_checkpoints", 1), ("dog/@eaDir", 1)]


def test_images_that_are_all_hidden_are_told(home: Path, prepare: Any):
    write_files(home / "in", {".cache/1.jpg": jpeg()})
    code, said = prepare("folder:in")
    assert (code, said.count("\n")) == (2, 1)
    assert "there are no images (other files: 0); skipped: 1 image, hidden, or in a hidden or system folder (" in said


def test_archives_in_the_place_of_images_are_told(home: Path, prepare: Any):
    write_tar(home / "in/0.tar", [("1.tar", b""), ("2.json", b"")])
    code, said = prepare("folder:in")
    assert code == 2 and "in 0.tar and the like, set images='tar:in'\n" in said
    code, said = prepare("tar:in")
    assert code == 2 and "there are no images (other files: 2: .json, .tar); images are files that end in .jpg" in said


def test_one_class_alone_is_told(home: Path, prepare: Any):
    write_files(home / "in", {f"a/{number}.jpg": jpeg(number) for number in range(3)})
    code, said = prepare("folder:in", CLASS_FOLDERS)
    assert code == 0 and said.endswith("1 class, images with each: a 3; one class alone teaches nothing\n")


def test_masks_and_depth_of_samples_are_no_images(home: Path, prepare: Any):
    mask = encoded(picture(), "PNG")
    files = {".jpg": jpeg(), ".seg.png": mask, ".depth.png": mask, ".cls": b"3"}
    write_tar(home / "in.tar", [(f"{n:06d}{ending}", data) for n in range(8) for ending, data in files.items()])
    code, said = prepare("tar:in.tar")
    assert (code, names()) == (0, [f"{n:06d}.jpg" for n in range(8)])
    assert "skipped: 16 images, beside the image of their sample (.depth.png: 8, .seg.png: 8); beside the im" in said
    assert "not read: .cls;" in said
    assert prepare("tar:in.tar", "--config.name=masks", "--config.image_suffix=seg.png")[0] == 0
    assert len(open_images("masks:train", "data")) == 8
    code, said = prepare("tar:in.tar", "--config.image_suffix=seg.png")
    assert code == 2 and "is prepared with config.image_suffix (), not with ('seg.png',); choose another config" in said
    code, said = prepare("parquet:in.parquet", "--config.image_suffix=jpg")
    assert (
        code == 2
        and "image_suffix is only for folders and tar files, but images is 'parquet:in.parquet'; remove" in said
    )


def test_sets_from_before_endings_could_be_chosen_are_still_read(home: Path, prepare: Any):
    write_files(home / "in", {"1.jpg": jpeg()})
    prepare("folder:in")
    plan = Path("data/photos/1.0.0/prepare.json")
    there = json.loads(plan.read_text())
    assert there.pop("image_suffix") == []
    plan.write_text(json.dumps(there))
    code, said = prepare("folder:in")
    assert code == 0 and "is finished; nothing to do" in said


def test_the_later_member_of_a_tar_file_counts(home: Path, prepare: Any):
    write_tar(home / "in.tar", [("0.jpg", jpeg(0)), ("1.jpg", jpeg(1)), ("0.jpg", jpeg(77))])
    code, said = prepare("tar:in.tar")
    assert code == 0 and "skipped: 1 image, replaced by a later member of the same name (in.tar/0.jpg: 1)" in said
    read = {name: images().record(index)["image"] for index, name in enumerate(names())}
    assert read == {"0.jpg": jpeg(77), "1.jpg": jpeg(1)}


def test_rows_of_paths_alone_and_files_without_rows_are_told(home: Path, prepare: Any):
    rows = [{"bytes": None, "path": f"/home/me/p{number}.jpg"} for number in range(6)]
    pq.write_table(pa.table({"image": pa.array(rows, ROWS)}), home / "paths.parquet")
    pq.write_table(pa.table({"image": pa.array([], ROWS)}), home / "empty.parquet")
    code, said = prepare("parquet:paths.parquet")
    assert code == 2 and "paths alone, 'home/me/p0.jpg' for instance, and no bytes; embed the files when the" in said
    code, said = prepare("parquet:empty.parquet")
    assert code == 2 and "there are no images (other files: 0); images are rows, and its files have none\n" in said


def test_labels_reach_rows_without_a_path_by_file_and_row(home: Path, prepare: Any):
    pq.write_table(pa.table({"image": [jpeg(number) for number in range(3)]}), home / "in.parquet")
    truth = coco(["in.parquet/2", "in.parquet/0"])
    code, said = prepare("parquet:in.parquet", *boxes(home, truth))
    assert code == 0 and "images, and their labels, are called by file and row: 'in.parquet/0'; read it as" in said
    assert "by full paths: 0 of 2 labels match no image, 1 (e.g. 'in.parquet/1') of 3 images have no label" in said
    code, said = prepare("parquet:in.parquet", CLASS_FOLDERS)
    assert code == 2 and "in.parquet/0 lies in 0 folders inside of in.parquet, so there is none at level -1" in said


@pytest.mark.parametrize(("on_disk", "in_labels"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_of_photos_and_labels_need_not_be_stored_alike(on_disk: Any, in_labels: Any, home: Path, prepare: Any):
    paths = ["größe/été.jpg", "größe/plain.jpg"]
    write_files(home / "in", {unicodedata.normalize(on_disk, path): jpeg() for path in paths})
    truth = coco([unicodedata.normalize(in_labels, path) for path in paths])
    code, said = prepare("folder:in", *boxes(home, truth))
    assert code == 0 and "matched by full paths: 0 of 2 labels match no image, 0 of 2 images have no label" in said
    assert names() == sorted(unicodedata.normalize(on_disk, path) for path in paths)


def test_photos_that_differ_in_accents_alone_stay_two(home: Path, prepare: Any):
    both = [unicodedata.normalize(form, "café.jpg") for form in ("NFC", "NFD")]
    write_files(home / "in", {name: jpeg(number) for number, name in enumerate(both)})
    code, said = prepare("folder:in", *boxes(home, coco(both[:1])))
    assert (code, sorted(names())) == (0, sorted(both))
    assert f"0 of 1 labels match no image, 1 (e.g. '{both[1]}') of 2 images have no label" in said


def coco(files: list[str]) -> dict[str, Any]:
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [2, 2, 9, 9], "iscrowd": 0} for n in range(len(files))]
    listed = [{"id": n, "file_name": name, "width": 40, "height": 30} for n, name in enumerate(files)]
    return {"images": listed, "annotations": boxes, "categories": [{"id": 1, "name": "brick"}]}


def boxes(home: Path, truth: dict[str, Any]) -> list[str]:
    (home / "truth.json").write_text(json.dumps(truth))
    return ["--config.labels.detection.format=coco", "--config.labels.detection.path=truth.json"]


def test_files_of_one_name_in_two_folders_are_told_apart_by_whole_paths_alone(home: Path, prepare: Any):
    write_files(home / "in", {f"{folder}/{n}.jpg": jpeg(n) for folder in ("day", "night") for n in range(3)})
    for files in (["d/0.jpg", "n/0.jpg"], ["0.jpg", "1.jpg"]):
        code, said = prepare("folder:in", *boxes(home, coco(files)))
        assert code == 2 and "'0.jpg' may be the label of day/0.jpg or night/0.jpg; give labels and images" in said
    code, said = prepare("folder:in", *boxes(home, coco(["day/0.jpg", "night/0.jpg"])))
    assert code == 0 and "matched by full paths: 0 of 2 labels match no image" in said
