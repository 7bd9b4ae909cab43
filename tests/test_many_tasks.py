"""Several tasks of one kind: from true labels and two teachers to one student and its scorecard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from short_training import MODEL

from must_jax import description, predict, trained
from must_jax.data.shards import COLUMNS
from must_jax.errors import UserError
from must_jax.labels import manifest
from must_jax.parsing import parse
from must_jax.stages import STAGES

OBJECTS, MATERIALS = ("ground", "disc", "bar"), ("paper", "paint")
MANY = 40
OPTIMIZER = {"learning_rate": 0.2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image set with two segmentations: what there is, and what it is made of."""
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    for name in ("photos", "objects", "materials"):
        (folder / name).mkdir()
    for i in range(MANY):
        image = rng.integers(0, 60, (48, 64, 3), np.uint8)
        objects, materials = np.zeros((48, 64), np.uint8), np.zeros((48, 64), np.uint8)
        for shape in range(2):
            y, x = rng.integers(8, 40), rng.integers(8, 56)
            where = np.zeros((48, 64), np.uint8)
            if shape:
                cv2.rectangle(where, (int(x) - 7, int(y) - 3), (int(x) + 7, int(y) + 3), 1, -1)
            else:
                cv2.circle(where, (int(x), int(y)), 7, 1, -1)
            painted = rng.random() < 0.5
            image[where > 0] = (40, 200, 40) if painted else (200, 40, 40)
            objects[where > 0], materials[where > 0] = shape + 1, painted
        cv2.imwrite(str(folder / f"photos/{i:02d}.png"), image)
        cv2.imwrite(str(folder / f"objects/{i:02d}.png"), objects)
        cv2.imwrite(str(folder / f"materials/{i:02d}.png"), materials)
    labels = {
        task: {
            "kind": "segmentation",
            "format": "id_png",
            "path": str(folder / task),
            "options": {"classes": classes},
            "licence": f"of {task}",
        }
        for task, classes in (("objects", OBJECTS), ("materials", MATERIALS))
    }
    run(folder, "prepare", name="made", images=f"folder:{folder}/photos", shard_images=16, labels=labels)
    return folder


def run(folder: Path, stage: str, workdir: str = "prepare", **values: Any) -> Path:
    place = folder / "runs" / workdir
    STAGES[stage](parse({"stage": stage, "data_dir": str(folder / "data"), **values}), place)
    return place


def training(source: dict[str, Any], tasks: dict[str, Any], **more: Any) -> dict[str, Any]:
    validation = {**source, "images": "made:train[75%:]", "labels": ("truth",)}
    common = {"image_size": 32, "model": MODEL, "batch_size": 8, "steps": 30, "optimizer": OPTIMIZER, "devices": 1}
    return common | {"train": [source], "validation": [validation], "tasks": tasks, **more}


@pytest.fixture(scope="module")
def labelled(data: Path) -> Path:
    """Columns by two teachers: one calls its task what the other could, too, and gets another name here."""
    truth = {"images": "made:train[:75%]"}
    first = {**truth, "names": {"objects": "segmentation"}}
    teacher = run(data, "train", "objects_teacher", **training(first, {"segmentation": {}}))
    other = run(data, "train", "materials_teacher", **training(truth, {"materials": {"kind": "segmentation"}}))
    assert description.read(other).tasks["materials"].options["kind"] == "segmentation"
    teachers = [{"model": str(teacher), "names": {"segmentation": "objects"}}, str(other)]
    options = {"materials": {"confidence_threshold": 0.2}, "objects": {"confidence_threshold": 0.1}}
    images = {"images": "made:train", "teachers": teachers, "tasks": options, "gallery_images": 2, "devices": 1}
    return run(data, "label", "labels", **images, accept_failed=("objects", "materials"))


def test_columns_know_their_task_by_their_manifest(labelled: Path) -> None:
    columns = {folder.name: manifest.read(folder) for folder in (labelled / COLUMNS).iterdir()}
    assert {name: (each.task, each.task_kind, each.classes) for name, each in columns.items()} == {
        "objects_teacher-objects": ("objects", "segmentation", OBJECTS),
        "materials_teacher-materials": ("materials", "segmentation", MATERIALS),
    }
    rule = columns["materials_teacher-materials"].rule
    assert rule["confidence_threshold"] == 0.2 and not {"kind", "name"} & rule.keys()
    assert (labelled / "gallery.html").read_text().count("objects") > 0


def test_two_segmentations_meet_in_one_student_and_its_scorecard(
    data: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = {name: {"kind": "segmentation"} for name in ("objects", "materials")}
    source = {"images": "made:train", "labels": (str(labelled),)}
    values = training(source, tasks) | {"accept_failed": tuple(tasks), "best": "materials/miou", "validate_every": 15}
    student = run(data, "train", "student", **values)
    model = trained.load(student)
    assert {name: task.classes for name, task in model.tasks.items()} == {"objects": OBJECTS, "materials": MATERIALS}
    assert model.variables["params"]["heads"].keys() == {"objects", "materials"}
    assert {"objects/miou", "materials/miou", "materials/pixel_accuracy"} <= model.metrics.keys()
    told = description.read(student)
    known = {"objects of made:train[:75%]": "of objects", "materials of made:train[:75%]": "of materials"}
    assert {key.replace("segmentation", "objects"): each for key, each in told.training.licences.items()} == known
    assert told.training.loss_weights == {"objects": 1.0, "materials": 1.0}

    parts = {"train": "made:train[:50%]", "validation": "made:train[50%:75%]", "test": "made:train[75%:]"}
    downstream = {
        f"{task}_set": {"task": task, "options": {"kind": "segmentation"}}
        | {split: {"images": images} for split, images in parts.items()}
        for task in tasks
    }
    transfer = {"mode": "frozen", "steps": 4, "batch_size": 8, "learning_rates": [0.1], "seeds": [0, 1]}
    card = {"inits": {"student": str(student), "scratch": ""}, "downstream": downstream, "transfers": [transfer]}
    scorecard = run(data, "evaluate", "card", **card, model=MODEL, image_size=32, devices=1)
    rows = (scorecard / "scorecard.csv").read_text()
    assert "objects_set" in rows and "materials_set" in rows

    audited = run(data, "audit", "audit", images="made:train", columns=(str(labelled),))
    verdicts = json.loads((audited / "audit.json").read_text())["columns"]
    assert len(verdicts) == 2 and all("miou" in json.dumps(each) for each in verdicts.values())  # against its own truth
    capsys.readouterr()
    STAGES["describe"](parse({"stage": "describe"}), student)
    said = capsys.readouterr().out
    assert "objects" in said and "materials" in said and "of materials" in said
    found = model.predict(data / "photos/00.png")
    assert {name: label["ids"].shape for name, label in found.items()} == {"objects": (48, 64), "materials": (48, 64)}
    asked = ["--model", str(student), "--out", str(data / "predicted"), "--tasks.materials.confidence_threshold=0.9"]
    assert predict.main(["predict", *asked, str(data / "photos/00.png")]) == 0
    STAGES["report"](parse({"stage": "report", "runs": [str(student), str(scorecard), str(labelled)]}), student)
    assert "materials" in (student / "report/index.html").read_text()


def test_two_class_lists_under_one_name_are_told_to_take_two(data: Path, labelled: Path) -> None:
    columns = tuple(
        str(labelled / COLUMNS / name) for name in ("objects_teacher-objects", "materials_teacher-materials")
    )
    names = {"objects_teacher-objects": "parts", "materials_teacher-materials": "parts"}
    source = {"images": "made:train", "labels": columns, "names": names}
    values = training(source, {"parts": {"kind": "segmentation"}}) | {"validation": []}
    with pytest.raises(UserError) as error:
        run(data, "train", "never", **values)
    assert "--config.train.0.names.materials_teacher-materials=NAME" in str(error.value)
    assert "--config.tasks.NAME.kind=segmentation" in str(error.value)
    mapped = values | {"train": [{**source, "names": {"objects_teacher-object": "parts"}}]}
    with pytest.raises(UserError, match="objects_teacher-object"):
        run(data, "train", "never", **mapped)
    alone = {**source, "labels": columns[:1], "names": {"objects_teacher-objects": "parts"}}
    other_kind = training(alone, {"parts": {"kind": "detection"}}) | {"validation": []}
    with pytest.raises(UserError, match="of kind detection"):
        run(data, "train", "never", **other_kind)
