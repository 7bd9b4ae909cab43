"""What a training promises, in this process: stopped and resumed at every step, numbers and records that go wrong."""

from __future__ import annotations

import os
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from processes import STUDENT, rows, saved, values

from must_jax import preemption
from must_jax.config import ReplayConfig, TrainConfig
from must_jax.data.image_sets import ImageSet
from must_jax.engine.checkpoint import restore_variables
from must_jax.errors import Preempted, UserError
from must_jax.parsing import parse
from must_jax.stages import describe, replay, train
from must_jax.training import building

STEPS, BATCH = 12, STUDENT["batch_size"]


@pytest.fixture(scope="module")
def config(data_dir):
    def config(**changes) -> TrainConfig:
        return parse(STUDENT | {"data_dir": str(data_dir), "steps": STEPS, "checkpoint_every": 5} | changes)

    return config


@pytest.fixture(scope="module", autouse=True)
def shared_step():
    """The runs of this module are compiled once, since nothing in which they differ is in the program."""
    made, kept = building.make_train_step, []

    def make_train_step(*args, **options):
        kept.append(kept[0] if kept else made(*args, **options))
        return kept[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "make_train_step", make_train_step)
        yield made


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    train.run(config(), workdir)
    return workdir


def state(workdir):
    """All of the last checkpoint: parameters, statistics, optimizer, moving average."""
    json, tree = ocp.JsonCheckpointHandler(), ocp.PyTreeCheckpointHandler()
    handlers = {"state": tree, "data": json, "meta": json}
    with ocp.CheckpointManager((workdir / "checkpoints").resolve(), item_handlers=handlers) as manager:
        wanted = manager.item_metadata(STEPS)["state"].tree
        arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        args = ocp.args.PyTreeRestore(item=wanted, restore_args=arrays)
        return manager.restore(STEPS, args=ocp.args.Composite(state=args))["state"]


@pytest.fixture
def change_batches(monkeypatch):
    """Calls a function of (number, batch) on every batch before it is trained on."""

    def change_batches(change):
        def batches(*args, start_step, **options):
            for number, batch in enumerate(original(*args, start_step=start_step, **options), start_step):
                change(number, batch)
                yield batch

        original = building.train_batches
        monkeypatch.setattr(building, "train_batches", batches)

    return change_batches


@pytest.fixture
def watched():
    """SIGTERM means preemption, as it does in a command; returns what forgets one that has come."""
    handler = signal.getsignal(signal.SIGTERM)
    preemption.watch()
    yield preemption.watch
    preemption.watch()
    signal.signal(signal.SIGTERM, handler)


def test_stopped_and_resumed_at_every_step(config, undisturbed, tmp_path, leaves, change_batches, watched):
    """By SIGTERM, with workers and without in turn. All of the state and all that is logged are the same bits."""
    stop_at = STEPS

    def change(number, batch):
        if number == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    change_batches(change)
    for stop_at in range(STEPS - 1):
        with pytest.raises(Preempted, match=f"stopped after update {stop_at + 1} of {STEPS}"):
            train.run(config(input={"workers": 2 * (stop_at % 4 == 1)}), tmp_path / "run")
        assert saved(tmp_path / "run")[-1] == stop_at + 1
        watched()
    stop_at = STEPS
    train.run(config(), tmp_path / "run")
    found, expected = (leaves(state(workdir)) for workdir in (tmp_path / "run", undisturbed))
    assert found.keys() == expected.keys() and {name.split("'")[1] for name in found} == {
        "params",
        "stats",
        "opt_state",
        "ema",
    }
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert values(tmp_path / "run") == values(undisturbed)


def test_an_update_that_is_not_finite_is_left_out_and_named(config, undisturbed, tmp_path, leaves, change_batches):
    def change(number, batch):
        if number == 4:
            batch["labels"]["depth"]["depth"][2] = np.inf
            batch["labels"]["depth"]["valid"][2] = 1

    change_batches(change)
    train.run(config(), tmp_path / "run")
    assert [row["skipped"] for row in rows(tmp_path / "run") if "skipped" in row] == [0.0] * 4 + [1.0] + [0.0] * 7
    assert "loss" not in rows(tmp_path / "run")[4]
    (line,) = rows(tmp_path / "run", "skipped.jsonl")
    assert line["update"] == 4 and len(set(line["images"])) == BATCH
    assert values(tmp_path / "run")[:4] == values(undisturbed)[:4]
    assert all(np.isfinite(value).all() for value in leaves(state(tmp_path / "run")).values())


def test_it_is_named_also_where_the_run_is_stopped_there(config, tmp_path, change_batches, watched):
    def change(number, batch):
        if number == 4:
            batch["labels"]["depth"]["depth"][:] = np.nan
            os.kill(os.getpid(), signal.SIGTERM)

    change_batches(change)
    with pytest.raises(Preempted, match="stopped after update 5 of"):
        train.run(config(), tmp_path / "run")
    assert [line["update"] for line in rows(tmp_path / "run", "skipped.jsonl")] == [4]


def test_the_images_of_an_update_are_those_of_its_batch(config, tmp_path, change_batches):
    indices = []

    def change(number, batch):
        indices.append(batch["index"].tolist())
        if number == 4:
            batch["labels"]["depth"]["depth"][:] = np.nan

    change_batches(change)
    train.run(config(steps=6), tmp_path / "run")
    (line,) = rows(tmp_path / "run", "skipped.jsonl")
    assert line["images"] == [f"scenes/teacher_depth_tiny:train[{index}]" for index in indices[4]]


def test_too_many_that_are_not_finite_end_the_run_and_the_last_checkpoint_is_good(
    config, tmp_path, leaves, change_batches
):
    def change(number, batch):
        if number >= 6:
            batch["labels"]["depth"]["depth"][:] = np.nan

    change_batches(change)
    with pytest.raises(UserError, match=r"3 of the last 100 updates is not finite, the last one of update 8; lower"):
        train.run(config(max_skipped=2), tmp_path / "run")
    assert [line["update"] for line in rows(tmp_path / "run", "skipped.jsonl")] == [6, 7, 8]
    assert saved(tmp_path / "run") == [5]
    assert all(np.isfinite(value).all() for value in leaves(restore_variables(tmp_path / "run/checkpoints")).values())


def test_the_update_that_ended_a_run_can_be_replayed(config, tmp_path, change_batches, capsys):
    def change(number, batch):
        if number >= 6:
            batch["labels"]["depth"]["depth"][3] = np.nan
            batch["labels"]["depth"]["valid"][3] = 1

    change_batches(change)
    with pytest.raises(UserError, match=r"--config.stage=replay --config.replay=7"):
        train.run(config(max_skipped=1), tmp_path / "run")
    under_way = tmp_path / "run" / "checkpoints" / "8.orbax-checkpoint-tmp" / "state"  # as of a run that goes on
    under_way.mkdir(parents=True)
    (under_way / "half").write_text("half")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    of = config(max_skipped=1)
    found_in = {
        7: ("the checkpoint of step 5", "label depth/depth"),
        4: ("the beginning", "all labels and outputs are finite"),
    }
    for update, (start, found) in found_in.items():
        capsys.readouterr()
        replay.run(ReplayConfig(replay=update, of=of), tmp_path / "run")
        printed = capsys.readouterr()
        assert f"from {start} to update {update}" in printed.err
        assert found in printed.out
        assert "backbone/stem" in printed.out
    assert any("skipped updates: 2, the last ones 6, 7" in str(part) for part in describe.describe(tmp_path / "run"))
    images = rows(tmp_path / "run", "skipped.jsonl")[-1]["images"]
    assert images[3].startswith("scenes/teacher_depth_tiny:train[")
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert after == before
    with pytest.raises(UserError, match=r"config.replay is 99, but the updates are 0 to"):
        replay.run(ReplayConfig(replay=99, of=of), tmp_path / "run")


def test_a_corrupt_record_is_left_out_and_its_share_logged(config, tmp_path, monkeypatch):
    def record(self, index):
        return original(self, index) | ({"image": b"cut off"} if index == 7 and "train" in self.name else {})

    original = ImageSet.record
    monkeypatch.setattr(ImageSet, "record", record)
    train.run(config(), tmp_path / "run")
    shares = [row.get("unreadable/scenes/teacher_depth_tiny:train", 0.0) for row in rows(tmp_path / "run")[:STEPS]]
    assert shares[-1] == pytest.approx(1 / 48) and sorted(shares) == shares


def test_bfloat16_computes_nearly_the_same_with_parameters_of_float32(
    config, undisturbed, tmp_path, leaves, monkeypatch, shared_step
):
    """Losses within 3 % over twelve updates: a number of bfloat16 has eight bits, and its rounding adds up."""
    monkeypatch.setattr(building, "make_train_step", shared_step)
    train.run(config(model=STUDENT["model"] | {"dtype": "bfloat16"}), tmp_path / "run")
    half, single = (
        [row["loss"] for row in rows(workdir) if "loss" in row] for workdir in (tmp_path / "run", undisturbed)
    )
    np.testing.assert_allclose(half, single, rtol=0.03)
    assert half != single
    assert {value.dtype for value in leaves(restore_variables(tmp_path / "run/checkpoints")).values()} == {
        np.dtype(np.float32)
    }
