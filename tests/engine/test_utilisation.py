"""Counted operations, on a made-up chip."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from must_jax.config import OptimizerConfig
from must_jax.engine import utilisation
from must_jax.engine.clock import Clock
from must_jax.engine.fit import fit
from must_jax.engine.mesh import make_mesh, replicated, split
from must_jax.engine.optimizers import build_optimizer, schedule
from must_jax.engine.recorder import Recorder
from must_jax.engine.state import init_state
from must_jax.engine.step import make_train_step
from must_jax.engine.utilisation import measured

PEAK = 1e9


@pytest.fixture
def chip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utilisation, "peak_flops", lambda kind, dtype: {"float32": PEAK / 2, "bfloat16": PEAK}[dtype])


@pytest.mark.parametrize("devices", [1, 4])
def test_operations_of_all_devices_over_the_peak_of_all(chip: None, devices: int):
    mesh, clock = make_mesh(devices), Clock()
    step = jax.jit(lambda w, x: x @ w, in_shardings=(replicated(mesh), split(mesh)))
    w, x = jnp.ones((32, 64)), jnp.ones((16, 32))
    called = measured(step, clock, mesh, "bfloat16")
    assert called(w, x).shape == (16, 64)
    assert clock.least_update_s == 2 * 16 * 32 * 64 / (PEAK * devices)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_in_parts_counts_like_the_whole_one(chip: None, accumulate: int):
    clock, batch, inner = Clock(), 16, (64, 128)

    def loss(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sum(x @ w)

    def update(w: jax.Array, x: jax.Array) -> jax.Array:
        if accumulate == 1:
            return jax.grad(loss)(w, x)
        parts = x.reshape(accumulate, -1, inner[0])
        return jax.lax.scan(lambda grads, part: (grads + jax.grad(loss)(w, part), None), jnp.zeros_like(w), parts)[0]

    measured(jax.jit(update), clock, make_mesh(1), "float32")(jnp.ones(inner), jnp.ones((batch, inner[0])))
    operations = 2 * batch * inner[0] * inner[1]  # a linear loss has no other product than that of the gradient
    assert clock.least_update_s == operations / (PEAK / 2)


@pytest.mark.parametrize(("again", "products"), [(False, 5), (True, 6)])
def test_what_is_computed_again_counts(chip: None, again: bool, products: int):
    clock, side = Clock(), 64

    def layer(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sin(x @ w)

    def loss(w: jax.Array, x: jax.Array) -> jax.Array:
        inner = jax.checkpoint(layer) if again else layer
        return jnp.sum(jnp.sin(inner(w, x) @ w))

    measured(jax.jit(jax.grad(loss)), clock, make_mesh(1), "float32")(jnp.ones((side, side)), jnp.ones((side, side)))
    assert clock.least_update_s == products * 2 * side**3 / (PEAK / 2)


def test_it_is_counted_once_and_compiled_once(chip: None, monkeypatch: pytest.MonkeyPatch):
    traced = []

    def matmul(w: jax.Array, x: jax.Array) -> jax.Array:
        traced.append(x.shape)
        return x @ w

    clock = Clock()
    step = measured(jax.jit(matmul), clock, make_mesh(1), "float32")
    for _ in range(3):
        step(jnp.ones((8, 8)), jnp.ones((8, 8)))
    assert len(traced) == 1
    assert clock.least_update_s == 2 * 8**3 / (PEAK / 2)


def test_a_run_logs_it(chip: None, toy):
    rows, config, mesh, clock = [], OptimizerConfig(), make_mesh(2), Clock()

    class Writer:
        def write(self, step, values):
            rows.append(values)

    step = make_train_step(toy.forward, toy.tasks, (64, 64), {"toy": 1.0}, build_optimizer(config), mesh)
    state = init_state(toy.variables(), build_optimizer(config), mesh, ema=False)
    fit(
        measured(step, clock, mesh, "float32"),
        state,
        toy.batches(),
        partial(schedule, config, 6, 0),
        range(6),
        mesh,
        Recorder(clock=clock, writer=Writer(), batch_size=8, log_every=3),
    )
    assert clock.least_update_s is not None
    for row in rows:
        assert row["mfu"] == pytest.approx(clock.least_update_s * row["images_per_second"] / 8)


def test_where_the_peak_is_unknown_the_step_is_as_it_was():
    clock = Clock()
    step = jax.jit(lambda x: x)
    assert measured(step, clock, make_mesh(1), "float32") is step
    assert "mfu" not in clock.rates(8)
