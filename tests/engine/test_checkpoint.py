from __future__ import annotations

import shutil

import jax
import numpy as np
import pytest

from must_jax import files
from must_jax.config import OptimizerConfig
from must_jax.engine import mesh
from must_jax.engine.checkpoint import Checkpoints, check_space, restore_variables
from must_jax.engine.mesh import make_mesh
from must_jax.engine.optimizers import build_optimizer
from must_jax.engine.state import init_state
from must_jax.errors import UserError

ADAMW = OptimizerConfig(name="adamw", clip_norm=1.0)
DATA = {"train.0.images": "abc", "train.0.length": 64}


@pytest.fixture
def state(toy):
    def state(seed=0, *, ema=True, devices=4, fsdp=1, config=ADAMW):
        return init_state(toy.variables(seed), build_optimizer(config), make_mesh(devices, fsdp=fsdp), ema=ema)

    return state


@pytest.fixture
def saved(tmp_path, state):
    with Checkpoints(tmp_path / "checkpoints", DATA) as checkpoints:
        assert checkpoints.latest_step() is None
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), {"clock": {"seconds": 0.5, "steps": step}})
    return tmp_path / "checkpoints"


def test_comes_back_bit_for_bit_on_another_number_of_devices(saved, state, leaves):
    with Checkpoints(saved, DATA) as checkpoints:
        assert checkpoints.latest_step() == 3
        restored, meta = checkpoints.restore(3, state(devices=2))
    assert meta == {"clock": {"seconds": 0.5, "steps": 3}}
    expected, found = leaves(state(3)), leaves(restored)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert restored["params"]["layer"]["kernel"].sharding == state(devices=2)["params"]["layer"]["kernel"].sharding


@pytest.mark.parametrize(("devices", "fsdp"), [(1, 1), (2, 1), (2, 2), (4, 1), (4, 4)])
def test_parts_come_back_in_any_other_layout(tmp_path, state, leaves, monkeypatch, devices, fsdp):
    monkeypatch.setattr(mesh, "LEAST_SPLIT", 1)
    saved = state(5, fsdp=2)
    with Checkpoints(tmp_path / "c", DATA) as checkpoints:
        checkpoints.save(1, saved, {})
    with Checkpoints(tmp_path / "c", DATA) as checkpoints:
        restored, _ = checkpoints.restore(1, like := state(devices=devices, fsdp=fsdp))
    for name, value in leaves(saved).items():
        np.testing.assert_array_equal(leaves(restored)[name], value, err_msg=name)
    assert restored["params"]["layer"]["kernel"].sharding == like["params"]["layer"]["kernel"].sharding


def test_the_last_two_are_kept(saved):
    assert {folder.name for folder in saved.iterdir()} == {"2", "3"}


def test_what_is_left_of_a_save_that_was_killed_is_removed(saved, state):
    """Of any step: a run that was preempted may not come by this one again."""
    unfinished = saved / "7.orbax-checkpoint-tmp"
    shutil.copytree(saved / "3", unfinished)
    (unfinished / "_CHECKPOINT_METADATA").unlink()
    with Checkpoints(saved, DATA) as checkpoints:
        assert checkpoints.latest_step() == 3
        checkpoints.save(4, state(4), {})
    assert {folder.name for folder in saved.iterdir()} == {"3", "4"}


def test_other_data_is_refused_by_name(saved, state):
    with (
        Checkpoints(saved, DATA | {"train.0.length": 65}) as checkpoints,
        pytest.raises(UserError, match=r"was made with train.0.length = 64, which is 65 now"),
    ):
        checkpoints.restore(3, state())


def test_another_model_or_optimizer_is_refused_by_name(saved, state):
    with Checkpoints(saved, DATA) as checkpoints:
        with pytest.raises(UserError, match=r"different: .*opt_state"):
            checkpoints.restore(3, state(config=OptimizerConfig()))
        other = state()
        other["params"]["layer"]["bias"] = other["params"]["layer"]["bias"][:1]
        with pytest.raises(UserError, match=r"different: params/layer/bias$"):
            checkpoints.restore(3, other)


def test_a_save_that_was_cut_off_does_not_count(saved):
    (saved / "4.orbax-checkpoint-tmp-1").mkdir()
    with Checkpoints(saved, DATA) as checkpoints:
        assert checkpoints.latest_step() == 3


@pytest.mark.parametrize("ema", [True, False])
def test_trained_variables_alone(tmp_path, state, leaves, ema):
    with Checkpoints(tmp_path / "c", DATA) as checkpoints:
        saved = state(ema=ema)
        if ema:
            saved["ema"]["params"]["layer"]["bias"] += 1
        checkpoints.save(1, saved, {})
    variables = restore_variables(tmp_path / "c")
    assert leaves(variables).keys() == leaves({"params": saved["params"], "stats": saved["stats"]}).keys()
    np.testing.assert_array_equal(variables["params"]["layer"]["bias"], np.full(2, 2.0 if ema else 1.0))


def test_nothing_to_restore(tmp_path):
    with pytest.raises(UserError, match="train the run again"):
        restore_variables(tmp_path / "gone")
    with pytest.raises(UserError, match="no complete checkpoint"):
        restore_variables(tmp_path)


def test_too_little_disk(tmp_path, state, monkeypatch):
    folder, shapes = tmp_path / "run" / "checkpoints", jax.eval_shape(lambda: state())
    check_space(folder, shapes)
    usage = files.shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"checkpoints of .*run need about 0 MiB, .* has 0 MiB free"):
        check_space(folder, shapes)
    folder.mkdir(parents=True)
    (folder / "written").write_bytes(bytes(3 * sum(leaf.nbytes for leaf in jax.tree.leaves(state()))))
    check_space(folder, shapes)
