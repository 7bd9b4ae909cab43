"""A model of two tasks that is watched on several small sets, and the best of it kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from short_training import short_training

from must_jax import description, trained
from must_jax.config import TrainConfig, ValidationConfig
from must_jax.data.batching import Source
from must_jax.engine.checkpoint import restore_variables
from must_jax.errors import UserError
from must_jax.runs.briefs import validated
from must_jax.runs.curves import validations
from must_jax.stages import describe, train
from must_jax.tasks.depth import DepthMetrics
from must_jax.training import validation
from must_jax.training.building import Training

CLASSES, DEPTH = "scenes/teacher_classification_tiny", "scenes/teacher_depth_tiny"


@pytest.fixture(scope="module")
def config(data_dir: Path) -> Callable[..., TrainConfig]:
    def config(**changes: Any) -> TrainConfig:
        values = {
            "train": [{"images": f"{CLASSES}:train"}, {"images": f"{DEPTH}:train"}],
            "validation": [
                {"images": f"{CLASSES}:validation"},
                {"images": f"{DEPTH}:validation", "name": "rooms"},  # the first of its task, so the name is not needed
                {"images": f"{CLASSES}:test", "name": "other"},
            ],
            "validate_every": 2,
            "best": "depth/delta1",
            "tasks": {"classification": {}, "depth": {}},
            "optimizer": {"learning_rate": 0.02, "warmup_steps": 2, "clip_norm": 1.0},
            "steps": 6,
            "checkpoint_every": 100,
        }
        return short_training(data_dir, **values | changes)

    return config


@pytest.fixture(scope="module")
def finished(config: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The second validation is made the best."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    measure, seen = validation.Validation.measure, [0]

    def measured(self: validation.Validation, variables: Any) -> dict[str, float]:
        seen[0] += 1
        metrics = measure(self, variables) | {"depth/delta1": 90.0 if seen[0] == 2 else 80.0}
        self.found["rooms"]["metrics"]["depth/delta1"] = metrics["depth/delta1"]
        return metrics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation.Validation, "measure", measured)
        train.run(config(), workdir)
    return workdir


def read(workdir: Path, name: str) -> Any:
    return json.loads((workdir / name).read_text())


def test_each_source_measures_its_tasks_as_the_model_learns(finished: Path) -> None:
    series = validations(finished)
    names = ("classification/top1", "depth/delta1", "classification/top1@other")
    assert all(series[name][0] == [2, 4, 6] for name in names)
    assert not any(name.startswith("depth") and "@" in name for name in series)
    found = read(finished, "validation.json")
    assert list(found) == [f"{CLASSES}:validation", "rooms", "other"]
    assert all("classification/top1@other" in each["metrics"] for each in [found["other"]])
    assert found["rooms"]["metrics"]["depth/delta1"] == 90  # of the model that is kept


def test_the_best_model_is_kept_and_the_last_state_as_well(finished: Path) -> None:
    told = description.read(finished)
    assert (told.checkpoint, told.settings.steps, told.metrics["depth/delta1"]) == (4, 6, 90.0)
    assert told.training.best is not None and (told.training.best.step, told.training.best.since) == (4, 1)
    assert {folder.name for folder in (finished / "checkpoints").iterdir()} == {"2", "4", "6"}  # 2 was the best for 4
    model, kept = trained.load(finished), restore_variables(finished / "checkpoints", 4)
    jax.tree.map(np.testing.assert_array_equal, model.variables["params"], kept["params"])
    last = restore_variables(finished / "checkpoints")
    assert not np.array_equal(*(jax.tree.leaves(each["params"])[0] for each in (kept, last)))
    assert told.training.labelled == {"classification": 48, "depth": 48} and not told.training.untrained


def test_describe_shows_curves_and_the_best(finished: Path) -> None:
    parts = list(describe.describe(finished, ascii=True))
    text = "\n".join(part for part in parts if isinstance(part, str))
    assert "depth/delta1 80 -> 80" in text and "classification/top1@other" in text
    assert "best depth/delta1: 90 at step 4, 1 validation after it" in text
    assert validated(finished)["depth/delta1"] == 90


def test_another_validation_is_measured_without_training(
    config: Callable[..., TrainConfig],
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, result = description.read(finished), read(finished, "result.json")
    monkeypatch.setattr(train, "_train", lambda *_: pytest.fail("trains again"))
    for nothing_to_do in ({}, {"validate_every": 3, "patience": 9}):
        train.run(config(**nothing_to_do), finished)
        assert description.read(finished) == before
    others = [{"images": f"{DEPTH}:test"}, {"images": f"{DEPTH}:validation", "name": "former"}]
    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match=r"reached depth/delta1@former = .*, below config.minimum = 101"),
    ):
        patch.setattr(DepthMetrics, "details", lambda self: {"remark": "odd"})
        train.run(config(validation=others, minimum={"depth/delta1@former": 101.0}), finished)
    assert f"look at {finished}: depth on {DEPTH}:test: odd" in capsys.readouterr().err
    assert not (finished / "result.json").exists()
    train.run(config(validation=others), finished)
    after = description.read(finished)
    assert (after.digest, after.checkpoint, after.training) == (before.digest, before.checkpoint, before.training)
    names = [name.split("/")[1] for name in after.metrics]
    assert "delta1" in names and "delta1@former" in names and not any("classif" in name for name in after.metrics)
    assert read(finished, "result.json") == result | {"metrics": after.metrics}
    assert list(read(finished, "validation.json")) == [f"{DEPTH}:test", "former"]
    train.run(config(validation=others), finished)
    assert "finished, nothing to do" in capsys.readouterr().err.splitlines()[-1]
    trained.load(finished)


def test_with_best_an_unfinished_run_keeps_its_validation(config: Callable[..., TrainConfig]) -> None:
    """It decides which model is kept; without it nothing depends on it."""

    def bound(**changes: Any) -> dict[str, Any]:
        of = config(**changes)
        sources = [Source(images(f"{n}", 5), (column("depth"),)) for n in range(3)]
        training = SimpleNamespace(
            config=of, sources=sources[:1], weights_digest="", held_out=validation.named(of.validation, sources[1:])
        )
        return Training.fingerprint(training)  # type: ignore[arg-type]

    two = [{"images": "a:b"}, {"images": "c:d", "name": "x"}]
    assert bound(validation=two) != bound(validation=two, validate_every=3)
    assert bound(validation=two, best="") == bound(validation=two, validate_every=3, best="")
    assert "validation.1.images" in bound(validation=two)


class Images:
    sampled = False

    def __init__(self, name: str, length: int) -> None:
        self.name = self.digest = name
        self._length = length

    def __len__(self) -> int:
        return self._length


def images(name: str, length: int) -> Any:
    return Images(name, length)


def column(task: str) -> Any:
    return SimpleNamespace(task=task)


def test_a_task_on_two_sources_needs_a_name() -> None:
    street, rooms = (Source(images(name, 5), (column("depth"), column("normals"))) for name in ("street", "rooms"))
    one, two = ValidationConfig(images="street"), ValidationConfig(images="rooms")
    with pytest.raises(UserError, match=r"depth .*street.* and on config.validation.1 \(rooms\); .*validation.1.name="):
        validation.named([one, two], [street, rooms])
    named = two.model_copy(update={"name": "in"})
    held_out = validation.named([one, named], [street, rooms])
    assert [held.ends for held in held_out] == [{"depth": "", "normals": ""}, {"depth": "@in", "normals": "@in"}]
    assert [held.label for held in held_out] == ["street", "in"]
    with pytest.raises(UserError, match=r"called 'in'; change config.validation.2.name"):
        validation.named([one, named, named], [street, rooms, rooms])
    few = Source(rooms.images, (column("normals"),))
    assert [held.ends for held in validation.named([one, two], [Source(street.images, (column("depth"),)), few])] == [
        {"depth": ""},
        {"normals": ""},
    ]


def test_a_task_without_labels_there_is_named(config: Callable[..., TrainConfig]) -> None:
    wanted = config(validation=[{"images": f"{DEPTH}:test", "tasks": ["depth", "classification"]}])
    with pytest.raises(
        UserError, match=r"validation.0.tasks names 'classification', but .* has no labels of it; .*depth"
    ):
        validation.opened(wanted.validation, wanted.data_dir, wanted.tasks)


def test_a_best_that_is_not_measured(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"config.best names 'depth/delta9', which is not measured; did you mean 'depth/"
    ):
        train.run(config(best="depth/delta9"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
