"""`prepare.json` of a prepared image set: what it is made from, how it is cut into shards, and which exist."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pydantic

from must_jax import files
from must_jax.config import PrepareConfig
from must_jax.data import shards
from must_jax.data.image_sets import are_same
from must_jax.data.order import Order
from must_jax.errors import UserError
from must_jax.reading import read_json

FILE = "prepare.json"
SHUFFLE_SEED = 0
ASKED = (
    "image_column",
    "image_suffix",
    "shuffle",
    "shard_images",
    "max_pixels",
)  # what the shards depend on, besides the source


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Skipped(_Record):
    """An image that is not taken, and why."""

    name: str
    reason: str


class ShardRecord(_Record):
    file: str
    count: pydantic.NonNegativeInt
    bytes: pydantic.NonNegativeInt
    skipped: tuple[Skipped, ...]


class Plan(_Record):
    """Shard i holds what can be read of the source's images [i * shard_images, (i + 1) * shard_images).

    With `shuffle`, the source's images are counted in an order that follows from their number.

    Attributes:
      source: digest of the source.
      length: images of the source, readable or not.
      named_by: what names them, as in `RawImages`.
    """

    schema_version: Literal[1] = 1
    name: str
    images: str
    image_column: str
    image_suffix: tuple[str, ...] = ()
    shuffle: bool = False
    shard_images: pydantic.PositiveInt
    max_pixels: pydantic.PositiveInt
    source: str
    length: pydantic.NonNegativeInt
    named_by: Literal["", "path"] = ""
    shards: tuple[ShardRecord, ...] = ()

    @pydantic.model_validator(mode="after")
    def can_be_cut(self) -> Plan:
        if self.shard_count > shards.MOST_SHARDS:
            raise ValueError(f"there are {self.shard_count:,} shards, and at most {shards.MOST_SHARDS:,} can be named")
        return self

    @property
    def shard_count(self) -> int:
        return -(-self.length // self.shard_images)

    def positions(self, index: int) -> list[range]:
        """Positions of a shard's images in the source: one range, or one for each image in the order of the set."""
        positions = range(index * self.shard_images, min((index + 1) * self.shard_images, self.length))
        if not self.shuffle:
            return [positions]
        _, images = Order([self.length], SHUFFLE_SEED)(np.array(positions))
        return [range(image, image + 1) for image in images.tolist()]

    def shard_file(self, index: int) -> str:
        return shards.shard_file(self.name, index, self.shard_count)

    def missing(self, folder: Path) -> list[int]:
        """Shards that are not listed, or whose file is gone or has another size."""
        sizes = {shard.file: shard.bytes for shard in self.shards}
        paths = [folder / self.shard_file(index) for index in range(self.shard_count)]
        return [i for i, path in enumerate(paths) if not path.is_file() or path.stat().st_size != sizes.get(path.name)]

    def with_shard(self, shard: ShardRecord) -> Plan:
        others = [other for other in self.shards if other.file != shard.file]
        return self.model_copy(update={"shards": tuple(sorted([*others, shard], key=lambda shard: shard.file))})

    def write(self, folder: Path) -> None:
        files.write_text(folder / FILE, self.model_dump_json(indent=1) + "\n")


def read(folder: Path) -> Plan | None:
    """The plan of what is, or will be, in the folder of an image set; None if there is none.

    Raises:
      UserError: there is a dataset that was not prepared here, or the plan is damaged.
    """
    path = folder / FILE
    if not path.exists():
        theirs = (path.relative_to(folder.parent) for path in folder.parent.rglob(shards.INFO_FILE))
        if any(path.parts[0] != shards.COLUMNS for path in theirs):
            raise UserError(f"{folder.parent} holds a dataset that was not prepared here; choose another config.name")
        return None
    return read_json(path, Plan, f"delete {folder}, and prepare it again")


def check_same(folder: Path, config: PrepareConfig, source: str, length: int | None = None, named_by: str = "") -> None:
    """Raises UserError if the folder has a plan for another source, or for other shards of it.

    Args:
      source: digest of the source.
      length: number of its images; None = neither this nor what names them is known yet.
      named_by: what names them; "" = file and row.
    """
    plan, advice = read(folder), "choose another config.name, or delete that folder"
    if plan is None:
        return
    for key in ASKED:
        there, here = getattr(plan, key), getattr(config, key)
        if there != here:
            raise UserError(f"{folder} is prepared with config.{key} {there!r}, not with {here!r}; {advice}")
    if plan.source != source and not are_same(plan.images, config.images):
        raise UserError(f"{folder} is prepared from {plan.images}, not from {config.images}; {advice}")
    if plan.source != source or length not in (None, plan.length):
        raise UserError(f"{config.images} has changed since {folder} was prepared from it; {advice}")
    if length is not None and plan.named_by != named_by:
        raise UserError(
            f"{folder} is prepared with images named by {plan.named_by or 'FILE/ROW'}, but what is missing would be "
            f"named by {named_by or 'FILE/ROW'}; {advice}"
        )
