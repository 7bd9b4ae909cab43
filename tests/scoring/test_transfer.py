"""What frozen heads learn from: by seed other images and, where nothing was trained, another network."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from must_jax.config import AugmentConfig, InputConfig, ModelConfig, SourceConfig, TransferConfig
from must_jax.engine import skipped
from must_jax.engine.mesh import make_mesh
from must_jax.inputs.sources import open_source
from must_jax.inputs.targets import build_tasks
from must_jax.models.api import OF_HEADS, build_model
from must_jax.scoring import transfer
from must_jax.scoring.opening import Published
from must_jax.scoring.transfer import TRUNK, Downstream, Training, Transfer, Trunk
from must_jax.trained import Trained

MODEL = ModelConfig(backbone="resnet18", width=0.125, pyramid_channels=8, head_channels=8, head_convs=1)


@pytest.fixture(scope="module")
def frozen(data_dir: Path) -> Transfer:
    config = TransferConfig(
        mode="frozen", steps=1, batch_size=8, learning_rates=[0.1], augment=AugmentConfig(scale_min=0.5, scale_max=2)
    )
    splits = ("train", "validation", "test")
    sources = {
        split: open_source(SourceConfig(images=f"scenes/downstream_depth_tiny:{split}"), str(data_dir), ("depth",))
        for split in splits
    }
    task = build_tasks({"depth": {}}, [sources["train"]], 4)["depth"]
    model = build_model(MODEL, {"depth": task.head(MODEL)})
    return Transfer(
        config,
        Downstream("range", task, model, (64, 64), sources, InputConfig()),
        Trunk.of(build_model(MODEL, {}), (64, 64)),
        make_mesh(1),
    )


def features_of(start: Any, seed: int) -> Any:
    return next(start.train(seed))["features"]


def images_of(frozen: Transfer, seed: int, batches: int = 1) -> np.ndarray:
    return np.concatenate([batch["image"] for batch in itertools.islice(frozen._train_batches(seed), batches)])


def test_every_parameter_of_a_random_trunk_changes_the_features(frozen: Transfer) -> None:
    """But for a few corners of kernels on maps of 2x2 cells, where few images have a value.

    As it starts to be trained, nearly none does: the blocks are shortcuts.
    """
    model, images = build_model(MODEL, {}), jnp.asarray(images_of(frozen, 0, batches=24))

    shapes, rng = jax.eval_shape(model.features, frozen._fresh(0), images), np.random.default_rng(0)
    weights = {name: rng.normal(size=x.shape).astype(np.float32) for name, x in shapes.items()}

    @jax.jit  # once, and without constants to fold
    @jax.grad
    def gradient(params: Any, stats: Any, images: jax.Array, weights: Any) -> jax.Array:
        features = model.features({"params": params, "stats": stats}, images)
        return sum(jnp.sum(x * weights[name]) for name, x in features.items())

    def share(trunk: Any) -> float:
        params = {part: trunk["params"][part] for part in TRUNK}
        leaves = jax.tree.leaves(gradient(params, trunk["stats"], images, weights)["backbone"])
        return sum(int((leaf != 0).sum()) for leaf in leaves) / sum(leaf.size for leaf in leaves)

    assert share(frozen._random_trunk(0)) > 0.999
    assert share(frozen._fresh(0)) < 0.1


def test_a_random_trunk_neither_blows_up_nor_fades(frozen: Transfer) -> None:
    trunk = frozen._random_trunk(0)
    features = jax.jit(build_model(MODEL, {}).features)(trunk, images_of(frozen, 0))
    for name, values in features.items():
        assert 0.2 < float(jnp.std(values)) < 5, name
        if name != "c5":  # behind a norm
            assert abs(float(values.mean())) < 0.5, name


def test_each_seed_has_a_random_trunk_and_images_of_its_own(frozen: Transfer) -> None:
    random = frozen.start(None)
    first, second, again = (features_of(random, seed) for seed in (0, 1, 0))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    held_out = [next(iter(random.examples("test", seed)))["features"]["p3"] for seed in (0, 1)]
    assert not np.allclose(first["p3"], second["p3"])
    assert np.abs(np.corrcoef(held_out[0].ravel(), held_out[1].ravel())[0, 1]) < 0.9  # of the same images


def test_each_seed_has_images_of_its_own_also_from_a_trained_trunk(frozen: Transfer) -> None:
    trained = frozen.start(frozen._random_trunk(5))
    batches = map(trained.train, (0, 1))
    pools = [np.concatenate([next(each)["features"]["c5"].ravel() for _ in range(4)]) for each in batches]
    assert not np.allclose(*map(np.sort, pools))  # whatever their order
    held_out = [trained.examples("test", seed) for seed in (0, 1)]
    assert held_out[0] is held_out[1]  # computed once


def test_weights_of_others_have_a_pyramid_of_each_seed_with_statistics_on_their_features(frozen: Transfer) -> None:
    trained = frozen._random_trunk(5)
    published = Published(MODEL, "", {kind: {"backbone": parts["backbone"]} for kind, parts in trained.items()})
    start, whole = frozen.start(published.placed), frozen.start(trained).examples("test", 0)[0]["features"]
    first, second = (start.examples("test", seed)[0]["features"] for seed in (0, 1))
    for features in (first, second):
        np.testing.assert_allclose(features["c5"], whole["c5"], rtol=1e-5, atol=1e-6)
        for level in ("p3", "p4", "p5"):
            assert 0.2 < np.std(features[level]) < 5 and abs(np.mean(features[level])) < 0.5
    assert not np.allclose(first["p3"], second["p3"])


def test_frozen_heads_learn_from_what_a_model_says_are_its_features(frozen: Transfer) -> None:
    """From the bytes of the images on: decoded, fitted, in batches."""
    variables, images = frozen._random_trunk(5), frozen._downstream.sources["test"].images
    model = Trained(Path(), build_model(MODEL, {}), variables, MODEL, {}, 64, {}, {}, "")
    features = model.features((images.record(i)["image"] for i in range(len(images))), OF_HEADS, batch_size=5)
    seen = frozen.start(variables).examples("test", 0)
    for level in OF_HEADS:
        learnt_from = np.concatenate([batch["features"][level] for batch in seen])[: len(images)]
        np.testing.assert_allclose(features[level], learnt_from, rtol=1e-4, atol=1e-5, err_msg=level)


def test_how_much_is_read_ahead_is_chosen(frozen: Transfer, monkeypatch: pytest.MonkeyPatch) -> None:
    downstream = replace(frozen._downstream, input=InputConfig(workers=2, prefetch_bytes=5))
    chosen = Transfer(frozen._config, downstream, frozen._trunk, frozen._mesh)
    for name in ("train_batches", "eval_batches"):
        monkeypatch.setattr(transfer, name, lambda *_, config, **__: iter([config]))
    assert list(chosen._read_train(0, 0)) == [downstream.input]
    assert list(chosen._read_split("test", 0)) == [downstream.input]


@pytest.mark.parametrize("mode", ["frozen", "finetune"])
def test_what_all_starting_points_share_is_made_once(
    mode: str, frozen: Transfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Initial parameters, augmented batches of a seed, and held-out images; and they are the same ones."""
    config = frozen._config.model_copy(update={"mode": mode})
    shared = Transfer(config, frozen._downstream, frozen._trunk, frozen._mesh)
    trunk, made = frozen._random_trunk(5), []

    def counted(name: str, function: Any) -> Any:
        def wrapped(*args: Any, **options: Any) -> Any:
            made.append((name, options.get("start_step", 0)))
            return function(*args, **options)

        return wrapped

    for name in ("train_batches", "eval_batches"):
        monkeypatch.setattr(transfer, name, counted(name, getattr(transfer, name)))
    monkeypatch.setattr(type(shared._downstream.model), "init", counted("init", type(shared._downstream.model).init))
    seen = []
    for _ in range(3):
        start = shared.start(trunk)
        batch, held_out = next(start.train(0)), list(start.examples("test", 0))
        seen.append((start.variables(0)["params"]["heads"], batch, held_out))
        if len(seen) == 1:
            first = list(made)
    assert {name for name, _ in first} == {"train_batches", "eval_batches", "init"}
    again = made[len(first) :]  # a stream is asked for what comes after the batches that are kept, which is nothing
    assert all(name == "eval_batches" and begin == len(seen[0][2]) for name, begin in again), again
    for other in seen[1:]:
        jax.tree.map(np.testing.assert_array_equal, seen[0], other)


def test_trainings_side_by_side_are_what_each_is_alone(frozen: Transfer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of other starting points, seeds and rates; one that diverges leaves the others alone."""
    config = frozen._config.model_copy(update={"steps": 4})
    downstream, trunk = frozen._downstream, frozen._trunk
    monkeypatch.setattr(skipped, "MOST", 1)
    monkeypatch.setattr(skipped.Skipped.__init__, "__defaults__", (1, lambda update: None))
    each = {}
    for devices in (1, 4):
        program = Transfer(config, downstream, trunk, make_mesh(devices))
        starts = program.start(None), program.start(frozen._random_trunk(5))
        trainings = [Training(starts[0], 0, 0.1), Training(starts[1], 1, 0.01), Training(starts[1], 0, math.inf)]
        some = [trainings] if devices == 4 else [[training] for training in trainings]
        each[devices] = [outcome for trainings in some for outcome in program.train(trainings)]
    for alone, beside in zip(each[1], each[4], strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), alone[1], beside[1])
    assert [outcome.variables is None for outcome in each[4]] == [False, False, True]


@pytest.mark.parametrize("mode", ["frozen", "finetune"])
def test_what_a_thread_has_compiled_trains_and_measures_the_same(mode: str, frozen: Transfer) -> None:
    config = frozen._config.model_copy(update={"mode": mode})
    now, before = (Transfer(config, frozen._downstream, frozen._trunk, make_mesh(2)) for _ in range(2))
    with ThreadPoolExecutor(1) as compiler:
        before.compile(compiler)
    made = []
    for program in (now, before):
        outcome = program.train([Training(program.start(frozen._random_trunk(5)), 0, 0.1)])[0]
        made.append((outcome.variables, program.measure(outcome, "test").metrics))
    jax.tree.map(np.testing.assert_array_equal, *made)
    assert [program._cache_size() for program in (now.step, now.predict, before.step, before.predict)] == [1, 1, 0, 0]
