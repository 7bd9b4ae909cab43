"""The scorecard on a few dozen images: what is measured, what is compared, what is done again."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_teacher import redescribe

from must_jax.config import EvaluateConfig, TrainConfig
from must_jax.engine.measuring import Evaluation
from must_jax.engine.step import make_side_by_side_step
from must_jax.errors import UserError
from must_jax.inputs import unreadable
from must_jax.inputs.sources import fingerprint_of
from must_jax.reporting import overview
from must_jax.runs.entries import Entry
from must_jax.scoring import cells, opening, transfer
from must_jax.scoring.cells import choose
from must_jax.scoring.transfer import Outcome
from must_jax.stages import evaluate, train

MODEL = {"backbone": "resnet10", "width": 0.125, "pyramid_channels": 8, "head_channels": 8, "head_convs": 1}
ROW = ["init", "task", "dataset", "mode", "metric", "value", "seed", "learning_rate", "steps", "image_steps"]


def splits(name: str) -> dict[str, Any]:
    return {split: {"images": f"scenes/{name}:{split}"} for split in ("train", "validation", "test")}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def config(home: Path) -> EvaluateConfig:
    """Scratch and a teacher of two steps on two sets."""
    images = splits("teacher_depth_tiny")
    teacher = {"train": [images["train"]], "tasks": {"depth": {}}, "model": MODEL, "steps": 2, "batch_size": 8}
    train.run(TrainConfig(**teacher, data_dir=str(home / "data")), home / "teacher")
    finetune = {
        "mode": "finetune",
        "inits": ["teacher"],
        "steps": 2,
        "batch_size": 8,
        "learning_rates": [0.1],
        "seeds": [0],
    }
    frozen = {"mode": "frozen", "steps": 3, "batch_size": 8, "learning_rates": [0.1, 0.01], "seeds": [0, 1]}
    return EvaluateConfig(
        data_dir=str(home / "data"),
        inits={"scratch": "", "teacher": str(home / "teacher")},
        downstream={
            "shapes": {"task": "classification", **splits("downstream_classification_tiny")},
            "range": {"task": "depth", **splits("downstream_depth_tiny")},
        },
        transfers=[frozen, finetune],
        model=MODEL,
    )


@pytest.fixture(scope="module")
def steps(config: EvaluateConfig, home: Path) -> list[Any]:
    """The compiled updates of one whole run, in home/finished."""
    made = []

    def make(*args: Any, **kwargs: Any) -> Any:
        made.append(make_side_by_side_step(*args, **kwargs))
        return made[-1]

    threads = threading.active_count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "make_side_by_side_step", make)
        evaluate.run(config, home / "finished")
    assert threading.active_count() < threads + 20  # pipelines end with the runs that read them
    return made


@pytest.fixture
def finished(steps: list[Any], home: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(home / "finished", tmp_path / "finished"))


def rows(workdir: Path) -> list[dict[str, Any]]:
    return json.loads((workdir / "scorecard.json").read_text())


def fake(measure: Any, patch: pytest.MonkeyPatch) -> list[tuple[str, str, int, float]]:
    """Nothing is trained; the calls are listed as (mode, set, seed, learning rate)."""
    calls: list[tuple[str, str, int, float]] = []

    def fake_train(self: Any, trainings: Any) -> list[Outcome]:
        for _, seed, learning_rate in trainings:
            calls.append((self._config.mode, self._downstream.name, seed, learning_rate))
        return [Outcome(training, {}) for training in trainings]

    def fake_measure(self: Any, outcome: Outcome, split: str) -> Evaluation:
        (_, seed, learning_rate), task = outcome.training, self._downstream.task
        value = measure(seed, learning_rate)[split]
        return Evaluation({f"{task.name}/{task.metric}": value}, {task.name: {"remark": "odd"} if value == 7 else {}})

    patch.setattr(transfer.Transfer, "compile", lambda self, compiler: self)
    patch.setattr(transfer.Transfer, "start", lambda self, trained: None)
    patch.setattr(transfer.Transfer, "train", fake_train)
    patch.setattr(transfer.Transfer, "measure", fake_measure)
    return calls


def test_every_row_has_the_schema(finished: Path, config: EvaluateConfig):
    found = rows(finished)
    assert all(list(row) == [*ROW, *["details"] * (row["seed"] == 0)] for row in found)
    expected = {
        *((init, name, "frozen", seed) for init in config.inits for name in config.downstream for seed in (0, 1)),
        *(("teacher", name, "finetune", 0) for name in config.downstream),
    }
    assert {(row["init"], row["dataset"], row["mode"], row["seed"]) for row in found} == expected
    assert len(found) == len(expected)
    assert {(row["dataset"], row["task"], row["metric"]) for row in found} == {
        ("shapes", "classification", "top1"),
        ("range", "depth", "delta1"),
    }
    assert all(0 <= row["value"] <= 100 for row in found)
    with (finished / "scorecard.csv").open() as file:
        assert [{name: str(row[name]) for name in ROW} for row in found] == list(csv.DictReader(file))


def test_one_program_serves_all_starts_seeds_and_rates(steps: list[Any], config: EvaluateConfig):
    """The one that was compiled before: no call compiles another."""
    assert [step._cache_size() for step in steps] == [0] * len(config.downstream) * len(config.transfers)


def test_every_start_gets_the_same_steps_and_rates(
    config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls = fake(lambda seed, rate: {"validation": rate, "test": 0.0}, monkeypatch)
    evaluate.run(config, tmp_path / "run")
    each = [("frozen", name, *call) for name in config.downstream for call in ((0, 0.1), (0, 0.01), (1, 0.1))]
    assert sorted(calls) == sorted([*each, *each, *(("finetune", name, 0, 0.1) for name in config.downstream)])
    assert {(row["mode"], row["steps"]) for row in rows(tmp_path / "run")} == {("frozen", 3), ("finetune", 2)}


def test_training_takes_the_steps_that_are_said(
    config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    taken = []

    def fit(step: Any, state: Any, batches: Any, schedule: Any, updates: range, *_: Any) -> Any:
        taken.append((schedule(0)["learning_rate"].tolist(), len(updates), next(batches)["labels"].keys()))
        return state

    monkeypatch.setattr(transfer, "fit", fit)
    one = config.model_copy(
        update={"downstream": {"shapes": config.downstream["shapes"]}, "transfers": config.transfers[:1]}
    )
    evaluate.run(one, tmp_path / "run")
    tried, *_ = taken  # both rates from both starting points, side by side on four devices
    np.testing.assert_allclose(tried[0], [0.1, 0.01, 0.1, 0.01])
    assert [steps for _, steps, _ in taken] == [3] * len(taken)
    assert all(labels == {"classification"} for *_, labels in taken)


def test_a_training_that_diverges_is_counted_as_such(
    config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It does not end the evaluation: another learning rate may do; and it has no value, neither 0 nor another."""
    original, diverging = transfer.Transfer.train, 0.1

    def train(self: Any, trainings: Any) -> list[Outcome]:
        outcomes = original(self, trainings)
        return [outcome._replace(variables=None) if outcome[0][2] == diverging else outcome for outcome in outcomes]

    monkeypatch.setattr(transfer.Transfer, "train", train)
    one = config.model_copy(
        update={"downstream": {"range": config.downstream["range"]}, "transfers": config.transfers[:1]}
    )
    evaluate.run(one, tmp_path / "run")
    values = [json.loads(line) for line in (tmp_path / "run" / "runs.jsonl").read_text().splitlines()]
    assert {line["validation"] for line in values if "/rate 0.1" in line["run"]} == {None}
    assert {row["learning_rate"] for row in rows(tmp_path / "run")} == {0.01}

    diverging = 0.01  # the only one that is left, and with every seed
    alone = one.transfers[0].model_copy(update={"learning_rates": (0.01,)})
    evaluate.run(one.model_copy(update={"transfers": (alone,)}), tmp_path / "all")
    assert {row["value"] for row in rows(tmp_path / "all")} == {None}
    with (tmp_path / "all/scorecard.csv").open() as file:
        assert {row["value"] for row in csv.DictReader(file)} == {""}


def test_the_first_seed_is_shown_by_class_and_curve(finished: Path, config: EvaluateConfig):
    details = {(row["init"], row["dataset"], row["mode"]): row["details"] for row in rows(finished) if row["seed"] == 0}
    columns = details["teacher", "shapes", "frozen"]["per_class"]["columns"]
    assert len(columns["recall"]) == len(details["teacher", "shapes", "frozen"]["per_class"]["classes"]) > 2
    found = {each.title: each.details for each in overview._details(Entry("card", config, finished))}
    by_class = found["card: shapes, frozen, seed 0, recall by class"].per_class
    assert by_class and by_class.columns.keys() == config.inits.keys()
    assert by_class.columns["teacher"] == columns["recall"]
    curves = found["card: range, frozen, seed 0"].curves
    assert curves and all(curve.series.keys() == config.inits.keys() for curve in curves)
    page = (finished / "report/index.html").read_text()
    assert "card: shapes" not in page and "shapes, frozen, seed 0, recall by class" in page


def test_test_images_are_looked_at_only_for_the_rate_that_was_chosen(
    config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """What is strange there is told, and is in the report."""
    fake(lambda seed, rate: {"validation": rate, "test": 7.0}, monkeypatch)
    evaluate.run(config, tmp_path / "run")
    assert "look at teacher, frozen, seed 0, on range: odd" in capsys.readouterr().err
    assert "teacher: odd" in (tmp_path / "run/report/index.html").read_text()
    lines = [json.loads(line) for line in (tmp_path / "run" / "runs.jsonl").read_text().splitlines()]
    tried = {line["run"]: line for line in lines if "validation" in line}
    assert {(line["validation"], line["test"]) for line in tried.values()} == {(0.1, 7.0), (0.01, None)}


def test_the_learning_rate_is_chosen_on_validation(
    config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The rate that is worse on validation is better on test: it must not be taken."""
    fake(lambda seed, rate: {"validation": 50 - rate, "test": 100 * rate + seed}, monkeypatch)
    evaluate.run(config, tmp_path / "run")
    frozen = [row for row in rows(tmp_path / "run") if row["mode"] == "frozen"]
    assert {row["learning_rate"] for row in frozen} == {0.01}
    assert {(row["seed"], row["value"]) for row in frozen} == {(0, 1.0), (1, 2.0)}


def test_of_equal_learning_rates_the_first_is_chosen():
    assert choose({0.3: 50.0, 0.1: 50.0, 0.01: 40.0}) == 0.3


def test_a_learning_rate_that_diverged_is_not_chosen():
    assert choose({0.3: None, 0.1: 0.0}) == 0.1
    assert choose({0.3: None, 0.1: None}) == 0.1


def test_a_run_that_was_killed_goes_on_with_what_is_missing(
    finished: Path, config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch
):
    before, lines = rows(finished), (finished / "runs.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 2 * 2 * 3 + 2
    for name in ("result.json", "scorecard.json", "scorecard.csv"):
        (finished / name).unlink()
    (finished / "runs.jsonl").write_text("".join(lines[:-1]) + lines[-1][:10])
    done, original = [], transfer.Transfer.train

    def counted(self: Any, trainings: Any) -> Any:
        done.extend(trainings)
        return original(self, trainings)

    monkeypatch.setattr(transfer.Transfer, "train", counted)
    evaluate.run(config, finished)
    assert len(done) == 1
    assert rows(finished) == before  # the same training comes to the same value


def test_a_start_that_was_trained_anew_is_measured_anew(
    finished: Path, config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch
):
    """Although the run is finished."""
    teacher = Path(shutil.copytree(config.inits["teacher"], finished.parent / "teacher"))
    redescribe(teacher / "model.json", digest="another")
    changed = config.model_copy(update={"inits": config.inits | {"teacher": str(teacher)}})
    (finished / "config.json").write_text(changed.model_dump_json())
    trained_anew = dataclasses.replace(opening.trained.load(config.inits["teacher"]), digest="another")
    monkeypatch.setattr(opening.trained, "load", lambda folder, **_: trained_anew)
    calls = fake(lambda seed, rate: {"validation": rate, "test": 0.0}, monkeypatch)
    for _ in range(2):
        evaluate.run(changed, finished)
        assert len(calls) == 2 * 3 + 2  # all of the teacher, none of scratch; once


def test_other_labels_are_measured_anew(finished: Path, config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch):
    original = fingerprint_of

    def corrected(sources: Any) -> dict[str, Any]:
        return original(sources) | {"train.2.labels.0": "depth by other labels"}

    calls = fake(lambda seed, rate: {"validation": rate, "test": 0.0}, monkeypatch)
    (finished / "result.json").unlink()
    evaluate.run(config, finished)
    assert not calls
    monkeypatch.setattr(cells, "fingerprint_of", corrected)
    (finished / "result.json").unlink()
    evaluate.run(config, finished)
    assert len(calls) == 2 * (2 * 3 + 1)


def test_unreadable_images_of_a_small_split_end_the_run(
    config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Two of sixteen are too many; of 48 training images they would not be."""
    original = transfer.eval_batches

    def two_gone(*args: Any, on_bad: Any, **options: Any) -> Any:
        for name in ("a", "b"):
            on_bad(name, "cut off")
        return original(*args, on_bad=on_bad, **options)

    monkeypatch.setattr(transfer, "eval_batches", two_gone)
    monkeypatch.setattr(unreadable, "MAX_UNREADABLE", 0.1)
    with pytest.raises(UserError, match="2 images cannot be read"):
        evaluate.run(config, tmp_path / "run")


def test_a_finished_run_says_so(
    finished: Path, config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(opening.trained, "load", lambda folder, **_: 1 / 0)
    evaluate.run(config, finished)
    assert f"{finished} is finished" in capsys.readouterr().err


def test_the_result_says_what_the_starts_were_trained_with(finished: Path, home: Path):
    starts = json.loads((finished / "result.json").read_text())["starts"]
    digest = json.loads((home / "teacher/model.json").read_text())["digest"]
    assert starts == {
        "scratch": {"tasks": [], "image_steps": 0, "digest": None},
        "teacher": {"tasks": ["depth"], "image_steps": 16, "digest": digest},
    }


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"inits": {"a": "nowhere"}, "transfers": []}, "there is no run nowhere"),
        ({"model": {**MODEL, "head_convs": 2}}, "config.model.head_convs is 2, but config.inits.teacher"),
        ({"downstream": {"x": {"task": "depth", **splits("downstream_normals_tiny")}}}, "depth"),
        ({"downstream": {"x": {"task": "depht", **splits("downstream_depth_tiny")}}}, "did you mean 'depth'"),
        ({"downstream": {"x": {"task": "depth", **splits("downstream_dept_tiny")}}}, "did you mean"),
    ],
)
def test_mistakes_are_found_before_any_work(
    config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], sentence: str
):
    calls = fake(lambda seed, rate: {}, monkeypatch)
    values = config.model_dump() | change
    values["transfers"] = [t | {"inits": ()} for t in config.model_dump()["transfers"]]
    with pytest.raises(UserError, match=sentence):
        evaluate.run(EvaluateConfig(**values), tmp_path / "run")
    assert calls == []
    assert not (tmp_path / "run").exists()


def test_a_split_within_another_is_told_and_never_tested_on(
    config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    fake(lambda seed, rate: {"validation": 1.0, "test": 1.0}, monkeypatch)
    for split, other, sentence in (
        ("test", "train[:5]", "error"),
        ("validation", "train[:5]", "5 of its 5 images are in config.downstream.range.train, too, so the learning"),
        ("validation", "test", "images are in config.downstream.range.test, too, so the learning rate is not chosen"),
    ):
        sets = config.model_dump()["downstream"]
        sets["range"][split]["images"] = f"scenes/downstream_depth_tiny:{other}"
        changed = EvaluateConfig(**config.model_dump() | {"downstream": sets})
        if sentence == "error":
            with pytest.raises(UserError, match=r"range\.test .*: 5 of its 5 images are in config.downstream.range.tr"):
                evaluate.run(changed, tmp_path / "refused")
            assert not (tmp_path / "refused").exists()
        else:
            evaluate.run(changed, tmp_path / other)
            told = capsys.readouterr().err
            assert f"look at config.downstream.range.validation (scenes/downstream_depth_tiny:{other}): " in told
            assert sentence in told


def test_validation_without_labels_is_found_before_any_work(config: EvaluateConfig, tmp_path: Path):
    sets = config.model_dump()["downstream"]
    sets["range"]["validation"]["images"] = "scenes/downstream_normals_tiny:validation"
    changed = EvaluateConfig(**config.model_dump() | {"downstream": sets})
    with pytest.raises(UserError, match=r"config.downstream.range.validation .* has no labels of task 'depth'"):
        evaluate.run(changed, tmp_path / "run")
    assert not (tmp_path / "run").exists()
