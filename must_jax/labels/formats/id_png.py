"""Semantic segmentation as PNG files: one code per pixel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple, Self

import numpy as np
import pydantic
from pydantic import Field

from must_jax.config import Listed
from must_jax.data.kinds import IGNORE_ID, WIDE_IGNORE_ID
from must_jax.data.kinds.statistics import Statistics
from must_jax.errors import UserError, nearest
from must_jax.labels.formats.class_lists import Classes
from must_jax.labels.formats.png import Header, PngMaps, Seen, read_indices
from must_jax.progress import rounded, say

Code = Annotated[int, Field(ge=0, le=WIDE_IGNORE_ID)]
Codes = Annotated[tuple[Code, ...], Listed]

_UNKNOWN = -1
_MOST_CODES = 12  # listed at most


class _Colour(NamedTuple):
    """A colour of a palette."""

    red: int
    green: int
    blue: int


class IdPng(PngMaps):
    """Grey PNG with 1, 8 or 16 bits, or PNG with a palette, whose indices are the codes.

    The colours of palettes have no meaning, but each must belong to the same code in all files.
    """

    name: ClassVar[str] = "id_png"
    gives: ClassVar[str] = "map of ids"
    headers: ClassVar[tuple[Header, ...]] = (
        Header(8, "grey"),
        *(Header(bits, "palette") for bits in (8, 4, 2, 1)),
        Header(16, "grey"),
        Header(1, "grey"),
    )
    unlike: ClassVar[str] = " (where colours stand for classes, write the classes' codes as 8-bit grey)"

    classes: Annotated[Classes, Field(min_length=1, max_length=WIDE_IGNORE_ID)]
    """In the order of their indices."""
    offset: Code = 0
    """The code of the first class; the others follow."""
    codes: Mapping[str, Codes] | Codes = pydantic.Field(default_factory=dict)
    """Instead of `offset`: the code of each class, in the order of the classes; or every class name -> its code or
    codes."""
    ignore: Codes = (IGNORE_ID,)
    """Codes of pixels without a label; by default 255, unless `codes` uses it, and 65535 with more than 255 classes.
    Any other code is refused."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if not isinstance(self.codes, Mapping):
            if len(self.codes) != len(self.classes):
                raise ValueError(f"{len(self.codes)} codes for {len(self.classes)} classes; give every class its code")
        else:
            for name in self.codes:
                if name not in self.classes:
                    raise ValueError(f"codes names '{name}', which is not in classes; {nearest(name, self.classes)}")
            if self.codes and (without := [name for name in self.classes if name not in self.codes]):
                raise ValueError(f"codes has none for '{without[0]}'; give every class its code")
        meanings = [*self._ignored(), *(code for codes in self._codes_of_classes() for code in codes)]
        if twice := [code for code in meanings if meanings.count(code) > 1]:
            raise ValueError(f"code {twice[0]} has two meanings; give every class and ignore codes of their own")
        if max(meanings) > WIDE_IGNORE_ID:
            raise ValueError(f"{len(self.classes)} classes from code {self.offset} need more than 16 bits")
        return self

    def values(self, file: Path, seen: Seen) -> tuple[np.ndarray, None]:
        indices, palette = read_indices(file)
        codes = self._as_coloured(indices, palette, file, seen)
        counts = np.bincount(codes.ravel(), minlength=WIDE_IGNORE_ID + 1)
        present = np.flatnonzero(counts).tolist()
        seen.add(file, {code: int(counts[code]) for code in present})
        if palette is not None and codes is indices:
            colours = [
                _Colour(*colour) for colour in palette[[code for code in present if code < len(palette)]].tolist()
            ]
            seen.add(file, {(colour, code): 1 for code, colour in zip(present, colours, strict=False)
                            if colours.count(colour) == 1})  # fmt: skip
        ids = self._ids()[codes]
        if np.any(ids == _UNKNOWN):
            raise UserError(
                f"{file} has pixels of code {codes[ids == _UNKNOWN][0]}, which is neither that of one of the "
                f"{len(self.classes)} classes nor in ignore {self._ignored()}; correct classes, codes, offset or ignore"
            )
        return ids, None

    def _as_coloured(self, indices: np.ndarray, palette: np.ndarray | None, file: Path, seen: Seen) -> np.ndarray:
        """The codes of the pixels. A subclass may derive them from the palette's colours instead of its indices."""
        return indices

    def review(self, path: Path, seen: Seen, statistics: Statistics) -> None:
        _check_palettes(path, seen)
        codes = sorted(code for code in seen.amount if isinstance(code, int))
        ids = self._ids()
        if unknown := [code for code in codes if ids[code] == _UNKNOWN]:
            raise UserError(
                f"{seen.first[unknown[0]]} has pixels of code {unknown[0]}, which is neither that of one of the "
                f"{len(self.classes)} classes nor in ignore {self._ignored()}, as have at least "
                f"{seen.files[unknown[0]]} of the masks in {path}, which hold the codes {_some_codes(codes)}; "
                f"{self._advice(codes)}"
            )
        amounts = [sum(seen.amount[code] for code in each) for each in self._codes_of_classes()]
        never = [name for name, amount in zip(self.classes, amounts, strict=True) if not amount]
        ignored = [code for code in self._ignored() if seen.amount[code]]
        if not never or not ignored:
            return
        pixels = sum(seen.amount[code] for code in codes)
        share = 100 * seen.amount[ignored[0]] / pixels
        what = (
            f"{path}: {_quoted(never)} of {len(self.classes)} classes never occur{'s' * (len(never) == 1)}, but code "
            f"{ignored[0]}, which is declared to mean no label, is {rounded(share, 2)} % of the pixels, in "
            f"{seen.files[ignored[0]]} of the masks"
        )
        if self.codes or not self._is_doubtful(never, ignored):
            say(f"{what}; check that it is not one of them")
            return
        there = [str(each[0]) for each in self._codes_of_classes()]
        looks = list(there)
        for name, code in zip(never, ignored, strict=False):
            looks[self.classes.index(name)] = str(code)
        raise UserError(
            f"{what}, so it looks like '{never[0]}'; set the option codes={','.join(looks)} (a code for each class), "
            f"or codes={','.join(there)} if it means no label"
        )

    def _is_doubtful(self, never: Sequence[str], ignored: Sequence[int]) -> bool:
        """Whether the ignored codes are likely to be those of the classes that never occur."""
        nothing_to_learn = len(self.classes) > 1 and len(never) >= len(self.classes) - 1
        return nothing_to_learn or (len(never) <= len(ignored) and "ignore" not in self.model_fields_set)

    def _advice(self, codes: Sequence[int]) -> str:
        """How to declare all these codes."""
        count, free = len(self.classes), [code for code in codes if code not in self._ignored()]
        if free[0] == 0 and free[-1] == count and not self.codes and self.offset == 0:
            return (
                "if classes count from 1 and 0 is no label, set the options offset=1 and ignore=0,255; if 0 is a class "
                "as well, name it in classes"
            )
        if len(free) == count or len(codes) == count:
            fitting = free if len(free) == count else codes
            return f"if these are the classes in their order, set the option codes={','.join(map(str, fitting))}"
        if len(free) > 2 * count:
            return "if the masks were scaled, or stored as JPEG once, their codes are mixed: take the original ones"
        return "give each of them to a class by codes, or to ignore"

    def _ignored(self) -> Codes:
        if "ignore" in self.model_fields_set:
            return self.ignore
        if len(self.classes) > IGNORE_ID:
            return (WIDE_IGNORE_ID,)
        of_classes = {code for codes in self._codes_of_classes() for code in codes} if self.codes else set()
        return tuple(code for code in self.ignore if code not in of_classes)

    def _ids(self) -> np.ndarray:
        """i32[65536]: code -> class, the id of pixels without a label, or _UNKNOWN."""
        ids = np.full(WIDE_IGNORE_ID + 1, _UNKNOWN, np.int32)
        ids[list(self._ignored())] = WIDE_IGNORE_ID if len(self.classes) > IGNORE_ID else IGNORE_ID
        for index, codes in enumerate(self._codes_of_classes()):
            ids[list(codes)] = index
        return ids

    def _codes_of_classes(self) -> list[tuple[int, ...]]:
        if isinstance(self.codes, Mapping) and self.codes:
            return [self.codes[name] for name in self.classes]
        if self.codes:
            return [(int(code),) for code in self.codes]
        return [(self.offset + index,) for index in range(len(self.classes))]


def _check_palettes(path: Path, seen: Seen) -> None:
    """Raises UserError if the same colour has different codes, because an image program has sorted the palette."""
    found: defaultdict[_Colour, list[int]] = defaultdict(list)
    for thing in seen.amount:
        if isinstance(thing, tuple):
            colour, code = thing
            found[colour].append(code)
    for colour, codes in found.items():
        if len(codes) > 1:
            one, other = (f"code {code} in {seen.first[colour, code]}" for code in sorted(codes)[:2])
            raise UserError(
                f"{path}: the colour {tuple(colour)} is {one}, but {other}, so some program has re-sorted the "
                "palettes, and codes mean nothing; take the original files, or write the codes as 8-bit grey"
            )


def _some_codes(codes: Sequence[int]) -> str:
    if len(codes) <= _MOST_CODES:
        return ", ".join(map(str, codes))
    return f"{', '.join(map(str, codes[:3]))}, ... {codes[-1]} ({len(codes)} of them)"


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")
