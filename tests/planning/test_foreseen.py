"""Mistakes that are found before any stage of a pipeline begins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from made_pipeline import DOWNSTREAM, FROZEN, HELD_OUT, MODEL, THREE, TRUTH, audit, label, last, named, training

from must_jax.errors import UserError
from must_jax.stages import pipeline


def test_all_mistakes_of_all_stages_are_told_at_once(
    ran: list[tuple[Path, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    stages = {
        "train": training(init="nowhere", tasks={"depth": {"knd": 1}}),
        "label": label(teachers=["{workdir}/train"], take=8, accept_failed=["depth"]),
        "audit": audit(columns=["{workdir}/label"]),
        "evaluate": last(set={"task": "normals"}),
    }
    with pytest.raises(UserError, match=r"6 mistakes, .* nothing has begun"):
        pipeline.run(named(**stages), tmp_path / "run")
    said = capsys.readouterr().err
    assert "stages.train: task 'depth' has no option 'knd'" in said and "stages.train: config.init" in said
    assert "stages.audit: config: " in said and "set take=8" in said
    assert said.count("stages.evaluate: ") == 3
    assert not (tmp_path / "run").exists()


def test_a_mistake_in_a_key_that_may_change_is_found_before_any_work(ran: list[tuple[Path, Any]], tmp_path: Path):
    """Also in a finished stage."""
    pipeline.run(THREE, tmp_path)
    del ran[:]
    stages = THREE.model_dump()["stages"]
    stages["second"]["validation"] = [{"images": "scenes/teacher_depth_tiny:validaton"}]
    with pytest.raises(UserError, match=r"stages\.second: .* did you mean 'validation'"):
        pipeline.run(named(**stages), tmp_path)
    assert ran == []


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
        (last(inits={"first": "gone.npz"}), "there is no gone.npz; correct config.inits.first"),
        (training(train=[{**TRUTH, "labels": ["{workdir}/third/columns/first-depth"]}]), "no label column .*first-dep"),
        (training(init="elsewhere/first"), "there is no run elsewhere/first"),
        ({"stage": "label", "images": "scenes/unlabelled:test", "teachers": ["{workdir}/first"]}, "no split 'test'"),
        (
            training(init="{workdir}/first", model={**MODEL, "width": 0.5}),
            "config.init .*: width is 0.5 here and 0.125",
        ),
        (training(tasks={"normals": {}}), "no images are labelled for task 'normals'; labelled are: depth"),
        (training(validation=[{"images": "scenes/teacher_normals_tiny:train"}]), "validation.0 .* no task"),
        (training(validation=[HELD_OUT], minimum={"depth/delta7": 1}), "did you mean 'depth/delta1'"),
        (training(validation=[HELD_OUT], best="depth/rmse"), "config.best names 'depth/rmse', .* depth/delta1"),
        (training(validation=[HELD_OUT], minimum={"depth/abs_rel": 1}), "config.minimum .*abs_rel.* depth/delta1"),
        (training(validation=[HELD_OUT, HELD_OUT]), "depth is measured on config.validation.0 and on .*1; name"),
        (label(teachers=["{workdir}/first"]), "first is not validated on depth"),
        (label(teachers=["elsewhere/second"], tasks={"normals": {}}), "'normals', which no teacher knows"),
        (audit(images="scenes/unlabelled_tiny:train[:50%]"), "third.* labels scenes/unlabelled_tiny:train, not"),
        (last(inits={"first": "{workdir}/first"}, model={**MODEL, "head_convs": 2}), "head_convs is 2 here and 1"),
        (last(set={"task": "normals"}), "has no labels of task 'normals'"),
        (last(set={"test": DOWNSTREAM["train"]}), "shares images with its train"),
        ({"stage": "prepare", "name": "own", "images": "folder:nowhere"}, "nowhere"),
    ],
)
def test_a_mistake_in_a_late_stage_is_found_before_any_work(
    ran: list[tuple[Path, Any]],
    tmp_path: Path,
    stage: dict[str, Any],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
):
    with pytest.raises(UserError) as raised:
        pipeline.run(named(**THREE.model_dump()["stages"], wrong=stage), tmp_path / "run")
    assert re.search(f"config.stages.wrong: .*{sentence}", f"{capsys.readouterr().err}{raised.value}")
    assert ran == []
    assert not (tmp_path / "run").exists()
    assert not Path("somewhere").exists()  # nothing is rendered to find out


def test_only_the_parts_that_are_taken_have_to_be_the_same(ran: list[tuple[Path, Any]], tmp_path: Path):
    wider = training(init="{workdir}/first", init_parts=["backbone"], model={**MODEL, "pyramid_channels": 16})
    pipeline.run(named(**THREE.model_dump()["stages"], wider=wider), tmp_path / "run")
    assert "wider" in [folder.name for folder, _ in ran]
