"""Comparing the labels of a column with true ones."""

from __future__ import annotations

import cv2
import numpy as np

from must_jax.data.encodings import Label
from must_jax.data.kinds import LabelKind, MapLabel


def only_where_labelled(kind: LabelKind, label: Label, truth: Label) -> Label:
    """The truth without the pixels that the label ignores, since ignoring them was the rule's decision."""
    if not isinstance(kind, MapLabel):
        return truth
    if kind.content == "ids":
        ids = truth[kind.field]
        return truth | {kind.field: np.where(_at(ids.shape, label[kind.field] != kind.ignore_id), ids, kind.ignore_id)}
    valid = truth["valid"]
    return truth | {"valid": valid * _at(valid.shape, label["valid"] > 0)}


def _at(hw: tuple[int, ...], known: np.ndarray) -> np.ndarray:
    """bool[h, w] -> bool[*hw], by nearest neighbour."""
    return cv2.resize(known.astype(np.uint8), hw[::-1], interpolation=cv2.INTER_NEAREST) > 0
