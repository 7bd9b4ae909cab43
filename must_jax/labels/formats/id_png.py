"""Semantic segmentation as PNG files: a code a pixel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Self

import numpy as np
import pydantic
from pydantic import Field

from must_jax.config import Listed
from must_jax.data.kinds import IGNORE_ID
from must_jax.errors import UserError, nearest
from must_jax.labels.formats.class_lists import Classes
from must_jax.labels.formats.png import Header, PngMaps, read_indices

Codes = Annotated[tuple[Annotated[int, Field(ge=0, le=255)], ...], Listed]

_UNKNOWN = -1


class IdPng(PngMaps):
    """8-bit grey PNG, or PNG with a palette, whose indices are the codes and whose colours mean nothing.

    Attributes:
      classes: in the order of their indices, at most 255.
      offset: the code of the first class; the others follow.
      codes: class name -> its code or codes, instead of `offset`; for all classes or for none.
      ignore: codes of pixels without a label. Any other code is refused.
    """

    name: ClassVar[str] = "id_png"
    gives: ClassVar[str] = "map of ids"
    headers: ClassVar[tuple[Header, ...]] = (Header(8, "grey"), *(Header(bits, "palette") for bits in (8, 4, 2, 1)))

    classes: Annotated[Classes, Field(min_length=1, max_length=IGNORE_ID)]
    offset: Annotated[int, Field(ge=0, le=255)] = 0
    codes: Mapping[str, Codes] = pydantic.Field(default_factory=dict)
    ignore: Codes = (255,)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for name in self.codes:
            if name not in self.classes:
                raise ValueError(f"codes names '{name}', which is not in classes; {nearest(name, self.classes)}")
        if self.codes and (without := [name for name in self.classes if name not in self.codes]):
            raise ValueError(f"codes has none for '{without[0]}'; give every class its code")
        meanings = [*self.ignore, *(code for codes in self._codes_of_classes() for code in codes)]
        if twice := [code for code in meanings if meanings.count(code) > 1]:
            raise ValueError(f"code {twice[0]} has two meanings; give every class and ignore codes of their own")
        if max(meanings) > 255:
            raise ValueError(f"{len(self.classes)} classes from code {self.offset} need more than 8 bits")
        return self

    def values(self, file: Path) -> tuple[np.ndarray, None]:
        codes = read_indices(file)
        ids = self._ids()[codes]
        if np.any(ids == _UNKNOWN):
            raise UserError(
                f"{file} has pixels of code {codes[ids == _UNKNOWN][0]}, which is neither that of one of the "
                f"{len(self.classes)} classes nor in ignore {self.ignore}; correct classes, codes, offset or ignore"
            )
        return ids, None

    def _ids(self) -> np.ndarray:
        """i16[256]: code -> class, IGNORE_ID or _UNKNOWN."""
        ids = np.full(256, _UNKNOWN, np.int16)
        ids[list(self.ignore)] = IGNORE_ID
        for index, codes in enumerate(self._codes_of_classes()):
            ids[list(codes)] = index
        return ids

    def _codes_of_classes(self) -> list[tuple[int, ...]]:
        if self.codes:
            return [self.codes[name] for name in self.classes]
        return [(self.offset + index,) for index in range(len(self.classes))]
