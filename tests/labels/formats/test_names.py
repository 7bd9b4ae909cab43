"""Which label belongs to which image."""

from __future__ import annotations

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


def test_a_missing_label_is_not_taken_from_another_folder():
    assert match(["a/1", "b/1"], ["a/1"], "x") == {"a/1": "a/1"}


def test_names_without_suffix():
    assert match(["a.b/1.x.jpg"], ["a.b/1.x"], "x", stem) == {"a.b/1.x.jpg": "a.b/1.x"}


@pytest.mark.parametrize(
    "names, keys, message",
    [
        (["a/1", "b/1"], ["1"], "labels: '1' may be the label of a/1 or b/1; give labels and images the same relative"),
        (["1"], ["a/1", "b/1"], "labels: 'a/1' or 'b/1' may be the label of 1; "),
        (["1.jpg"], ["1.png"], "none of the 1 images: labels are called like '1.png', images like '1.jpg'"),
        (["1.jpg"], [], "labels are called like '', images"),
    ],
)
def test_what_is_not_clear_is_refused(names: list[str], keys: list[str], message: str):
    with pytest.raises(UserError, match=message):
        match(names, keys, "labels")


def test_stems_of_one_folder_may_be_ambiguous():
    with pytest.raises(UserError, match=r"'1' may be the label of 1\.jpg or 1\.png"):
        match(["1.jpg", "1.png"], ["1"], "x", stem)


def test_linked_folders_of_labels_are_looked_into(tmp_path: Path):
    write_files(tmp_path, {"masks/1.png": b"", "elsewhere/2.PNG": b""})
    (tmp_path / "masks/more").symlink_to(tmp_path / "elsewhere")
    files = {"1": tmp_path / "masks/1.png", "more/2": tmp_path / "masks/more/2.PNG"}
    assert files_below(tmp_path / "masks", ".png") == files
