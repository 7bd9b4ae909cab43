"""Random views of an image, drawn on the devices, after SimCLR (Chen et al. 2020, appendix A).

A view is a crop of random size and shape, resized to the whole, mirrored or not, with other colours, perhaps grey,
perhaps blurred. It is a function of the image and a key alone, on any number of devices.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

_LUMA = (0.299, 0.587, 0.114)  # of RGB
_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
_RATIO = 4 / 3  # of the crop's sides, at most
_JITTERED = 0.8  # share of the views that have other colours
_BLURRED_AT = 224  # pixels: the side of images in the paper, to which its blur refers
_SIGMA = (0.1, 2.0)  # of the blur there, in pixels


class Distortion(NamedTuple):
    """How far views differ from their image; the defaults are the paper's.

    Attributes:
      crop_min: the smallest part of the image's area that a view shows.
      jitter: strength of the changes of brightness, contrast, saturation (0.8 of it) and hue (0.2 of it).
      grey, blur: shares of the views that are without colour, and blurred.
    """

    crop_min: float = 0.08
    jitter: float = 1.0
    grey: float = 0.2
    blur: float = 0.5


def draw(images: jax.Array, key: jax.Array, count: int, distortion: Distortion) -> jax.Array:
    """u8|f32[B, H, W, 3] RGB, 0..255 -> f32[B, count, H, W, 3], as many views of each, 0..255."""

    def each(image: jax.Array, keys: jax.Array) -> jax.Array:
        return jax.vmap(lambda key: _view(image, key, distortion))(keys)

    return 255 * jax.vmap(each)(images.astype(jnp.float32) / 255, jax.random.split(key, (len(images), count)))


def _view(image: jax.Array, key: jax.Array, distortion: Distortion) -> jax.Array:
    """f32[H, W, 3], 0..1."""
    crop, colours, shares = jax.random.split(key, 3)
    mirrored, is_jittered, is_grey, is_blurred, softness = jax.random.uniform(shares, (5,))
    image = _resampled(image, *_crop(image.shape, crop, distortion.crop_min, mirrored < 0.5))
    image = jnp.where(is_jittered < _JITTERED, _jittered(image, colours, distortion.jitter), image)
    image = jnp.where(is_grey < distortion.grey, jnp.broadcast_to(_luma(image), image.shape), image)
    sigma = (_SIGMA[0] + softness * (_SIGMA[1] - _SIGMA[0])) * max(image.shape[:2]) / _BLURRED_AT
    blurred = _resampled(image, *(_gaussian(side, sigma) for side in image.shape[:2]))
    return jnp.clip(jnp.where(is_blurred < distortion.blur, blurred, image), 0, 1)


def _resampled(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """[H, W, 3], and the weights of its rows and columns in those of the result: [H', H], [W', W]."""
    return jnp.einsum("yi,xj,ijc->yxc", rows, columns, image)


def _crop(shape: tuple[int, ...], key: jax.Array, crop_min: float, mirrored: jax.Array) -> list[jax.Array]:
    """The weights of rows and columns of a crop at random."""
    area, ratio, top, left = jax.random.uniform(key, (4,))
    area = crop_min + area * (1 - crop_min)
    ratio = jnp.float32(_RATIO) ** (2 * ratio - 1)
    height, width = (jnp.minimum(jnp.sqrt(x), 1) for x in (area / ratio, area * ratio))
    rows = _linear(shape[0], top * (1 - height), height)
    columns = _linear(shape[1], left * (1 - width), width)
    return [rows, jnp.where(mirrored, columns[::-1], columns)]


def _linear(side: int, start: jax.Array, length: jax.Array) -> jax.Array:
    """f32[side, side]: each pixel of the output interpolates linearly between two; both in shares of the side."""
    pixels = jnp.arange(side, dtype=jnp.float32)
    places = jnp.clip(start * side + (pixels + 0.5) * length - 0.5, 0, side - 1)
    return jnp.maximum(1 - abs(places[:, None] - pixels[None]), 0)


def _gaussian(side: int, sigma: jax.Array) -> jax.Array:
    """f32[side, side], rows that add up to 1; at the border, of the pixels that there are."""
    pixels = jnp.arange(side, dtype=jnp.float32)
    return jax.nn.softmax(-jnp.square((pixels[:, None] - pixels[None]) / sigma) / 2)


def _jittered(image: jax.Array, key: jax.Array, strength: float) -> jax.Array:
    changes = 2 * jax.random.uniform(key, (4,)) - 1
    brightness, contrast, saturation = (jnp.maximum(1 + 0.8 * strength * change, 0) for change in changes[:3])
    image = jnp.clip(brightness * image, 0, 1)
    image = jnp.clip(_between(_luma(image).mean(keepdims=True), image, contrast), 0, 1)
    image = jnp.clip(_between(_luma(image), image, saturation), 0, 1)
    return jnp.clip(_turned(image, 0.2 * strength * changes[3]), 0, 1)


def _between(some: jax.Array, other: jax.Array, share: jax.Array) -> jax.Array:
    """From `some` (share 0) over `other` (share 1) and beyond."""
    return some + share * (other - some)


def _luma(image: jax.Array) -> jax.Array:
    """[H, W, 3] -> [H, W, 1]"""
    return (image @ jnp.asarray(_LUMA, image.dtype))[..., None]


def _turned(image: jax.Array, share: jax.Array) -> jax.Array:
    """With all hues turned by a share of the circle, at the same luma."""
    angle = 2 * jnp.pi * share
    cos, sin, one, none = jnp.cos(angle), jnp.sin(angle), jnp.ones_like(angle), jnp.zeros_like(angle)
    turn = jnp.stack([one, none, none, none, cos, -sin, none, sin, cos]).reshape(3, 3)
    to_yiq = jnp.asarray(_TO_YIQ, jnp.float32)
    return image @ (jnp.linalg.inv(to_yiq) @ turn @ to_yiq).T
