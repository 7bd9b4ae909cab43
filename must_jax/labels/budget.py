"""What a column will need on disk, before it is made."""

from __future__ import annotations

from must_jax.data.kinds import BoxesLabel, LabelKind, MapLabel, VectorLabel

_RECORD = 640  # field names and framing of one record, headers and tables of its pictures
_BOX = 4 * 4 + 2 + 4  # corners, class and score as TFDS stores them
_CELL = {"ids": 1, "scalar": 2, "vector": 2}


def bytes_per_image(kind: LabelKind, map_hw: tuple[int, int]) -> int:
    """An upper estimate for one image: the codes of `encodings` before they are compressed."""
    match kind:
        case VectorLabel():
            return _RECORD + 2 * kind.size
        case BoxesLabel():
            return _RECORD + _BOX * kind.max_boxes
        case MapLabel():
            return _RECORD + (_CELL[kind.content] + kind.confidence) * map_hw[0] * map_hw[1]
