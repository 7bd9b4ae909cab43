"""What must be repeated in a pipeline that has changed, and what goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hand_made import TEACHER, Images, describe, write_column
from killed import killed_at_rename
from made_teacher import HEADLINES, SMALL, make_teacher, redescribe
from photos import jpeg, picture, write_files

from must_jax import description
from must_jax.config import AuditConfig, EvaluateConfig, LabelConfig, PrepareConfig, TeacherConfig, TrainConfig
from must_jax.data.image_sets import are_same
from must_jax.errors import UserError
from must_jax.files import write_json
from must_jax.labels import manifest
from must_jax.labels.writer import ColumnWriter
from must_jax.planning import asides, renewal
from must_jax.planning.foreseen import Foreseen
from must_jax.reading import read_json
from must_jax.runs import workdir
from must_jax.stages import label, prepare

TRUTH = {"images": "scenes/teacher_depth_tiny:train"}
HELD_OUT = {"images": "scenes/teacher_depth_tiny:validation"}
DOWNSTREAM = {split: {"images": f"scenes/downstream_depth_tiny:{split}"} for split in ("train", "validation", "test")}


def training(**values: Any) -> TrainConfig:
    given = {"train": [TRUTH], "tasks": {"depth": {}}, "model": SMALL, "image_size": 32, "batch_size": 16, "steps": 5}
    return TrainConfig.model_validate(given | values)


def labelling(**values: Any) -> LabelConfig:
    return LabelConfig.model_validate({"images": "scenes/unlabelled_tiny:train", "teachers": ["t"]} | values)


def digests_of(config: Any) -> dict[str, Any]:
    """What a stage reads -> its present state; None if it is not there."""
    return {key: each[0] if each else None for key, each in renewal._states(config).items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher(tmp_path_factory.mktemp("made") / "first", ("depth",), 32, HEADLINES)


@pytest.fixture
def first(made: Path, tmp_path: Path) -> Path:
    """A finished training of 5 updates, of `training()`."""
    shutil.copytree(made, folder := tmp_path / "first")
    workdir.claim(folder, training())
    (folder / workdir.RESULT_FILE).write_text("{}")
    return folder


def test_more_steps_for_an_unfinished_training_are_refused(tmp_path: Path):
    """They would move its updates aside. Other changes make it another training."""
    workdir.claim(tmp_path / "first", training(steps=2000))
    with pytest.raises(UserError, match=r"2,000 .* config.stages.first.steps is 3,000.*--config.stages.first.steps=20"):
        renewal.planned({"first": training(steps=3000)}, tmp_path)
    for another in (training(steps=1000), training(steps=3000, seed=1)):
        assert renewal.planned({"first": another}, tmp_path).keys() == {"first"}


def test_a_training_that_patience_has_ended_is_not_longer(first: Path):
    """Until that is raised: nothing that reads it has to be repeated."""
    validated = {"validation": [HELD_OUT], "best": "depth/delta1"}
    best = {"metric": "depth/delta1", "value": 90.0, "step": 3, "since": 2}
    redescribe(first / "model.json", training={"planned_steps": 10, "best": best})
    (first / workdir.CONFIG_FILE).unlink()
    workdir.claim(first, training(**validated, patience=2, steps=10))
    workdir.claim(first.parent / "reader", training(init=str(first)))
    for patience, steps, repeated in ((2, 10, False), (2, 20, False), (3, 10, True), (3, 20, True)):
        config = training(**validated, patience=patience, steps=steps)
        planned = renewal.planned({"first": config, "reader": training(init=str(first))}, first.parent)
        assert (list(planned), renewal.is_finished(config, first)) == (["reader"] * repeated, not repeated)


def test_a_training_without_its_weights_is_not_taken_back(first: Path):
    """Which may have been deleted to free space. A damaged description is no reason to end, either."""
    config, other, aside = training(), training(seed=1), first.with_name("first.before-1")
    renewal.record(config, first)
    workdir.release(first)
    first.rename(aside)
    workdir.claim(first, other)
    workdir.release(first)
    renewal.record(other, first)
    weights = aside / "checkpoints"
    told = (aside / "model.json").read_text()
    weights.rename(aside / "elsewhere")
    assert asides.take_back(config, first) == []
    (aside / "elsewhere").rename(weights)
    (aside / "model.json").write_text(told[:-9])
    assert asides.take_back(config, first) == []
    (aside / "model.json").write_text(told)
    assert asides.take_back(config, first) == [aside]


def test_a_measurement_that_had_begun_with_another_model_is_not_repeated_once_it_is_finished(first: Path):
    scorecard = EvaluateConfig.model_validate(
        {
            "inits": {"first": str(first)},
            "downstream": {"range": {"task": "depth", **DOWNSTREAM}},
            "transfers": [{"mode": "frozen", "steps": 2, "batch_size": 8, "learning_rates": [0.1]}],
            "model": SMALL,
        }
    )
    folder = first.with_name("scorecard")
    renewal.record(scorecard, folder)
    workdir.claim(folder, scorecard)
    workdir.release(folder)
    redescribe(first / "model.json", digest="1" * 64)
    assert "has changed" in renewal.outdated(scorecard, folder)
    assert asides.set_aside(scorecard, folder) is None
    renewal.record(scorecard, folder)
    (folder / workdir.RESULT_FILE).write_text("{}")
    assert not renewal.outdated(scorecard, folder)


def test_another_rule_for_pseudo_labels_repeats_them(tmp_path: Path):
    """Of tasks that have labels, and if it is a rule. Further options of a later version are none."""
    teacher, made = str(tmp_path / "t"), tmp_path / "label/columns/t-detection"
    make_teacher(Path(teacher), ("detection", "depth"), 32, HEADLINES)
    by = TEACHER.model_copy(update={"name": "t", "digest": description.read(teacher).digest})
    rule = {"score_threshold": 0.5}
    column = describe("detection", Images(), rule=rule, teacher=by)
    ColumnWriter(made, column)
    before = {"detection": {"score_threshold": 0.5, "weight": 1}}
    workdir.claim(tmp_path / "label", labelling(teachers=[teacher], tasks=before))

    def outdated(**detection: Any) -> str:
        tasks = {"detection": detection, "depth": {"depth_kind": "x"}}
        return renewal.outdated(labelling(teachers=[teacher], tasks=tasks), tmp_path / "label")

    redescribe(Path(teacher) / "model.json", tasks={"detection": {"score_threshold": 0.4, "later": 1}, "depth": {}})
    assert outdated(score_threshold=0.5, weight=2) == outdated(score_threshold="5e-1") == ""
    assert (
        outdated(score_threshold=0.3)
        == "config.tasks.detection.score_threshold is 0.5 there and 0.3 here (only t-detection)"
    )
    assert "0.5 there and 0.4 here" in outdated()


def test_a_rule_with_former_names_is_the_same(tmp_path: Path):
    """The `depth_kind` of depths was called `kind`, in columns, models and configs."""
    teacher, made = str(tmp_path / "t"), tmp_path / "label/columns/t-depth"
    make_teacher(Path(teacher), ("depth",), 32, HEADLINES)
    redescribe(Path(teacher) / "model.json", tasks={"depth": {"kind": "relative"}})
    by = TEACHER.model_copy(update={"name": "t", "digest": description.read(teacher).digest})
    ColumnWriter(made, describe("depth", Images(), rule={"kind": "relative"}, teacher=by))
    workdir.claim(tmp_path / "label", labelling(teachers=[teacher], tasks={"depth": {"kind": "relative"}}))
    for tasks in ({}, {"depth": {"kind": "relative"}}, {"depth": {"depth_kind": "relative"}}):
        config = labelling(teachers=[teacher], tasks=tasks)
        assert config.tasks in ({}, {"depth": {"depth_kind": "relative"}})
        assert renewal.outdated(config, tmp_path / "label") == ""
    other = labelling(teachers=[teacher], tasks={"depth": {"kind": "metric_m"}})
    assert "config.tasks.depth.depth_kind is 'relative' there" in renewal.outdated(other, tmp_path / "label")


def test_only_the_columns_of_a_teacher_that_was_trained_anew_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Those of the other one are the same files, and what was there before stays, wherever the command was killed."""
    broken = bytes(len(jpeg(4)))
    photos = write_files(tmp_path / "photos", {f"{i}.jpg": jpeg(i) for i in range(4)} | {"4.jpg": broken})
    old, new, others, label_run = (tmp_path / name for name in ("old", "new", "others", "label"))
    make_teacher(old, ("depth", "normals"), 32, HEADLINES)
    make_teacher(others, ("depth",), 32, HEADLINES)
    config = labelling(
        images=f"folder:{photos}", teachers=[str(old), str(others)], batch_size=4, shard_images=2, gallery_images=1
    )

    def run() -> None:
        if renewal.outdated(config, label_run):
            asides.set_aside(config, label_run)
        renewal.record(config, label_run)
        label.run(config, label_run)

    def files(column: Path) -> dict[str, tuple[Any, ...]]:
        return {
            path.name: (path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns) for path in column.iterdir()
        }

    run()
    before = {column.name: files(column) for column in (label_run / "columns").iterdir()}
    assert before.keys() == {"old-depth", "old-normals", "others-depth"}
    page = (label_run / "gallery.html").read_bytes()
    redescribe(others / "model.json", metrics=HEADLINES | {"depth/delta1": 91.0})  # which repeats nothing
    run()
    assert not list(tmp_path.glob("*.before-*"))

    make_teacher(new, ("depth", "normals"), 32, HEADLINES, seed=1)
    old.rename(tmp_path / "earlier")
    new.rename(old)
    why = renewal.outdated(config, label_run)
    assert "old has been trained anew" in why and "old-depth, old-normals" in why and "others" not in why
    with killed_at_rename(2, monkeypatch):
        run()
    assert not renewal.is_finished(config, label_run)
    run()
    aside = {path.name: files(path) for path in tmp_path.glob("label.before-*/columns/*")}
    assert aside == {name: made for name, made in before.items() if name.startswith("old")}
    assert (tmp_path / "label.before-1/gallery.html").read_bytes() == page
    assert files(label_run / "columns/others-depth") == before["others-depth"]
    for task in ("depth", "normals"):
        made = manifest.read(label_run / f"columns/old-{task}")
        assert made.complete and made.teacher and made.teacher.digest == description.read(old).digest
    assert read_json(label_run / workdir.RESULT_FILE, dict[str, Any], "")["columns"].keys() == before.keys()
    assert renewal.is_finished(config, label_run) and not renewal.outdated(config, label_run)

    old.rename(tmp_path / "later")  # as docs/own_data.md takes a teacher and its labels back
    (tmp_path / "earlier").rename(old)
    for column in tmp_path.glob("label.before-*/columns/*"):
        shutil.rmtree(label_run / "columns" / column.name)
        column.rename(label_run / "columns" / column.name)
    run()
    assert {column.name: files(column) for column in (label_run / "columns").iterdir()} == before

    (photos / "4.jpg").write_bytes(jpeg(4))  # mended
    assert all(name in renewal.outdated(config, label_run) for name in ("has changed", *before))
    with pytest.raises(UserError, match="readable"):
        label.run(config, label_run)
    (photos / "4.jpg").write_bytes(broken)

    fewer = config.model_copy(
        update={"teachers": (TeacherConfig(model=str(others)),)}
    )  # what reads the run is to read no other columns
    assert "no longer names old" in renewal.outdated(fewer, label_run)
    made = [*label_run.glob("columns/*/*array_record*")]
    inodes = {path: path.stat().st_ino for path in made}
    asides.set_aside(fewer, label_run)
    label.run(fewer, label_run)
    taken = asides.take_back(config, label_run)
    assert {path.name for path in taken} == {"old-depth", "old-normals"} and not renewal.outdated(config, label_run)
    run()
    assert {path: path.stat().st_ino for path in made} == inodes  # the very files
    assert read_json(label_run / workdir.RESULT_FILE, dict[str, Any], "")["columns"].keys() == before.keys()


def test_what_reads_other_columns_is_not_repeated(first: Path):
    """Nor what reads the label run for other tasks."""
    home = first.parent
    write_column(home / "label/columns/teacher-depth", "depth", Images())
    write_column(home / "label/columns/first-normals", "normals", Images())
    manifest_file = home / "label/columns/first-normals/manifest.json"
    manifest_file.write_text(manifest_file.read_text().replace('"name": "teacher"', '"name": "first"'))

    def student(labels: str, *tasks: str, **chosen: list[str]) -> TrainConfig:
        source = {"images": "folder:photos", "labels": [f"{home}/label{labels}"]}
        return training(train=[source], tasks={task: {} for task in tasks}, columns=chosen)

    stages = {
        "first": training(seed=1),
        "label": labelling(images="folder:photos", teachers=[f"{first}/", str(home / "teacher")]),
        "audit": AuditConfig.model_validate({"images": "folder:photos", "columns": [f"{home}/label"]}),
        "normals": student("", "normals"),
        "depth": student("", "depth"),
        "without": student("", "normals", "depth", drop=["first"]),
        "one": student("/columns/first-normals", "normals"),
        "other": student("/columns/teacher-depth", "depth"),
    }
    for name, config in stages.items():
        if name != "first":
            workdir.claim(home / name, config)
    redescribe(first / "model.json", training={"untrained": ["depth"]})  # it adds no column
    planned = renewal.planned(stages, home)
    assert planned.keys() == {"first", "label", "audit", "normals", "one"}
    assert planned["label"] == "it reads first (only first-normals)"


@pytest.mark.parametrize("kept", [True, False])
def test_a_training_that_is_repeated_is_judged_by_its_new_config(first: Path, kept: bool):
    """Not by the model that it is about to replace."""
    redescribe(first / "model.json", metrics={})
    model = SMALL.model_copy(update={"width": 0.25})
    foreseen = Foreseen(first.parent, "data")
    foreseen.add("first", training(model=model, validation=[HELD_OUT]), kept)
    scorecard = EvaluateConfig.model_validate(
        {
            "inits": {"first": str(first)},
            "downstream": {"range": {"task": "depth", **DOWNSTREAM}},
            "transfers": [{"mode": "frozen", "steps": 2, "batch_size": 8, "learning_rates": [0.1]}],
            "model": model,
        }
    )
    mistakes = [*foreseen.mistakes(scorecard), *foreseen.mistakes(labelling(teachers=[str(first)]))]
    assert len(mistakes) == (2 if kept else 0), mistakes


def test_labels_of_another_task_and_the_same_ones_imported_again_repeat_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """But other labels of the same task do."""
    photos = write_files(tmp_path / "photos", {f"{name}/{i}.jpg": jpeg(i) for name in ("a", "b") for i in range(4)})
    classes = {"classification": {"format": "class_folders"}}

    def prepared(**labels: Any) -> TrainConfig:
        config = PrepareConfig(name="own", images=f"folder:{photos}", data_dir=str(tmp_path / "data"), labels=labels)
        prepare.run(config, tmp_path)
        trained = {"train": [{"images": "own:train"}], "tasks": {"classification": {}}, "data_dir": config.data_dir}
        return training(**trained)

    before = digests_of(prepared(**classes))
    assert before["train.0.labels.0"]
    (tmp_path / "masks/a").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "masks/a/0.png"), np.zeros(picture().shape[:2], np.uint8))
    masks = {"format": "id_png", "path": str(tmp_path / "masks"), "options": {"classes": ["wall"]}}
    assert digests_of(prepared(**classes, segmentation=masks)) == before
    checksum = manifest.read(tmp_path / "data/own/columns/classification").checksum
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    shutil.rmtree(tmp_path / "data/own")
    assert digests_of(prepared(**classes)) == before
    assert manifest.read(tmp_path / "data/own/columns/classification").checksum != checksum
    shutil.rmtree(tmp_path / "data/own/columns/classification")
    others = {"classification": {"format": "class_folders", "options": {"classes": "b,a"}}}
    assert digests_of(prepared(**others)) != before


def test_a_column_of_another_task_repeats_no_training_that_does_not_read_it(tmp_path: Path):
    """But it does repeat an audit of the whole label run."""
    run = tmp_path / "run"

    def digests() -> tuple[Any, Any]:
        student = training(train=[{"images": "folder:photos", "labels": [str(run)]}])
        audit = AuditConfig.model_validate({"images": "folder:photos", "columns": [str(run)]})
        return digests_of(student)["train.0.labels.0"], digests_of(audit)["columns.0"]

    write_column(run / "columns/t-depth", "depth", Images())
    before = digests()
    assert all(before)
    write_column(run / "columns/t-normals", "normals", Images())
    assert digests()[0] == before[0] and digests()[1] != before[1]


@pytest.mark.parametrize("recorded", ["read", "of_tasks", "every", "other"])
def test_what_earlier_versions_recorded_of_labels_is_understood(recorded: str, tmp_path: Path):
    """They recorded checksums: of the columns that are read, of all with the tasks, or of all in the label run."""
    run, student = tmp_path / "run", tmp_path / "student"
    names = {"t-depth": "depth", "teacher-normals": "normals", "teacher-segmentation": "segmentation"}
    for name, task in names.items():
        write_column(run / f"columns/{name}", task, Images())
    checksums = {name: manifest.read(run / f"columns/{name}").checksum for name in names}
    of = {"read": ["t-depth"], "of_tasks": ["t-depth", "teacher-normals"], "every": [*names], "other": ["t-normals"]}
    config = training(
        train=[{"images": "folder:photos", "labels": [str(run)]}],
        tasks={"depth": {}, "normals": {}},
        columns={"drop": ["normals"]},
    )
    workdir.claim(student, config)
    before = " ".join(checksums.get(name, "0") for name in of[recorded])
    write_json(student / "inputs.json", {"train.0.labels.0": before})
    assert bool(renewal.outdated(config, student)) == (recorded == "other")
    renewal.record(config, student)
    now = read_json(student / "inputs.json", dict[str, Any], "")["train.0.labels.0"]
    assert now == (before if recorded == "other" else digests_of(config)["train.0.labels.0"])
    column = run / "columns/teacher-normals"
    shutil.rmtree(column)  # is not read
    assert bool(renewal.outdated(config, student)) == (recorded == "other")


def test_a_folder_may_be_written_in_several_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert are_same("folder:photos", f"folder:{tmp_path}/x/../photos") and are_same("tar:a*", f"tar:{tmp_path}/a*")
    assert not are_same("folder:photos", "folder:photos2") and not are_same("photos:train", "photos:test")
    assert not are_same("folder:photos", "tar:photos") and not are_same("photos:train", "photos:./train")
