"""Units of maps of depth. What is known in metres is also known up to scale and shift, and so is its inverse.

| unit               | a value                                                                             |
|--------------------|-------------------------------------------------------------------------------------|
| `m`                | metres along the optical axis                                                       |
| `relative`         | depth up to an unknown scale and shift, which differ from image to image            |
| `inverse_relative` | 1 / depth up to an unknown scale and shift, such as a disparity; the larger, the nearer |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from must_jax.data.kinds import LabelKind, ScalarsLabel

METRES, RELATIVE, INVERSE = "m", "relative", "inverse_relative"


def unit_of(kind: LabelKind | None) -> str:
    """The unit of a map's values; "" if they have none."""
    return kind.unit if kind else ""


def in_unit(kind: LabelKind, unit: str) -> LabelKind:
    """The same kind of map with another unit."""
    assert isinstance(kind, ScalarsLabel)
    return replace(kind, unit=unit)


def can_be_read(unit: str, wanted: str) -> bool:
    """Whether `converted` can turn one unit into the other."""
    return unit == wanted or (unit == METRES and wanted in (RELATIVE, INVERSE))


def converted(label: Mapping[str, Any], unit: str, kind: LabelKind) -> dict[str, Any]:
    """A label that is stored in `unit`, in the unit of `kind`; see `can_be_read`.

    A depth of 0 or less has no inverse and becomes invalid.
    """
    if not isinstance(kind, ScalarsLabel) or kind.unit in (unit, RELATIVE) or not label["present"]:
        return dict(label)
    valid = label["valid"] * (label[kind.field] > 0)
    inverse = valid / np.where(valid > 0, label[kind.field], np.float32(1))
    return {**label, kind.field: inverse.astype(np.float32), "valid": valid.astype(np.float32)}
