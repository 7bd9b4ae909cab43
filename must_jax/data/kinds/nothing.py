"""No label: an image from which a task learns by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from must_jax.data.augment import Geometry
from must_jax.data.kinds.base import NOTHING, Contents, Label, LabelKind
from must_jax.data.kinds.statistics import Statistics
from must_jax.data.letterbox import Content


@dataclass(frozen=True)
class NoLabel(LabelKind):
    """`{}`: `present` alone, which every image has. It is never stored."""

    MARKS: ClassVar[Mapping[str, str]] = {"kind": "nothing"}
    called: ClassVar[str] = "nothing"
    things: ClassVar[str] = "images"
    sure_by: ClassVar[str] = "nothing"

    @property
    def has_confidence(self) -> bool:
        return False

    def features(self) -> dict[str, Any]:
        return {"present": np.uint8}

    def absent(self, map_hw: tuple[int, int]) -> Label:
        return {"present": np.float32(0)}

    def most_bytes(self, map_hw: tuple[int, int]) -> int:
        return 0

    def _encoded(self, label: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return {}

    def _decoded(self, record: Mapping[str, Any], classes: int) -> dict[str, Any]:
        return {}

    def placed(self, geometry: Geometry, label: Label, map_hw: tuple[int, int]) -> Label:
        return dict(label)

    def on_image(self, prediction: Mapping[str, np.ndarray], content: Content, hw: tuple[int, int]) -> Label:
        return dict(prediction)

    def is_empty(self, label: Mapping[str, np.ndarray]) -> bool:
        return False

    def contents(self, label: Mapping[str, np.ndarray]) -> Contents:
        return Contents(NOTHING, NOTHING)

    def rank(self, label: Mapping[str, np.ndarray]) -> float | None:
        return None

    def rank_name(self, statistics: Statistics) -> str:
        return ""
