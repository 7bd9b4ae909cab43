"""Mistakes in a declaration are told in one sentence that names what to change, before anything is labelled."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import onnx_graphs
import pytest
from asked import SIDE, SQUARE
from photos import jpeg, write_files

from must_jax.data.shards import COLUMNS
from must_jax.errors import UserError
from must_jax.parsing import parse
from must_jax.planning.foreseen import Foreseen
from must_jax.stages import label
from must_jax.teachers import declarations
from must_jax.teachers.files import digest_of

YOLO = {"model": "yolo.onnx", "tasks": {"detection": {}}}
FUNCTION = "python:made_functions:same"
MODULE = "def same(images):\n    return [image[..., 0] * 0 for image in images]\n"


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory):
    """The working directory, with a detector, a function and a photograph."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder := tmp_path_factory.mktemp("home"))
        onnx_graphs.detector(folder / "yolo.onnx", "yolov8", SQUARE, metadata=onnx_graphs.ultralytics("detect", SIDE))
        write_files(folder / "photos", {"a.jpg": jpeg()})
        (folder / "made_functions.py").write_text(MODULE)
        (folder / "folder").mkdir()
        patch.syspath_prepend(folder)
        yield folder


def config(teacher: Any, **more: Any) -> Any:
    values = {"stage": "label", "images": "folder:photos", "gallery_images": 0, "teachers": [teacher]}
    return parse(values | more)


def task(**values: Any) -> dict[str, Any]:
    return YOLO | {"tasks": {"detection": values}}


def takes(**values: Any) -> dict[str, Any]:
    return YOLO | {"input": values}


def says(**values: Any) -> dict[str, Any]:
    return {"model": FUNCTION, "tasks": {"parts": {"kind": "segmentation", "classes": ["a", "b"]} | values}}


DEPTH = {"model": FUNCTION, "tasks": {"depth": {"depth_kind": "relative", "metres_per_unit": 0.001}}}


@pytest.mark.parametrize(
    ("teacher", "named"),
    [
        ("yolo.onnx", "config.teachers.0.tasks"),
        ({"modle": "yolo.onnx"}, "did you mean 'model'"),
        (YOLO | {"tasks": {"detecton": {}}}, "teacher yolo: .*'detection'"),
        (YOLO | {"tasks": {"boxes": {}}}, "teacher yolo: .*set its kind"),
        (YOLO | {"tasks": {"boxes": {"kind": "detect"}}}, "did you mean 'detection'"),
        (YOLO | {"tasks": ["detection"]}, "config.teachers.0.tasks .*mapping"),
        (task(clases=["a"]), "did you mean 'classes'"),
        (task(score_threshold=0.3), r"tasks\.TASK\.score_threshold"),
        (task(depth_kind="metric_m"), r"depth_kind .*remove it from tasks\.detection"),
        (task(axes="x,y,z", ignore=255), r"axes, ignore .*remove it from tasks\.detection"),
        (task(outputs=["output"]), "did you mean 'output0'"),
        (task(classes="names.txt"), "no file names.txt"),
        (task(mapping="none.toml"), "none.toml"),
        (takes(color="bgr"), "did you mean 'colour'"),
        (takes(size=[1, 2, 3]), r"input\.size .*at most 2"),
        (YOLO | {"model": "YOLA.ONNX"}, "no YOLA.ONNX"),
        (takes(size=64), "input.size is 64, .*128x128"),
        (takes(mean=[0.5]), "three"),
        (takes(mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4]), "range=0..255, or divide"),
        (takes(std=[58.4, 57.1, 57.4]), "range=0..255, or divide"),
        (takes(range="0..255", mean=[0.485, 0.456, 0.406]), "multiply both"),
        (YOLO | {"model": "yola.onnx"}, "no yola.onnx"),
        (YOLO | {"model": "onnx:folder"}, "folder is a folder"),
        (YOLO | {"model": "transformers:yolo.onnx"}, "yolo.onnx is a file"),
        (YOLO | {"model": "folder"}, "transformers:…"),
        (YOLO | {"model": "transformer:folder"}, "'transformer:' is none of .*transformers:"),
        (YOLO | {"model": "transformers:facebook/detr"}, "hf download facebook/detr"),
        (YOLO | {"model": "torchvision:weights.safetensors"}, "torchvision:NAME:FILE"),
        (says() | {"model": "python:made_functions.py:same"}, "write python:made_functions:same"),
        (says() | {"model": "python:made_functions.same"}, "python:MODULE:FUNCTION"),
        (says() | {"input": {"mean": [0.5, 0.5, 0.5]}}, r"remove input\.mean"),
        (says(layout="yolov5"), r"remove it from tasks\.parts"),
        (DEPTH, r"remove tasks\.depth\.metres_per_unit"),
        ({"model": FUNCTION, "tasks": {"simclr": {}}}, r"tasks\.simclr .*no labels"),
    ],
)
def test_a_mistake_is_named(teacher: Any, named: str, tmp_path: Path):
    with pytest.raises(UserError, match=named) as error:
        label.run(config(teacher), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / COLUMNS).exists()


def test_what_is_right_is_read(tmp_path: Path):
    label.run(config(takes(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])), tmp_path / "a")
    label.run(config(takes(range="0..255", mean=[104.0, 117.0, 123.0], std=[1.0, 1.0, 1.0])), tmp_path / "b")
    label.run(config(says(background=1, classes=["a"])), tmp_path / "c")


def test_a_pipeline_tells_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    foreseen = Foreseen(tmp_path, "data")
    assert foreseen.mistakes(config(YOLO)) == []
    assert "yola.onnx" in foreseen.mistakes(config(YOLO | {"model": "yola.onnx"}))[0]
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else there(name))
    (missing,) = foreseen.mistakes(config(YOLO))
    assert "onnxruntime" in missing and "must_jax[onnx]" in missing


def test_a_list_of_classes_in_a_file_counts(tmp_path: Path):
    """For the digest, and so for what a finished run is."""
    file = tmp_path / "names.txt"
    digests = []
    for names in ("red\ngreen\nblue", "green\nred\nblue"):
        file.write_text(names)
        digests.append(digest_of(config(task(classes=str(file))).teachers[0]))
    assert digests[0] != digests[1]


def test_the_background_is_none_of_the_names(tmp_path: Path):
    declared = config(says(background=-1)).teachers[0].tasks["parts"]
    assert declarations.without_background(["a", "b", "none"], declared) == ("a", "b")
    assert declarations.without_background([], declared) == ()
