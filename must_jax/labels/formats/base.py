"""The interface of a format of true labels. One file per format implements it."""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import pydantic

from must_jax.config.base import read_options
from must_jax.data.decoding import ImageShape
from must_jax.data.image_sets import ImageSet
from must_jax.data.kinds import Label, LabelKind
from must_jax.data.kinds.statistics import Statistics
from must_jax.errors import UserError
from must_jax.labels.formats.orientation import upright
from must_jax.progress import say

PRESENT = np.float32(1)
_MOST_LISTED = 20


class Photo(NamedTuple):
    """An image of the set. If its `shape` is unknown (None), labels are not compared with it."""

    name: str
    shape: ImageShape | None


class Annotations(NamedTuple):
    """True labels of an image set, opened and checked as far as that is cheap.

    Attributes:
      kind, classes: what the labels are.
      label: returns the label of an image, or None if it has none (not the same as an empty one); thread-safe. Raises
        UserError if a file contradicts what was declared.
      has: whether the image of a name has a label.
      review: to be called once all labels have been read, with their statistics. Prints what is strange about all of
        them together, and raises UserError if that contradicts what was declared.
    """

    kind: LabelKind
    classes: tuple[str, ...]
    label: Callable[[Photo], Label | None]
    has: Callable[[str], bool] = lambda name: True
    review: Callable[[Statistics], None] = lambda statistics: None


class Format(pydantic.BaseModel, abc.ABC):
    """A format with its options: frozen and serialisable (`model_dump`) into a column's manifest.

    Attributes:
      gives: the kind of its labels, in the words of `shape`.
      holds: what holds the labels: a "file" or a "folder"; "" = the images' names.
    """

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True, use_attribute_docstrings=True
    )

    name: ClassVar[str]
    gives: ClassVar[str]
    holds: ClassVar[str]

    @pydantic.model_validator(mode="before")
    @classmethod
    def _read_options(cls, values: Any) -> Any:
        return read_options(cls, values)

    @abc.abstractmethod
    def digest(self, path: Path, images: ImageSet) -> str:
        """A digest that changes with the annotations; much cheaper than opening them."""

    @abc.abstractmethod
    def open(self, path: Path, names: Sequence[str], kind: LabelKind) -> Annotations:
        """The annotations for the images with these names.

        Args:
          kind: of the task's labels. Its layout is kept; sizes and units are those of the annotations.

        Raises:
          UserError: annotations that are damaged, contradict each other or what was declared, or match no image.
        """


class Placed(Format):
    """A format of labels with a position in their image: boxes or maps."""

    # A column's options are those that it was made with; this one was added later, so its default is not listed.
    orientation: Annotated[
        Literal["upright", "stored"], pydantic.Field(exclude_if=lambda orientation: orientation == "upright")
    ] = "upright"
    """Which way up a photo that Exif turns was labelled: `upright`, as viewers show it, or `stored`, as its pixels lie
    in the file and as tools that ignore Exif show it; then the labels are turned with the image."""

    def placed(self, kind: LabelKind, label: Label, photo: Photo, hw: tuple[int, int], where: str) -> Label:
        """The label as a label of the upright image.

        Labels may be larger or smaller than their image, but must have its aspect ratio, up to the rounding of sides.

        Args:
          hw: height and width of what was labelled, according to the labels.
          where: the labels' file, for the message.

        Raises:
          UserError: the labels are of another image, or it is unknown how the image is turned.
        """
        if photo.shape is None:
            if self.orientation == "stored":
                raise UserError(f"the header of {photo.name} does not say how to turn its labels; remove {where}")
            return label
        sides = {"upright": photo.shape.hw, "stored": photo.shape.stored_hw}
        if not _has_aspect(hw, sides[self.orientation]):
            height, width = sides[self.orientation]
            fitting = [orientation for orientation, image_hw in sides.items() if _has_aspect(hw, image_hw)]
            raise UserError(
                f"{where} is for {hw[1]} x {hw[0]} pixels, but {photo.name} has {width} x {height} {self.orientation}; "
                + (f"set the option orientation={fitting[0]}" if fitting else "use labels made for this image")
            )
        return upright(kind, label, photo.shape.orientation) if self.orientation == "stored" else label


def _has_aspect(hw: tuple[int, int], image_hw: tuple[int, int]) -> bool:
    scale_y, scale_x = hw[0] / image_hw[0], hw[1] / image_hw[1]
    rounding = max(1, scale_y, scale_x) * (1 / image_hw[0] + 1 / image_hw[1])
    return abs(scale_y - scale_x) <= rounding


def shape(kind: LabelKind) -> str:
    """A kind of label, in words."""
    return kind.called


def known_classes(found: Sequence[str], declared: Sequence[str], where: Callable[[str], str]) -> tuple[str, ...]:
    """The declared classes if there are any, otherwise those found; both keep their order.

    Declared ones that do not occur are told.

    Args:
      where: returns what has a class of that name, for the message.

    Raises:
      UserError: a class that is not declared.
    """
    classes = tuple(declared or found)
    for name in found:
        if name not in classes:
            raise UserError(
                f"{where(name)} has the class '{name}', which is not in classes ({', '.join(classes)}"
                f"{never(classes, found)}); add it there, or correct the labels"
            )
    if absent := never(classes, found):
        say(f"look at the classes{absent}; those that do: {some(found)}")
    return classes


def never(declared: Sequence[str], found: Collection[str]) -> str:
    """ "; 'a', 'b' of them never occur" for declared classes that do not; otherwise ""."""
    names = [f"'{name}'" for name in declared if name not in found]
    return f"; {some(names)} of them never {'occurs' if len(names) == 1 else 'occur'}" if names else ""


def some(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:_MOST_LISTED]) + f", and {len(names) - _MOST_LISTED} more" * (len(names) > _MOST_LISTED)
