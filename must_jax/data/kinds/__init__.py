"""The kinds of label that data can carry, one class each. Data code knows kinds; it never knows a task by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from must_jax.data.kinds.base import Label, LabelKind, place
from must_jax.data.kinds.boxes import BoxesLabel, objects
from must_jax.data.kinds.ids import IGNORE_ID, WIDE_IGNORE_ID, IdsLabel
from must_jax.data.kinds.maps import MapLabel
from must_jax.data.kinds.nothing import NoLabel
from must_jax.data.kinds.values import DirectionsLabel, ScalarsLabel, ValuesLabel
from must_jax.data.kinds.vector import VectorLabel, largest

__all__ = [
    "IGNORE_ID",
    "WIDE_IGNORE_ID",
    "BoxesLabel",
    "DirectionsLabel",
    "IdsLabel",
    "Label",
    "LabelKind",
    "MapLabel",
    "NoLabel",
    "ScalarsLabel",
    "ValuesLabel",
    "VectorLabel",
    "kind_from_dict",
    "largest",
    "objects",
    "place",
]

KINDS: tuple[type[LabelKind], ...] = (VectorLabel, BoxesLabel, IdsLabel, ScalarsLabel, DirectionsLabel)


def kind_from_dict(values: Mapping[str, Any]) -> LabelKind:
    """The inverse of `LabelKind.to_dict`.

    Raises:
      ValueError: no kind is described like that.
    """
    for kind in KINDS:
        if all(values.get(name) == value for name, value in kind.MARKS.items()):
            return kind.from_dict(values)
    raise ValueError(f"{values} is not a kind of label")
