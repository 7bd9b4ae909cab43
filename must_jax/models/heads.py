"""Three head designs. Tasks of one design never share weights (MuST section 3.1).

A head maps features to a dict of float32 outputs and computes in the features' dtype. Features:
`{"c5": [B, h, w, C], "p3" ... "p7": [B, h, w, P], "fused": [B, H/4, W/4, P]}`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

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
    """3x3 convolutions with norm and ReLU on the fused pyramid, then a 1x1: {"maps": [B, H/4, W/4, channels_out]}."""

    channels_out: int
    convs: int = 3
    channels: int = 256
    momentum: float = 0.9

    @nn.compact
    def __call__(self, features: Mapping[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        x = features["fused"]
        for index in range(1, self.convs + 1):
            x = Conv(self.channels, 3, name=f"conv{index}")(x)
            x = nn.relu(BatchNorm(self.momentum, name=f"norm{index}")(x, train))
        predict = Conv(self.channels_out, 1, use_bias=True, kernel_init=normal(0.01), name="predict")
        return {"maps": predict(x).astype(jnp.float32)}


class DetectorHead(nn.Module):
    """FCOS (Tian et al. 2019) on P3..P7: every cell predicts one box.

    {"class_logits": [B, A, classes], "box_ltrb": [B, A, 4], "centerness": [B, A] (a logit)}, where A counts the cells
    of all levels, fine to coarse, in the order of `detector_points`. `box_ltrb` are the distances from the cell's
    centre to the left, top, right and bottom side, > 0, in units of the level's stride.

    The towers' weights are shared by all levels. They use group norm, as FCOS does: levels differ in their statistics,
    and with group norm they need neither statistics of their own nor communication between devices.
    """

    classes: int
    convs: int = 3
    channels: int = 256

    @nn.compact
    def __call__(self, features: Mapping[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        levels = [features[level] for level in LEVELS]
        class_tower = _Tower(self.convs, self.channels, name="class_tower")
        box_tower = _Tower(self.convs, self.channels, name="box_tower")
        # A score of 0.01 everywhere at the start keeps the many empty cells from swamping the loss (Lin et al. 2017).
        prior = nn.initializers.constant(-math.log((1 - 0.01) / 0.01))
        predictor = partial(Conv, size=3, use_bias=True, kernel_init=normal(0.01))
        classify = predictor(self.classes, bias_init=prior, name="classify")
        locate = predictor(5, name="locate")  # four distances and the centerness
        scales = self.param("level_scales", nn.initializers.ones, (len(levels),), jnp.float32)

        class_logits, box_ltrb, centerness = [], [], []
        for scale, x in zip(scales, levels, strict=True):
            class_logits.append(_flatten(classify(class_tower(x))))
            located = _flatten(locate(box_tower(x)))
            box_ltrb.append(nn.softplus(scale * located[..., :4]))
            centerness.append(located[..., 4])
        return {
            "class_logits": jnp.concatenate(class_logits, axis=1),
            "box_ltrb": jnp.concatenate(box_ltrb, axis=1),
            "centerness": jnp.concatenate(centerness, axis=1),
        }


def detector_points(image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the cells of P3..P7 look: centres f32[A, 2] (y, x) in input pixels, and strides f32[A] in pixels."""
    centers, strides = [], []
    for stride in STRIDES:
        axis = (np.arange(math.ceil(image_size / stride), dtype=np.float32) + 0.5) * stride
        grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
        centers.append(grid)
        strides.append(np.full(len(grid), stride, np.float32))
    return np.concatenate(centers), np.concatenate(strides)


class _Tower(nn.Module):
    """3x3 convolutions with group norm (8 channels a group, in float32) and ReLU; called once a level."""

    convs: int
    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for index in range(1, self.convs + 1):
            x = Conv(self.channels, 3, name=f"conv{index}")(x)
            norm = nn.GroupNorm(None, group_size=math.gcd(8, self.channels), name=f"norm{index}")
            x = nn.relu(norm(x.astype(jnp.float32)).astype(x.dtype))
        return x


def _flatten(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)
