"""Turns labels with their image, according to Exif (Exif 2.3, tag 0x0112)."""

from __future__ import annotations

from must_jax.data.kinds import Label, LabelKind

_TURNS = {  # whether rows and columns are swapped; then whether the rows, and whether the columns, are reversed
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def upright(kind: LabelKind, label: Label, orientation: int) -> Label:
    """A label of the stored image -> the label of the image turned upright by its Exif code, 1 to 8."""
    return kind.turned(label, *_TURNS[orientation])
