"""Images as callers of the library hand them over: arrays, paths, bytes. Others are refused, with the conversion."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from must_jax.data.decoding import decode_image
from must_jax.errors import UserError, printable

Image = np.ndarray | bytes | bytearray | memoryview | str | Path

_ENCODED = (bytes, bytearray, memoryview, str, Path)
_ONE = (*_ENCODED, np.ndarray)
_PASS_MANY = "pass them to `predict_many`"
_ARRAY_LIKE = ("__array__", "__array_interface__")
_SHOWN = 300  # characters of a path


def pixels(image: Image) -> np.ndarray:
    """An array as it is, or an encoded image -> u8[H, W, 3].

    Raises:
      UserError: the file does not exist or is not an image, or the array has another type or shape.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_image(bytes(image))
    if not isinstance(image, str | Path):
        if isinstance(image, list | tuple) and image and all(isinstance(each, _ONE) for each in image):
            raise UserError(f"this is a {type(image).__name__} of {len(image)} images; {_PASS_MANY}")
        check_array(image, "an image is u8[height, width, 3] RGB", 3)
        return image
    shown = printable(str(image)[:_SHOWN])
    if os.path.isdir(image):
        raise UserError(f"{shown} is a folder, not an image; pass its files, such as sorted(Path({shown!r}).iterdir())")
    if not os.path.isfile(image):
        raise UserError(f"there is no image {shown}; check its path")
    try:
        return decode_image(Path(image).read_bytes())
    except UserError as error:
        raise UserError(f"{shown}: {error}") from None


def several(images: Iterable[Image]) -> Iterable[Image]:
    """The images as they are.

    Raises:
      UserError: this is a single image, or nothing that can hold several.
    """
    is_one = isinstance(images, _ENCODED) or (isinstance(images, np.ndarray) and images.ndim in (0, 2, 3))
    if is_one or not isinstance(images, Iterable):
        given = f"{images.dtype}{list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
        raise UserError(
            f"several images are a list or generator of them, or u8[images, height, width, 3], but this is a {given}; "
            "for a single image pass [image]"
        )
    return images


def check_array(array: Any, wanted: str, ndim: int) -> None:
    """Raises UserError, with advice on the conversion, unless the array is a non-empty u8[..., 3] with `ndim` axes."""
    advice = None
    if not isinstance(array, np.ndarray):
        convertible = isinstance(array, list) or any(hasattr(array, name) for name in _ARRAY_LIKE)
        advice = "convert it with np.asarray" if convertible else "pass an array"
        raise UserError(f"{wanted}, but this is a {type(array).__name__}; {advice}")
    if array.ndim == ndim and array.size and array.shape[-1] == 3:
        advice = "pass (array >> 8).astype(np.uint8)" if array.dtype == np.uint16 else None
        if array.dtype == bool or np.issubdtype(array.dtype, np.floating):
            advice = "pass np.uint8(array.clip(0, 1) * 255 + 0.5) if its values are in [0, 1]"
        if advice is None and array.dtype != np.uint8:
            advice = "pass array.astype(np.uint8) if its values are in [0, 255]"
    elif not array.size:
        advice = "it is empty"
    elif array.ndim == ndim and array.shape[-1] == 4:
        advice = "drop its alpha channel with array[..., :3]"
    elif array.ndim == ndim and array.shape[-1] == 1:
        advice = "for grey values pass np.repeat(array, 3, -1)"
    elif array.ndim == ndim - 1:
        advice = "for grey values pass np.stack([array] * 3, -1)"
    elif array.ndim >= 3 and array.shape[-3] == 3:
        advice = "move its channels to the end with np.moveaxis(array, -3, -1)"
    elif array.ndim == 4 and array.shape[-1] == 3:
        advice = f"for several images {_PASS_MANY}"
    else:
        advice = "pass another array"
    if advice:
        raise UserError(f"{wanted}, but this array is {array.dtype}{list(array.shape)}; {advice}")
