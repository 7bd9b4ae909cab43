"""Comparing the labels of a column with true ones."""

from __future__ import annotations

import numpy as np

from must_jax.data import letterbox
from must_jax.data.encodings import Label
from must_jax.data.kinds import LabelKind, MapLabel

_WHOLE = (1.0, 1.0)  # a label covers the image, without padding


def compared(kind: LabelKind, label: Label, truth: Label) -> tuple[Label, Label]:
    """The label at the resolution of the truth, and the truth without the pixels that the label leaves out.

    Leaving them out was the rule's decision. Maps of ids are resampled by nearest neighbour, others linearly; pixels
    whose value would be mixed with an invalid one are left out, too.
    """
    if not isinstance(kind, MapLabel):
        return label, truth
    hw = truth[kind.field].shape[:2]
    if kind.content == "ids":
        label = {name: letterbox.nearest(map_, _WHOLE, hw) if map_.ndim else map_ for name, map_ in label.items()}
        known = label[kind.field] != kind.ignore_id
        return label, truth | {kind.field: np.where(known, truth[kind.field], np.int32(kind.ignore_id))}
    label = letterbox.whole_valid(letterbox.on_image(kind, label, _WHOLE, hw))
    return label, truth | {"valid": truth["valid"] * label["valid"]}
