"""Leaving out what a label is not sure enough of, by its kind: when it is made, or later, when it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from must_jax.data.kinds import BoxesLabel, LabelKind, MapLabel, VectorLabel
from must_jax.errors import nearest

Label = dict[str, Any]
Least = float | np.ndarray  # see `Threshold.least`


@dataclass(frozen=True)
class Threshold:
    """The confidence, 0..1, below which things are left out: that of all classes, and of single ones by name."""

    of_all: float = 0.0
    of_class: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join([f"{self.of_all:g}", *(f"{value:g} for {name}" for name, value in self.of_class.items())])

    def replaced(self, by: float | Mapping[str, float]) -> Threshold:
        """Another one for all classes, or for some."""
        return Threshold(self.of_all, {**self.of_class, **by}) if isinstance(by, Mapping) else Threshold(by)

    def least(self, classes: Sequence[str]) -> Least:
        """By class, f64[K]; the number itself, if it is that of all."""
        if not self.of_class:
            return self.of_all
        least = np.full(len(classes), self.of_all, np.float64)
        for name, value in self.of_class.items():
            least[classes.index(name)] = value
        return least


def check_classes(named: Mapping[str, float], classes: Sequence[str], where: str) -> None:
    """Raises ValueError if `where` names a class that does not exist."""
    for name in named:
        if name not in classes:
            raise ValueError(f"{where} names '{name}', which is not a class; {nearest(name, classes)}")


def is_known(kind: LabelKind) -> bool:
    """Whether labels of this kind say how sure they are."""
    return not isinstance(kind, MapLabel) or kind.confidence


def is_kept(kind: LabelKind) -> bool:
    """Whether labels are stored with what a threshold would leave out, so that any threshold can be applied later."""
    return isinstance(kind, MapLabel) and kind.confidence


def sure(confidence: np.ndarray, classes: np.ndarray, least: Least) -> np.ndarray:
    """bool[...]: which are at least as sure as is asked of their class; ids beyond all classes count as the last."""
    if isinstance(least, np.ndarray):
        least = least[np.minimum(classes, len(least) - 1)].astype(confidence.dtype)
    return np.asarray(confidence >= least)


def confident(kind: LabelKind, label: Label, least: Least) -> Label:
    """The label without anything less sure than `least`.

    A vector whose largest probability is smaller becomes absent, boxes with a smaller score are dropped, and pixels
    with a smaller confidence become the kind's `ignore_id`.

    Raises:
      ValueError: labels of this kind do not say how sure they are.
    """
    if not label["present"]:
        return label
    match kind:
        case VectorLabel():
            probs = label["probs"]
            return label | {"present": np.float32(sure(probs.max(), probs.argmax(), least))}
        case BoxesLabel():
            kept = sure(label["scores"], label["classes"], least)
            return label | {name: label[name][kept] for name in label if name != "present"}
        case MapLabel(confidence=True):
            ids = label[kind.field]
            ids = np.where(sure(label["confidence"], ids, least), ids, kind.ignore_id)
            return label | {kind.field: ids.astype(np.int32)}
    raise ValueError(f"{kind} has no confidence")


def by_rule(kind: LabelKind, label: Label, least: Least) -> Label:
    """The label that a rule with this threshold asks for, as it is stored unless its confidence is kept."""
    return confident(kind, label, least) if is_kept(kind) else label
