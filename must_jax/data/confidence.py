"""Thresholds, below which a label is not sure enough: when it is made, or later, when it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from must_jax.errors import nearest

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


def sure(confidence: np.ndarray, classes: np.ndarray, least: Least) -> np.ndarray:
    """bool[...]: which are at least as sure as is asked of their class; ids beyond all classes count as the last."""
    if isinstance(least, np.ndarray):
        least = least[np.minimum(classes, len(least) - 1)].astype(confidence.dtype)
    return np.asarray(confidence >= least)
