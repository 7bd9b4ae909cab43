"""The loop, on a network that compiles in no time."""

from __future__ import annotations

import itertools
import json
import math
import time
from functools import partial

import jax
import numpy as np
import pytest

from must_jax.config import OptimizerConfig
from must_jax.engine.checkpoint import Checkpoints, restore_variables
from must_jax.engine.clock import Clock
from must_jax.engine.fit import fit
from must_jax.engine.mesh import make_mesh
from must_jax.engine.metric_log import METRICS_FILE, MetricWriter
from must_jax.engine.optimizers import build_optimizer, learning_rates, schedule
from must_jax.engine.recorder import Recorder
from must_jax.engine.skipped import Diverged
from must_jax.engine.state import init_state
from must_jax.engine.step import make_train_step
from must_jax.engine.validations import Best, Validations

STEPS, BATCH = 8, 8
CONFIG = OptimizerConfig(learning_rate=0.05, warmup_steps=2, clip_norm=5.0, ema_decay=0.9)
SCHEDULE = partial(schedule, CONFIG, STEPS, 0)


class Killed(Exception):
    pass


@pytest.fixture
def mesh():
    return make_mesh(2)


@pytest.fixture
def step(toy, mesh):
    return make_train_step(toy.forward, toy.tasks, (64, 64), {"toy": 1.0}, build_optimizer(CONFIG), mesh)


@pytest.fixture
def fresh(toy, mesh):
    return lambda: init_state(toy.variables(), build_optimizer(CONFIG), mesh, ema=True)


@pytest.fixture
def train(toy, mesh, step, fresh, tmp_path):
    """Continues the run in `tmp_path` until its batches end."""

    def train(kill_at: int | None = None, checkpoint_every: int = 1):
        state, start = fresh(), 0
        with Checkpoints(tmp_path / "checkpoints", {}) as checkpoints:
            if (latest := checkpoints.latest_step()) is not None:
                (state, _), start = checkpoints.restore(latest, state), latest

            def batches():
                for k in itertools.count(start):
                    if k == kill_at:
                        raise Killed
                    yield toy.batch(k)

            recorder = Recorder(checkpoints=checkpoints, checkpoint_every=checkpoint_every)
            return fit(step, state, batches(), SCHEDULE, range(start, STEPS), mesh, recorder)

    return train


@pytest.fixture
def undisturbed(toy, mesh, step, fresh, leaves):
    return leaves(fit(step, fresh(), toy.batches(), SCHEDULE, range(STEPS), mesh))


def test_stopped_anywhere_and_resumed_it_ends_bit_for_bit_the_same(train, undisturbed, leaves, tmp_path):
    for kill_at in range(1, STEPS):
        with pytest.raises(Killed):
            train(kill_at)
        with Checkpoints(tmp_path / "checkpoints", {}) as checkpoints:
            assert checkpoints.latest_step() == kill_at
    found = leaves(train())
    assert found.keys() == undisturbed.keys()
    for name, value in undisturbed.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_updates_after_the_last_checkpoint_are_done_again(train, undisturbed, leaves):
    with pytest.raises(Killed):
        train(kill_at=5, checkpoint_every=3)
    for name, value in leaves(train(checkpoint_every=3)).items():
        np.testing.assert_array_equal(value, undisturbed[name], err_msg=name)


def test_exactly_n_updates_on_n_batches_in_order_with_their_learning_rates(toy, mesh):
    drawn, rates, decays = [], [], []

    def batches():
        for k in itertools.count():
            drawn.append(k)
            yield toy.batch(k)

    def step(state, batch, scheduled):
        with jax.transfer_guard("allow"):  # it is the test that looks, not the loop
            rates.append(float(scheduled["learning_rate"]))
            decays.append(float(scheduled["ema_decay"]))
            np.testing.assert_array_equal(batch["x"], toy.batch(drawn[-1])["x"])
        return step_of_toy(state, batch, scheduled)

    step_of_toy = make_train_step(toy.forward, toy.tasks, (64, 64), {"toy": 1.0}, build_optimizer(CONFIG), mesh)
    state = init_state(toy.variables(), build_optimizer(CONFIG), mesh, ema=False)
    fit(step, state, batches(), SCHEDULE, range(STEPS), mesh)
    assert drawn == list(range(STEPS))
    assert rates == pytest.approx(learning_rates(CONFIG, STEPS, np.arange(STEPS)).tolist())
    assert decays == pytest.approx([(1 + k) / (10 + k) for k in range(STEPS)])


def test_a_finished_run_draws_no_batch(train, undisturbed, leaves):
    train()
    for name, value in leaves(train(kill_at=STEPS)).items():
        np.testing.assert_array_equal(value, undisturbed[name], err_msg=name)


def test_rows_are_means_over_their_window(toy, mesh, step, fresh, tmp_path):
    with MetricWriter(tmp_path / ".") as writer:
        for log_every in (3, 1):
            recorder = Recorder(writer=writer, batch_size=BATCH, log_every=log_every)
            fit(step, fresh(), toy.batches(), SCHEDULE, range(STEPS), mesh, recorder)
    rows = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    windows, single = rows[:3], rows[3:]
    assert [row["step"] for row in windows] == [3, 6, 8]
    assert [row["step"] for row in single] == list(range(1, STEPS + 1))
    for row, steps in zip(windows, ([0, 1, 2], [3, 4, 5], [6, 7]), strict=True):
        present = np.array([toy.batch(k)["labels"]["toy"]["present"].sum() for k in steps])
        squared = np.array([single[k]["toy/squared"] for k in steps])
        assert row["toy/squared"] == pytest.approx((squared * present).sum() / present.sum(), rel=1e-5)
        assert row["loss"] == pytest.approx(np.mean([single[k]["loss"] for k in steps]), rel=1e-5)
        assert row["learning_rate"] == pytest.approx(learning_rates(CONFIG, STEPS, np.array(steps[-1])))
        assert row["images_per_second"] > 0
    assert [("compile_seconds" in row) for row in windows] == [True, False, False]


def test_a_loss_that_is_no_number_stops_the_run(toy, mesh, step, fresh):
    def batches():
        for batch in toy.batches():
            batch["x"][:] = np.inf
            yield batch

    with pytest.raises(Diverged, match=r"6 of the last 100 .* of update 5; lower config.optimizer.learning_rate"):
        fit(step, fresh(), batches(), SCHEDULE, range(STEPS), mesh, Recorder(log_every=2))


def test_waiting_for_a_slow_source_is_measured(toy, mesh, step, fresh):
    def slow():
        for batch in toy.batches():
            time.sleep(0.03)
            yield batch

    clock = Clock()
    fit(step, fresh(), slow(), SCHEDULE, range(STEPS), mesh, Recorder(clock=clock))
    assert clock.steps == STEPS - 1  # the one that compiles does not count
    assert clock.rates(BATCH)["data_wait_share"] > 0.5


def test_a_fast_source_is_hardly_waited_for(toy, mesh, fresh):
    batches = [toy.batch(k) for k in range(STEPS)]

    def forward(variables, batch, train):  # busy for milliseconds
        big = jax.numpy.full((256, 256), 1e-3) + jax.numpy.sum(variables["params"]["layer"]["bias"])
        for _ in range(8):
            big = big @ big * 1e-3
        outputs, stats = toy.forward(variables, batch, train)
        return {"toy": {"y": outputs["toy"]["y"] + 1e-9 * big[0, 0]}}, stats

    step = make_train_step(forward, toy.tasks, (64, 64), {"toy": 1.0}, build_optimizer(CONFIG), mesh)
    clock = Clock()
    fit(step, fresh(), iter(batches), SCHEDULE, range(STEPS), mesh, Recorder(clock=clock))
    assert clock.rates(BATCH)["data_wait_share"] < 0.5


VALUES = {2: 1.0, 4: 3.0, 6: 3.0, 7: math.nan, 8: 2.0}  # update -> what is measured after it


@pytest.fixture
def validated(toy, mesh, step, fresh, tmp_path):
    """Continues the run in `tmp_path`, validated every two updates; returns it and the updates it measured.

    Args:
      kill_in: the validation after so many updates is killed, once it has measured.
    """

    def validated(kill_in: int | None = None, **options) -> tuple[Validations, list[int]]:
        state, start, best, measured = fresh(), 0, Best(), []

        def measure(done, state):
            measured.append(done)
            if done == kill_in:
                raise Killed
            return {"toy/error": VALUES[done], "toy/kernel": float(state["params"]["layer"]["kernel"].sum())}

        with Checkpoints(tmp_path / "checkpoints", {}) as checkpoints:
            if (latest := checkpoints.latest_step()) is not None:
                (state, meta), start = checkpoints.restore(latest, state), latest
                best = Best(**meta["best"])
            validations = Validations(measure, 2, STEPS, best=best, **options)
            try:
                recorder = Recorder(checkpoints=checkpoints, checkpoint_every=3, validations=validations)
                fit(step, state, toy.batches(start), SCHEDULE, range(start, STEPS), mesh, recorder)
            except Killed:
                assert kill_in == measured[-1]
        return validations, measured

    return validated


def test_validated_every_so_many_updates_and_at_the_end_the_first_of_the_best_is_kept(validated, tmp_path):
    validations, measured = validated(metric="toy/error")
    assert measured == [2, 4, 6, 8]
    assert (validations.kept, validations.best.value, validations.best.since) == (4, 3.0, 2)
    assert {int(folder.name) for folder in (tmp_path / "checkpoints").iterdir()} == {4, 6, 8}
    assert validations.kept_metrics == validations.best.metrics != validations.metrics


def test_without_a_metric_the_last_one_is_kept(validated, tmp_path):
    kept = []
    validations, _ = validated(keep=kept.append)
    assert (validations.kept, validations.kept_metrics, kept) == (8, validations.metrics, [2, 4, 6, 8])
    assert {int(folder.name) for folder in (tmp_path / "checkpoints").iterdir()} == {6, 8}


def test_killed_in_every_validation_it_finds_the_same_best(validated, tmp_path):
    undisturbed = Best(4, 3.0, 2)
    for number, kill_in in enumerate((2, 4, 6, 8)):
        _, measured = validated(kill_in, metric="toy/error")
        assert measured == ([2] if number == 0 else [kill_in - 2, kill_in])  # the one that was killed comes again
    validations, measured = validated(metric="toy/error")
    assert measured == [8]
    found = validations.best
    assert (found.step, found.value, found.since) == (undisturbed.step, undisturbed.value, undisturbed.since)
    kept = restore_variables(tmp_path / "checkpoints", validations.kept)  # of the moving average
    assert kept["params"]["layer"]["kernel"].shape == (3, 2)


def test_patience_ends_a_run_and_more_of_it_goes_on(validated):
    validations, measured = validated(metric="toy/error", patience=1)
    assert (measured, validations.done, validations.kept, validations.is_stopped) == ([2, 4, 6], 6, 4, True)
    validations, measured = validated(metric="toy/error", patience=3)
    assert (measured, validations.done, validations.is_stopped) == ([6, 8], 8, False)


def test_what_is_no_number_is_never_the_best():
    validations = Validations(lambda done, state: {"toy/error": VALUES[done]}, 1, 8, metric="toy/error")
    validations.look(7, {})
    assert (validations.best.step, validations.kept) == (None, 7)
    validations.look(8, {})
    assert (validations.best.step, validations.kept) == (8, 8)


def test_a_finished_run_that_goes_on_has_its_last_model_validated_again() -> None:
    """Its checkpoint was saved before that, and does not know whether that model was the best."""
    due = Validations(lambda done, state: {}, 4, 8, ended=5).is_due
    assert [done for done in range(9) if due(done)] == [4, 5, 8]
