"""Geometry of boxes (y0, x0, y1, x1) on the device, all with static shapes."""

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
    """Generalised IoU (Rezatofighi et al. 2019), in (-1, 1]: also falls with the empty space between apart boxes."""
    overlap = _overlap(a, b)
    union = area(a) + area(b) - overlap
    hull = area(jnp.concatenate([jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])], -1))
    return overlap / jnp.maximum(union, _TINY) - (hull - union) / jnp.maximum(hull, _TINY)


def non_maximum_suppression(boxes: jax.Array, classes: jax.Array, max_iou: float) -> jax.Array:
    """Greedy, class by class: bool[k], true for the boxes that stay.

    Args:
      boxes: f32[k, 4], best score first.
      classes: i32[k].
      max_iou: a box goes when its IoU with a staying better box of its class is larger.
    """
    conflict = (iou(boxes[:, None], boxes[None]) > max_iou) & (classes[:, None] == classes[None])
    later = jnp.arange(len(boxes))

    def visit(i: jax.Array, keep: jax.Array) -> jax.Array:
        return keep & ~(keep[i] & conflict[i] & (later > i))

    return jax.lax.fori_loop(0, len(boxes), visit, jnp.ones(len(boxes), bool))


def assign(
    boxes_px: jax.Array, valid: jax.Array, centers_px: jax.Array, strides: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Which cell learns which box: (bool[A] has one, i32[A] its slot).

    FCOS (Tian et al. 2019) with centre sampling: a box goes to the cells that lie inside it and within 1.5 strides of
    its centre, and at least to the cell at its centre, since a thin box may contain no cell's centre. Its level is the
    one whose stride fits 2 to 4 times into the root of its area (the finest level also takes smaller boxes, the
    coarsest larger ones), as in FPN (Lin et al. 2017); FCOS's own limits in pixels suit images of 800 pixels. In
    an image of 64 pixels no box is so large that P5, P6 or P7 would learn it. Of several boxes the smallest wins.

    Args:
      boxes_px: f32[N, 4]. valid: f32[N]. centers_px: f32[A, 2] (y, x). strides: f32[A].
    """
    low, high, stride = boxes_px[:, :2], boxes_px[:, 2:], strides[:, None]
    size = jnp.sqrt(area(boxes_px))[None]
    fits = ((size <= 4 * stride) | (stride == strides.max())) & ((size > 2 * stride) | (stride == strides.min()))
    offset = jnp.abs(centers_px[:, None] - ((low + high) / 2)[None])
    reach = jnp.clip(((high - low) / 2)[None], 0.5 * stride[..., None], 1.5 * stride[..., None])
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
