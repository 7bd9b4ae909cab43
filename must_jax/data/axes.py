"""Vectors of any camera's frame in ours: x right, y down, z forward. A visible surface has z < 0.

Axes are declared as ours in terms of theirs, "x,-y,-z" for y up and z towards the camera, or by a convention's name.
Models of one family have been published with different signs (docs/teachers.md): check a declaration on data.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_PART = re.compile(r"([+-]?)([xyz])")
CONVENTIONS = {
    "opencv": "x,y,z",
    "opengl": "x,-y,-z",
    "marigold": "x,-y,-z",
    "dsine": "-x,-y,-z",
}


@dataclass(frozen=True)
class Axes:
    """For each of our axes, the index of theirs that lies along it, and its sign."""

    index: tuple[int, int, int]
    sign: tuple[int, int, int]

    def to_ours(self, vectors: np.ndarray) -> np.ndarray:
        """f32[..., 3] in their axes -> f32[..., 3] in ours."""
        return vectors[..., list(self.index)] * np.array(self.sign, vectors.dtype)

    @property
    def written(self) -> str:
        """As `parse` reads it."""
        return ",".join("-" * (sign < 0) + "xyz"[index] for index, sign in zip(self.index, self.sign, strict=True))


def parse(text: str) -> Axes:
    """Axes from "x,-y,-z", or the name of a convention.

    Raises:
      ValueError: x, y and z are not named once each.
    """
    written = CONVENTIONS.get(text.strip().lower(), text)
    parts = [match for part in written.split(",") if (match := _PART.fullmatch(part.strip()))]
    if sorted(part[2] for part in parts) != ["x", "y", "z"] or written.count(",") != 2:
        raise ValueError(
            f"'{text}' does not say which of their x, y, z are ours; write 'x,y,z' or 'x,-y,-z', or one of "
            f"{', '.join(CONVENTIONS)}"
        )
    a, b, c = (("xyz".index(part[2]), -1 if part[1] == "-" else 1) for part in parts)
    return Axes((a[0], b[0], c[0]), (a[1], b[1], c[1]))


def every() -> Iterator[Axes]:
    """All 48 frames whose axes lie along ours."""
    for a, b, c in itertools.permutations(range(3)):
        for x, y, z in itertools.product((1, -1), repeat=3):
            yield Axes((a, b, c), (x, y, z))
