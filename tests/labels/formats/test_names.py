"""Which label belongs to which image."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from photos import write_files

from must_jax.errors import UserError
from must_jax.labels.formats.names import files_below, match, stem


def test_whole_paths_come_first():
    assert match(["a/1", "b/1"], ["b/1", "a/1"], "x") == {"a/1": "a/1", "b/1": "b/1"}


def test_the_last_part_will_do_where_no_whole_path_fits():
    assert match(["train/1.jpg", "train/2.jpg"], ["2.jpg", "7.jpg"], "x") == {"train/2.jpg": "2.jpg"}
    assert match(["1.jpg", "2.jpg"], ["images/2.jpg"], "x") == {"2.jpg": "images/2.jpg"}


def test_a_stray_whole_path_does_not_hide_the_others(capsys: pytest.CaptureFixture[str]):
    numbers = range(1, 102)
    names = ["1.jpg", *(f"train/{i}.jpg" for i in numbers[1:])]
    keys = [*(f"{i}.jpg" for i in numbers[:-1]), "x.jpg"]
    assert match(names, keys, "x") == dict(zip(names[:-1], keys[:-1], strict=True))
    assert capsys.readouterr().err == (
        "x, matched by file names: 1 (e.g. 'x.jpg') of 101 labels match no image, "
        "1 (e.g. 'train/101.jpg') of 101 images have no label\n"
    )
    assert match(names, names, "x") == {name: name for name in names}
    assert capsys.readouterr().err.startswith(
        "x, matched by full paths: 0 of 101 labels match no image, 0 of 101 images"
    )


def test_whole_paths_of_some_folders_and_last_parts_of_others_are_refused():
    """train/010.jpg is not to get the label of test/010."""
    names = [f"{'train' if i < 50 else 'val'}/{i:03}.jpg" for i in range(60)]
    keys = [f"{'train' if i < 5 else 'test'}/{i:03}" for i in range(60)]
    message = "x: full paths match 5 images, file names 60, but .*; give labels and images the same relative"
    with pytest.raises(UserError, match=message):
        match(names, keys, "x", stem)
    assert match(names, keys[:5], "x", stem) == dict(zip(names[:5], keys[:5], strict=True))


def test_whole_paths_decide_where_both_fit_as_many():
    assert match(["a/1", "b/2"], ["a/1", "c/3"], "x") == {"a/1": "a/1"}
    assert match(["a/1", "b/2", "c/1"], ["a/1", "d/2"], "x") == {"a/1": "a/1"}


def test_a_missing_label_is_not_taken_from_another_folder():
    assert match(["a/1", "b/1"], ["a/1"], "x") == {"a/1": "a/1"}


@pytest.mark.parametrize(
    "key",
    [
        r"..\label\train\1.jpg",
        r"C:\Users\x\train\1.jpg",
        "C:/Users/x/train/1.jpg",
        "./train/1.jpg",
        ".\\train/1.jpg",
        "/home/x/train/1.jpg",
        "file:///home/x/train/1.jpg",
        "https://host/set/train/1.jpg?token=a/b",
        "train%2F1.jpg",
        r"\\server\share\train\1.jpg",
        "1.jpg",
    ],
)
def test_paths_of_another_machine(key: str):
    assert match(["train/1.jpg", "2.jpg"], [key], "x") == {"train/1.jpg": key}


def test_only_some_paths_are_those_of_another_machine():
    names = [f"p{i}.jpg" for i in range(6)]
    for label in (r"..\label\p{}.jpg", "../label/p{}.jpg", "/label/p{}.jpg", "file:///c:/label/p{}.jpg"):
        for other in ("p{}.jpg", r"images\p{}.jpg"):
            keys = [(label if i < 3 else other).format(i) for i in range(6)]
            assert match(names, keys, "x") == dict(zip(names, keys, strict=True))


def test_names_that_look_like_those_of_another_machine_are_taken_as_they_are():
    names = [r"ch\xe2t/1.png", "dog/100%25.png", r"dog\2.png", "dog/2.png"]
    assert match(names, names, "x") == {name: name for name in names}
    assert match(["a/1%20.png", "a/1 .png"], ["1%20.png"], "x") == {"a/1%20.png": "1%20.png"}
    with pytest.raises(UserError, match=r"x: '1\.jpg' or '\./1\.jpg' may be the label of 1\.jpg"):
        match(["1.jpg"], ["1.jpg", "./1.jpg"], "x")


def test_names_without_suffix():
    assert match(["a.b/1.x.jpg"], ["a.b/1.x"], "x", stem) == {"a.b/1.x.jpg": "a.b/1.x"}


@pytest.mark.parametrize(
    "names, keys, message",
    [
        (["a/1", "b/1"], ["1"], "labels: '1' may be the label of a/1 or b/1; give labels and images the same relative"),
        (["x/1", "1", "x/2", "x/3"], ["1", "2", "3"], "labels: full paths match 1 images, file names 2, but"),
        (["1"], ["a/1", "b/1"], "labels: 'a/1' or 'b/1' may be the label of 1; "),
        (["1.jpg"], ["1.png"], "none of the 1 images: labels are called like '1.png', images like '1.jpg'"),
        (["1.jpg"], [], "labels are called like '', images"),
    ],
)
def test_what_is_not_clear_is_refused(names: list[str], keys: list[str], message: str):
    with pytest.raises(UserError, match=message):
        match(names, keys, "labels")


def test_accents_match_however_they_are_stored():
    """By full paths and by file names, and in both directions: macOS stores accents as separate characters."""
    composed, split = (unicodedata.normalize(form, "größe/café.jpg") for form in ("NFC", "NFD"))
    assert composed != split
    for image, label in ((composed, split), (split, composed), (split, "x/" + composed), ("y/" + split, composed)):
        assert match([image, "1.jpg"], [label, "2.jpg"], "x") == {image: label}


def test_names_that_differ_in_nothing_else_stay_two():
    composed, split = (unicodedata.normalize(form, "café.jpg") for form in ("NFC", "NFD"))
    assert match([composed, split], [split, composed], "x") == {composed: composed, split: split}
    assert match([composed, split], [split], "x") == {split: split}
    assert match([split], [split, composed], "x") == {split: split}


def test_stems_of_one_folder_may_be_ambiguous():
    with pytest.raises(UserError, match=r"'1' may be the label of 1\.jpg or 1\.png"):
        match(["1.jpg", "1.png"], ["1"], "x", stem)


def test_linked_folders_of_labels_are_looked_into(tmp_path: Path):
    write_files(tmp_path, {"masks/1.png": b"", "elsewhere/2.PNG": b""})
    (tmp_path / "masks/more").symlink_to(tmp_path / "elsewhere")
    files = {"1": tmp_path / "masks/1.png", "more/2": tmp_path / "masks/more/2.PNG"}
    assert files_below(tmp_path / "masks", ".png") == files


def test_of_two_files_of_one_name_none_is_lost(tmp_path: Path):
    write_files(tmp_path, {"a.PNG": b"", "a.png": b"", "b.png": b""})
    with pytest.raises(UserError, match=rf"^{tmp_path / 'a.PNG'} and a\.png are labels with the same name; remove"):
        files_below(tmp_path, ".png")
