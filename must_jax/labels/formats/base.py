"""What a format of true labels is. One file a format implements this."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import pydantic

from must_jax.config import Names
from must_jax.data.encodings import Label
from must_jax.data.image_sets import ImageSet, image_hw
from must_jax.data.kinds import LabelKind, MapLabel
from must_jax.errors import UserError

PRESENT = np.float32(1)


def _distinct(classes: tuple[str, ...]) -> tuple[str, ...]:
    if twice := [name for name in classes if classes.count(name) > 1]:
        raise ValueError(f"the class '{twice[0]}' is listed twice")
    return classes


Classes = Annotated[Names, pydantic.AfterValidator(_distinct)]  # in the order of their indices


@dataclass(frozen=True)
class Photo:
    """An image of the set, which is only read when its size is asked for."""

    name: str
    read: Callable[[], bytes]

    @functools.cached_property
    def hw(self) -> tuple[int, int] | None:
        """Height and width, upright; None where it cannot be read, and then there is nothing to compare with."""
        return image_hw(self.read())


class Annotations(NamedTuple):
    """True labels of an image set, opened and checked as far as that is cheap.

    label: the label of an image, or None where there is none, which is not the same as an empty one; thread-safe. It
      raises UserError where a file contradicts what was declared.
    """

    kind: LabelKind
    classes: tuple[str, ...]
    label: Callable[[Photo], Label | None]


class Format(pydantic.BaseModel, abc.ABC):
    """A format with its options: frozen and serialisable (`model_dump`) into a column's manifest.

    Attributes:
      gives: what its labels look like, as `shape` says it.
      holds: the labels: a "file" or a "folder"; "" = the images' names do.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)

    name: ClassVar[str]
    gives: ClassVar[str]
    holds: ClassVar[str]

    @abc.abstractmethod
    def digest(self, path: Path, images: ImageSet) -> str:
        """Changes with the annotations; much cheaper than to open them."""

    @abc.abstractmethod
    def open(self, path: Path, names: Sequence[str], kind: LabelKind) -> Annotations:
        """The annotations for the images of these names.

        Args:
          kind: of the task's labels. Its layout is kept; sizes and units are those of the annotations.

        Raises:
          UserError: annotations that are damaged, contradict each other or what was declared, or fit no image.
        """


def shape(kind: LabelKind) -> str:
    """What a kind looks like, in words."""
    if isinstance(kind, MapLabel):
        return f"map of {kind.content}{'' if kind.content == 'ids' else 's'}"
    return type(kind).__name__.removesuffix("Label").lower()


def check_aspect(photo: Photo, hw: tuple[int, int], where: str) -> None:
    """Labels may be larger or smaller than their image, but must have its shape, up to the rounding of sides.

    Args:
      where: the file, for the message.
    """
    if photo.hw is None:
        return
    scale_y, scale_x = hw[0] / photo.hw[0], hw[1] / photo.hw[1]
    rounding = max(1, scale_y, scale_x) * (1 / photo.hw[0] + 1 / photo.hw[1])
    if abs(scale_y - scale_x) > rounding:
        raise UserError(
            f"{where} is for {hw[1]} x {hw[0]} pixels, but {photo.name} has {photo.hw[1]} x {photo.hw[0]} upright; "
            "use the labels of this very image"
        )


def known_classes(found: Sequence[str], declared: Sequence[str], where: Callable[[str], str]) -> tuple[str, ...]:
    """The declared classes if there are any, else those found, in their order.

    Args:
      where: what has a class of that name, for the message.

    Raises:
      UserError: a class that is not declared.
    """
    classes = tuple(declared or found)
    for name in found:
        if name not in classes:
            raise UserError(
                f"{where(name)} has the class '{name}', which is not in classes ({', '.join(classes)}); "
                "add it there, or correct the labels"
            )
    return classes
