"""Depth as 16-bit PNG files, as NYU, ScanNet, KITTI and most depth cameras write it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveFloat

from must_jax.errors import UserError
from must_jax.labels.formats.png import Header, PngMaps, read_codes

_METRES = {"mm": 0.001, "cm": 0.01, "m": 1.0}


class DepthPng(PngMaps):
    """Depth along the optical axis. A depth of 0 is never valid.

    Attributes:
      unit: of a code: "mm", "cm", "m", or its metres (KITTI: 1 / 256).
      invalid: the code of pixels without a depth.
      max_m: the largest depth in metres that can be; a file with a larger one is refused. None = not known.
    """

    name: ClassVar[str] = "depth_png"
    gives: ClassVar[str] = "map of scalars"
    headers: ClassVar[tuple[Header, ...]] = (Header(16, "grey"),)
    stored_unit: ClassVar[str] = "m"

    unit: Literal["mm", "cm", "m"] | PositiveFloat
    invalid: Annotated[int, Field(ge=0, le=65535)] = 0
    max_m: PositiveFloat | None = None

    def values(self, file: Path) -> tuple[np.ndarray, np.ndarray]:
        codes = read_codes(file)
        metres = self.unit if isinstance(self.unit, float) else _METRES[self.unit]
        valid = (codes != self.invalid) & (codes > 0)
        farthest = int(codes.max(where=valid, initial=0))
        if self.max_m is not None and (farthest - 0.5) * metres > self.max_m:  # half a code for rounding
            raise UserError(
                f"{file} has depths up to {farthest * metres:.6g} m (code {farthest}), beyond the declared max_m "
                f"{self.max_m:g}; correct unit, invalid or max_m, or remove the file"
            )
        return codes.astype(np.float32) * np.float32(metres) * valid, valid
