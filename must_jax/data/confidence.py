"""Leaving out what a label is not sure enough of, by its kind: when it is made, or later, when it is read."""

from __future__ import annotations

import numpy as np

from must_jax.data.encodings import Label
from must_jax.data.kinds import BoxesLabel, LabelKind, MapLabel, VectorLabel


def is_known(kind: LabelKind) -> bool:
    """Whether labels of this kind say how sure they are."""
    return not isinstance(kind, MapLabel) or kind.confidence


def is_kept(kind: LabelKind) -> bool:
    """Whether labels are stored with what a threshold would leave out, so that any threshold can be applied later."""
    return isinstance(kind, MapLabel) and kind.confidence


def confident(kind: LabelKind, label: Label, minimum: float) -> Label:
    """The label without anything less sure than `minimum`, 0..1.

    A vector whose largest probability is smaller becomes absent, boxes with a smaller score are dropped, and pixels
    with a smaller confidence become the kind's `ignore_id`.

    Raises:
      ValueError: labels of this kind do not say how sure they are.
    """
    if not label["present"]:
        return label
    match kind:
        case VectorLabel():
            sure = label["probs"].max() >= minimum
            return label | {"present": np.float32(sure)}
        case BoxesLabel():
            sure = label["scores"] >= minimum
            return label | {name: label[name][sure] for name in label if name != "present"}
        case MapLabel(confidence=True):
            ids = np.where(label["confidence"] < minimum, kind.ignore_id, label[kind.field])
            return label | {kind.field: ids.astype(np.int32)}
    raise ValueError(f"{kind} has no confidence")


def by_rule(kind: LabelKind, label: Label, minimum: float) -> Label:
    """The label that a rule with this threshold asks for, as it is stored unless its confidence is kept."""
    return confident(kind, label, minimum) if is_kept(kind) else label
