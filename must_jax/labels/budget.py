"""What a column will need on disk, before it is made."""

from __future__ import annotations

from must_jax.data.kinds import BoxesLabel, LabelKind, MapLabel, VectorLabel

_RECORD = 128  # field names and framing of one record
_BOX = 4 * 4 + 2 + 4  # corners, class and score as TFDS stores them
_CELL = {"ids": 1, "scalar": 2, "vector": 3}


def bytes_per_image(kind: LabelKind, map_hw: tuple[int, int]) -> int:
    """An upper estimate for one image: the codes of `encodings` before they are compressed."""
    match kind:
        case VectorLabel():
            return _RECORD + 4 * kind.size  # TFDS stores float16 as float32
        case BoxesLabel():
            return _RECORD + _BOX * kind.max_boxes
        case MapLabel():
            return _RECORD + (_CELL[kind.content] + kind.confidence) * map_hw[0] * map_hw[1]
