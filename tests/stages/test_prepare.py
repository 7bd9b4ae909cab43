"""The stage through the real command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import call, config
from photos import bad_files, good_files, jpeg, write_files, write_tar

from must_jax.config import LabelConfig
from must_jax.data.image_sets import open_images
from must_jax.errors import UserError
from must_jax.inputs.mistakes import check_config


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("photos"), good_files() | bad_files() | {"notes.txt": b""})


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_photos_become_an_image_set(photos: Path, home: Path, capsys: pytest.CaptureFixture[str]):
    """Prepared, left alone, and read by name as every other stage does."""
    for said in (
        "data/photos/1.0.0: 12 images, 5 unreadable, other files: 1; skipped.json lists those that are not in the "
        "set; read it as photos:train",
        "data/photos/1.0.0 is finished; nothing to do, read it as photos:train",
    ):
        assert call(config("prepare"), f"--config.images=folder:{photos}") == 0
        assert capsys.readouterr().err.splitlines()[-1] == said
    assert [path.name for path in home.iterdir()] == ["data"]
    assert len(open_images("photos:train", "data")) == len(good_files())
    check_config(LabelConfig(images="photos:train[:5]", teachers=(str(photos),)))
    with pytest.raises(UserError, match="there is no split 'trian'; did you mean 'train'"):
        check_config(LabelConfig(images="photos:trian", teachers=(str(photos),)))


@pytest.mark.parametrize("spec", ["tar:photos.tar", "parquet:photos"])
def test_what_is_only_prepared_is_not_opened(spec: str):
    with pytest.raises(
        UserError, match=r"are not an image set yet; run configs/prepare\.py on them, then use the name"
    ):
        open_images(spec, "data")


def test_what_is_not_read_of_tar_files_is_said_and_found_again(home: Path, capsys: pytest.CaptureFixture[str]):
    write_tar(home / "in/1.tar", [("a.jpg", jpeg()), ("a.cls", b"3"), ("b.jpg", b"no image")])
    write_tar(home / "in/2.tar", [("c.jpg", jpeg(1)), ("c.json", b"{}")])
    assert call(config("prepare"), "--config.images=tar:in") == 0
    said = (
        "2 images, 1 unreadable, other files: 2; beside the images, not read: .cls, .json; "
        "skipped.json lists those that are not in the set; read it as"
    )
    assert said in capsys.readouterr().err.splitlines()[-1]
    (skipped,) = json.loads(Path("data/photos/1.0.0/skipped.json").read_text())
    assert skipped["name"] == "1.tar/b.jpg"


def test_several_sets_side_by_side(photos: Path):
    for name in ("one", "other"):
        assert call(config("prepare"), f"--config.images=folder:{photos}", f"--config.name={name}") == 0
    assert len(open_images("one:train", "data")) == len(open_images("other:train", "data"))


def test_one_that_is_not_finished_is_not_read(photos: Path):
    assert call(config("prepare"), f"--config.images=folder:{photos}") == 0
    Path("data/photos/1.0.0/dataset_info.json").unlink()
    with pytest.raises(UserError, match=r"photos has no VERSION.* or its preparation not finished"):
        open_images("photos:train", "data")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["images=photos"], "images='photos' must be 'folder:PATH'"),
        (["images=fodler:photos"], "'fodler' is not a kind of source; did you mean 'folder'?"),
        (["images=folder:nowhere"], "there is no folder nowhere; name a folder with photos"),
        (["images=folder:empty"], "there are no images (other files: 1); images are files that end in .jpg"),
        (["images=tar:empty"], "there is no .tar file in empty"),
        (["images=parquet:empty"], "there is no .parquet file in empty"),
        (["images=tfds:coco:train"], "there is no TFDS dataset in data/coco"),
        (["name=a/b"], "config.name: 'a/b' is not a valid name; use a-z, 0-9 and _, and begin with a letter"),
        (["name=Photos"], "config.name: 'Photos' is not a valid name"),
        (["name="], "config.name is none"),
        (["name=scenes"], "config.name: 'scenes:train' has another meaning"),
        (
            ["image_column=x"],
            "config: image_column is only for Parquet files, but images is 'folder:photos'; remove",
        ),
        (["shard_images=0"], "config.shard_images is 0, but should be greater than 0"),
        (
            ["data_dir=empty/notes.txt", "images=folder:good"],
            "config.data_dir=empty/notes.txt is a file; name a folder",
        ),
        (["image=folder:good"], "config.image is unknown; did you mean 'images'?"),
    ],
)
def test_a_mistake_is_answered_before_any_work(
    home: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], sentence: str
):
    write_files(home, {"empty/notes.txt": b"", "good/1.jpg": jpeg()})
    before = sorted(home.rglob("*"))
    assert call(config("prepare"), *(f"--config.{override}" for override in overrides)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert sentence in said
    assert sorted(home.rglob("*")) == before
