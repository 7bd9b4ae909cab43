"""Pixels as the numbers that a network takes: order and range of channels, mean and std, axes, type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np

from must_jax.config.teachers import TeacherInputConfig
from must_jax.errors import UserError

_RANGES = {"0..1": (1 / 255, 0.0), "0..255": (1.0, 0.0), "-1..1": (2 / 255, -1.0)}  # factor, and what is added


_BITS = {
    1: np.uint8,
    2: np.uint16,
    4: np.float32,
    8: np.float64,
}  # OpenCV looks up any number of so many bytes as these


@dataclass(frozen=True, eq=False)
class Encoding:
    """How pixels become a tensor. A channel has 256 values: each is computed once, exactly, and then looked up.

    Attributes:
      table: [256, 3], what each value of each channel becomes, in the network's order and type.
      bgr: whether blue comes first.
      channels_first: [batch, 3, height, width], otherwise [batch, height, width, 3].
    """

    table: np.ndarray
    bgr: bool
    channels_first: bool

    @classmethod
    def of(cls, where: str, declared: TeacherInputConfig, type_: np.dtype, channels_first: bool) -> Self:
        """As declared, for a network that takes this type of number.

        Raises:
          UserError: bytes cannot hold what is declared.
        """
        is_bytes = type_ == np.uint8
        if is_bytes and (declared.mean or declared.std or declared.range not in (None, "0..255")):
            raise UserError(f"{where}: it takes bytes, which are 0..255; remove range, mean and std from its input")
        factor, added = _RANGES["0..255" if is_bytes else declared.range or "0..1"]
        values = np.arange(256)[:, None] * factor + added
        table = (values - np.array(declared.mean or (0, 0, 0))) / np.array(declared.std or (1, 1, 1))
        return cls(table.astype(type_), declared.colour == "bgr", channels_first)

    def __call__(self, pixels: np.ndarray, batch: int = 0) -> np.ndarray:
        """u8[n, height, width, 3] RGB -> the tensor.

        Args:
          batch: the length of its first axis, if larger than n; the rest is 0.
        """
        count, height, width, _ = pixels.shape
        shape = (3, height, width) if self.channels_first else (height, width, 3)
        out = np.empty((max(count, batch), *shape), self.table.dtype)
        out[count:] = 0
        bits = _BITS[out.itemsize]
        table = np.ascontiguousarray(self.table.T).view(bits)
        for image, tensor in zip(pixels, out.view(bits), strict=False):
            image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if self.bgr else image
            if self.channels_first:
                for plane, values, to in zip(cv2.split(image), table, tensor, strict=True):
                    cv2.LUT(plane, values, to)
            else:
                cv2.LUT(image, table.T[None], tensor)
        return out


def mean_rgb(declared: TeacherInputConfig) -> tuple[int, ...]:
    """The colour that becomes 0, bytes; black without `mean`."""
    factor, added = _RANGES[declared.range or "0..1"]
    colour = [min(max(round((value - added) / factor), 0), 255) for value in declared.mean or (0, 0, 0)]
    return tuple(colour[::-1] if declared.colour == "bgr" else colour) if declared.mean else (0, 0, 0)
