"""The pipeline: stages in order, in their folders, once; and a report of whatever is finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from must_jax.config import PipelineConfig, TrainConfig
from must_jax.engine import distributed
from must_jax.errors import UserError
from must_jax.stages import pipeline, workdir

MODEL = {"backbone": "resnet10", "width": 0.125, "pyramid_channels": 8, "head_channels": 8, "head_convs": 1}
TRUTH = {"images": "scenes/teacher_depth_tiny:train"}


def training(**values: Any) -> dict[str, Any]:
    return {"stage": "train", "train": [TRUTH], "tasks": {"depth": {}}, "model": MODEL, "steps": 2} | values


def named(**stages: dict[str, Any]) -> PipelineConfig:
    return PipelineConfig(title="mine", data_dir="somewhere", devices=2, stages=stages)


THREE = named(
    first=training(train=[{**TRUTH, "labels": ["{workdir}/third/columns/second-depth"]}]),
    second=training(init="{workdir}/first"),
    third={"stage": "label", "images": "scenes/unlabelled_tiny:train", "teachers": ["elsewhere/second"]},
)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Any]]:
    """Stages and report do nothing, and list their calls (folder, config)."""
    monkeypatch.chdir(tmp_path_factory.mktemp("home"))
    Path("elsewhere/second").mkdir(parents=True)
    calls: list[tuple[Path, Any]] = []

    def stage(config: Any, folder: Path) -> None:
        workdir.claim(folder, config)
        (folder / workdir.RESULT_FILE).write_text("{}")
        calls.append((folder, config))

    monkeypatch.setattr(pipeline, "STAGES", dict.fromkeys(("train", "label", "audit", "evaluate"), stage))
    monkeypatch.setattr(pipeline, "_write_report", lambda *args: calls.append((Path("report"), None)) or ((), {}))
    return calls


def test_a_stage_runs_after_those_it_reads_from(ran: list[tuple[Path, Any]], tmp_path: Path):
    pipeline.run(THREE, tmp_path / "run")
    assert [folder.name for folder, _ in ran] == ["third", "first", "second", "report"]
    assert ran[0][0].parent == tmp_path / "run"


def test_it_is_one_process(ran: list[tuple[Path, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    with pytest.raises(UserError, match="a pipeline runs in one process; to use several, start its stages one by one"):
        pipeline.run(THREE, tmp_path / "run")
    assert not ran and not (tmp_path / "run").exists()


def test_an_audit_comes_between_labelling_and_training(ran: list[tuple[Path, Any]], tmp_path: Path):
    stages = THREE.model_dump()["stages"]
    stages["z"] = {"stage": "audit", "images": "scenes/unlabelled_tiny:train", "columns": "{workdir}/third"}
    pipeline.run(named(**stages), tmp_path / "run")
    assert [folder.name for folder, _ in ran] == ["third", "z", "first", "second", "report"]
    assert ran[1][1].columns == (str(tmp_path / "run/third"),) and ran[1][1].data_dir == "somewhere"


def test_the_order_of_the_config_is_kept_where_nothing_is_read():
    assert pipeline.ordered(named(b=training(), a=training(init="{workdir}/bc"), c=training(init="b"))) == [
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
    stage = pipeline.placed(THREE.stages["first"], THREE, Path("runs/x"))
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
        raise UserError("near chance")

    stages = dict(pipeline.STAGES)
    monkeypatch.setitem(pipeline.STAGES, "train", fail)
    with pytest.raises(UserError, match="near chance"):
        pipeline.run(THREE, tmp_path)
    assert [folder.name for folder, _ in ran] == ["third", "report"]
    assert not (tmp_path / "result.json").exists()
    monkeypatch.setattr(pipeline, "STAGES", stages)
    pipeline.run(THREE, tmp_path)
    assert [folder.name for folder, _ in ran[2:]] == ["third", "first", "second", "report"]
    assert set(json.loads((tmp_path / "result.json").read_text())["stages"]) == {"first", "second", "third"}


def test_times_add_up_over_restarts(ran: list[tuple[Path, Any]], tmp_path: Path):
    (tmp_path / "times.json").write_text('{"third": 100.0}')
    pipeline.run(THREE, tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert 100 < result["stages"]["third"] < 110
    assert result["seconds"] >= sum(result["stages"].values())


def test_a_folder_of_another_pipeline_is_refused(ran: list[tuple[Path, Any]], tmp_path: Path):
    pipeline.run(THREE, tmp_path)
    with pytest.raises(UserError, match="title"):
        pipeline.run(THREE.model_copy(update={"title": "other"}), tmp_path)


DOWNSTREAM = {split: {"images": f"scenes/downstream_depth_tiny:{split}"} for split in ("train", "validation", "test")}
FROZEN = {"mode": "frozen", "steps": 2, "batch_size": 8, "learning_rates": [0.1]}


def last(**values: Any) -> dict[str, Any]:
    """A scorecard with something wrong in it."""
    downstream = {"range": {"task": "depth", **DOWNSTREAM, **values.pop("set", {})}}
    given = {"inits": {"scratch": ""}, "downstream": downstream, "transfers": [FROZEN]}
    return {"stage": "evaluate", **given, **values}


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        (last(set={"task": "dept"}), "did you mean 'depth'"),
        (last(set={"options": {"knd": 1}}), "did you mean 'kind'"),
        (last(transfers=[{**FROZEN, "batch_size": 7}]), "batch_size is 7, which 2 devices cannot share"),
        (last(set={"test": {"images": "scenes/downstream_dept:test"}}), "did you mean 'downstream_depth'"),
        (last(set={"test": {"images": "scenes/downstream_depth:tst"}}), "no split 'tst'; did you mean 'test'"),
        (last(set={"test": {"images": "folder:nowhere"}}), "there is no folder nowhere"),
        (last(set={"test": {"images": "coco/2017:train"}}), "no TFDS dataset in somewhere/coco/2017"),
        (last(inits={"first": "{workdir}/frist"}), "there is no run .*/frist"),
        (training(train=[{**TRUTH, "labels": ["{workdir}/third/columns/first-depth"]}]), "no label column .*first-dep"),
        (training(init="elsewhere/first"), "there is no run elsewhere/first"),
        ({"stage": "label", "images": "scenes/unlabelled:test", "teachers": ["{workdir}/first"]}, "no split 'test'"),
    ],
)
def test_a_mistake_in_a_late_stage_is_found_before_any_work(
    ran: list[tuple[Path, Any]], tmp_path: Path, stage: dict[str, Any], sentence: str
):
    with pytest.raises(UserError, match=sentence):
        pipeline.run(named(**THREE.model_dump()["stages"], wrong=stage), tmp_path / "run")
    assert ran == []
    assert not (tmp_path / "run").exists()
    assert not Path("somewhere").exists()  # nothing is rendered to find out


@pytest.mark.parametrize("key", ["log_every", "checkpoint_every", "minimum", "accept_failed", "steps"])
def test_what_may_change_in_a_run_may_change_in_its_pipeline(ran: list[tuple[Path, Any]], tmp_path: Path, key: str):
    """All but the steps."""
    validation = {"images": "scenes/teacher_depth_tiny:validation"}

    def config(**values: Any) -> PipelineConfig:
        return named(first=training(validation=validation, **values))

    pipeline.run(config(), tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    changed = config(**{key: {"minimum": {"depth/delta1": 1.0}, "accept_failed": ["depth"]}.get(key, 7)})
    if key == "steps":
        with pytest.raises(UserError, match=r"config\.stages\.first\.steps is 2 there and 7 here"):
            pipeline.run(changed, tmp_path / "run")
    else:
        pipeline.run(changed, tmp_path / "run")
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
