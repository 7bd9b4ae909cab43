"""Depth as 16-bit PNG files, as NYU, ScanNet, KITTI and most depth cameras write it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, model_validator

from must_jax.config import Listed
from must_jax.data.kinds.statistics import Statistics
from must_jax.data.units import INVERSE, METRES, RELATIVE
from must_jax.errors import UserError
from must_jax.labels.formats.png import Header, PngMaps, Seen, read_codes
from must_jax.progress import rounded, say

_METRES = {"mm": 0.001, "cm": 0.01, "m": 1.0}
_SCALELESS = (RELATIVE, INVERSE)
_OFTEN = {"mm": 0.001, "cm": 0.01, "1/256": 1 / 256, "1/5000": 1 / 5000, "m": 1.0}  # KITTI and TUM have the fractions
_LIKELY_M = (0.2, 100.0)
_FAR_M = 1000.0  # unless max_m is set
_NEAR_M = 0.01
_LARGEST = 65535
_FULL_FROM = _LARGEST // 40  # the smallest code of a map that was stretched is below this
_MOST_FILES = 0.9


def _metres_a_code(unit: Any) -> Any:
    if not isinstance(unit, str) or unit in (*_METRES, *_SCALELESS):
        return unit
    try:
        return float(Fraction(unit.replace(" ", "")))
    except (ValueError, ZeroDivisionError, OverflowError):
        names = ", ".join(f"'{name}'" for name in list(_METRES)[:-1])
        raise ValueError(
            f"Input should be {names} or 'm', or metres per code, such as 0.00390625 or 1/256, or '{RELATIVE}' or "
            f"'{INVERSE}', and not '{unit}'"
        ) from None


def _known(unit: str | float) -> str | float:
    if isinstance(unit, str) and unit not in (*_METRES, *_SCALELESS):
        raise ValueError(f"'{unit}' is not a unit")
    return unit


Unit = Annotated[PositiveFloat | str, BeforeValidator(_metres_a_code), AfterValidator(_known)]
Code = Annotated[int, Field(ge=0, le=_LARGEST)]


class DepthPng(PngMaps):
    """Depth along the optical axis, or its inverse. A code of 0 is never valid."""

    name: ClassVar[str] = "depth_png"
    gives: ClassVar[str] = "map of scalars"
    headers: ClassVar[tuple[Header, ...]] = (Header(16, "grey"),)
    unlike: ClassVar[str] = " (files with 8 bits per pixel, or colours, are usually pictures of depths, not depths)"

    unit: Unit
    """Of a code: mm, cm, m, or metres per code (KITTI: 1/256). Up to an unknown scale and shift: relative for depths,
    inverse_relative for disparities and what MiDaS or Depth Anything have written, where near is bright."""
    invalid: Code | Annotated[tuple[Code, ...], Listed] = 0
    """The code, or the codes, of pixels without a depth."""
    max_m: PositiveFloat | None = None
    """The largest possible depth in metres; a file with a larger one is refused. None = a kilometre."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_m and self.unit in _SCALELESS:
            raise ValueError(f"max_m is in metres, which maps with unit={self.unit} are not; remove it")
        return self

    @property
    def stored_unit(self) -> str:
        return str(self.unit) if self.unit in _SCALELESS else METRES

    @property
    def _metres(self) -> float:
        return self.unit if isinstance(self.unit, float) else _METRES[str(self.unit)]

    def values(self, file: Path, seen: Seen) -> tuple[np.ndarray, np.ndarray]:
        codes = read_codes(file)
        valid = (codes > 0) & ~np.isin(codes, np.atleast_1d(self.invalid).astype(np.uint16))
        if self.unit in _SCALELESS:
            return codes.astype(np.float32) * valid, valid
        farthest, most = int(codes.max(where=valid, initial=0)), self.max_m or _FAR_M
        if (farthest - 0.5) * self._metres > most:  # half a code for rounding
            declared = f"the declared max_m {self.max_m:g}" if self.max_m else f"{_FAR_M:g} m"
            raise UserError(
                f"{file} has depths up to {farthest * self._metres:.6g} m (code {farthest}), beyond {declared}; "
                f"correct unit, invalid or max_m, or remove the file{self._likely(codes[valid])}"
            )
        seen.add(file, _marks(codes, valid, farthest))
        return codes.astype(np.float32) * np.float32(self._metres) * valid, valid

    def _likely(self, codes: np.ndarray) -> str:
        """The units in which these would be depths of rooms or roads, if they are not in the declared unit; else ""."""
        low, middle, high = np.percentile(codes, (1, 50, 99)).tolist()
        if middle * self._metres <= _LIKELY_M[1]:
            return ""
        units = {**_OFTEN, **({f"1/{self._metres:g}": 1 / self._metres} if self._metres > 1 else {})}
        fitting = [
            f"{rounded(low * metres)} to {rounded(high * metres)} m with unit={name}"
            for name, metres in units.items()
            if _LIKELY_M[0] <= middle * metres <= _LIKELY_M[1]
        ]
        return f": most would be {', '.join(fitting)}" if fitting else ""

    def review(self, path: Path, seen: Seen, statistics: Statistics) -> None:
        maps = seen.files["maps"]
        if seen.files["top alone"]:
            share = 100 * seen.amount["top alone"] / max(1, seen.amount["valid"])
            say(
                f"{path}: {rounded(share, 2)} % of what is valid has code {_LARGEST}, and all others are below half of "
                f"it, so it may mean sky, or no depth; if so, set the option invalid={_LARGEST}"
            )
        if maps and seen.files["stretched"] > _MOST_FILES * maps:
            say(
                f"{path}: {seen.files['stretched']} of {maps} maps begin near 0 and end at code {_LARGEST}, so they "
                "may have been stretched one by one, or be inverse depths (MiDaS), and not be in metres; if so, set "
                f"unit={RELATIVE} or {INVERSE}"
            )
        if self.stored_unit == METRES and statistics.known and statistics.quantile(0.5) < _NEAR_M:
            say(f"{path}: half of the depths are below {100 * _NEAR_M:g} cm; see unit")


def _marks(codes: np.ndarray, valid: np.ndarray, farthest: int) -> dict[str, int]:
    """What is strange about a map, as counts of pixels ("maps": 1 for the map itself)."""
    count = int(np.count_nonzero(valid))
    marks = {"maps": 1, "valid": count}
    if farthest == _LARGEST:
        is_top = codes == _LARGEST
        below = int(codes.max(where=valid & ~is_top, initial=0))
        if below < _LARGEST // 2:
            marks["top alone"] = int(np.count_nonzero(is_top))
        elif codes.min(where=valid, initial=_LARGEST) < _FULL_FROM:
            marks["stretched"] = count
    return marks
