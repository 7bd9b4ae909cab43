"""Turns labels with their image, according to Exif (Exif 2.3, tag 0x0112)."""

from __future__ import annotations

import numpy as np

from must_jax.data.encodings import Label
from must_jax.data.kinds import BoxesLabel, LabelKind, MapLabel

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
    match kind:
        case BoxesLabel():
            return label | {"boxes_yxyx": _boxes(label["boxes_yxyx"], orientation)}
        case MapLabel():
            turned = {name: _map(label[name], orientation) for name in (kind.field, "valid") if name in label}
            if kind.content == "vector":
                turned[kind.field] = _vectors(turned[kind.field], orientation)
            return label | turned
    return label


def _boxes(boxes_yxyx: np.ndarray, orientation: int) -> np.ndarray:
    """f32[n, 4], fractions of the stored image -> of the upright one."""
    transposed, *reversed_yx = _TURNS[orientation]
    corners = boxes_yxyx.reshape(-1, 2, 2)  # the first and the second corner; y and x
    corners = corners[..., ::-1] if transposed else corners
    return np.where(reversed_yx, 1 - corners[:, ::-1], corners).reshape(-1, 4)


def _map(values: np.ndarray, orientation: int) -> np.ndarray:
    """[h, w, ...] of the stored image -> of the upright one; h and w may swap."""
    transposed, *reversed_yx = _TURNS[orientation]
    values = values.swapaxes(0, 1) if transposed else values
    return np.ascontiguousarray(np.flip(values, tuple(axis for axis in (0, 1) if reversed_yx[axis])))


def _vectors(vectors: np.ndarray, orientation: int) -> np.ndarray:
    """f32[h, w, 3], components x, y, z of vectors in the stored image -> those in the upright one."""
    transposed, reversed_y, reversed_x = _TURNS[orientation]
    vectors = vectors[..., [1, 0, 2]] if transposed else vectors
    return vectors * np.array([-1 if reversed_x else 1, -1 if reversed_y else 1, 1], np.float32)
