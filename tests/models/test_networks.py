"""Backbone, pyramid, fusion and heads against known counts, shapes and reference arithmetic."""

from __future__ import annotations

import math

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from must_jax.config import ModelConfig
from must_jax.config.architectures import ARCHITECTURES
from must_jax.models.fpn import FPN, LEVELS, STRIDES, fuse
from must_jax.models.heads import DetectorHead, dense_head, detector_points
from must_jax.models.layers import (
    BatchNorm,
    DropPath,
    LayerNorm,
    PatchConv,
    convolve,
    convolve_edge,
    drop_rates,
    gelu,
)
from must_jax.models.resnet import ResNet, Stem, _halved, _max_pool


def reference_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((pad, pad), (pad, pad)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(
    ("depth", "millions"),  # backbone without its classifier, as in torchvision
    [
        ("resnet10", 4.905_792),
        ("resnet18", 11.176_512),
        ("resnet34", 21.284_672),
        ("resnet50", 23.508_032),
        ("resnet101", 42.500_160),
        ("resnet152", 58.143_808),
        ("resnet50d", 23.527_264),
        ("seresnet50", 26.039_024),
        ("resnetrs50", 33.642_912),
    ],
)
def test_resnet_has_the_published_number_of_parameters_and_strides(depth: str, millions: float) -> None:
    module = ResNet(ARCHITECTURES[depth].parts, width=1.0)
    images = jax.ShapeDtypeStruct((2, 96, 96, 3), jnp.float32)
    features, variables = jax.eval_shape(
        lambda key, x: module.init_with_output(key, x, False), jax.random.key(0), images
    )
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == round(millions * 1e6)
    expansion = 4 if ARCHITECTURES[depth].parts.bottleneck else 1
    assert {name: x.shape for name, x in features.items()} == {
        f"c{level}": (2, 96 // 2**level, 96 // 2**level, 64 * expansion * 2 ** (level - 2)) for level in (2, 3, 4, 5)
    }


def test_width_scales_channels_in_multiples_of_eight() -> None:
    module = ResNet(ARCHITECTURES["resnet10"].parts, width=0.3)
    variables = jax.eval_shape(lambda key: module.init(key, jnp.zeros((1, 32, 32, 3)), False), jax.random.key(0))
    assert variables["params"]["stem"]["kernel"].shape == (7, 7, 3, 16)
    assert variables["params"]["stage4_1"]["conv2"]["kernel"].shape == (3, 3, 128, 128)


def test_a_residual_block_starts_as_its_shortcut() -> None:
    module = ResNet(ARCHITECTURES["resnet10"].parts, width=0.125)
    x = normal(0, 1, 32, 32, 3)
    variables = jax.jit(lambda key: module.init(key, x, False))(jax.random.key(0))
    assert not np.any(variables["params"]["stage1_1"]["norm2"]["scale"])
    features = jax.jit(lambda v: module.apply(v, x, False))(variables)
    kernel = variables["params"]["stage2_1"]["shortcut"]["kernel"]
    expected = nn.relu(reference_conv(features["c2"], kernel, 2) / np.sqrt(1 + 1e-5))
    np.testing.assert_allclose(features["c3"], expected, atol=1e-5)


def test_means_of_2x2_cells_leave_out_what_is_beyond_the_border() -> None:
    x = normal(1, 2, 5, 4, 3)
    found = _halved(x)
    assert found.shape == (2, 3, 2, 3)
    np.testing.assert_allclose(found[:, 0, 1], x[:, :2, 2:].mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(found[:, 2, 0], x[:, 4, :2].mean(1), atol=1e-6)


def test_stochastic_depth_skips_whole_images_and_keeps_the_mean() -> None:
    assert drop_rates(0.3, 4) == pytest.approx([0, 0.1, 0.2, 0.3]) and drop_rates(0.3, 1) == [0]
    module, x = DropPath(0.25), jnp.ones((4000, 2, 2, 3))
    out = module.apply({}, x, True, rngs={"drop_path": jax.random.key(0)})
    per_image = np.asarray(out).reshape(4000, -1)
    assert np.all(per_image == per_image[:, :1]) and {*np.unique(per_image).tolist()} == {0, np.float32(1 / 0.75)}
    assert abs(per_image.mean() - 1) < 0.03
    np.testing.assert_array_equal(module.apply({}, x, False), x)
    np.testing.assert_array_equal(module.apply({}, x, True), x)  # without a stream of keys


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [1, 2, 5])
def test_convolve_is_the_same_function_on_maps_smaller_than_the_kernel(side: int, stride: int) -> None:
    x, kernel = normal(0, 2, side, side, 4), normal(1, 3, 3, 4, 5)
    actual, pull = jax.vjp(lambda x, k: convolve(x, k, stride), x, kernel)
    expected, reference_pull = jax.vjp(lambda x, k: reference_conv(x, k, stride), x, kernel)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    for ours, theirs in zip(pull(expected), reference_pull(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_1x1_convolution_is_a_product_on_cpus_and_a_convolution_elsewhere(stride: int) -> None:
    x, kernel = normal(0, 2, 6, 8, 16), normal(1, 1, 1, 16, 5)

    def gradients(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(lambda x, k: convolve(x, k, stride), x, kernel)
        return pull(y)

    for platform in ("cpu", "cuda", "tpu"):
        program = jax.jit(gradients).trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.dot_general" in program) == (platform == "cpu"), platform
        assert ("stablehlo.convolution" in program) == (platform != "cpu"), platform
    np.testing.assert_allclose(convolve(x, kernel, stride), reference_conv(x, kernel, stride), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", [2, 5])
def test_edge_padding_repeats_the_outermost_cells(side: int) -> None:
    x, kernel = normal(0, 2, side, side + 1, 4), normal(1, 3, 3, 4, 5)

    def padded(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return reference_conv(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge"), kernel, 1)[:, 1:-1, 1:-1]

    actual, pull = jax.vjp(convolve_edge, x, kernel)
    expected, reference_pull = jax.vjp(padded, x, kernel)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    for ours, theirs in zip(pull(expected), reference_pull(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("padding", ["zeros", "edge"])
def test_with_edge_padding_maps_have_no_frame(padding: str) -> None:
    """What is the same everywhere gives the same everywhere."""
    head = dense_head(2, ModelConfig(head_channels=8, head_convs=2, head_padding=padding))
    features = {"fused": jnp.broadcast_to(normal(1, 8), (1, 16, 16, 8))}
    found = np.asarray(head.apply(head.init(jax.random.key(0), features, False), features, False)["maps"])
    frame = np.abs(found - found[:, 8:9, 8:9]).max() / np.abs(found).max()
    assert frame < 1e-4 if padding == "edge" else frame > 0.1


def test_the_stem_is_a_7x7_convolution_with_stride_2() -> None:
    x = normal(0, 2, 32, 32, 3)
    variables = Stem(8).init(jax.random.key(1), x)
    expected = reference_conv(x, variables["params"]["kernel"], 2)
    np.testing.assert_allclose(Stem(8).apply(variables, x), expected, atol=1e-5)


@pytest.mark.parametrize("side", [2, 16])
def test_max_pool_agrees_with_flax_in_value_and_gradient(side: int) -> None:
    x = nn.relu(normal(0, 2, side, side, 3))
    expected, reference_pull = jax.vjp(lambda x: nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1))), x)
    actual, pull = jax.vjp(lambda x: _max_pool(_max_pool(x, axis=1), axis=2), x)
    np.testing.assert_array_equal(actual, expected)
    positive = np.asarray(x) > 0  # at ties of zeros the gradients differ, and the ReLU before drops them
    ours, theirs = pull(expected)[0], reference_pull(expected)[0]
    np.testing.assert_allclose(np.where(positive, ours, 0), np.where(positive, theirs, 0), atol=1e-6)


def test_batch_norm_normalises_and_tracks_with_momentum() -> None:
    x = np.asarray(3 + 2 * normal(0, 8, 4, 4, 5))
    norm = BatchNorm(momentum=0.75)
    variables = norm.init(jax.random.key(0), x, False)
    y, updated = norm.apply(variables, x, True, mutable=["stats"])
    mean, var = np.mean(x, (0, 1, 2)), np.var(x, (0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), atol=1e-4)
    np.testing.assert_allclose(updated["stats"]["mean"], 0.25 * mean, rtol=1e-4)
    np.testing.assert_allclose(updated["stats"]["var"], 0.75 + 0.25 * var, rtol=1e-4)
    np.testing.assert_allclose(norm.apply(variables, x, False), x / np.sqrt(1 + 1e-5), atol=1e-5)


def test_layer_norm_has_statistics_in_float32() -> None:
    x = 1000 + np.asarray(normal(0, 2, 3, 4, 64))
    variables = {"params": {"scale": normal(1, 64), "bias": normal(2, 64)}}
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    expected = expected * variables["params"]["scale"][None, None, None] + variables["params"]["bias"][None, None, None]
    np.testing.assert_allclose(LayerNorm().apply(variables, x), expected, atol=1e-3)
    coarse = jnp.asarray(x - 1000, jnp.bfloat16)
    found = LayerNorm().apply(variables, coarse)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, LayerNorm().apply(variables, coarse.astype(jnp.float32)).astype(jnp.bfloat16))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gelu_is_exact(dtype: jnp.dtype) -> None:
    x = jnp.linspace(-6, 6, 97).astype(dtype)
    values = [float(value) for value in x]
    expected = [0.5 * value * math.erfc(-value * math.sqrt(0.5)) for value in values]
    assert gelu(x).dtype == dtype
    np.testing.assert_allclose(gelu(x).astype(jnp.float32), expected, atol=1e-6, rtol=4 * jnp.finfo(dtype).eps)


def test_a_convolution_of_patches_is_one_whose_stride_is_its_size() -> None:
    x, module = normal(0, 2, 8, 12, 3), PatchConv(5, 4)
    variables = {"params": {"kernel": normal(1, 4, 4, 3, 5), "bias": normal(2, 5)}}
    expected = jax.lax.conv_general_dilated(
        x, variables["params"]["kernel"], (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    expected += variables["params"]["bias"][None, None, None]
    np.testing.assert_allclose(module.apply(variables, x), expected, atol=1e-4)
    assert module.init(jax.random.key(0), x)["params"]["kernel"].shape == (4, 4, 3, 5)


SIDES = {64: (8, 4, 2, 1, 1), 96: (12, 6, 3, 2, 1), 224: (28, 14, 7, 4, 2)}  # of the levels of a pyramid


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 96), (224, 224), (64, 96), (224, 64)])
def test_pyramid_levels_agree_with_detector_points(height: int, width: int) -> None:
    stages = {f"c{level}": jnp.zeros((1, height // 2**level, width // 2**level, 8)) for level in (3, 4, 5)}
    module = FPN(channels=8, momentum=0.9)
    pyramid = jax.eval_shape(lambda key: module.init_with_output(key, stages, True)[0], jax.random.key(0))
    cells = list(zip(SIDES[height], SIDES[width], strict=True))
    assert [pyramid[level].shape for level in LEVELS] == [(1, *each, 8) for each in cells]
    centers_yx, strides = detector_points((height, width))
    assert len(centers_yx) == len(strides) == sum(map(math.prod, cells))
    np.testing.assert_array_equal(centers_yx[:2], [[4, 4], [4, 12]])  # rows by rows, y first
    np.testing.assert_array_equal(np.unique(strides), [8, 16, 32, 64, 128])


def test_fused_map_is_the_sum_of_levels_resized_by_opencv() -> None:
    size = 128
    pyramid = {level: normal(i, 2, n, n, 3) for i, (level, n) in enumerate(zip(LEVELS, (16, 8, 4, 2, 1), strict=True))}
    for b, fused in enumerate(np.asarray(jax.jit(fuse, static_argnums=1)(pyramid, (size, size)))):
        resized = [cv2.resize(np.asarray(x[b]), (32, 32), interpolation=cv2.INTER_LINEAR) for x in pyramid.values()]
        np.testing.assert_allclose(fused, sum(resized), atol=1e-4)


@pytest.mark.parametrize("size", [64, 96, 224, 320, 352, 640])
def test_what_all_levels_see_in_one_place_stays_there(size: int) -> None:
    """A ramp, sampled where the cells of each level look, comes out as the same ramp at stride 4, five times."""
    centers_yx, strides = detector_points((size, size))
    pyramid = {}
    for level, stride in zip(LEVELS, STRIDES, strict=True):
        own = centers_yx[strides == stride]
        side = math.isqrt(len(own))
        pyramid[level] = jnp.asarray(np.stack([own[:, 0], own[:, 1], np.ones(len(own))], -1).reshape(1, side, side, 3))
    fused = np.asarray(jax.jit(fuse, static_argnums=1)(pyramid, (size, size)))[0] / len(LEVELS)
    wanted = (np.arange(size // 4) + 0.5) * 4
    # Beyond the outermost centres of a level its edge is repeated.
    first, last = 64, min(centers_yx[strides == stride].max() for stride in STRIDES)
    inner = (wanted >= first) & (wanted <= last)
    np.testing.assert_allclose(
        fused[inner][:, :, 0], np.broadcast_to(wanted[inner, None], fused[inner].shape[:2]), rtol=1e-5
    )
    np.testing.assert_allclose(fused[:, inner, 1], np.broadcast_to(wanted[inner], fused[:, inner].shape[:2]), rtol=1e-5)
    np.testing.assert_allclose(fused[..., 2], 1, rtol=1e-5)


@pytest.mark.parametrize("side", [7, 8])
def test_a_strided_convolution_looks_in_the_same_places_whatever_the_size(side: int) -> None:
    """Every second cell, from the first: a last cell that reaches beyond the image moves no other."""
    x = jnp.arange(side, dtype=jnp.float32)[None, :, None, None] * jnp.ones((1, 1, side, 1))
    mean = convolve(x, jnp.full((3, 3, 1, 1), 1 / 9), 2)[0, 1:-1, 1:-1, 0]
    np.testing.assert_allclose(mean[:, 0], 2 * np.arange(1, len(mean) + 1), rtol=1e-5)


def test_detector_starts_sure_of_nothing_with_positive_distances() -> None:
    features = {level: normal(0, 2, n, n, 16) for level, n in zip(LEVELS, (8, 4, 2, 1, 1), strict=True)}
    head = DetectorHead(classes=7, convs=1, channels=12)
    outputs, variables = jax.jit(lambda key: head.init_with_output(key, features, False))(jax.random.key(0))
    assert {name: x.shape for name, x in outputs.items()} == {
        "class_logits": (2, 86, 7),
        "box_ltrb": (2, 86, 4),
        "centerness": (2, 86),
    }
    assert 0.005 < float(nn.sigmoid(outputs["class_logits"]).mean()) < 0.02
    assert float(outputs["box_ltrb"].min()) > 0
    assert variables["params"]["level_scales"].shape == (5,)
