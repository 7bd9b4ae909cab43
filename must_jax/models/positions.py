"""Where tokens lie: learnt embeddings, resized to other grids, and rotations."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np


def resized(embeddings: jax.Array, rows: int, columns: int) -> jax.Array:
    """f32[side * side, C] -> f32[rows * columns, C], by bicubic interpolation without aliasing, as timm does it."""
    side, channels = math.isqrt(embeddings.shape[0]), embeddings.shape[1]
    if (rows, columns) == (side, side):
        return embeddings
    grid = embeddings.reshape(side, side, channels)
    matrices = (jnp.asarray(bicubic_matrix(side, target)) for target in (rows, columns))
    return jnp.einsum("hwc,Hh,Ww->HWc", grid, *matrices, precision="highest").reshape(rows * columns, channels)


def bicubic_matrix(source: int, target: int) -> np.ndarray:
    """f32[target, source]: resizes a vector by Keys' cubic kernel with a = -1/2 (Keys 1981), half-pixel centres.

    If the vector shrinks, the kernel is stretched; beyond the border there is nothing. PIL does the same, and PyTorch
    with `antialias`.
    """
    scale = source / target
    centres = scale * (np.arange(target) + 0.5)
    x = np.abs(np.arange(source)[None] + 0.5 - centres[:, None]) / max(scale, 1.0)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def rotations(rows: int, columns: int, channels: int, before: int) -> tuple[np.ndarray, np.ndarray]:
    """Sines and cosines f32[before + rows * columns, channels] for `rotated` (Siméoni et al. 2025, DINOv3).

    A quarter of the channels stands for a token's row, a quarter for its column, from -1 to 1 over the image; periods
    are 100 ** (4 i / channels). The other half repeats them.

    Args:
      channels: of a head, a multiple of 4.
      before: tokens before the patches, which are not rotated.
    """
    y, x = (2 * (np.arange(n) + 0.5) / n - 1 for n in (rows, columns))
    places = np.stack(np.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2, 1)
    periods = 100.0 ** (np.arange(channels // 4) * 4 / channels)
    angles = np.tile((2 * np.pi * places / periods).reshape(len(places), -1), 2)
    angles = np.concatenate([np.zeros((before, channels)), angles])
    return np.sin(angles).astype(np.float32), np.cos(angles).astype(np.float32)


def rotated(x: jax.Array, sines: jax.Array, cosines: jax.Array) -> jax.Array:
    """`[B, tokens, heads, channels]`: each pair (i, i + channels / 2) of channels is turned by its angle."""
    x32 = x.astype(jnp.float32)
    first, second = jnp.split(x32, 2, axis=-1)
    turned = jnp.concatenate([-second, first], -1)
    return (x32 * cosines[None, :, None] + turned * sines[None, :, None]).astype(x.dtype)
