"""All levels of a pyramid in one map, so that layers with weights shared by all levels are one operation, not five."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from must_jax.models.layers import KEPT, kept

SUMS = jax.lax.Precision.HIGHEST  # for matrix products that sum up statistics: as exact as a sum


class Canvas:
    """Five levels, fine to coarse, side by side with a line of empty cells between neighbours.

    Empty cells are 0: to a 3x3 convolution they are the padding at a level's border. P4 lies to the right of P3, P5
    below P4, P6 to the right of P5 and P7 below P6, which wastes about an eighth of the map.

    Attributes:
      sizes: rows and columns of each level.
      shape: rows and columns of the map.
      member: f32[cells of the map, levels], 1 where the cell belongs to the level; all 0 in an empty cell.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]]) -> None:
        (_, p3_columns), (p4_rows, _), (_, p5_columns), (p6_rows, _), _ = self.sizes = tuple(sizes)
        left, below, right = p3_columns + 1, p4_rows + 1, p3_columns + p5_columns + 2
        self._corners = (0, 0), (0, left), (below, left), (below, right), (below + p6_rows + 1, right)
        ends = np.array(self._corners) + np.array(self.sizes)
        self.shape = tuple(ends.max(0).tolist())
        member = np.zeros((*self.shape, len(self.sizes)), np.float32)
        for level, ((top, left), (bottom, right)) in enumerate(zip(self._corners, ends, strict=True)):
            member[top:bottom, left:right, level] = 1
        self.member = member.reshape(-1, len(self.sizes))

    def draw(self, levels: Sequence[jax.Array]) -> jax.Array:
        """`[B, rows, columns, C]` each -> `[B, *shape, C]`."""
        batch, _, _, channels = levels[0].shape
        canvas = jnp.zeros((batch, *self.shape, channels), levels[0].dtype)
        for level, (top, left) in zip(levels, self._corners, strict=True):
            canvas = jax.lax.dynamic_update_slice(canvas, level, (0, top, left, 0))
        return canvas

    def cells(self, canvas: jax.Array) -> jax.Array:
        """`[B, *shape, C]` -> f32[B, A, C]: the cells of all levels, fine to coarse, row by row."""
        batch, _, _, channels = canvas.shape
        levels = [
            canvas[:, top : top + rows, left : left + columns].reshape(batch, rows * columns, channels)
            for (top, left), (rows, columns) in zip(self._corners, self.sizes, strict=True)
        ]
        return jnp.concatenate(levels, axis=1).astype(jnp.float32)

    def level_of_cells(self) -> np.ndarray:
        """i32[A]: the index of each cell's level, in the order of `cells`."""
        return np.repeat(np.arange(len(self.sizes), dtype=np.int32), np.prod(self.sizes, axis=1))


class CanvasGroupNorm(nn.Module):
    """Group norm (Wu and He 2018) of each level separately, in float32, then ReLU; empty cells become 0."""

    canvas: Canvas
    group_size: int
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, _, _, channels = x.shape
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        member = self.canvas.member
        share = jnp.asarray(member / member.sum(0))

        def level_means(values: jax.Array) -> jax.Array:
            """f32[B, levels, C], the same for all channels of a group."""
            means = jnp.einsum("bac,al->blc", values, share, precision=SUMS)
            groups = means.reshape(batch, -1, channels // self.group_size, self.group_size).mean(-1)
            return jnp.repeat(groups, self.group_size, axis=-1)

        # Arrays as large as the map are recomputed for the gradient: kept, in float32, they would be the largest part
        # of all that a training step keeps.
        @partial(jax.checkpoint, policy=KEPT)
        def normalise(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
            cells = x.astype(jnp.float32).reshape(batch, -1, channels)
            mean = level_means(cells)
            var = jnp.maximum(level_means(jnp.square(cells)) - jnp.square(mean), 0.0)
            mean, var = (kept(value) for value in (mean, var))
            gain = scale[None, None] * jax.lax.rsqrt(var + self.epsilon)
            offset = bias[None, None] - mean * gain
            gain, offset = (
                jnp.einsum("blc,al->bac", values, jnp.asarray(member), precision=SUMS) for values in (gain, offset)
            )
            return nn.relu(cells * gain + offset).astype(x.dtype).reshape(x.shape)

        return normalise(x, scale, bias)
