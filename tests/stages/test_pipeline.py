"""The pipeline: stages in order, in their folders, once; and a report of whatever is finished."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from made_pipeline import HELD_OUT, MODEL, THREE, last, named, training
from photos import jpeg, picture, write_files

from must_jax.config import PipelineConfig, TrainConfig
from must_jax.data import scenes
from must_jax.engine import distributed
from must_jax.errors import UserError
from must_jax.parsing import override
from must_jax.planning.sequence import ordered, placed, stage_entries
from must_jax.report import scorecard
from must_jax.report.html import Report
from must_jax.runs import workdir
from must_jax.runs.briefs import state
from must_jax.runs.pipelines import failures, times
from must_jax.stages import pipeline, prepare


def test_a_stage_runs_after_those_it_reads_from(ran: list[tuple[Path, Any]], tmp_path: Path):
    pipeline.run(THREE, tmp_path / "run")
    assert [folder.name for folder, _ in ran] == ["third", "report", "first", "report", "second", "report"]
    assert ran[0][0].parent == tmp_path / "run"


def test_the_scenes_of_later_stages_are_rendered_ahead(
    ran: list[tuple[Path, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[tuple[list[str], str, int]] = []

    @contextlib.contextmanager
    def rendering(names: Iterable[str], data_dir: str) -> Iterator[None]:
        asked.append((list(names), data_dir, len(ran)))
        yield
        asked.append(([], "", len(ran)))

    monkeypatch.setattr(scenes, "rendering_ahead", rendering)
    stages = THREE.model_dump()["stages"]
    stages["z"] = {**stages["third"], "images": "scenes/downstream_depth_tiny:train"}
    pipeline.run(named(**stages), tmp_path / "run")
    (names, data_dir, before), (_, _, after) = asked
    assert data_dir == "somewhere" and before == 0 and after == len(ran) - 1  # the report
    assert "downstream_depth_tiny" in names and "unlabelled_tiny" not in names  # which the first one renders itself


def test_it_is_one_process(ran: list[tuple[Path, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    with pytest.raises(UserError, match="a pipeline runs in one process; to use several, start its stages one by one"):
        pipeline.run(THREE, tmp_path / "run")
    assert not ran and not (tmp_path / "run").exists()


def test_an_audit_comes_between_labelling_and_training(ran: list[tuple[Path, Any]], tmp_path: Path):
    stages = THREE.model_dump()["stages"]
    stages["z"] = {"stage": "audit", "images": "scenes/unlabelled_tiny:train", "columns": "{workdir}/third"}
    pipeline.run(named(**stages), tmp_path / "run")
    assert [folder.name for folder, _ in ran] == [
        "third",
        "report",
        "z",
        "report",
        "first",
        "report",
        "second",
        "report",
    ]
    assert ran[2][1].columns == (str(tmp_path / "run/third"),) and ran[2][1].data_dir == "somewhere"


def test_the_order_of_the_config_is_kept_where_nothing_is_read():
    assert ordered(named(b=training(), a=training(init="{workdir}/bc"), c=training(init="b"))) == [
        "b",
        "a",
        "c",
    ]


def test_two_stages_cannot_wait_for_each_other(tmp_path: Path):
    config = named(a=training(init="{workdir}/b"), b=training(init="{workdir}/a"))
    with pytest.raises(UserError, match=r"config\.stages: \w waits for \w waits for \w"):
        pipeline.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_stage_gets_folder_data_and_devices_of_the_pipeline():
    stage = placed(THREE.stages["first"], THREE, Path("runs/x"))
    assert stage.train[0].labels == ("runs/x/third/columns/second-depth",)
    assert (stage.data_dir, stage.devices, stage.steps) == ("somewhere", 2, 2)
    assert isinstance(stage, TrainConfig)


def test_a_finished_pipeline_says_so_and_runs_nothing(
    ran: list[tuple[Path, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pipeline.run(THREE, tmp_path)
    del ran[:]
    pipeline.run(THREE, tmp_path)
    assert ran == []
    assert f"{tmp_path} is finished; nothing to do" in capsys.readouterr().err


def test_a_stage_that_was_deleted_is_run_again(ran: list[tuple[Path, Any]], tmp_path: Path):
    pipeline.run(THREE, tmp_path)
    del ran[:]
    (tmp_path / "first" / workdir.RESULT_FILE).unlink()
    pipeline.run(THREE, tmp_path)
    assert tmp_path / "first" in [folder for folder, _ in ran]


def test_a_stage_that_fails_leaves_a_report_and_is_run_again(
    ran: list[tuple[Path, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(config: Any, workdir: Path) -> None:
        raise UserError("near chance, see a/config.json and --config=x.py; set config.steps, or --config.seed=2")

    stages = dict(pipeline.STAGES)
    monkeypatch.setitem(pipeline.STAGES, "train", fail)
    with pytest.raises(UserError) as told:
        pipeline.run(THREE, tmp_path)
    assert str(told.value) == (  # the keys are those of the pipeline
        "near chance, see a/config.json and --config=x.py; "
        "set config.stages.first.steps, or --config.stages.first.seed=2"
    )
    assert [folder.name for folder, _ in ran] == ["third", "report", "report"]
    assert not (tmp_path / "result.json").exists()
    assert failures(tmp_path) == {"first": str(told.value)}
    assert [entry.failure for entry in stage_entries(THREE, tmp_path)] == ["", str(told.value), ""]
    monkeypatch.setattr(pipeline, "STAGES", stages)
    pipeline.run(THREE, tmp_path)
    assert failures(tmp_path) == {}
    again = ["third", "first", "report", "second", "report"]  # none after what was finished before
    assert [folder.name for folder, _ in ran[3:]] == again
    assert set(json.loads((tmp_path / "result.json").read_text())["stages"]) == {"first", "second", "third", "report"}


def test_a_report_on_the_way_that_fails_is_told_and_ends_nothing(
    ran: list[tuple[Path, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def broken(*args: Any) -> Any:
        if len(args) > 3:  # on the way
            raise RuntimeError("no font")
        return Report("", {})

    def fail(config: Any, workdir: Path) -> None:
        raise UserError("near chance")

    train = pipeline.STAGES["train"]
    monkeypatch.setattr(pipeline, "_write_report", broken)
    monkeypatch.setitem(pipeline.STAGES, "train", fail)
    with pytest.raises(UserError, match="near chance"):
        pipeline.run(THREE, tmp_path)
    assert re.search("first has failed.*no report: .*no font", capsys.readouterr().err, re.S)
    assert failures(tmp_path) == {"first": "near chance"}
    monkeypatch.setitem(pipeline.STAGES, "train", train)
    pipeline.run(THREE, tmp_path)
    assert (tmp_path / "result.json").exists()


def test_a_stage_that_is_over_is_free(ran: list[tuple[Path, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its folder is locked while it works, and not while the next one does."""
    train, states = pipeline.STAGES["train"], []

    def work(config: Any, folder: Path) -> None:
        train(config, folder)
        states.append([state(tmp_path / name) for name in ("third", "first", "second")])

    monkeypatch.setitem(pipeline.STAGES, "train", work)
    pipeline.run(THREE, tmp_path)
    assert states == [["finished", "running", "not started"], ["finished", "finished", "running"]]
    assert state(tmp_path / "second") == "finished"


def test_labels_that_one_stage_accepts_are_accepted_by_those_that_learn_from_them(
    ran: list[tuple[Path, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(config: Any, workdir: Path) -> None:
        raise UserError("hardly learnt; or label anyway with config.accept_failed=depth,normals")

    monkeypatch.setitem(pipeline.STAGES, "label", refuse)
    stages = THREE.model_dump()["stages"]
    stages["first"]["train"][0]["labels"] = ["{workdir}/third"]
    with pytest.raises(UserError) as told:
        pipeline.run(named(**stages), tmp_path)
    for name in ("third", "first"):
        assert f"config.stages.{name}.accept_failed=depth,normals" in str(told.value)
    assert "config.stages.second" not in str(told.value)


def test_times_add_up_over_restarts(ran: list[tuple[Path, Any]], tmp_path: Path):
    (tmp_path / "times.json").write_text('{"third": 100.0}')
    pipeline.run(THREE, tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert 100 < result["stages"]["third"] < 110
    assert result["seconds"] >= sum(result["stages"].values())


def test_a_folder_of_another_kind_of_run_is_refused(ran: list[tuple[Path, Any]], tmp_path: Path):
    workdir.claim(tmp_path, TrainConfig(**training()))
    with pytest.raises(UserError, match="stage is 'train' there and 'pipeline' here"):
        pipeline.run(THREE, tmp_path)


def test_a_new_title_repeats_nothing(ran: list[tuple[Path, Any]], tmp_path: Path):
    pipeline.run(THREE, tmp_path)
    pipeline.run(THREE.model_copy(update={"title": "other"}), tmp_path)
    assert not list(tmp_path.glob("*.before-*"))


def test_finished_stages_are_asked_about_keys_that_may_change(ran: list[tuple[Path, Any]], tmp_path: Path):
    """Another validation is measured, another minimum checked, by the stage itself."""
    pipeline.run(THREE, tmp_path)
    del ran[:]
    stages = THREE.model_dump()["stages"]
    stages["first"]["validation"] = [HELD_OUT]
    pipeline.run(named(**stages), tmp_path)
    assert [folder.name for folder, _ in ran] == ["third", "first", "second", "report"]
    assert not list(tmp_path.glob("*.before-*"))


def test_a_changed_stage_is_repeated_with_those_that_read_it_and_nothing_is_lost(
    ran: list[tuple[Path, Any]], digests: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    home = tmp_path / "run"
    pipeline.run(THREE, home)
    (home / "first/mine.txt").write_text("mine")
    del ran[:]
    stages = THREE.model_dump()["stages"]
    for seed in (1, 2):
        stages["first"]["seed"] = seed
        pipeline.run(named(**stages), home)
        said = capsys.readouterr().err
        assert (
            f"first is repeated: config.stages.first.seed was {seed - 1} and is {seed}; to keep what it has made, "
            f"set the old value in the config file, or add --config.stages.first.seed={seed - 1}\n"
        ) in said
        assert (
            "second is repeated: it reads first" in said and "third is repeated" not in said and "kept: third" in said
        )
    assert (home / "first.before-1/mine.txt").read_text() == "mine"
    assert json.loads((home / "second.before-2/config.json").read_text())["init"] == "{workdir}/first"
    assert not list(home.glob("third.before-*"))
    assert json.loads((home / "first/config.json").read_text())["seed"] == 2
    assert (home / "result.json").exists()


def test_what_was_set_aside_is_taken_back_with_its_value(ran: list[tuple[Path, Any]], digests: None, tmp_path: Path):
    """Also what has read it, as docs/own_data.md says."""
    home = tmp_path / "run"
    one, other = (named(first=training(seed=seed), second=training(init="{workdir}/first")) for seed in (0, 1))
    pipeline.run(one, home)
    (home / "first/mine.txt").write_text("of seed 0")
    spent = times(home)
    (home / "times.json").write_text(json.dumps(spent | {"first": 100.0}))
    pipeline.run(other, home)
    assert times(home)["first"] < 100
    (home / "second/mine.txt").write_text("of seed 1")
    pipeline.run(one, home)
    assert {path.parent.name for path in home.glob("*/mine.txt")} == {"first", "second.before-1"}
    assert 100 <= times(home)["first"] < 110  # as before
    assert json.loads((home / "result.json").read_text())["stages"].keys() == {"first", "second", "report"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model.width": 0.25}, "--config.stages.first.model.width=0.125"),
        ({"tasks.depth.weight": 2}, "set this in the config file as it was"),  # there was none
        ({"init": "elsewhere/second", "seed": 3}, "--config.stages.first.seed=0 --config.stages.first.init=none"),
        ({"seed": 1, "batch_size": 64, "max_boxes": 64, "optimizer.momentum": 0.5}, "and 1 more keys differ"),
    ],
)
def test_how_to_keep_what_a_changed_stage_has_made(
    ran: list[tuple[Path, Any]], tmp_path: Path, changes: dict, told: str, capsys: pytest.CaptureFixture[str]
):
    """What is said keeps it."""
    base: dict[str, Any] = {"first": training()}
    pipeline.run(named(**base), tmp_path)
    values: dict[str, Any] = {"stages": base}
    for key, value in changes.items():
        values = override(values, f"stages.first.{key}", json.dumps(value))
    capsys.readouterr()
    pipeline.run(named(**values["stages"]), tmp_path)
    said = capsys.readouterr().err
    assert told in said
    if "--config." in told:
        (tmp_path / "first").rename(tmp_path / "other")
        (tmp_path / "first.before-1").rename(tmp_path / "first")
        for each in re.findall(r"--config\.(\S+)=(\S+)", said):
            values = override(values, *each)
        pipeline.run(named(**values["stages"]), tmp_path)
        assert not list(tmp_path.glob("first.before-*"))


def test_a_stage_whose_inputs_have_changed_is_repeated(
    ran: list[tuple[Path, Any]], digests: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Also when they are not the pipeline's own, and only then."""
    home, stages = tmp_path / "run", named(first=training(init="elsewhere/second"), last=training())
    pipeline.run(stages, home)
    (Path("elsewhere/second") / workdir.CONFIG_FILE).write_text("another")
    pipeline.run(stages, home)  # was not there before: not known to have changed
    assert not list(home.glob("*.before-*"))
    (Path("elsewhere/second") / workdir.CONFIG_FILE).write_text("a third one")
    (home / "first/inputs.json").write_text('{"init": "another"}')
    capsys.readouterr()
    pipeline.run(stages, home)
    assert "first is repeated: config.stages.first.init (elsewhere/second) has changed" in capsys.readouterr().err
    assert (home / "first.before-1").is_dir() and not (home / "last.before-1").exists()


def test_a_finished_training_that_gets_more_steps_goes_on(
    ran: list[tuple[Path, Any]], second: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """In its folder; what reads it is repeated. With fewer steps, it is another training."""
    stages = {"first": training(steps=5), "last": training(init="{workdir}/first")}
    pipeline.run(named(**stages), tmp_path)
    shutil.copy(second / "model.json", tmp_path / "first/model.json")  # of a run of 5 steps
    stages["first"]["steps"] = 7
    del ran[:]
    pipeline.run(named(**stages), tmp_path)
    said = capsys.readouterr().err
    assert "last is repeated: it reads first, which is trained further" in said and "first is repeated" not in said
    assert "first" in [folder.name for folder, _ in ran] and not (tmp_path / "first.before-1").exists()
    stages["first"]["steps"] = 3
    pipeline.run(named(**stages), tmp_path)
    assert (tmp_path / "first.before-1").exists()


def test_a_scorecard_whose_inputs_have_changed_goes_on_in_its_folder(
    ran: list[tuple[Path, Any]], digests: None, tmp_path: Path
):
    """It measures again what starts from them, and nothing else."""
    stages = {"first": training(), "last": last(inits={"first": "{workdir}/first"}, model=MODEL)}
    pipeline.run(named(**stages), tmp_path)
    (tmp_path / "last/scorecard.csv").write_text("the first one")
    del ran[:]
    stages["first"]["seed"] = 1
    pipeline.run(named(**stages), tmp_path)
    assert [folder.name for folder, _ in ran] == ["first", "report", "last", "report"]
    assert {path.name for path in tmp_path.glob("*.before-*")} == {"first.before-1", "last.before-1"}
    assert (tmp_path / "last.before-1/scorecard.csv").read_text() == "the first one"
    assert (tmp_path / "last/scorecard.csv").exists()  # what measures again may use what it has


def test_a_set_that_is_prepared_comes_before_those_that_read_it(ran: list[tuple[Path, Any]], tmp_path: Path):
    write_files(tmp_path / "photos", {f"{name}/{i}.jpg": jpeg(i) for name in ("a", "b") for i in range(6)})
    boxes = {"format": "class_folders"}
    prepare = {"stage": "prepare", "name": "own", "images": f"folder:{tmp_path}/photos"}
    train = training(train=[{"images": "own:train[:50%]"}], tasks={"classification": {}})
    stages = {"a": train, "b": {**prepare, "labels": {"classification": boxes}}}
    pipeline.run(named(**stages), tmp_path / "run")
    assert [folder.name for folder, _ in ran] == ["b", "report", "a", "report"]
    with pytest.raises(UserError, match=r"config\.stages\.c: images='own:tain'.* did you mean 'train'"):
        pipeline.run(named(**stages, c=training(train=[{"images": "own:tain"}])), tmp_path / "run")
    del stages["b"]["labels"]
    with pytest.raises(UserError, match="no images are labelled for task 'classification'; labelled are: none"):
        pipeline.run(named(**stages), tmp_path / "another")


def test_a_prepared_set_gets_more_labels_and_its_photos_move(
    ran: list[tuple[Path, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Which repeats nothing, nor does it if both are gone. Mistakes in new labels are told with all others."""
    monkeypatch.setitem(pipeline.STAGES, "prepare", prepare.run)
    photos = write_files(tmp_path / "photos", {f"{name}/{i}.jpg": jpeg(i) for name in ("a", "b") for i in range(4)})
    labels: dict[str, Any] = {"classification": {"format": "class_folders"}}
    own: dict[str, Any] = {"stage": "prepare", "name": "own", "images": f"folder:{photos}", "labels": labels}
    train = training(train=[{"images": "own:train"}], tasks={"classification": {}})

    def run(**stages: Any) -> None:
        del ran[:]
        pipeline.run(named(prepare_own=own, train=train, **stages), tmp_path / "run")

    run()
    masks = {"format": "id_png", "path": str(tmp_path / "masks"), "options": {"classes": ["wall"]}}
    labels["segmentation"] = masks
    with pytest.raises(UserError, match="2 mistakes"):
        run(last=last(set={"task": "dept"}))
    assert "stages.prepare_own: config.labels.segmentation: there is no folder" in capsys.readouterr().err and not ran
    (tmp_path / "masks/a").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "masks/a/0.png"), np.zeros(picture().shape[:2], np.uint8))
    photos.rename(tmp_path / "moved")
    own["images"] = f"folder:{tmp_path}/moved"
    run()
    (tmp_path / "masks").rename(tmp_path / "moved masks")
    masks["path"] = str(tmp_path / "moved masks")
    run()
    assert {path.name for path in Path("somewhere/own/columns").iterdir()} == {"classification", "segmentation"}
    assert "train" in [folder.name for folder, _ in ran] and not list((tmp_path / "run").glob("*.before-*"))

    masks["path"] = os.path.relpath(masks["path"])
    for folder in ("moved masks", "moved"):  # what is imported is not needed any more, whatever else changes
        (tmp_path / folder).rename(tmp_path / f"away {folder}")
    train["seed"] = 1
    run()
    assert [path.name for path in (tmp_path / "run").glob("*.before-*")] == ["train.before-1"]
    labels["depth"] = {"format": "depth_png", "path": str(tmp_path / "depth"), "options": {"unit": "mm"}}
    with pytest.raises(UserError, match=r"config\.labels\.depth: there is no folder"):  # and nothing else
        run()
    del labels["depth"]
    masks["path"] = str(tmp_path / "mask")
    with pytest.raises(UserError, match=r"labels\.segmentation: there is no folder '.*mask'.* made from '.*masks'"):
        run()
    masks["path"] = str(tmp_path / "moved masks")
    for folder in ("moved masks", "moved"):
        (tmp_path / f"away {folder}").rename(tmp_path / folder)

    monkeypatch.setitem(pipeline.STAGES, "prepare", pipeline.STAGES["train"])
    other = {"stage": "prepare", "name": "other", "images": f"folder:{tmp_path}/moved"}
    other["labels"] = {"segmentation": {**masks, "options": {"classes": ["floor"]}}}
    both = training(train=[{"images": "own:train"}, {"images": "other:train"}], tasks={"segmentation": {}})
    with pytest.raises(
        UserError, match=r"stages\.both: the segmentation labels of other have the classes floor, .*wall"
    ):
        run(other=other, both=both)


@pytest.mark.parametrize("key", ["log_every", "checkpoint_every", "minimum", "accept_failed", "batch_size"])
def test_what_may_change_in_a_run_may_change_in_its_pipeline(ran: list[tuple[Path, Any]], tmp_path: Path, key: str):
    """The others repeat the stage."""
    validation = {"images": "scenes/teacher_depth_tiny:validation"}

    def config(**values: Any) -> PipelineConfig:
        return named(first=training(validation=validation, **values))

    pipeline.run(config(), tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    changed = config(**{key: {"minimum": {"depth/delta1": 1.0}, "accept_failed": ["depth"]}.get(key, 8)})
    pipeline.run(changed, tmp_path / "run")
    assert (tmp_path / "run/first.before-1").exists() == (key == "batch_size")
    assert len(ran) == 4


def test_it_goes_on_by_another_path_and_after_a_move(ran: list[tuple[Path, Any]]):
    pipeline.run(THREE, Path("runs/x"))
    for place in (Path("runs/x").resolve(), Path("runs/x").resolve().parent / "../runs/x", Path("moved")):
        if place == Path("moved"):
            Path("runs/x").rename(place)
        (place / "result.json").unlink()
        pipeline.run(THREE, place)
        assert json.loads((place / "second/config.json").read_text())["init"] == "{workdir}/first"
    with pytest.raises(UserError, match=r"config.init is '{workdir}/first' there and 'runs/first' here"):
        workdir.check(place / "second", THREE.stages["second"].model_copy(update={"init": "runs/first"}))


def test_a_file_shows_names_and_values_of_a_scorecard_whole(capsys: pytest.CaptureFixture[str]):
    starts = ["scratch", "teacher_classification", "teacher_depth", "teacher_detection"]
    names = [f"{name}_{task}" for name in ("tables", "heldout_places") for task in ("depth", "detection", "materials")]
    rows = [
        scorecard.Row(start, "depth", name, "frozen", "delta1", 12.5 + seed, seed, 0.1, 2, 64)
        for start in starts
        for name in names
        for seed in (0, 1)
    ]
    pipeline._print_summary(rows, {})
    shown = capsys.readouterr().err
    for start in starts:
        (line,) = re.findall(rf"^ *{start} .*13.*", shown, re.MULTILINE)
        assert line.count("13.0 ± 0.7") == len(names), line
    head = shown[: shown.index("starting point")]
    assert head.count("heldout_") == head.count("places_") == 3, head
