"""What maps of all kinds have in common: `{field: array}` over the whole image, and which pixels are labelled."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from must_jax.data.kinds.base import Label, LabelKind
from must_jax.data.kinds.statistics import Bars, Statistics

WHOLE = (1.0, 1.0)  # a label covers the image, without padding
TOP = 65535  # largest code of 16 bits


class MapValues(NamedTuple):
    """What a file of a map holds, [h, w] or [h, w, 3], and what it means, as JSON values.

    Attributes:
      smooth: whether neighbours are alike; wide: whether codes have 16 bits.
    """

    codes: np.ndarray
    meaning: dict[str, Any]
    smooth: bool = True
    wide: bool = True


class MapLabel(LabelKind):
    """A dense map.

    Attributes:
      field: the name of its array in a label.
      content: the contents, as manifests name them.
    """

    field: str
    content: ClassVar[str]
    things: ClassVar[str] = "pixels"
    sure_by: ClassVar[str] = "confidence"

    def to_dict(self) -> dict[str, Any]:
        # With all that any map can have, as it was when all were one kind.
        values = {"unit": "", "confidence": False, "wide": False} | super().to_dict()
        return {name: values[name] for name in ("kind", "field", "content", "unit", "confidence", "wide")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MapLabel:
        fields = set(cls.__dataclass_fields__)  # type: ignore[attr-defined]
        none = {"unit": "", "confidence": False, "wide": False}.items()
        without = {name for name, value in none if name not in fields and values.get(name, value) == value}
        return super().from_dict({name: value for name, value in values.items() if name not in without})

    def as_found(self, unit: str, classes: int) -> MapLabel:
        """The same kind, for maps in this unit with so many classes."""
        return self

    @property
    @abc.abstractmethod
    def invalid(self) -> str:
        """How pixels without a label are marked, in words."""

    @abc.abstractmethod
    def known(self, label: Mapping[str, np.ndarray]) -> np.ndarray:
        """bool[h, w]: the labelled pixels."""

    @abc.abstractmethod
    def as_picture(self, label: Mapping[str, np.ndarray]) -> MapValues:
        """The map as whole numbers of 8 or 16 bits, which pictures hold."""

    @abc.abstractmethod
    def as_array(self, label: Mapping[str, np.ndarray]) -> MapValues:
        """The map as it is."""

    def map_hw(self, label: Mapping[str, np.ndarray]) -> tuple[int, int]:
        height, width = label[self.field].shape[:2]
        return height, width

    def is_empty(self, label: Mapping[str, np.ndarray]) -> bool:
        return not self.known(label).any()

    def _count(self, label: Mapping[str, np.ndarray], into: Statistics) -> None:
        super()._count(label, into)
        into.cover(self.known(label))

    def readable(self, statistics: Statistics, classes: Sequence[str]) -> dict[str, Any]:
        return {
            **super().readable(statistics, classes),
            "labelled_pixels": 100 * statistics.known / max(statistics.pixels, 1),
            "images_by_labelled_pixels": statistics.known_share.tolist(),
        }

    def histograms(self, statistics: Statistics) -> list[Bars]:
        found = super().histograms(statistics)
        if statistics.known < statistics.pixels:
            found.append(Bars.of_shares("images by share of labelled pixels", statistics.known_share))
        return found

    def _turned(self, values: np.ndarray, transposed: bool, reversed_y: bool, reversed_x: bool) -> np.ndarray:
        """[h, w, ...] of the stored image -> of the turned one; h and w may swap."""
        values = values.swapaxes(0, 1) if transposed else values
        axes = tuple(axis for axis, is_reversed in enumerate((reversed_y, reversed_x)) if is_reversed)
        return np.ascontiguousarray(np.flip(values, axes))

    def _content_hw(self, label: Label, content: tuple[float, float]) -> tuple[int, int]:
        """Rows and columns of the image in a map of the whole input."""
        height, width = self.map_hw(label)
        return max(1, round(height * content[0])), max(1, round(width * content[1]))
