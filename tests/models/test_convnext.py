"""ConvNeXt: its parts against reference arithmetic, and the names of its parameters in the files of others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from must_jax.config import ModelConfig
from must_jax.config.architectures import ARCHITECTURES, ConvNeXtParts
from must_jax.models.api import build_model
from must_jax.models.convnext import ConvNeXt, ResponseNorm, ScaleNorm, convolve_depthwise
from must_jax.models.heads import PooledLinearHead
from must_jax.models.rates import shares_of_blocks
from must_jax.weights.files import Found
from must_jax.weights.loading import conventions_of, flat, load

PARTS = ConvNeXtParts((1, 2, 1, 1), (8, 16, 24, 32))
SMALLEST = ConvNeXtParts((1, 1, 1, 1), (8, 8, 8, 16), v2=True)
KINDS = {
    "V1": PARTS,
    "V2": replace(PARTS, v2=True),
    "two convolutions first": replace(PARTS, stem_channels=4, stem_gelu=True, conv_mlp=True),
    "root mean square": replace(PARTS, norm="rms", conv_mlp=True),
    "standard deviation": replace(PARTS, norm="simple"),
    "V2, conv_mlp": replace(PARTS, v2=True, conv_mlp=True),
}
of_every_kind = pytest.mark.parametrize("parts", KINDS.values(), ids=KINDS)


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def reference_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    pads, channels = [(kernel.shape[0] // 2,) * 2] * 2, x.shape[-1]
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), pads, dimension_numbers=numbers, feature_group_count=channels
    )


def randomised(parts: ConvNeXtParts) -> dict[str, Any]:
    """Parameters of which none does nothing."""
    shapes = jax.eval_shape(lambda: ConvNeXt(parts=parts).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False))
    rng = np.random.default_rng(0)
    draw = {"scale": (1, 0.2), "gamma": (1, 0.2), "bias": (0, 0.2), "kernel": (0, 0.1)}
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: rng.normal(*draw[path[-1].key], leaf.shape).astype(np.float32), shapes["params"]
    )


@pytest.mark.parametrize(
    ("name", "millions"),  # without what is after the last stage
    [("convnext_atto", 3.373_880), ("convnext_tiny", 27.818_592), ("convnextv2_tiny", 27.864_960)],
)
def test_published_numbers_of_parameters_and_strides(name: str, millions: float) -> None:
    parts = ARCHITECTURES[name].parts
    images = jax.ShapeDtypeStruct((2, 96, 160, 3), jnp.float32)
    features, variables = jax.eval_shape(
        lambda key, x: ConvNeXt(parts=parts).init_with_output(key, x, False), jax.random.key(0), images
    )
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == round(millions * 1e6)
    assert {level: x.shape for level, x in features.items()} == {
        f"c{level}": (2, 96 // 2**level, 160 // 2**level, parts.channels[level - 2]) for level in (2, 3, 4, 5)
    }


@pytest.mark.parametrize("sides", [(1, 2), (5, 9)])
def test_a_depthwise_convolution_and_its_gradients(sides: tuple[int, int]) -> None:
    x, kernel = normal(0, 2, *sides, 6), normal(1, 7, 7, 1, 6)
    actual, pull = jax.vjp(convolve_depthwise, x, kernel)
    expected, reference_pull = jax.vjp(reference_conv, x, kernel)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    for ours, theirs in zip(pull(expected), reference_pull(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    coarse = convolve_depthwise(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert coarse.dtype == jnp.bfloat16
    np.testing.assert_allclose(coarse.astype(jnp.float32), expected, atol=0.02 * float(jnp.abs(expected).max()))


def test_it_is_a_sum_on_cpus_and_a_convolution_elsewhere() -> None:
    def gradients(x: jax.Array, kernel: jax.Array) -> Any:
        y, pull = jax.vjp(convolve_depthwise, x, kernel)
        return pull(y)

    for platform in ("cpu", "cuda", "tpu"):
        lowered = jax.jit(gradients).trace(normal(0, 1, 8, 8, 4), normal(1, 7, 7, 1, 4))
        program = lowered.lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.convolution" in program) == (platform != "cpu"), platform


def test_response_norm_compares_channels_and_knows_dead_ones() -> None:
    x = normal(0, 2, 3, 4, 5).at[..., 2].set(0)
    variables = {"params": {"scale": normal(1, 5), "bias": normal(2, 5)}}
    norms = np.sqrt(np.square(x).sum((1, 2), keepdims=True))
    share = norms / (norms.mean(-1, keepdims=True) + 1e-6)
    expected = x + variables["params"]["scale"][None, None, None] * x * share
    expected += variables["params"]["bias"][None, None, None]
    np.testing.assert_allclose(ResponseNorm().apply(variables, x), expected, atol=1e-5)
    gradient = jax.grad(lambda x: jnp.square(ResponseNorm().apply(variables, x)).sum())(x)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("centred", [False, True])
def test_norms_that_keep_the_mean(centred: bool) -> None:
    x, variables = 2 + normal(0, 2, 3, 4, 8), {"params": {"scale": normal(1, 8)}}
    by = np.std(x, -1, ddof=1, keepdims=True) if centred else np.sqrt(np.square(x).mean(-1, keepdims=True))
    expected = x / by * variables["params"]["scale"][None, None, None]
    np.testing.assert_allclose(ScaleNorm(1e-6, centred).apply(variables, x), expected, atol=1e-4)


@of_every_kind
def test_features_keep_their_dtype_and_change_little_in_half_precision(parts: ConvNeXtParts) -> None:
    variables, x = {"params": randomised(parts)}, normal(0, 1, 32, 64, 3)
    apply = jax.jit(lambda x: ConvNeXt(parts=parts).apply(variables, x, False))
    fine, coarse = apply(x), apply(x.astype(jnp.bfloat16))
    for level, expected in fine.items():
        assert expected.dtype == jnp.float32 and coarse[level].dtype == jnp.bfloat16
        atol = 0.03 * float(jnp.abs(expected).max())
        np.testing.assert_allclose(coarse[level].astype(jnp.float32), expected, atol=atol, err_msg=level)


def test_a_fresh_block_is_nearly_its_shortcut_unless_told_otherwise() -> None:
    def gammas(identity: bool) -> list[float]:
        module = ConvNeXt(parts=PARTS, identity_blocks=identity)
        params = module.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False)["params"]
        return [float(value.mean()) for path, value in flat(params).items() if path.endswith("gamma")]

    np.testing.assert_allclose(gammas(True), 5 * [1e-6], rtol=1e-6)
    assert gammas(False) == 5 * [1]


def test_layer_wise_rates_know_what_belongs_to_a_block() -> None:
    shares = shares_of_blocks(randomised(PARTS), 0.5)
    assert shares["stem"] == shares["stem_norm"] == 0.5**6 and shares["stage4_1"] == 0.5
    for stage in (2, 3, 4):
        assert shares[f"stage{stage}_norm"] == shares[f"stage{stage}_shrink"] == shares[f"stage{stage}_1"]


def value_and_grads(**changes: Any) -> Callable[..., Any]:
    def loss(params: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        features = ConvNeXt(parts=SMALLEST, **changes).apply({"params": params}, x, True, rngs={"drop_path": key})
        return sum(jnp.square(level).mean() for level in features.values())

    return jax.jit(jax.value_and_grad(loss))


def test_rematerialised_stages_have_the_same_gradients() -> None:
    given = randomised(SMALLEST), normal(0, 2, 32, 32, 3), jax.random.key(1)
    expected = value_and_grads(drop_path=0.5)(*given)
    found = value_and_grads(drop_path=0.5, remat=("stage1", "stage4"))(*given)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def test_stochastic_depth_is_drawn_in_training_only() -> None:
    variables, x = {"params": randomised(PARTS)}, normal(0, 4, 32, 32, 3)

    def c5(rate: float, train: bool, seed: int) -> np.ndarray:
        module = ConvNeXt(parts=PARTS, drop_path=rate)
        return np.asarray(module.apply(variables, x, train, rngs={"drop_path": jax.random.key(seed)})["c5"])

    plain = c5(0, True, 0)
    np.testing.assert_array_equal(c5(0.9, False, 0), plain)
    assert np.any(c5(0.9, True, 0) != plain) and np.any(c5(0.9, True, 0) != c5(0.9, True, 1))


def test_a_model_trains_on_it_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(ARCHITECTURES["convnextv2_tiny"], parts=SMALLEST)
    monkeypatch.setitem(ARCHITECTURES, "convnextv2_tiny", small)
    config = ModelConfig(backbone="convnextv2_tiny", pyramid_channels=8, drop_path=0.1, dtype="bfloat16")
    model = build_model(config, {"classes": PooledLinearHead(5)})
    variables = model.init(jax.random.key(0), (32, 32))
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8))

    def loss(params: Any, rng: jax.Array) -> jax.Array:
        outputs, _ = model.apply({**variables, "params": params}, images, train=True, rng=rng)
        return sum(jnp.square(x).mean() for x in jax.tree.leaves(outputs))

    gradients = flat(jax.jit(jax.grad(loss))(variables["params"], jax.random.key(2))["backbone"])
    assert not [path for path, g in gradients.items() if g.dtype != jnp.float32 or not np.isfinite(g).all()]
    assert not [path for path, g in gradients.items() if not np.any(g)]


@of_every_kind
def test_files_of_every_convention_give_back_the_same_bits(parts: ConvNeXtParts) -> None:
    params = randomised(parts)
    architecture = replace(ARCHITECTURES["convnext_tiny"], parts=parts)
    conventions = conventions_of(architecture)
    assert len({convention.name for convention in conventions}) == len(conventions)
    blank = jax.tree.map(np.zeros_like, params)
    for convention in conventions:
        tensors = convention.written(flat(params))
        for prefix in ("", convention.prefixes[0]):
            found = Found(Path("given"), {prefix + name: tensor for name, tensor in tensors.items()}, digest="")
            loaded = load(found, architecture, blank, {})
            assert (loaded.convention, loaded.fresh, loaded.dropped) == (convention.name, (), ())
            jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
