"""Vision transformers: what they make of images, and of the parameters of others."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from must_jax.config import ModelConfig
from must_jax.config.architectures import ARCHITECTURES, Architecture, ViTParts
from must_jax.models.api import build_model
from must_jax.models.attention import attention
from must_jax.models.positions import bicubic_matrix, resized, rotated, rotations
from must_jax.models.simple_pyramid import Doubling, SimplePyramid
from must_jax.models.vit import ViT
from must_jax.weights import files, loading
from must_jax.weights.files import Found
from must_jax.weights.loading import flat

TINY = ViTParts(patch=16, grid=3, channels=16, depth=4, heads=2, hidden=24)
ROTARY = replace(TINY, position="rotary", registers=2, layer_scale=0.5, qkv_bias="query_value", activation="swiglu")


def tiny(name: str) -> Architecture:
    """The architecture of this name, narrow and shallow."""
    architecture = ARCHITECTURES[name]
    return replace(architecture, parts=replace(architecture.parts, grid=3, channels=16, depth=4, heads=2, hidden=24))


def variables(network: ViT, height: int, width: int) -> Any:
    return network.init(jax.random.key(0), jnp.zeros((1, height, width, 3)), False)


def randomised(tree: Any) -> Any:
    """Other values than those that parameters start with, float32."""
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), tree)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("parts", [TINY, ROTARY], ids=["learnt", "rotary"])
@pytest.mark.parametrize("patch", [8, 14, 16, 32])
def test_strides_are_relative_to_the_token(patch: int, parts: ViTParts, dtype: jnp.dtype) -> None:
    network = ViT(parts=replace(parts, patch=patch))
    params = jax.eval_shape(lambda: variables(network, patch, patch))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    image = jax.ShapeDtypeStruct((2, 5 * patch, 8 * patch, 3), dtype)
    features = jax.eval_shape(lambda params, x: network.apply(params, x, False), params, image)
    token = {8: 8, 14: 16, 16: 16, 32: 32}[patch]
    assert network.input_share == patch / token
    for level, stride in {"c2": 4, "c3": 8, "c4": 16, "c5": 32}.items():
        rows, columns = math.ceil(5 * token / stride), math.ceil(8 * token / stride)
        channels = parts.channels // max(1, token // stride)
        assert (features[level].shape, features[level].dtype) == ((2, rows, columns, channels), dtype)


def test_a_model_shows_smaller_images_to_patches_of_14() -> None:
    input_hw = (64, 96)
    model = build_model(ModelConfig(backbone="vit_small_patch14_dinov2"), {})
    model = replace(model, backbone=ViT(parts=replace(TINY, patch=14)))
    found = model.init(jax.random.key(0), input_hw)
    images = np.random.default_rng(0).integers(0, 256, (1, *input_hw, 3), np.uint8)
    features = model.features(found, jnp.asarray(images), ("c2", "c3", "c4", "c5"))
    assert {level: maps.shape[1:3] for level, maps in features.items()} == {
        f"c{level}": tuple(side // 2**level for side in input_hw) for level in (2, 3, 4, 5)
    }
    normalised = (images.astype(np.float32) - np.float32(model.mean)) / np.float32(model.std)
    shown = jax.image.resize(normalised, (1, *[side * 14 // 16 for side in input_hw], 3), "linear")
    expected = model.backbone.apply({"params": found["params"]["backbone"]}, shown, False)
    np.testing.assert_allclose(features["c4"], expected["c4"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("vit_tiny_patch16_224", 5.52),
        ("vit_base_patch16_224", 85.80),
        ("vit_large_patch14_clip_224", 303.18),
        ("vit_base_patch16_siglip_224", 85.80),
        ("vit_small_patch14_dinov2", 22.06),
        ("vit_giant_patch14_reg4_dinov2", 1136.48),
        ("vit_small_plus_patch16_dinov3", 28.68),
    ],
)
def test_number_of_parameters_without_the_pyramid(name: str, millions: float) -> None:
    """As timm counts them without a classifier; of SigLIP without the pooling."""
    parts = ARCHITECTURES[name].parts
    params = jax.eval_shape(lambda: variables(ViT(parts=replace(parts, depth=1)), parts.patch, parts.patch))["params"]
    sizes = {key: sum(leaf.size for leaf in jax.tree.leaves(tree)) for key, tree in params.items()}
    count = sum(sizes.values()) - sizes["pyramid"] + (parts.depth - 1) * sizes["block1"]
    assert count / 1e6 == pytest.approx(millions, abs=0.005)


def test_kernels_start_small_and_bounded() -> None:
    params = variables(ViT(parts=TINY), 32, 32)["params"]
    kernel = params["block1"]["mlp"]["fc1"]["kernel"]
    assert 0.012 < kernel.std() < 0.025 and np.abs(kernel).max() <= 0.04
    assert not np.array_equal(kernel, params["block2"]["mlp"]["fc1"]["kernel"])


@pytest.mark.parametrize(("source", "target"), [(14, 9), (14, 37), (37, 14), (5, 5), (16, 15)])
def test_resizing_is_that_of_pil(source: int, target: int) -> None:
    values = np.random.default_rng(0).normal(size=(1, source)).astype(np.float32)
    expected = np.asarray(Image.fromarray(values).resize((target, 1), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(values @ bicubic_matrix(source, target).T, expected, atol=1e-5)


def test_positions_are_resized_by_rows_and_columns() -> None:
    rows, columns = np.mgrid[:4, :4].astype(np.float32)
    embeddings = np.stack([rows, columns], -1).reshape(16, 2)
    np.testing.assert_array_equal(resized(jnp.asarray(embeddings), 4, 4), embeddings)
    found = np.asarray(resized(jnp.asarray(embeddings), 8, 2)).reshape(8, 2, 2)
    assert (np.diff(found[..., 0], axis=0) > 0).all() and np.ptp(found[..., 0], axis=1).max() < 1e-5
    assert (np.diff(found[..., 1], axis=1) > 0).all() and np.ptp(found[..., 1], axis=0).max() < 1e-5


def test_rotations_depend_on_the_way_between_two_patches_alone() -> None:
    rows, columns, before = 5, 4, 3
    query, key = np.random.default_rng(0).normal(size=(2, 1, 1, 1, 8)).astype(np.float32)
    angles = [jnp.asarray(x) for x in rotations(rows, columns, 8, before)]
    tokens = before + rows * columns
    queries, keys = (
        np.asarray(rotated(jnp.broadcast_to(x, (1, tokens, 1, 8)), *angles))[0, :, 0] for x in (query, key)
    )
    np.testing.assert_array_equal(queries[:before], np.broadcast_to(query[0, 0], (before, 8)))
    scores = (queries @ keys.T)[before:, before:].reshape(rows, columns, rows, columns)
    for i, j in np.ndindex(rows - 1, columns - 1):
        np.testing.assert_allclose(scores[i, j, i + 1, j + 1], scores[0, 0, 1, 1], rtol=1e-4)
    assert abs(scores[0, 0, 1, 0] - scores[0, 0, 0, 1]) > 1e-3


def test_doubling_is_a_deconvolution() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 6)).astype(np.float32)
    params = randomised(Doubling(5).init(jax.random.key(0), x)["params"])
    found = Doubling(5).apply({"params": params}, x)
    for i, j in np.ndindex(2, 2):
        expected = x @ params["kernel"][i, j] + params["bias"]
        np.testing.assert_allclose(found[:, i::2, j::2], expected, rtol=1e-4, atol=1e-5)


def test_the_pyramid_has_the_input_at_its_stride_and_maxima_above() -> None:
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 8)).astype(np.float32)
    features, _ = SimplePyramid(16).init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(features["c4"], x)
    padded = np.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0)), constant_values=-np.inf)
    np.testing.assert_array_equal(features["c5"], padded.reshape(1, 2, 2, 2, 2, 8).max((2, 4)))


def test_rematerialisation_keeps_less_and_changes_no_gradient() -> None:
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 48, 32, 3)).astype(np.float32))
    params = variables(ViT(parts=ROTARY), 32, 32)

    def loss(params: Any, remat: tuple[str, ...]) -> jax.Array:
        network = ViT(parts=ROTARY, remat=remat, drop_path=0.5)
        features = network.apply(params, images, True, rngs={"drop_path": jax.random.key(1)})
        return sum(jnp.square(x).mean() for x in features.values())

    def kept(remat: tuple[str, ...]) -> int:
        residuals = jax.eval_shape(lambda params: jax.vjp(partial(loss, remat=remat), params)[1], params)
        return sum(leaf.size for leaf in jax.tree.leaves(residuals))

    assert kept(("stage1", "stage2", "stage3", "stage4")) < kept(("stage2",)) < kept(())
    some, again = (jax.jit(jax.grad(partial(loss, remat=remat)))(params) for remat in ((), ("stage1", "stage3")))
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(some))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5 * largest), some, again)


def test_attention_has_the_gradient_of_what_it_computes() -> None:
    inputs = np.random.default_rng(0).normal(size=(3, 2, 5, 3, 8)).astype(np.float32)

    def expected(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        weights = jax.nn.softmax(jnp.einsum("bqhc,bkhc->bhqk", query, key) / math.sqrt(8))
        return jnp.einsum("bhqk,bkhc->bqhc", weights, value)

    def both(function: Any) -> Any:
        return jax.jit(lambda *inputs: jax.vjp(function, *inputs)[1](jnp.sin(inputs[0])))(*inputs)

    np.testing.assert_allclose(attention(*inputs), expected(*inputs), rtol=1e-4, atol=1e-5)
    for found, value in zip(both(attention), both(expected), strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("parts", [TINY, ROTARY], ids=["learnt", "rotary"])
def test_gradients_in_bfloat16_are_near_those_in_float32(parts: ViTParts) -> None:
    network = ViT(parts=replace(parts, depth=2), remat=("stage1",))
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 48, 32, 3)).astype(np.float32))
    params = variables(network, 32, 32)

    def loss(params: Any, dtype: jnp.dtype) -> jax.Array:
        features = network.apply(params, images.astype(dtype), True)
        return sum(jnp.square(x.astype(jnp.float32) - 1).mean() for x in features.values())

    exact, rough = (jax.jit(jax.grad(partial(loss, dtype=dtype)))(params) for dtype in (jnp.float32, jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(rough)} == {jnp.dtype(jnp.float32)}
    for some, other in zip(jax.tree.leaves(exact), jax.tree.leaves(rough), strict=True):
        assert jnp.linalg.norm(some - other) < 0.1 * jnp.linalg.norm(some) + 1e-4


def test_stochastic_depth_is_drawn_in_training_alone() -> None:
    network = ViT(parts=TINY, drop_path=0.9)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype(np.float32))
    params = {"params": randomised(variables(network, 32, 32)["params"])}

    @partial(jax.jit, static_argnums=1)
    def run(key: jax.Array, train: bool) -> jax.Array:
        return network.apply(params, images, train, rngs={"drop_path": key})["c4"]

    first, second = jax.random.key(1), jax.random.key(2)
    np.testing.assert_array_equal(run(first, False), run(second, False))
    np.testing.assert_array_equal(run(first, True), run(first, True))
    assert np.abs(run(first, True) - run(second, True)).max() > 0.1


@pytest.mark.parametrize(
    "name",
    [
        "vit_base_patch16_224",
        "deit3_base_patch16_224",
        "vit_base_patch16_clip_224",
        "vit_base_patch16_siglip_224",
        "vit_base_patch14_dinov2",
        "vit_giant_patch14_reg4_dinov2",
        "vit_base_patch16_dinov3",
        "vit_small_plus_patch16_dinov3_qkvb",
    ],
)
def test_conventions_write_what_they_read(name: str) -> None:
    architecture = tiny(name)
    patch = architecture.parts.patch
    fresh = jax.device_get(variables(ViT(parts=architecture.parts), patch, patch)["params"])
    params = randomised(fresh)
    conventions = loading.conventions_of(architecture)
    for convention in conventions:
        for prefix in ("", *convention.prefixes):
            written = convention.written(flat(params))
            found = Found(None, {f"{prefix}{key}": value for key, value in written.items()}, digest="")
            again = loading.load(found, architecture, fresh, {})
            assert (again.convention, again.dropped) == (convention.name, ())
            assert again.fresh and all(path.startswith("pyramid/") for path in again.fresh)
            expected = flat(params) | flat({"pyramid": fresh["pyramid"]})
            assert flat(again.params).keys() == expected.keys()
            for path, values in flat(again.params).items():
                np.testing.assert_array_equal(values, expected[path], err_msg=path)


def test_blocks_that_a_file_stacks_and_rounds_to_bfloat16(tmp_path: Path) -> None:
    scales = np.random.default_rng(0).normal(size=(3, 8)).astype(jnp.bfloat16)
    np.savez(tmp_path / "weights.npz", **{"Transformer/encoderblock/LayerNorm_0/scale": scales, "step": np.int32(7)})
    tensors = files.read(str(tmp_path)).tensors
    assert tensors.keys() == {"step", *(f"Transformer/encoderblock_{i}/LayerNorm_0/scale" for i in range(3))}
    for i in range(3):
        found = tensors[f"Transformer/encoderblock_{i}/LayerNorm_0/scale"]
        np.testing.assert_array_equal(found, scales[i].astype(np.float32), strict=True)
