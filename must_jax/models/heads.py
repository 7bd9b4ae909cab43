"""Three head designs. Tasks with the same design never share weights (MuST section 3.1).

A head maps features to a dict of float32 outputs and computes in the features' dtype. Features:
`{"c5": [B, h, w, C], "p3" ... "p7": [B, h, w, P], "fused": [B, H/4, W/4, P]}`.

A head with a method `views(images, key) -> [B, n, H, W, 3]` sees these instead of the images, u8|f32[B, H, W, 3],
0..255. Its outputs then have n as their second axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from must_jax.config import ModelConfig, Padding
from must_jax.models.canvas import Canvas, CanvasGroupNorm
from must_jax.models.fpn import LEVELS, STRIDES
from must_jax.models.layers import BatchNorm, Conv, normal


class PooledLinearHead(nn.Module):
    """Mean of C5 over all cells, then one linear layer: {"logits": [B, outputs]}."""

    outputs: int

    @nn.compact
    def __call__(self, features: Mapping[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        pooled = features["c5"].astype(jnp.float32).mean((1, 2))
        return {"logits": nn.Dense(self.outputs, kernel_init=normal(0.01), name="linear")(pooled)}


class DenseHead(nn.Module):
    """3x3 convolutions with norm and ReLU on the fused pyramid, then a 1x1: {"maps": [B, H/4, W/4, channels_out]}.

    `padding`: of the 3x3 convolutions; see `Conv`.
    """

    channels_out: int
    convs: int = 3
    channels: int = 256
    momentum: float = 0.9
    padding: Padding = "zeros"

    @nn.compact
    def __call__(self, features: Mapping[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        x = features["fused"]
        for index in range(1, self.convs + 1):
            x = Conv(self.channels, 3, padding=self.padding, name=f"conv{index}")(x)
            x = nn.relu(BatchNorm(self.momentum, name=f"norm{index}")(x, train))
        predict = Conv(self.channels_out, 1, use_bias=True, kernel_init=normal(0.01), name="predict")
        return {"maps": predict(x).astype(jnp.float32)}


def dense_head(channels_out: int, model: ModelConfig) -> DenseHead:
    """The head for maps that a config asks for."""
    return DenseHead(channels_out, model.head_convs, model.head_channels, model.batch_norm_momentum, model.head_padding)


class DetectorHead(nn.Module):
    """FCOS (Tian et al. 2019) on P3..P7: every cell predicts one box.

    {"class_logits": [B, A, classes], "box_ltrb": [B, A, 4], "centerness": [B, A] (a logit)}, where A counts the cells
    of all levels, fine to coarse, in the order of `detector_points`. `box_ltrb` are the distances from the cell's
    centre to the left, top, right and bottom sides, > 0, in units of the level's stride.

    All levels share the towers' weights, and therefore lie in one map. The towers use group norm, as FCOS does: levels
    differ in their statistics, and with group norm they need neither separate statistics nor communication between
    devices.
    """

    classes: int
    convs: int = 3
    channels: int = 256

    @nn.compact
    def __call__(self, features: Mapping[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        levels = [features[level] for level in LEVELS]
        canvas = Canvas([(level.shape[1], level.shape[2]) for level in levels])
        x = canvas.draw(levels)
        # A score of 0.01 everywhere at the start keeps the many empty cells from swamping the loss (Lin et al. 2017).
        prior = nn.initializers.constant(-math.log((1 - 0.01) / 0.01))
        predictor = partial(Conv, size=3, use_bias=True, kernel_init=normal(0.01))
        class_tower = _Tower(canvas, self.convs, self.channels, name="class_tower")
        box_tower = _Tower(canvas, self.convs, self.channels, name="box_tower")
        classify = predictor(self.classes, bias_init=prior, name="classify")
        locate = predictor(5, name="locate")  # four distances and the centerness
        class_logits = canvas.cells(classify(class_tower(x)))
        located = canvas.cells(locate(box_tower(x)))
        scales = self.param("level_scales", nn.initializers.ones, (len(levels),), jnp.float32)
        scale = scales[canvas.level_of_cells()]
        return {
            "class_logits": class_logits,
            "box_ltrb": nn.softplus(scale[None, :, None] * located[..., :4]),
            "centerness": located[..., 4],
        }


def detector_points(input_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The cells of P3..P7: centres f32[A, 2] (y, x) in input pixels, and strides f32[A] in pixels."""
    centers, strides = [], []
    for stride in STRIDES:
        y, x = ((np.arange(math.ceil(side / stride), dtype=np.float32) + 0.5) * stride for side in input_hw)
        grid = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)
        centers.append(grid)
        strides.append(np.full(len(grid), stride, np.float32))
    return np.concatenate(centers), np.concatenate(strides)


class _Tower(nn.Module):
    """3x3 convolutions with group norm (8 channels per group, in float32) and ReLU, on all levels."""

    canvas: Canvas
    convs: int
    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for index in range(1, self.convs + 1):
            x = Conv(self.channels, 3, name=f"conv{index}")(x)
            x = CanvasGroupNorm(self.canvas, math.gcd(8, self.channels), name=f"norm{index}")(x)
        return x
