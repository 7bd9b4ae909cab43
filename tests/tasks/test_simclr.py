"""SimCLR: its loss and metric against NumPy, and a training on photographs without any label."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import cv2
import flax.linen as nn
import jax
import numpy as np
import pytest
from short_training import short_training

import must_jax
from must_jax.config import ModelConfig, TeacherConfig
from must_jax.engine.mesh import make_mesh, put_batch, split
from must_jax.errors import UserError
from must_jax.models.api import STRIDES, build_model
from must_jax.parsing import parse
from must_jax.planning.foreseen import Foreseen
from must_jax.stages import evaluate, train
from must_jax.tasks import build_task
from must_jax.tasks.simclr import SimCLR, nt_xent
from must_jax.teachers import loading
from must_jax.trained import load


def embeddings(images: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(images, 2, 5)).astype(np.float32)


def by_hand(embeddings: np.ndarray, temperature: float) -> float:
    """The mean over all views, as the paper writes it."""
    views = embeddings.reshape(-1, embeddings.shape[-1]).astype(np.float64)
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    exp = np.exp(views @ views.T / temperature)
    return float(np.mean([-np.log(exp[i, i ^ 1] / (exp[i].sum() - exp[i, i])) for i in range(len(views))]))


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_loss_is_that_of_the_paper(temperature: float):
    total, count = nt_xent(embeddings(6), np.ones(6, np.float32), temperature)
    assert count == 12
    assert total / count == pytest.approx(by_hand(embeddings(6), temperature), rel=1e-5)


def test_images_that_cannot_be_read_are_neither_asked_about_nor_among_the_others():
    some = embeddings(6)
    some[[1, 4]] = 100.0
    present = np.array([1, 0, 1, 1, 0, 1], np.float32)
    total, count = nt_xent(some, present, 0.5)
    assert count == 8
    assert total / count == pytest.approx(by_hand(some[[0, 2, 3, 5]], 0.5), rel=1e-5)
    gradient = jax.grad(lambda x: nt_xent(x, present, 0.5)[0])(some)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[[1, 4]].any()
    none = jax.value_and_grad(lambda x: nt_xent(x, 0 * present, 0.5)[0])(some)
    assert none[0] == 0
    assert not np.asarray(none[1]).any()


def test_two_devices_compare_the_views_of_both():
    mesh, some = make_mesh(2), embeddings(6)
    loss = jax.jit(lambda x: jax.value_and_grad(lambda x: nt_xent(x, np.ones(6, np.float32), 0.1)[0])(x))
    for one, two in zip(loss(some), loss(put_batch(mesh, some)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
    assert put_batch(mesh, some).sharding.is_equivalent_to(split(mesh), 3)


def test_the_metric_counts_images_whose_views_find_each_other_among_all():
    known = np.eye(4, dtype=np.float32)
    pairs = [(known[0], known[0]), (known[1], known[1]), (known[2], known[0]), (known[3], known[3])]
    parts = [SimCLR().metrics(), SimCLR().metrics()]
    for index, pair in enumerate(pairs):
        parts[index % 2].update({"embeddings": np.stack(pair)}, {"present": np.float32(1)})
    parts[0].update({"embeddings": np.ones((2, 4), np.float32)}, {"present": np.float32(0)})
    parts[0].merge(parts[1])
    assert parts[0].result() == {"top1": 75.0}
    assert parts[0].chance() == 25.0
    assert SimCLR().metrics().result() == {"top1": 0.0}


class Shrunk(nn.Module):
    """A backbone whose stages are smaller images, which compiles at once."""

    input_share: int = 1
    identity_blocks: bool = True
    remat: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
        x = self.param("scale", nn.initializers.ones, ()) * x
        return {level: self.shrunk(x, STRIDES[level]) for level in ("c2", "c3", "c4", "c5")}

    def shrunk(self, x: jax.Array, stride: int) -> jax.Array:
        return x.reshape(len(x), x.shape[1] // stride, stride, x.shape[2] // stride, stride, 3).mean((2, 4))


def test_other_heads_of_the_same_network_see_the_images_themselves():
    config = ModelConfig(backbone="resnet10", pyramid_channels=8, head_channels=8, head_convs=1)
    tasks = {"simclr": SimCLR(), "depth": build_task("depth")}
    model = build_model(config, {name: task.head(config) for name, task in tasks.items()})
    model = dataclasses.replace(model, backbone=Shrunk())
    variables = model.init(jax.random.key(0), (32, 32))
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    outputs, stats = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    alone = model.of_images()
    assert alone.heads.keys() == {"depth"}
    expected, _ = jax.jit(lambda v, x: alone.apply(v, x, train=False))(variables, images)
    np.testing.assert_allclose(outputs["depth"]["maps"], expected["depth"]["maps"], rtol=1e-4, atol=1e-5)
    assert outputs["simclr"]["embeddings"].shape == (4, 2, 128)
    jax.tree.map(np.testing.assert_array_equal, stats, variables["stats"])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 coarse patterns, each unlike the others."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(16):
        coarse = rng.integers(0, 256, (2 + i % 4, 2 + i // 4, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(coarse, (48, 40), interpolation=cv2.INTER_NEAREST))
    return folder


def test_photographs_without_any_label_teach_a_backbone(photos: Path, tmp_path: Path):
    source = {"images": f"folder:{photos}"}
    config = short_training(
        tmp_path,
        train=(source,),
        validation=source,
        tasks={"simclr": {"crop_min": 0.6, "jitter": 0.2, "grey": 0.0}},
        optimizer={"name": "adamw", "learning_rate": 0.003, "weight_decay": 0.0},
        batch_size=16,
        steps=24,
        validate_every=12,
    )
    train.run(config, run := tmp_path / "run")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [line["validation/simclr/top1"] for line in lines if "validation/simclr/top1" in line]
    losses = [line["simclr/nt_xent"] for line in lines if "simclr/nt_xent" in line]
    assert found[-1] >= max(found[0], 3 * 100 / 16)
    assert losses[-1] < 0.8 * losses[0]

    trained = load(run, to_train=True)
    fresh = trained.model.init(jax.random.key(config.seed), (32, 32))["params"]
    for part, learns in (("backbone", True), ("fpn", False)):
        kernels = [x for x in jax.tree.leaves(fresh[part]) if x.ndim == 4]
        after = [x for x in jax.tree.leaves(trained.variables["params"][part]) if x.ndim == 4]
        assert {bool((a != b).any()) for a, b in zip(kernels, after, strict=True)} == {learns}

    assert must_jax.load(run).tasks == {}  # to be used, it has features of images alone
    with pytest.raises(UserError, match=re.escape(f"init={run}")):
        loading.load(TeacherConfig(model=str(run)), {}, make_mesh(1))


def test_a_batch_is_not_compared_in_parts(tmp_path: Path, photos: Path):
    config = short_training(tmp_path, train=({"images": f"folder:{photos}"},), tasks={"simclr": {}}, accumulate=2)
    with pytest.raises(UserError, match=r"simclr.*config\.accumulate=2.*config\.remat"):
        train.run(config, tmp_path / "run")


def test_a_pipeline_names_a_teacher_that_has_no_labels_before_it_begins(tmp_path: Path, photos: Path):
    source, foreseen = {"images": f"folder:{photos}"}, Foreseen(tmp_path, "data")
    alone = short_training(tmp_path, train=(source,), validation=(source,), tasks={"simclr": {}}, best="simclr/top1")
    assert foreseen.mistakes(alone) == []
    foreseen.add("start", alone)
    (mistake,) = foreseen.mistakes(parse({"stage": "label", **source, "teachers": [str(tmp_path / "start")]}))
    assert str(tmp_path / "start") in mistake and "no labels" in mistake


def test_it_cannot_be_tested_downstream(tmp_path: Path, photos: Path):
    source = {"images": f"folder:{photos}"}
    each = {"task": "simclr", "train": source, "validation": source, "test": source}
    transfer = {"mode": "frozen", "steps": 2, "learning_rates": [0.1]}
    config = {"stage": "evaluate", "inits": {"scratch": ""}, "downstream": {"mine": each}, "transfers": [transfer]}
    with pytest.raises(UserError, match=r"downstream\.mine\.task"):
        evaluate.run(parse(config), tmp_path / "run")
