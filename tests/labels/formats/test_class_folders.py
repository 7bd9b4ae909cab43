"""Which folder is a class."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from photos import jpeg, write_files

from must_jax.data.image_sets import open_images
from must_jax.data.kinds import VectorLabel
from must_jax.errors import UserError
from must_jax.labels.formats.base import Annotations, Photo
from must_jax.labels.formats.class_folders import ClassFolders


def opened(names: list[str], **options: object) -> Annotations:
    return ClassFolders(**options).open(Path(), names, VectorLabel(0))


def classes(names: list[str], **options: object) -> list[str]:
    """Of each image."""
    annotations = opened(names, **options)
    labels = [annotations.label(Photo(name, None)) for name in names]
    return [annotations.classes[int(np.argmax(label["probs"]))] for label in labels]


def test_the_level_and_images_at_several_depths_are_told(capsys: pytest.CaptureFixture[str]):
    names = ["train/cat/1.jpg", "train/cat/indoor/2.jpg", "train/dog/3.jpg"]
    assert classes(names) == ["cat", "indoor", "dog"]
    said = "the class is the innermost folder (level -1), train/cat/1.jpg is a 'cat'; images lie in 2 to 3 folders: "
    said += "train/cat/1.jpg is a 'cat', train/cat/indoor/2.jpg a 'indoor', so set level to choose another folder"
    assert said in capsys.readouterr().err
    assert classes(names, level=1) == ["cat", "cat", "dog"]
    assert classes(names[::2], level=0) == ["train", "train"]
    assert capsys.readouterr().err.endswith(
        "the class is the outermost folder (level 0), train/cat/1.jpg is a 'train'\n"
    )


@pytest.mark.parametrize("name", ["0.tar/1.jpg", "a/0.tar/1.jpg", "t.parquet/0"])
def test_a_file_of_images_is_no_class(name: str):
    with pytest.raises(
        UserError, match=f"{name} lies in 0 folders inside of {name.rpartition('/')[0]}, so there is no"
    ):
        opened([name])
    assert classes(["a/0.tar/cat/1.jpg"], level=0) == ["cat"]


def test_a_class_is_one_however_its_accents_are_stored():
    """On disk as macOS has them and as others do, and in a config."""
    composed, split = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    names = [f"{composed}/1.jpg", f"{split}/1.jpg", "thé/1.jpg"]
    assert composed != split
    assert classes(names) == [composed, composed, "thé"]
    for declared in (composed, split):
        assert opened(names, classes=["thé", declared]).classes == ("thé", composed)


def test_hidden_folders_are_no_classes(tmp_path: Path):
    write_files(
        tmp_path, {f"{name}/1.jpg": jpeg() for name in ("cat", "cat/.ipynb_checkpoints", "dog", "@eaDir/x.jpg")}
    )
    images = open_images(f"folder:{tmp_path}", "")
    assert classes([images.name_of(index) for index in range(len(images))]) == ["cat", "dog"]
