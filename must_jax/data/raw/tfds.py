"""A TFDS dataset that is already in ArrayRecord."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from must_jax.data.folders import LeftOut
from must_jax.data.image_sets import open_images
from must_jax.data.raw.base import Item


class Tfds:
    """See RawImages; names are "INDEX/NAME", since names made elsewhere may repeat, or "INDEX" if there are none."""

    skipped: tuple[tuple[str, str], ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    images_are = "images are records of the dataset"
    others = 0
    called = ""
    named_by: Literal[""] = ""
    size_bytes = 0

    def __init__(self, dataset: str, data_dir: Path) -> None:
        self._images = open_images(dataset, data_dir)
        self.digest = self._images.digest
        self.unread = sorted(self._images.labels)

    def names(self) -> None:
        return None

    def __len__(self) -> int:
        return len(self._images)

    def items(self, positions: range) -> Iterator[Item]:
        for index in positions:
            record, number = self._images.record(index), f"{index:08d}"
            name = number if record["name"] == number else f"{number}/{record['name']}"
            yield Item(name, len(record["image"]), functools.partial(bytes, record["image"]))
