"""Surface normals as RGB PNG files, with 8 or 16 bits per component."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import AfterValidator

from must_jax.data.axes import parse
from must_jax.errors import UserError
from must_jax.labels.formats.png import Header, PngMaps, Seen, lengths, read_codes

_ZERO_LENGTH = 0.05  # largest length of the grey that stands for no vector, however it is rounded
_LENGTH_ERROR, _FAR_SHARE = 0.2, 0.05
_AWAY, _AWAY_SHARE = 0.5, 0.5  # a visible surface faces the camera; even for wide angles, z stays below this


def _checked(axes: str) -> str:
    parse(axes)
    return axes


class NormalPng(PngMaps):
    """Component = 2 * code / largest code - 1. Black, and the grey of the zero vector, mean pixels without a normal.

    A file is refused if more than 5 % of its vectors are more than 0.2 longer or shorter than 1, or if most point away
    from the camera, since then it is not a map of normals, or it has other axes.
    """

    name: ClassVar[str] = "normal_png"
    gives: ClassVar[str] = "map of vectors"
    headers: ClassVar[tuple[Header, ...]] = (Header(8, "RGB"), Header(16, "RGB"))

    axes: Annotated[str, AfterValidator(_checked)]
    """Our x (right), y (down) and z (forward, away from the camera) in terms of the file's red, green and blue, which
    are called x, y, z: x,-y,-z for files with y up and z towards the camera (OpenGL, bluish pictures). Or the name of a
    convention: opencv, opengl."""

    def values(self, file: Path, seen: Seen) -> tuple[np.ndarray, np.ndarray]:
        codes, axes = read_codes(file), parse(self.axes)
        stored = codes.astype(np.float32) * np.float32(2 / np.iinfo(codes.dtype).max) - 1
        length = lengths(stored)
        valid = ((codes[..., 0] | codes[..., 1] | codes[..., 2]) > 0) & (length > _ZERO_LENGTH)
        far = valid & (np.abs(length - 1) > _LENGTH_ERROR)
        if far.sum() > _FAR_SHARE * valid.sum():
            raise UserError(
                f"{file} is not a map of unit vectors: {100 * far.sum() / valid.sum():.0f} % have another length; "
                "convert or remove it"
            )
        normals = axes.to_ours(stored)
        valid &= ~far
        away = valid & (normals[..., 2] > _AWAY)
        if away.sum() > _AWAY_SHARE * valid.sum():
            raise UserError(
                f"{file} has normals that point away from the camera with axes '{self.axes}', so its axes differ; "
                "correct axes ('x,-y,-z' for y up and z towards the camera), or remove the file"
            )
        return normals * valid[..., None], valid
