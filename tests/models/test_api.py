"""The seam: init, apply, features, apply_heads, transfer."""

from __future__ import annotations

import math
from typing import Any

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from must_jax.config import REMAT, ModelConfig
from must_jax.errors import UserError
from must_jax.models import api
from must_jax.models.api import Model, Variables, build_model, pool, transfer
from must_jax.models.canvas import Canvas
from must_jax.models.heads import DenseHead, DetectorHead, PooledLinearHead, detector_points

SMALL = ModelConfig(backbone="resnet10", width=0.125, pyramid_channels=8, head_channels=8, head_convs=1)


def build(**changes: Any) -> Model:
    heads = {
        "classes": PooledLinearHead(5),
        "boxes": DetectorHead(3, convs=1, channels=8),
        "pixels": DenseHead(2, convs=1, channels=8),
    }
    return build_model(SMALL.model_copy(update=changes), heads)


@pytest.fixture(scope="module")
def model() -> Model:
    return build()


@pytest.fixture(scope="module")
def variables(model: Model) -> Variables:
    """Initialised, then made irregular: running statistics and scales of 0 and 1 would hide mistakes."""
    fresh = model.init(jax.random.key(0), (64, 64))
    leaves, tree = jax.tree.flatten(fresh)
    rng = np.random.default_rng(0)
    return tree.unflatten([leaf + 0.1 * rng.random(leaf.shape, np.float32) for leaf in leaves])


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (8, 64, 64, 3), np.uint8)


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), actual, expected)


def test_outputs_and_statistics(model: Model, variables: Variables, images: np.ndarray) -> None:
    outputs, stats = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    assert jax.tree.map(lambda x: (x.shape, str(x.dtype)), outputs) == {
        "classes": {"logits": ((8, 5), "float32")},
        "boxes": {
            "class_logits": ((8, 86, 3), "float32"),
            "box_ltrb": ((8, 86, 4), "float32"),
            "centerness": ((8, 86), "float32"),
        },
        "pixels": {"maps": ((8, 16, 16, 2), "float32")},
    }
    assert_close(stats, variables["stats"], 0)
    _, stats = jax.jit(lambda v, x: model.apply(v, x, train=True))(variables, images)
    assert jax.tree.structure(stats) == jax.tree.structure(variables["stats"])
    moved = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), stats, variables["stats"])
    assert all(jax.tree.leaves(moved))


def test_only_plain_dicts_of_float32_cross_the_seam(variables: Variables) -> None:
    def check(tree: Any) -> None:
        if isinstance(tree, np.ndarray):
            assert tree.dtype == np.float32
        else:
            assert type(tree) is dict
            for child in tree.values():
                check(child)

    check(variables)
    assert set(variables) == {"params", "stats"}
    for tree in variables.values():
        assert set(tree) == {"backbone", "fpn", "heads"}
        assert set(tree["heads"]) == {"classes", "boxes", "pixels"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_heads_on_features_are_exactly_the_whole_model(dtype: str, variables: Variables, images: np.ndarray) -> None:
    model = build_model(SMALL.model_copy(update={"dtype": dtype}), {"pixels": DenseHead(2, convs=1, channels=8)})
    # Not compiled: XLA may round two programs differently.
    features = model.features(variables, images[:2])
    assert set(features) == {"c5", "p3", "p4", "p5", "p6", "p7"}
    assert {x.dtype for x in features.values()} == {jnp.dtype("float32")}
    composed, _ = model.apply_heads(variables, features, train=False)
    whole, _ = model.apply(variables, images[:2], train=False)
    assert_close(composed, whole, 0)


def test_training_heads_moves_only_their_statistics(model: Model, variables: Variables, images: np.ndarray) -> None:
    features = jax.jit(model.features)(variables, images)
    _, stats = jax.jit(lambda v, f: model.apply_heads(v, f, train=True))(variables, features)
    assert_close([stats["backbone"], stats["fpn"]], [variables["stats"][part] for part in ("backbone", "fpn")], 0)
    before, after = (s["heads"]["pixels"]["norm1"]["mean"] for s in (variables["stats"], stats))
    assert np.any(np.asarray(before) != np.asarray(after))


def test_bfloat16_is_close_to_float32(model: Model, variables: Variables, images: np.ndarray) -> None:
    exact, _ = jax.jit(lambda v, x: model.apply(v, x, train=True))(variables, images)
    rough, stats = jax.jit(lambda v, x: build(dtype="bfloat16").apply(v, x, train=True))(variables, images)
    for a, b in zip(jax.tree.leaves(rough), jax.tree.leaves(exact), strict=True):
        assert np.abs(a - b).max() < 0.05 * np.abs(b).max() + 0.02
    assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {jnp.dtype("float32")}


def gradients(model: Model) -> Any:
    """Compiled `(variables, images) -> (gradients, (outputs, new statistics))` of a loss over every output."""

    def loss(params: Any, stats: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        outputs, stats = model.apply({"params": params, "stats": stats}, x, train=True)
        return sum(jnp.square(leaf - 1).mean() for leaf in jax.tree.leaves(outputs)), (outputs, stats)

    return jax.jit(lambda v, x: jax.grad(loss, has_aux=True)(v["params"], v["stats"], x))


def test_gradients_reach_every_parameter(model: Model, variables: Variables, images: np.ndarray) -> None:
    grads, _ = gradients(model)(variables, images)
    for path, leaf in jax.tree.leaves_with_path(grads):
        assert np.any(leaf), jax.tree_util.keystr(path)


def test_four_devices_compute_what_one_does(variables: Variables, images: np.ndarray) -> None:
    step = gradients(build_model(SMALL, {"pixels": DenseHead(2, convs=1, channels=8)}))
    single = step(variables, images)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    grads, (outputs, stats) = step(
        jax.device_put(variables, NamedSharding(mesh, PartitionSpec())),
        jax.device_put(images, NamedSharding(mesh, PartitionSpec("data"))),
    )
    assert_close(outputs, single[1][0], 1e-4)
    assert_close(stats, single[1][1], 1e-5)  # of the whole batch, not of each device's share
    assert_close(grads, single[0], 2e-3)


def test_init_depends_on_the_seed_and_not_on_the_other_heads(model: Model) -> None:
    first, again, other = (model.init(jax.random.key(seed), (64, 64)) for seed in (0, 0, 1))
    assert_close(first, again, 0)
    kernel = first["params"]["heads"]["pixels"]["conv1"]["kernel"]
    assert np.any(np.asarray(kernel) != np.asarray(other["params"]["heads"]["pixels"]["conv1"]["kernel"]))
    alone = build_model(SMALL, {"pixels": DenseHead(2, convs=1, channels=8)}).init(jax.random.key(0), (64, 64))
    assert_close(alone["params"]["heads"]["pixels"], first["params"]["heads"]["pixels"], 0)
    stem = np.asarray(first["params"]["backbone"]["stage4_1"]["conv1"]["kernel"])
    assert stem.std() == pytest.approx(np.sqrt(2 / (9 * stem.shape[-1])), rel=0.05)  # He, by fan-out


class Adapter(nn.Module):
    """A head with initialisers of others: the identity, flax's default, a constant."""

    @nn.compact
    def __call__(self, features: Any, train: bool) -> dict[str, jax.Array]:
        def identity(key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
            return jnp.eye(*shape, dtype=dtype)

        pooled = features["p3"].mean((1, 2))
        same = nn.Dense(8, kernel_init=identity, name="same")(pooled)
        lora = nn.Dense(4, kernel_init=nn.initializers.zeros, name="lora")(pooled)
        wide = nn.Dense(512, bias_init=nn.initializers.constant(0.5), name="wide")(pooled)
        return {"logits": nn.Dense(3, name="out")(jnp.concatenate([same, lora, wide], -1))}


def test_init_computes_on_the_host(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its many small programs would take most of a minute to compile for a GPU."""
    other, used = jax.devices()[1], []
    with jax.default_device(other):
        key = jax.random.key(0)
        assert key.devices() == {other}
        jax.tree.map(np.testing.assert_array_equal, model.init(key, (64, 64)), model.init(jax.random.key(0), (64, 64)))
        monkeypatch.setattr(api, "_init", lambda _, rng, __: used.append(jax.random.fold_in(rng, 1).devices()))
        model.init(key, (64, 64))
    assert used == [{jax.local_devices(backend="cpu")[0]}]


def test_initialisers_of_others_give_what_they_say() -> None:
    """Kernels included, and of flax's default the distribution: variance 1 / fan-in, cut off at two deviations."""
    params = build_model(SMALL, {"adapter": Adapter()}).init(jax.random.key(0), (64, 64))["params"]["heads"]["adapter"]
    np.testing.assert_array_equal(params["same"]["kernel"], np.eye(8))
    assert not params["lora"]["kernel"].any()
    assert (params["wide"]["bias"] == 0.5).all()
    kernel = params["wide"]["kernel"]
    std = np.sqrt(1 / 8)
    assert kernel.std() == pytest.approx(std, rel=0.05)
    assert np.abs(kernel).max() < 2 * std / 0.87962566103423978 + 1e-6
    assert np.unique(kernel).size > 0.99 * kernel.size


def test_own_kernels_are_normal_and_no_two_are_alike() -> None:
    params = build(backbone="resnet18").init(jax.random.key(3), (64, 64))["params"]["backbone"]
    kernel = params["stage4_2"]["conv1"]["kernel"]
    z = kernel / np.sqrt(2 / (9 * kernel.shape[-1]))
    assert (z.mean(), z.std(), (z**4).mean()) == pytest.approx((0, 1, 3), abs=0.1)
    other = params["stage4_2"]["conv2"]["kernel"]
    assert abs(np.corrcoef(kernel.ravel(), other.ravel())[0, 1]) < 0.05


def test_init_does_not_depend_on_what_is_computed_again() -> None:
    heads = {"classes": PooledLinearHead(5)}
    plain, again = (build_model(SMALL, heads, remat).init(jax.random.key(0), (32, 32)) for remat in ((), REMAT))
    assert_close(plain, again, 0)


def test_transfer_takes_the_trunk_and_keeps_the_heads(model: Model, variables: Variables) -> None:
    fresh = model.init(jax.random.key(7), (64, 64))
    started = transfer(fresh, variables)
    for kind in ("params", "stats"):
        assert_close(
            [started[kind][p] for p in ("backbone", "fpn")], [variables[kind][p] for p in ("backbone", "fpn")], 0
        )
        assert_close(started[kind]["heads"], fresh[kind]["heads"], 0)


def test_transfer_between_different_networks_names_what_differs(variables: Variables) -> None:
    wider = build(pyramid_channels=16).init(jax.random.key(0), (64, 64))
    with pytest.raises(UserError, match="params/fpn/conv3/kernel") as error:
        transfer(wider, variables)
    assert "backbone/" not in str(error.value)


def test_a_tall_image_is_a_wide_one_with_its_axes_swapped(model: Model, variables: Variables) -> None:
    """All of the network, if its kernels are swapped, too: maps, cells of all levels and means."""

    def swapped(tree: Any) -> Any:
        return jax.tree.map(lambda x: np.swapaxes(x, 0, 1) if x.ndim == 4 else x, tree)

    wide = np.random.default_rng(2).integers(0, 256, (2, 64, 160, 3), np.uint8)
    apply = jax.jit(lambda v, x: model.apply(v, x, train=False)[0])
    found, other = apply(variables, wide), apply(swapped(variables), wide.swapaxes(1, 2))
    assert found["pixels"]["maps"].shape == (2, 16, 40, 2)
    np.testing.assert_allclose(other["pixels"]["maps"], found["pixels"]["maps"].swapaxes(1, 2), rtol=1e-5)
    np.testing.assert_allclose(other["classes"]["logits"], found["classes"]["logits"], rtol=1e-5)
    centers, strides = detector_points((64, 160))
    tall_centers, tall_strides = detector_points((160, 64))
    there = {
        (stride, *point): i for i, (stride, point) in enumerate(zip(tall_strides, tall_centers[:, ::-1], strict=True))
    }
    order = [there[stride, *point] for stride, point in zip(strides, centers, strict=True)]
    assert sorted(order) == list(range(len(tall_centers)))
    for name in ("class_logits", "centerness"):
        np.testing.assert_allclose(other["boxes"][name][:, order], found["boxes"][name], rtol=1e-4, err_msg=name)


def test_means_over_what_an_image_covers_of_a_rectangle() -> None:
    """54 of 64 rows, all of 96 columns: six rows of cells of p3 and three quarters of the next one."""
    maps = np.random.default_rng(0).normal(size=(1, 8, 12, 3)).astype(np.float32)
    means = pool({"p3": jnp.asarray(maps)}, jnp.asarray([[54 / 64, 1]], jnp.float32), (64, 96))["p3"]
    weights = np.array([1, 1, 1, 1, 1, 1, 0.75, 0])[:, None, None] / 6.75 / 12
    np.testing.assert_allclose(means[0], (maps[0] * weights).sum((0, 1)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shapes", [(8, 20), (20, 8), (4, 4), (5, 13)])
def test_levels_in_one_map_do_not_touch(shapes: tuple[int, int]) -> None:
    sizes = [tuple(-(-n // 2**level) for n in shapes) for level in range(5)]
    canvas = Canvas(sizes)  # type: ignore[arg-type]
    member = canvas.member.reshape(*canvas.shape, 5)
    for level in range(5):
        around = cv2.dilate(member[..., level], np.ones((3, 3)))
        assert not (around[..., None] * np.delete(member, level, -1)).any()
    levels = [jnp.asarray(np.random.default_rng(level).normal(size=(2, *size, 3))) for level, size in enumerate(sizes)]
    cells = canvas.cells(canvas.draw(levels))
    np.testing.assert_array_equal(cells, np.concatenate([each.reshape(2, -1, 3) for each in levels], 1))
    assert np.bincount(canvas.level_of_cells()).tolist() == [math.prod(size) for size in sizes]


@pytest.mark.parametrize("size", [0, 48, 100])
def test_sizes_that_do_not_fit_are_refused(model: Model, variables: Variables, size: int) -> None:
    with pytest.raises(UserError, match="multiple of 32"):
        model.init(jax.random.key(0), (size, size))
    with pytest.raises(UserError, match="multiple of 32"):
        model.apply(variables, jnp.zeros((1, 64, size, 3)), train=False)
