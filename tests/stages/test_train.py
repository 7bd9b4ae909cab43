"""The stage on tiny rendered scenes, through the same function that `main` calls."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from must_jax import trained
from must_jax.config import OptimizerConfig, TrainConfig
from must_jax.data.confidence import Threshold
from must_jax.engine import distributed, goodput
from must_jax.engine.checkpoint import restore_variables
from must_jax.errors import UserError
from must_jax.inputs import sources, unreadable
from must_jax.inputs.named import mesh_of
from must_jax.inputs.sources import fingerprint_of
from must_jax.inputs.targets import build_tasks, loss_weights, to_measure
from must_jax.inputs.unreadable import Unreadable
from must_jax.labels.manifest import TeacherRecord
from must_jax.parsing import parse
from must_jax.runs.workdir import check
from must_jax.stages import train
from must_jax.stages.train import run
from must_jax.training import building, validation
from must_jax.training.building import prepare

MODEL = {"backbone": "resnet10", "width": 0.125, "pyramid_channels": 8, "head_channels": 8, "head_convs": 1}
OPTIMIZER = {"learning_rate": 0.02, "warmup_steps": 2, "clip_norm": 1.0, "ema_decay": 0.5}
SCENES = "scenes/teacher_classification_tiny"
STEPS = 8


@pytest.fixture(scope="module")
def config(data_dir):
    def config(**changes) -> TrainConfig:
        values = {
            "stage": "train",
            "data_dir": str(data_dir),
            "devices": 2,
            "train": [{"images": f"{SCENES}:train"}],
            "validation": {"images": f"{SCENES}:validation"},
            "tasks": {"classification": {}},
            "image_size": 32,
            "model": MODEL,
            "optimizer": OPTIMIZER,
            "batch_size": 8,
            "steps": STEPS,
            "log_every": 4,
            "checkpoint_every": 3,
        }
        return parse(values | changes)

    return config


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    run(config(), workdir)
    return workdir


def read(workdir, name):
    return json.loads((workdir / name).read_text())


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_what_a_finished_run_leaves_behind(finished):
    result = read(finished, "result.json")
    assert result["steps"] == STEPS
    assert set(result) >= {"metrics", "seconds", "images_per_second", "data_wait_share", "parameters"}
    assert set(result["metrics"]) == {"classification/top1", "classification/chance"}
    assert {row["step"] for row in rows(finished)} == {4, 8}
    assert rows(finished)[-1] == {
        "step": STEPS,
        **{f"validation/{name}": value for name, value in result["metrics"].items()},
    }
    assert {"loss", "classification/cross_entropy", "learning_rate", "images_per_second", "data_wait_share"} <= set(
        rows(finished)[1]
    )
    assert list(finished.glob("events.out.tfevents.*"))
    assert {folder.name for folder in (finished / "checkpoints").iterdir()} == {"6", "8"}


def test_a_finished_run_returns_at_once(finished, config, capsys, monkeypatch):
    monkeypatch.setattr(train, "_train", lambda *_: pytest.fail("trains again"))
    run(config(log_every=1, devices=4), finished)  # these may change
    assert "8 steps, classification/top1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 1}, "config.seed is 0 there and 1 here"),
        ({"optimizer": OPTIMIZER | {"learning_rate": 0.5}}, r"config.optimizer.learning_rate is 0.02 there and 0.5"),
    ],
)
def test_the_workdir_of_another_config_is_refused(finished, config, changes, key):
    with pytest.raises(UserError, match=key):
        run(config(**changes), finished)


def test_killed_and_resumed_it_ends_bit_for_bit_the_same(finished, config, tmp_path, leaves, monkeypatch):
    class Killed(BaseException):
        pass

    def killed_at(k):
        def batches(*args, start_step, **options):
            for step, batch in enumerate(original(*args, start_step=start_step, **options), start_step):
                if step == k:
                    raise Killed
                yield batch

        return batches

    original = building.train_batches
    for k in (2, 7):  # before the first checkpoint, after the last one
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(building, "train_batches", killed_at(k))
            run(config(), tmp_path / "run")
        assert not (tmp_path / "run" / "result.json").exists()
        with pytest.raises(UserError, match="not a finished training run"):
            trained.load(tmp_path / "run")
    run(config(), tmp_path / "run")

    expected, found = (leaves(restore_variables(w / "checkpoints")) for w in (finished, tmp_path / "run"))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    ours, theirs = read(tmp_path / "run", "model.json"), read(finished, "model.json")
    assert (ours["digest"], ours["metrics"]) == (theirs["digest"], theirs["metrics"])
    assert [row["step"] for row in rows(tmp_path / "run")] == [4, 8, 8]
    spent = goodput.total(goodput.read(tmp_path / "run"))
    assert (spent.processes, spent.steps, spent.lost_steps) == (3, STEPS, 2 + 1)  # all of 2, and the one after 6
    assert spent.seconds.keys() >= {"init", "data", "restore", "compile", "step", "save", "evaluation", "lost", "down"}
    assert sum(spent.seconds.values()) == pytest.approx(spent.last - spent.began)


def test_updates_are_traced_on_request(finished, config, tmp_path, leaves):
    run(config(profile="2:3"), tmp_path / "run")
    assert len(list((tmp_path / "run" / "profile").glob("plugins/profile/*/*.xplane.pb"))) == 1
    assert not (finished / "profile").exists()
    assert read(tmp_path / "run", "model.json")["digest"] == read(finished, "model.json")["digest"]
    check(finished, config(profile="2:3"))  # may change


def test_other_devices_train_alike(finished, config, tmp_path):
    run(config(devices=4), tmp_path / "run")
    four, two = ([row["loss"] for row in rows(workdir) if "loss" in row] for workdir in (tmp_path / "run", finished))
    assert len(two) == 2
    np.testing.assert_allclose(four, two, rtol=1e-4)


def test_other_data_under_a_checkpoint_is_refused(finished, config, monkeypatch):
    """Also with a change to the config that may be made: that is not written either."""
    (finished / "model.json").rename(finished / "kept")
    try:
        monkeypatch.setattr(building, "fingerprint_of", lambda sources: {"train.0.images": "other"})
        before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
        with pytest.raises(UserError, match=r"was made with train.0.images = \w+, which is other now"):
            run(config(log_every=3), finished)
        assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    finally:
        (finished / "kept").rename(finished / "model.json")


def test_a_model_under_the_minimum_is_kept_but_not_finished(finished, config, tmp_path, monkeypatch):
    demanding = config(minimum={"classification/top1": 101.0})
    for _ in range(2):
        with pytest.raises(UserError, match=r"reached classification/top1 = .*, below config.minimum = 101"):
            run(demanding, tmp_path / "run")
        monkeypatch.setattr(train, "_train", lambda *_: pytest.fail("trains again"))
    assert not (tmp_path / "run" / "result.json").exists()
    assert trained.load(tmp_path / "run").digest == trained.load(finished).digest
    run(config(), tmp_path / "run")
    assert (tmp_path / "run" / "result.json").exists()


def test_a_minimum_that_is_not_measured(finished, config):
    with pytest.raises(UserError, match=r"'classification/top5', which is not measured; .*classification/top1"):
        run(config(minimum={"classification/top5": 50.0}), finished)


def test_starts_from_the_backbone_of_a_finished_run(finished, config, tmp_path, monkeypatch):
    started = []

    def remember(variables, *args, **options):
        started.append(jax.device_get(variables))
        raise UserError("far enough")

    monkeypatch.setattr(building, "init_state", remember)
    with pytest.raises(UserError, match="far enough"):
        run(config(init=str(finished), seed=7), tmp_path / "run")
    teacher = trained.load(finished).variables
    jax.tree.map(np.testing.assert_array_equal, started[0]["params"]["backbone"], teacher["params"]["backbone"])
    jax.tree.map(np.testing.assert_array_equal, started[0]["stats"]["fpn"], teacher["stats"]["fpn"])
    fresh = started[0]["params"]["heads"]["classification"]
    assert not np.array_equal(jax.tree.leaves(fresh)[-1], jax.tree.leaves(teacher["params"]["heads"])[-1])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"devices": 9}, "this run has 4"),
        ({"batch_size": 7}, "batch_size is 7, which 2 devices cannot share"),
        ({"init": "runs/nowhere"}, "there is no run runs/nowhere"),
        ({"train": [{"images": f"{SCENES}:train", "labels": ["runs/no-column"]}]}, "no label column runs/no-column"),
        ({"tasks": {"clasification": {}}}, r"there is no task 'clasification' \(did you mean 'classification'\?\)"),
        (
            {"tasks": {"depth": {}}},
            "no images are labelled for task 'depth'; labelled are: none .*as 'truth': classification",
        ),
        ({"tasks": {"classification": {"lable_smoothing": 0.1}}}, "did you mean 'label_smoothing'"),
        ({"validation": {"images": "folder:nowhere"}}, "nowhere"),
        ({"minimum": {"classification/top5": 50.0}}, r"top5', which is not measured; did you mean '.*/top1'"),
        (
            {"minimum": {"classification/top1": 5.0}, "validation": {"images": "scenes/teacher_depth_tiny:test"}},
            "'classification/top1', which is not measured; known: none",
        ),
    ],
)
def test_mistakes_are_found_before_anything_is_written(config, tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        run(config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_validation_on_what_is_trained_on_is_told(config, tmp_path, capsys):
    changed = config(validation={"images": f"{SCENES}:validation+train[:5]"})
    prepare(changed, mesh_of(changed))
    said = f"look at config.validation.0 ({SCENES}:validation+train[:5]): 5 of its "
    assert said in (told := capsys.readouterr().err)
    assert f" images are in config.train ({SCENES}:train), too, so its metrics do not tell how good" in told
    apart = config()
    prepare(apart, mesh_of(apart))
    assert "too, so" not in capsys.readouterr().err


class Column:
    def __init__(self, task="classification", classes=("a", "b"), teacher=None, unit=""):
        from must_jax.data.kinds import ScalarsLabel, VectorLabel

        self.task, self.classes, self.teacher = task, classes, teacher
        self.kind = ScalarsLabel("depth", unit) if unit else VectorLabel(len(classes))

    def in_unit(self, unit):
        return Column(self.task, self.classes, self.teacher, unit)


class Images:
    name, labels, digest, sampled = "photos", {}, "d", False

    def __len__(self):
        return 200


def source(*columns):
    return sources.Source(Images(), columns)


def test_class_lists_must_agree_in_training_and_validation():
    two = source(Column(classes=("a", "b")))
    assert build_tasks({"classification": {}}, [two, two], 20)["classification"].classes == ("a", "b")
    for other in ({"also": [source(Column(classes=("b", "a")))]}, {"also": [source(Column(classes=("a",)))]}):
        with pytest.raises(
            UserError, match=r"have the classes .*, others have a, b; use labels with the same class list"
        ):
            build_tasks({"classification": {}}, [two], 20, **other)


def test_units_must_agree():
    depth = source(Column("depth", (), unit="m"))
    assert build_tasks({"depth": {}}, [depth], 20)["depth"].label.unit == "m"
    with pytest.raises(UserError, match=r"have the unit 'm', but config.tasks.depth expects 'relative'"):
        build_tasks({"depth": {"depth_kind": "relative"}}, [depth], 20)


@pytest.mark.parametrize("kind", ["relative", "inverse_relative"])
def test_what_is_no_metric_depth_is_measured_on_metres(kind):
    """But not the other way round, and learnt from labels of its own kind only."""
    own, metres = source(Column("depth", (), unit=kind)), source(Column("depth", (), unit="m"))
    tasks = build_tasks({"depth": {"depth_kind": kind}}, [own], 20, also=[metres])
    assert [column.kind for column in to_measure(metres, tasks).columns] == [tasks["depth"].label]
    with pytest.raises(UserError, match=f"have the unit '{kind}', but config.tasks.depth expects 'm'"):
        build_tasks({"depth": {}}, [metres], 20, also=[own])
    other = {"relative": "inverse_relative", "inverse_relative": "relative"}[kind]
    with pytest.raises(UserError, match=f"have the unit '{other}'"):
        to_measure(source(Column("depth", (), unit=other)), tasks)


SGD = OptimizerConfig(name="sgd", learning_rate=0.32)


def teacher(**settings):
    values = {"name": "seer", "digest": "", "image_size": 32, "metrics": {}, "optimizer": "sgd"}
    return TeacherRecord(**values | {"learning_rate": 0.8, "batch_size": 2048, "steps": 20} | settings)


def loss_weight(*teachers, optimizer=SGD):
    sources = [source(*(Column(teacher=each) for each in teachers))]
    tasks = build_tasks({"classification": {}}, sources, 20)
    return loss_weights(tasks, sources, batch_size=256, optimizer=optimizer)["classification"]


def test_loss_weights_by_the_rule_of_the_paper(capsys):
    sources = [source(Column(teacher=teacher()), Column("depth", (), teacher(), unit="m")), source(Column())]
    tasks = build_tasks({"classification": {}, "depth": {"weight": 0.5}}, sources, 20)
    weights = loss_weights(tasks, sources, batch_size=256, optimizer=SGD)
    assert weights == pytest.approx({"classification": 0.3125, "depth": 0.5})
    assert loss_weights(tasks, [source(Column())], 256, SGD)["classification"] == 1.0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("settings", "optimizer", "weight", "why"),
    [
        (
            {"optimizer": "adamw"},
            SGD,
            1.0,
            "seer was trained with adamw, whose learning rates are not comparable to those of sgd",
        ),
        (
            {},
            SGD.model_copy(update={"name": "adamw"}),
            1.0,
            "seer was trained with sgd, whose learning rates are not comparable to those of",
        ),
        ({"learning_rate": None}, SGD, 1.0, "seer has no learning rate or batch size to compare with"),
        ({"optimizer": ""}, SGD, 0.3125, "seer does not record its optimizer, sgd is assumed"),
    ],
)
def test_where_the_rule_does_not_hold_a_line_says_so(settings, optimizer, weight, why, capsys):
    assert loss_weight(teacher(**settings), optimizer=optimizer) == pytest.approx(weight)
    assert f"the loss weight of classification is {weight:.4g}: {why}" in capsys.readouterr().err


def test_of_several_teachers_the_first_one_decides(capsys):
    assert loss_weight(teacher(), teacher(name="other", learning_rate=0.4)) == pytest.approx(0.3125)
    assert "its first teacher, seer, decides" in capsys.readouterr().err
    assert loss_weight(teacher(), teacher(name="other")) == pytest.approx(0.3125)
    assert capsys.readouterr().err == ""


def test_the_fingerprint_names_images_and_labels():
    def read(digest="abc", threshold=0.5, shard="x"):
        column = Column()
        column.min_confidence = Threshold(0.5)
        column.manifest = SimpleNamespace(
            threshold=Threshold(0.5),
            teacher=SimpleNamespace(digest=digest),
            rule={"threshold": threshold},
            shards=[SimpleNamespace(sha256=shard)],
        )
        return fingerprint_of([source(column, Column("depth", unit="m"))])

    labels = read().pop("train.0.labels.0")
    assert labels.startswith("classification by abc, ")
    assert read() == {
        "train.0.images": "d",
        "train.0.length": 200,
        "train.0.labels.0": labels,
        "train.0.labels.1": "depth by truth",
    }
    changes = [{"digest": "other"}, {"threshold": 0.6}, {"shard": "y"}]
    assert len({read(**change)["train.0.labels.0"] for change in [{}, *changes]}) == 4


def test_too_little_disk_is_found_before_anything_is_written(config, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="need about"):
        run(config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unreadable_validation_images_end_the_run_by_their_own_number(config, tmp_path, monkeypatch):
    """Two of sixteen are too many; of a larger number of training images they would not be."""
    original = validation.eval_batches

    def half_gone(*args, on_bad, **options):
        for name in ("a", "b"):
            on_bad(name, "cut off")
        return original(*args, on_bad=on_bad, **options)

    monkeypatch.setattr(validation, "eval_batches", half_gone)
    monkeypatch.setattr(unreadable, "MAX_UNREADABLE", 0.1)  # 4 of 48, 1 of 16
    with pytest.raises(UserError, match="2 images cannot be read"):
        run(config(steps=3), tmp_path / "run")
    assert not (tmp_path / "run" / "model.json").exists()


def test_of_several_processes_all_say_at_once_that_too_much_is_unreadable(monkeypatch, capsys):
    """None of them ends by itself, which would leave the others waiting."""
    unreadable = Unreadable({"photos": 200})
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    others = {}
    monkeypatch.setattr(distributed, "gather", lambda found: [found, others])
    unreadable.add("photos[0]", "cut off")
    others["photos[1]"] = "gone"
    assert unreadable.shares() == {"unreadable/photos": 0.01}
    assert capsys.readouterr().err.splitlines() == ["skipped: photos[0], cut off", "skipped: photos[1], gone"]
    unreadable.add("photos[2]", "cut off")
    assert list(unreadable.guard(iter([{}, {}]))) == [{}, {}]
    with pytest.raises(UserError, match="3 images cannot be read"):
        unreadable.shares()


def test_a_few_unreadable_images_are_named_many_end_the_run(capsys):
    unreadable = Unreadable({"photos": 200})
    batches = unreadable.guard(iter([{}, {}, {}]))
    for name in ("a", "b", "a"):
        unreadable.add(name, "cut off")
    assert next(batches) == {}
    assert capsys.readouterr().err.splitlines() == ["skipped: a, cut off", "skipped: b, cut off"]
    unreadable.add("c", "cut off")
    with pytest.raises(UserError, match="3 images cannot be read"):
        next(batches)
