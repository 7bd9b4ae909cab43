"""Geometry of boxes (y0, x0, y1, x1) on the device, all in static shapes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

_TINY = 1e-6  # keeps a division by the area of an empty box finite


def area(boxes: jax.Array) -> jax.Array:
    """f32[..., 4] -> f32[...]; 0 for inverted boxes."""
    return jnp.prod(jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0.0), -1)


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union; f32[..., 4] each, equal or broadcastable shapes -> f32[...]."""
    overlap = _overlap(a, b)
    return overlap / jnp.maximum(area(a) + area(b) - overlap, _TINY)


def giou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Generalised IoU (Rezatofighi et al. 2019), in (-1, 1]: also falls with the empty space between disjoint boxes."""
    overlap = _overlap(a, b)
    union = area(a) + area(b) - overlap
    hull = area(jnp.concatenate([jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])], -1))
    return overlap / jnp.maximum(union, _TINY) - (hull - union) / jnp.maximum(hull, _TINY)


def non_maximum_suppression(
    boxes: jax.Array, classes: jax.Array, scores: jax.Array, max_iou: float, count: int
) -> tuple[jax.Array, jax.Array]:
    """Greedy, class by class: (i32[count] kept boxes, best first; their scores f32[count], 0 once none are left).

    Each step takes the best remaining box and drops those that it suppresses. So memory grows with the number of boxes
    and not with its square, and no step is spent on boxes that are not wanted.

    Args:
      boxes: f32[k, 4]. classes: i32[k].
      scores: f32[k]; a box with 0 is never taken.
      max_iou: a box is dropped if its IoU with a better, kept box of its class is larger.
    """

    def step(left: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        best = jnp.argmax(left).astype(jnp.int32)
        gone = (iou(boxes[best][None], boxes) > max_iou) & (classes == classes[best])
        gone |= jnp.arange(len(boxes)) == best  # even if it has no area
        return jnp.where(gone, 0.0, left), (best, left[best])

    return jax.lax.scan(step, scores, length=count)[1]


def assign(
    boxes_px: jax.Array, valid: jax.Array, centers_px: jax.Array, strides: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Which cell learns which box: (bool[A] whether it has one, i32[A] the box's slot).

    FCOS (Tian et al. 2019) with centre sampling: a box goes to the cells that lie inside it and within 1.5 strides of
    its centre, and at least to the cell at its centre, since a thin box may contain no cell's centre. Of these, only
    cells whose distance to the box's farthest side is 4 to 8 strides of their level learn it; on the finest level also
    those with less, on the coarsest also those with more. With strides of 8 to 128 these are FCOS's limits, 64 to 512
    pixels. They do not scale with the image: what counts for a cell is how many cells wide a box is. So an image of 64
    pixels leaves all of its boxes to P3, whose 64 cells distinguish them best. Of several boxes the smallest wins.

    Args:
      boxes_px: f32[N, 4]. valid: f32[N]. centers_px: f32[A, 2] (y, x). strides: f32[A].
    """
    low, high, stride = boxes_px[:, :2], boxes_px[:, 2:], strides[:, None]
    offset, half = jnp.abs(centers_px[:, None] - ((low + high) / 2)[None]), ((high - low) / 2)[None]
    farthest = jnp.max(half + offset, -1)
    fits = (farthest <= 8 * stride) | (stride == strides.max())
    fits &= (farthest > 4 * stride) | (stride == strides.min())
    reach = jnp.clip(half, 0.5 * stride[..., None], 1.5 * stride[..., None])
    matched = jnp.all(offset <= reach, -1) & fits & (valid[None] > 0)
    slot = jnp.argmin(jnp.where(matched, area(boxes_px)[None], jnp.inf), -1)
    return jnp.any(matched, -1), slot.astype(jnp.int32)


def covered(boxes_px: jax.Array, valid: jax.Array, centers_px: jax.Array) -> jax.Array:
    """bool[A], whether a cell's centre lies in any box: f32[N, 4], f32[N], f32[A, 2] (y, x)."""
    low, high = boxes_px[None, :, :2], boxes_px[None, :, 2:]
    inside = jnp.all((centers_px[:, None] >= low) & (centers_px[:, None] <= high), -1)
    return jnp.any(inside & (valid[None] > 0), -1)


def _overlap(a: jax.Array, b: jax.Array) -> jax.Array:
    return area(jnp.concatenate([jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])], -1))
