"""Images as the networks see them that label: read and decoded once, and fitted into inputs of several sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from must_jax.data.augment import apply as place
from must_jax.data.augment import letterbox_geometry
from must_jax.data.decoding import decode_reduced
from must_jax.data.image_sets import ImageSet
from must_jax.errors import told


@dataclass(frozen=True)
class Example:
    """An image that was read, or the reason why it cannot be.

    Attributes:
      content_hw: by input side in pixels, the height and width that the image fills, from the top left corner.
    """

    name: str
    content_hw: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Reader:
    """Makes inputs, u8[rows, size, size, 3] by size, and tells what is in them; see `prefetch.Maker`.

    Attributes:
      chunks: by the number of a batch, the positions of its images; the rows after them become zeros.
    """

    images: ImageSet
    chunks: Sequence[range]

    def __call__(self, number: int, rows: range, inputs: Mapping[int, np.ndarray], /) -> list[Example]:
        positions = self.chunks[number]
        if rows.stop == len(positions):
            _clear({size: batch[rows.stop :] for size, batch in inputs.items()})
        return [
            _draw(self.images, positions[row], {size: batch[row] for size, batch in inputs.items()}) for row in rows
        ]


def _draw(images: ImageSet, position: int, inputs: Mapping[int, np.ndarray]) -> Example:
    """Puts an image, or zeros, into the inputs, u8[size, size, 3] by size."""
    name = f"{images.name}[{position}]"
    try:
        record = images.record(position)
        name = record["name"]
        image, image_hw = decode_reduced(record["image"], max(inputs))
    except Exception as error:  # one broken record must not end a run of days
        _clear(inputs)
        return Example(name, error=told(error))
    geometries = {size: letterbox_geometry(image_hw, size) for size in inputs}
    for size, geometry in geometries.items():
        inputs[size][:] = place(geometry, image, {}, {}, map_size=0)[0]
    return Example(name, {size: (g.y.out_length, g.x.out_length) for size, g in geometries.items()})


def _clear(inputs: Mapping[int, np.ndarray]) -> None:
    for each in inputs.values():
        each[:] = 0
