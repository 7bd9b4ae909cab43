from __future__ import annotations

import jax
import numpy as np
import pytest

from must_jax.config import OptimizerConfig
from must_jax.engine import mesh as mesh_module
from must_jax.engine.measuring import evaluate
from must_jax.engine.mesh import make_mesh, put_batch, put_replicated
from must_jax.engine.optimizers import build_optimizer
from must_jax.engine.state import count_parameters, digest, init_state, trained_variables
from must_jax.engine.step import make_gradients, make_predict_step, make_train_step

PLAIN = OptimizerConfig(momentum=0.0, weight_decay=0.0)


def schedule(mesh, rate, ema_decay=0.0, update=0):
    key = np.array([0, update], np.uint32)
    return put_replicated(mesh, {"learning_rate": np.float32(rate), "ema_decay": np.float32(ema_decay), "rng": key})


@pytest.fixture
def train(toy):
    def train(batches, *, devices=1, fsdp=1, accumulate=1, rate=0.1, weight=1.0, ema_decay=0.0, config=PLAIN, seed=0):
        mesh, optimizer = make_mesh(devices, fsdp=fsdp), build_optimizer(config)
        state = init_state(toy.variables(seed), optimizer, mesh, ema=ema_decay > 0)
        step = make_train_step(
            toy.forward, toy.tasks, (64, 64), {"toy": weight}, optimizer, mesh, accumulate=accumulate
        )
        history = []
        for batch in batches:
            state, averages = step(state, put_batch(mesh, batch), schedule(mesh, rate, ema_decay))
            history.append(jax.device_get(averages))
        return jax.device_get(state), history

    return train


def test_one_update_is_the_gradient_step_computed_by_hand(toy, train):
    batch, params = toy.batch(0), toy.variables()["params"]["layer"]
    state, history = train([batch], weight=3.0)

    present = batch["labels"]["toy"]["present"][:, None]
    error = batch["x"] @ params["kernel"] + params["bias"] - batch["labels"]["toy"]["y"]
    gradient = 2 * batch["x"].T @ (error * present) / present.sum()
    np.testing.assert_allclose(
        state["params"]["layer"]["kernel"], params["kernel"] - 0.1 * 3 * gradient, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(state["stats"]["mean"], 0.1 * batch["x"].mean(0), rtol=1e-5)
    squared = (error**2 * present).sum()
    assert history[0]["toy/squared"].total == pytest.approx(squared, rel=1e-5)
    assert history[0]["toy/squared"].count == present.sum()
    assert history[0]["loss"].total == pytest.approx(3 * squared / present.sum(), rel=1e-5)


def test_a_batch_without_labels_changes_no_parameter(toy, train):
    batch = toy.batch(0)
    batch["labels"]["toy"]["present"][:] = 0
    state, history = train([batch], weight=1000.0)
    np.testing.assert_array_equal(state["params"]["layer"]["kernel"], toy.variables()["params"]["layer"]["kernel"])
    assert history[0]["loss"].total == 0


def test_four_devices_compute_what_one_does(toy, train, leaves):
    batches, config = [toy.batch(k) for k in range(5)], OptimizerConfig(clip_norm=1.0)
    one, history_1 = train(batches, devices=1, config=config, ema_decay=0.5)
    four, history_4 = train(batches, devices=4, config=config, ema_decay=0.5)
    for name, value in leaves(one).items():
        np.testing.assert_allclose(leaves(four)[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    assert [float(h["loss"].total) for h in history_4] == pytest.approx([float(h["loss"].total) for h in history_1])


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_state_in_parts_learns_as_a_whole_one(toy, train, leaves, monkeypatch, name):
    monkeypatch.setattr(mesh_module, "LEAST_SPLIT", 1)
    batches, config = [toy.batch(k) for k in range(5)], OptimizerConfig(name=name, clip_norm=1.0)
    whole, history_1 = train(batches, config=config, ema_decay=0.5)
    parts, history_2 = train(batches, devices=4, fsdp=2, config=config, ema_decay=0.5)
    for name, value in leaves(whole).items():
        np.testing.assert_allclose(leaves(parts)[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    assert [float(h["loss"].total) for h in history_2] == pytest.approx([float(h["loss"].total) for h in history_1])


def test_a_state_in_parts_stays_in_parts(toy, leaves, monkeypatch):
    monkeypatch.setattr(mesh_module, "LEAST_SPLIT", 1)
    mesh, optimizer = make_mesh(4, fsdp=2), build_optimizer(OptimizerConfig(name="adamw"))
    state = init_state(toy.variables(), optimizer, mesh, ema=True)
    step = make_train_step(toy.forward, toy.tasks, (64, 64), {"toy": 1.0}, optimizer, mesh)
    for k in range(2):
        for name, part in leaves(jax.tree.map(lambda x: np.zeros(x.sharding.shard_shape(x.shape)), state)).items():
            assert part.shape == {"kernel": (3, 1), "bias": (1,)}.get(name.split("'")[-2], part.shape), name
        state, _ = step(state, put_batch(mesh, toy.batch(k)), schedule(mesh, 0.1, 0.9))


@pytest.mark.parametrize(("devices", "accumulate"), [(1, 2), (1, 8), (2, 4)])
def test_a_batch_in_parts_teaches_what_the_whole_one_does(toy, train, leaves, devices, accumulate):
    batches, config = [toy.batch(k) for k in range(3)], OptimizerConfig(clip_norm=1.0)
    batches[1]["labels"]["toy"]["present"][:] = [1, 0, 0, 0, 0, 0, 0, 0]  # most parts have no label
    whole, history_1 = train(batches, config=config, ema_decay=0.5)
    parts, history_2 = train(batches, devices=devices, accumulate=accumulate, config=config, ema_decay=0.5)
    for name, value in leaves(whole).items():
        np.testing.assert_allclose(leaves(parts)[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    for one, other in zip(history_1, history_2, strict=True):
        np.testing.assert_allclose(jax.tree.leaves(other), jax.tree.leaves(one), rtol=1e-5)


@pytest.mark.parametrize("where", ["x", "y"])
def test_an_update_that_is_not_finite_changes_nothing(toy, train, leaves, where):
    bad, config = toy.batch(1), OptimizerConfig(name="adamw", clip_norm=1.0)
    (bad if where == "x" else bad["labels"]["toy"])[where][3, 0] = np.inf
    bad["labels"]["toy"]["present"][3] = 1
    without, _ = train([toy.batch(0), toy.batch(2)], devices=4, config=config, ema_decay=0.5)
    skipped, history = train([toy.batch(0), bad, toy.batch(2)], devices=4, config=config, ema_decay=0.5)
    for name, value in leaves(without).items():
        np.testing.assert_array_equal(leaves(skipped)[name], value, err_msg=name)
    assert [float(h["skipped"].total) for h in history] == [0, 1, 0]
    assert all(np.isfinite(jax.tree.leaves(history[1])))
    assert history[1]["loss"].count == history[1]["toy/squared"].count == 0


def test_moving_average_of_parameters_and_statistics(toy, train):
    states = [train([toy.batch(k) for k in range(n)])[0] for n in (1, 2)]
    averaged, _ = train([toy.batch(0), toy.batch(1)], ema_decay=0.75)
    for get in (lambda tree: tree["params"]["layer"]["kernel"], lambda tree: tree["stats"]["mean"]):
        expected = 0.75 * (0.75 * get(toy.variables()) + 0.25 * get(states[0])) + 0.25 * get(states[1])
        np.testing.assert_allclose(get(averaged["ema"]), expected, rtol=1e-5, atol=1e-7)
    assert trained_variables(averaged) is averaged["ema"]
    assert trained_variables(states[0]).keys() == {"params", "stats"}


def test_other_rates_seeds_and_data_do_not_compile_again(toy):
    mesh, optimizer = make_mesh(2), build_optimizer(PLAIN)
    traced = []

    def forward(variables, batch, train):
        traced.append(1)
        return toy.forward(variables, batch, train)

    step = make_train_step(forward, toy.tasks, (64, 64), {"toy": 1.0}, optimizer, mesh)
    for seed in range(3):
        state = init_state(toy.variables(seed), optimizer, mesh, ema=True)
        for k in range(2):
            state, _ = step(state, put_batch(mesh, toy.batch(k)), schedule(mesh, 0.1 * seed, 0.1 * k))
    assert len(traced) == 1


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_a_network_draws_follows_the_number_of_the_update(toy, accumulate):
    """And other parts of a batch draw something else."""
    mesh, optimizer, batch = make_mesh(2), build_optimizer(PLAIN), toy.batch(0)
    one_half = jax.tree.map(lambda x: np.repeat(x[::2], 2, 0), batch)  # both parts are the same

    def forward(variables, batch, train):
        outputs, stats = toy.forward(variables, batch, train)
        drawn = 0.0 if batch["rng"] is None else jax.random.normal(batch["rng"], (1, 1))
        return {"toy": {"y": outputs["toy"]["y"] * 0 + drawn}}, stats

    def loss(update, batch):
        step = make_train_step(forward, toy.tasks, (64, 64), {"toy": 1.0}, optimizer, mesh, accumulate=accumulate)
        state = init_state(toy.variables(), optimizer, mesh, ema=False)
        _, averages = step(state, put_batch(mesh, batch), schedule(mesh, 0.0, update=update))
        return float(averages["loss"].total)

    assert loss(0, batch) == loss(0, batch) != loss(1, batch)
    if accumulate == 2:
        alone = make_gradients(forward, toy.tasks, (64, 64), {"toy": 1.0})
        keys = jax.random.split(jax.random.wrap_key_data(np.array([0, 0], np.uint32)), 2)
        half = jax.tree.map(lambda x: x[::2], batch)
        variables = toy.variables()
        wanted = [float(alone(variables["params"], variables["stats"], half, key)[2]["loss"].total) for key in keys]
        assert wanted[0] != wanted[1] and loss(0, one_half) == pytest.approx(sum(wanted) / 2, rel=1e-5)


def test_the_state_that_a_run_starts_from_survives_it(toy, train):
    variables = jax.tree.map(jax.numpy.asarray, toy.variables())
    mesh, optimizer = make_mesh(2), build_optimizer(PLAIN)
    step = make_train_step(toy.forward, toy.tasks, (64, 64), {"toy": 1.0}, optimizer, mesh)
    state = init_state(variables, optimizer, mesh, ema=False)
    step(state, put_batch(mesh, toy.batch(0)), schedule(mesh, 0.1, 0.9))
    np.testing.assert_array_equal(variables["params"]["layer"]["kernel"], toy.variables()["params"]["layer"]["kernel"])


@pytest.mark.parametrize("devices", [1, 4])
def test_every_example_counts_once_in_a_metric(toy, devices):
    mesh, variables = make_mesh(devices), toy.variables()
    predict = make_predict_step(toy.forward, toy.tasks, (64, 64), mesh)
    batches = [toy.batch(k) for k in range(3)]
    labels = [batch["labels"]["toy"] for batch in batches]

    def truth(index):
        return {"toy": {key: values[index % 8] for key, values in labels[index // 8].items()}}

    examples = [
        {**batch, "index": 8 * k + np.arange(8), "mask": np.ones(8), "content_hw": np.full((8, 2), 64)}
        for k, batch in enumerate(batches)
    ]
    metrics = evaluate(predict, put_replicated(mesh, variables), examples, truth, toy.tasks, (64, 64), mesh).metrics
    outputs = [toy.forward(variables, batch, False)[0]["toy"]["y"] for batch in batches]
    errors = [np.abs(y - label["y"]).sum(-1) * label["present"] for y, label in zip(outputs, labels, strict=True)]
    count = sum(label["present"].sum() for label in labels)
    assert metrics["toy/count"] == count
    assert metrics["toy/error"] == pytest.approx(np.sum(errors) / count, rel=1e-5)


def test_the_digest_knows_values_and_names(toy):
    params = toy.variables()["params"]
    renamed = {"other": params["layer"]}
    changed = toy.variables(seed=1)["params"]
    assert digest(params) == digest(jax.tree.map(jax.numpy.asarray, params))
    assert len({digest(params), digest(renamed), digest(changed)}) == 3
    assert count_parameters(params) == 3 * 2 + 2
