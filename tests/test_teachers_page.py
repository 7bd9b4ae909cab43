"""docs/teachers.md: its worked example in its order, from an empty folder, and what else it shows; without PyTorch.

tests/interop/test_teachers_page_in_full.py runs what needs PyTorch.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import teachers_page
from command_line import ROOT
from photos import jpeg, write_files
from teachers_page import BLOCKS, COMMANDS

from must_jax import description
from must_jax.config import LabelConfig, TeacherConfig
from must_jax.data.shards import COLUMNS
from must_jax.labels import manifest
from must_jax.labels.columns import LabelColumn
from must_jax.parsing import parse
from must_jax.stages import label

WITHOUT_DEPTH = {r'    \{"model": "transformers:.*\n': "", r' "depth": \{"depth_kind": "inverse_relative"\},': ""}


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory):
    with teachers_page.home(tmp_path_factory.mktemp("home")) as folder:
        yield folder


def test_the_worked_example_without_pytorch(capsys: pytest.CaptureFixture[str]):
    """As the page says: without `depth`, and without its lines in the config."""
    teachers_page.work_through(WITHOUT_DEPTH, leave_out=" depth")
    said = capsys.readouterr()
    columns = {folder.name: manifest.read(folder) for folder in Path("runs/trial/label", COLUMNS).iterdir()}
    assert columns.keys() == {"toys-detection", "regions-colours"}
    assert columns["toys-detection"].min_confidences["dark thing"] == 0.7
    boxes = LabelColumn(Path("runs/trial/label", COLUMNS, "toys-detection"))
    found = [boxes[i] for i in range(len(boxes))]
    assert len(found) == 45 and any(len(each["classes"]) for each in found)
    assert not all(len(each["classes"]) for each in found)
    model = description.read(Path("runs/mine/student"))
    assert {name: task.options.get("kind", name) for name, task in model.tasks.items()} == {
        "detection": "detection",
        "colours": "segmentation",
    }
    assert set(model.training.licences) == {"toys", "regions"}
    assert all(
        " ".join([name, licence]) in " ".join(said.out.split()) for name, licence in model.training.licences.items()
    )
    assert Path("runs/toys/columns/toys-detection/manifest.json").exists()


def test_the_config_has_what_the_page_shows():
    shown: dict = {}
    exec(next(block for block in BLOCKS["python"] if "RULES" in block), shown)
    made: dict = {}
    exec((ROOT / "configs/others.py").read_text(encoding="utf-8"), made)
    for name in ("PHOTOS", "TEACHERS", "TASKS", "RULES"):
        assert shown[name] == made[name]


def test_every_entry_of_the_tables_can_be_written_so():
    """And every command names configs and keys that there are."""
    entries = re.findall(r"`(\{\"model\".*?\})`", teachers_page.PAGE)
    assert len(entries) > 14
    for entry in entries:
        teacher = TeacherConfig.model_validate(json.loads(entry))
        assert teacher.tasks


def test_the_shorter_blocks_are_configs(tmp_path: Path):
    (function,) = (block for block in BLOCKS["python"] if block.startswith("{"))
    declared = eval(function)
    two: dict = {}
    exec(next(block for block in BLOCKS["python"] if '"names"' in block), two)
    config = parse({"stage": "label", "images": "folder:photos", "teachers": two["TEACHERS"]})
    assert isinstance(config, LabelConfig) and config.teachers[1].names == {"segmentation": "objects"}
    assert set(two["TASKS"]) == {*config.teachers[0].tasks, *config.teachers[1].names.values()}
    assert TeacherConfig.model_validate(declared).tasks == config.teachers[0].tasks


def test_the_mapping_that_the_page_shows(tmp_path: Path):
    """Of a model with other classes, spelt as there."""
    (text,) = BLOCKS["toml"]
    (tmp_path / "street.toml").write_text(text)
    (tmp_path / "named.py").write_text(
        "import numpy as np\ndef all_of_it(images):\n"
        "    boxes = np.tile([1, 1, 20, 20], (7, 1))\n"
        "    return [{'boxes': boxes, 'scores': np.full(7, 0.9), 'classes': np.arange(7)} for _ in images]\n"
    )
    classes = ["car", "person", "bus", "motorbike", "kite", "truck", "bicycle"]
    task = {"classes": classes, "mapping": str(tmp_path / "street.toml")}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        images = write_files(tmp_path / "photos", {"a.jpg": jpeg()})
        values = {"stage": "label", "images": f"folder:{images}", "gallery_images": 0}
        teacher = {"model": "python:named:all_of_it", "tasks": {"detection": task}}
        label.run(parse(values | {"teachers": [teacher]}), tmp_path / "run")
    column = LabelColumn(tmp_path / "run" / COLUMNS / "all_of_it-detection")
    assert column.classes == ("vehicle", "pedestrian", "two_wheeler")
    assert sorted(column[0]["classes"].tolist()) == [0, 0, 0, 1, 2, 2]
    assert column.manifest.teacher.classes["detection"]["kite"] is None


def test_no_command_of_the_page_is_left_out():
    """Those of the check are run by its own tests."""
    others = [command for command in COMMANDS if command not in teachers_page.EXAMPLE_COMMANDS]
    assert len(teachers_page.EXAMPLE_COMMANDS) == 7 and all("--config=configs/check.py" in each for each in others)
