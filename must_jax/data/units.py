"""Units of maps of depth. What is known in metres is also known up to scale and shift, and so is its inverse.

| unit               | a value                                                                             |
|--------------------|-------------------------------------------------------------------------------------|
| `m`                | metres along the optical axis                                                       |
| `relative`         | depth up to an unknown scale and shift, which differ from image to image            |
| `inverse_relative` | 1 / depth up to an unknown scale and shift, such as a disparity; the larger, the nearer |
"""

from __future__ import annotations

METRES, RELATIVE, INVERSE = "m", "relative", "inverse_relative"


def can_be_read(unit: str, wanted: str) -> bool:
    """Whether `LabelKind.converted` can turn one unit into the other."""
    return unit == wanted or (unit == METRES and wanted in (RELATIVE, INVERSE))
