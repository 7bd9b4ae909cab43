"""Images as the networks see them that label: read and decoded once, and fitted into inputs of several kinds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from must_jax.data.augment import PADDING_RGB, Geometry, Span, resized
from must_jax.data.decoding import decode_reduced
from must_jax.data.image_sets import ImageSet
from must_jax.errors import told

Fit = Literal["letterbox", "corner", "stretch", "crop", "whole"]


class Placed(NamedTuple):
    """Where the whole upright image lies in an input, in its pixels; beyond the input where it was cropped."""

    top: float
    left: float
    height: float
    width: float


@dataclass(frozen=True)
class Input:
    """How images are put into the input of a network, u8[height, width, 3] RGB.

    Attributes:
      fit: `letterbox`: as large as fits, aspect kept, in the middle of padding; `corner`: the same in the top left
        corner, as networks of must_jax have it; `stretch`: fills the input; `crop`: the shorter side is resized to
        `shorter` pixels, and the middle is cut out; `whole`: in the top left corner, as it is if it fits, otherwise as
        large as fits.
    """

    height: int
    width: int
    fit: Fit = "corner"
    padding_rgb: tuple[int, int, int] = PADDING_RGB
    shorter: int = 0

    @property
    def told(self) -> str:
        """In words, for manifests."""
        size = f"{self.width}x{self.height} pixels"
        cut = "padding cut off from the labels"
        match self.fit:
            case "stretch":
                return f"stretched to {size}"
            case "crop":
                return f"shorter side resized to {self.shorter} pixels, the middle {size} cut out"
            case "whole":
                return f"as it is, or fitted into {size} if it is larger, aspect kept"
            case "letterbox":
                return f"fitted into the middle of {size}, aspect kept, {cut}"
        return f"fitted into {size}, aspect kept, {cut}"

    @property
    def longest(self) -> int:
        """Pixels that an image's longer side must keep when it is decoded; 0 = all."""
        return max(self.height, self.width) if self.fit in ("letterbox", "corner") else 0

    def geometry(self, image_hw: tuple[float, float]) -> Geometry:
        """What happens to the pixels of an image that was decoded at this size."""
        return Geometry(*self._spans(image_hw))

    def _spans(self, image_hw: tuple[float, float]) -> Iterator[Span]:
        ours = (self.height, self.width)
        if self.fit == "stretch":
            yield from (Span(side, 0, int(side), n, 0, n) for side, n in zip(image_hw, ours, strict=True))
            return
        if self.fit == "crop":
            scale = max(self.shorter / min(image_hw), *(n / side for side, n in zip(image_hw, ours, strict=True)))
            for side, n in zip(image_hw, ours, strict=True):
                length = min(int(side), max(1, round(n / scale)))
                yield Span(side, (int(side) - length) // 2, length, n, 0, n)
            return
        scale = min(n / side for side, n in zip(image_hw, ours, strict=True))
        scale = min(scale, 1.0) if self.fit == "whole" else scale
        for side, n in zip(image_hw, ours, strict=True):
            length = min(n, max(1, round(side * scale)))
            start = round((n - length) / 2 - 0.1) if self.fit == "letterbox" else 0  # rounds as Ultralytics does
            yield Span(side, 0, int(side), n, start, length)

    def placed(self, geometry: Geometry) -> Placed:
        """Where `geometry` puts the image."""
        scales = [span.out_length / span.length for span in geometry]
        top, left = (span.out_start - span.start * scale for span, scale in zip(geometry, scales, strict=True))
        height, width = (
            span.out_length if span.length == int(span.image) else span.image * scale
            for span, scale in zip(geometry, scales, strict=True)
        )
        return Placed(top, left, height, width)


@dataclass(frozen=True)
class Example:
    """An image that was read, or the reason why it cannot be.

    Attributes:
      placed: by input, where the image lies in it.
    """

    name: str
    placed: Mapping[Input, Placed] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Reader:
    """Makes inputs, u8[rows, height, width, 3] by input, and tells what is in them; see `prefetch.Maker`.

    Attributes:
      chunks: by the number of a batch, the positions of its images; the rows after them become zeros.
    """

    images: ImageSet
    chunks: Sequence[range]

    def __call__(self, number: int, rows: range, inputs: Mapping[Input, np.ndarray], /) -> list[Example]:
        positions = self.chunks[number]
        if rows.stop == len(positions):
            _clear({kind: batch[rows.stop :] for kind, batch in inputs.items()})
        return [
            _draw(self.images, positions[row], {kind: batch[row] for kind, batch in inputs.items()}) for row in rows
        ]


def _draw(images: ImageSet, position: int, inputs: Mapping[Input, np.ndarray]) -> Example:
    """Puts an image, or zeros, into the inputs, u8[height, width, 3] by input."""
    name = f"{images.name}[{position}]"
    try:
        record = images.record(position)
        name = record["name"]
        sides = [kind.longest for kind in inputs]
        image, image_hw = decode_reduced(record["image"], max(sides) if all(sides) else 0)
    except Exception as error:  # one broken record must not end a run of days
        _clear(inputs)
        return Example(name, error=told(error))
    placed = {}
    for kind, array in inputs.items():
        geometry = kind.geometry(image_hw)
        array[:] = resized(geometry, image, kind.padding_rgb)
        placed[kind] = kind.placed(geometry)
    return Example(name, placed)


def _clear(inputs: Mapping[Input, np.ndarray]) -> None:
    for each in inputs.values():
        each[:] = 0
