"""The programs of a stage, as far as they can be told without data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from command_line import CONFIGS
from made_teacher import make_teacher

from must_jax.compiling.ahead import Step
from must_jax.compiling.programs import programs
from must_jax.data.batching import batch_like, train_batches
from must_jax.engine.mesh import make_mesh
from must_jax.inputs import sources
from must_jax.inputs.sources import open_source
from must_jax.inputs.targets import build_tasks
from must_jax.main import read_config
from must_jax.parsing import override, parse

SMALL = {"backbone": "resnet10", "width": 0.125, "pyramid_channels": 8, "head_channels": 8, "head_convs": 1}


def steps(name: str, classes: dict[str, int] | None = None, **changes: Any) -> dict[str, Step]:
    values = read_config(CONFIGS / f"{name}.py")
    small = {} if name == "label" else {"model": SMALL, "image_size": 32}
    for key, value in (small | changes).items():
        values = override(values, key, repr(value))
    return {step.name: step for step in programs(parse(values), make_mesh(4), classes or {})}


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither data nor runs."""
    monkeypatch.chdir(tmp_path)


def shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: (tuple(np.shape(x)), str(x.dtype)), tree)


def test_a_batch_is_like_those_of_training(data_dir: Path):
    config = parse(read_config(CONFIGS / "teacher_detection.py"))
    named = sources.SourceConfig(images="scenes/teacher_detection_tiny:train")
    source = open_source(named, str(data_dir), config.tasks)
    tasks = build_tasks(config.tasks, [source], max_boxes=7)
    kinds = {name: task.label for name, task in tasks.items()}
    real = next(train_batches([source], kinds, input_hw=(32, 32), augment=config.augment, batch_size=4, seed=0))
    assert shapes(batch_like(kinds, input_hw=(32, 32), batch_size=4)) == shapes(real)


def test_the_student_before_any_teacher_is_trained():
    found = steps("student", batch_size=8)
    assert [*found] == ["train", "evaluate", "label"]
    state, batch, _ = found["train"].arguments
    assert batch["labels"].keys() == {"classification", "detection", "segmentation", "depth", "normals"}
    assert batch["labels"]["classification"]["probs"].shape == (8, 8)  # the eight shapes of its teacher's scenes
    assert shapes(state["opt_state"][-1].trace) == shapes(state["params"])
    predicted = jax.eval_shape(found["label"].function, *found["label"].arguments)
    assert (
        predicted["segmentation"].keys()
        != jax.eval_shape(found["evaluate"].function, *found["evaluate"].arguments)["segmentation"].keys()
    )  # condensed


def test_numbers_of_classes_that_are_given():
    given = {"classification": 1000, "detection": 365, "segmentation": 133}
    state, batch, _ = steps("student", given, **{"train.0.images": "photos:train"})["train"].arguments
    assert batch["labels"]["classification"]["probs"].shape[1] == 1000
    assert state["params"]["heads"]["segmentation"]["predict"]["kernel"].shape[-1] == 133
    assert state["params"]["heads"]["detection"]["classify"]["kernel"].shape[-1] == 365


def test_columns_that_are_dropped_have_no_head():
    state, _, _ = steps("student", **{"columns.drop": ("depth", "teacher_normals")})["train"].arguments
    assert state["params"]["heads"].keys() == {"classification", "detection", "segmentation"}


def test_evaluated_is_what_the_validation_labels():
    step = steps("teacher_depth", tasks={"depth": {}, "normals": {}})["evaluate"]
    assert step.arguments[0]["params"]["heads"].keys() == {"depth", "normals"}
    assert jax.eval_shape(step.function, *step.arguments).keys() == {"depth"}


def test_the_scorecard_compiles_heads_and_whole_networks():
    values = read_config(CONFIGS / "evaluate.py")
    found = steps("evaluate", downstream={"depth": values["downstream"]["depth"]})
    assert [*found] == [
        "features",
        *("train frozen depth", "evaluate frozen depth"),
        *("train finetune depth", "evaluate finetune depth"),
    ]
    assert found["train frozen depth"].arguments[0]["params"].keys() == {"heads"}
    for step in found.values():
        step.function.trace(*step.arguments)  # all arguments fit


def test_every_teacher_labels_batches_that_are_filled_up(tmp_path: Path):
    teacher = make_teacher(tmp_path / "seer", ("depth", "segmentation"), 32, {})
    found = steps("label", teachers=(str(teacher),), batch_size=30, tasks={"segmentation": {"keep_confidence": True}})
    ((name, step),) = found.items()
    assert (name, step.images) == ("label seer", 32)
    predicted = jax.eval_shape(step.function, *step.arguments)
    assert {task: {x.shape[0] for x in fields.values()} for task, fields in predicted.items()} == {
        "depth": {32},
        "segmentation": {32},
    }
