"""From a folder of photographs to labels that a student reads, and what is said when the folder changes."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from made_teacher import HEADLINES, make_teacher
from photos import encoded, jpeg, picture, write_files

from must_jax.config import LabelConfig, LabelsConfig, SourceConfig
from must_jax.errors import UserError
from must_jax.inputs.sources import open_source
from must_jax.stages import label, labels


class Labelled(NamedTuple):
    """The folder with `photos`, `teacher` and `run`, and what the labelling said."""

    home: Path
    said: str


def config_of(home: Path, **changes: object) -> LabelConfig:
    images, teachers = f"folder:{home / 'photos'}", (str(home / "teacher"),)
    return LabelConfig(**{"images": images, "teachers": teachers, "batch_size": 4, "devices": 1, **changes})


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    """Five photos, one of them very narrow, and two files that cannot be read."""
    home = tmp_path_factory.mktemp("home")
    good = {f"{i}.jpg": jpeg(seed=i) for i in range(4)} | {"narrow.png": encoded(picture(200, 3), "PNG")}
    write_files(home / "photos", good | {"cut off.jpg": jpeg()[:400], "text.jpg": b"no image"})
    make_teacher(home / "teacher", ("depth", "normals"), 32, HEADLINES)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        label.run(config_of(home), home / "run")
    return Labelled(home, said.getvalue())


def test_files_that_are_skipped_are_told_from_images_that_are_not_labelled(labelled: Labelled) -> None:
    assert re.search(r"^checking folder:\S+ 7/7 \(100 %\)", labelled.said, re.M), labelled.said
    assert "run: 5 images in 2 columns, 0 not labelled, 2 files skipped; see " in labelled.said


def test_a_student_reads_the_label_run(labelled: Labelled) -> None:
    source = SourceConfig(images=f"folder:{labelled.home / 'photos'}", labels=(str(labelled.home / "run"),))
    opened = open_source(source, "", ["depth", "detection"])
    assert [(column.task, len(column)) for column in opened.columns] == [("depth", 5)]


def test_a_folder_that_has_changed_is_labelled_in_another_workdir(
    labelled: Labelled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever the old labels are met, the sentence says so; a folder that is gone is no matter."""
    home = tmp_path / "home"
    for name in ("teacher", "photos"):
        shutil.copytree(labelled.home / name, home / name)
    run = home / "run"
    label.run(config_of(home), run)
    label.run(config_of(home), run)
    assert capsys.readouterr().err.splitlines()[-1] == f"{run} is finished; nothing to do"

    write_files(home / "photos", {"new.jpg": jpeg(seed=9)})
    images, sentence = f"folder:{home / 'photos'}", "has now; label them in another --workdir"
    with pytest.raises(
        UserError, match=f"^{images} has changed since {run} labelled it; choose another --workdir, or del"
    ):
        label.run(config_of(home), run)
    for take in (0, 5):
        with pytest.raises(UserError, match=sentence):
            open_source(SourceConfig(images=images, labels=(str(run),), take=take), "", ["depth"])
    with pytest.raises(UserError, match="do not train on them until they are repaired"):
        labels.run(LabelsConfig(action="verify", columns=(str(run),), images=images), tmp_path)
    assert sentence in capsys.readouterr().err

    shutil.rmtree(home / "photos")
    label.run(config_of(home), run)
    assert "is finished; nothing to do" in capsys.readouterr().err
