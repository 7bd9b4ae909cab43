"""Configs of the stages that create and inspect image sets and label columns."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic
from pydantic import Field

from must_jax.config.base import BatchSize, Config, Count, Names, Number, PositiveCount, ShardImages

MAX_PIXELS = 200_000_000  # of an image, wherever one is read


class TruthConfig(Config):
    """True labels in one of the formats of `labels/formats`, to be imported as a column of one task.

    path: the file or folder that holds them; "" where the images' names do.
    options: the format's own: a unit, a class list.
    licence: of the labels; "" = unknown.
    """

    format: str
    path: str = ""
    options: dict[str, Any] = {}
    licence: str = ""


class PrepareConfig(Config):
    """Imports images as an image set, `data_dir/NAME`, which other stages read as "NAME:train".

    images: "folder:PATH", "tar:FILES", "parquet:FILES" or "tfds:NAME/CONFIG:SPLIT"; FILES are a file, a folder or a
      pattern with *.
    image_column: of Parquet files; "" = the only one that holds bytes.
    image_suffix: for folders and tar files: the endings of images ("jpg", "rgb.png"), or "*" for all. () = all pictures
      of a folder; of pictures in a tar file that share a name, the one with a plain suffix (".jpg" beside ".seg.png").
    max_pixels: of an image that is imported; at most as many as are read anywhere.
    labels: by task, the labels that people have given these images; more can be added later.
    """

    stage: Literal["prepare"] = "prepare"
    data_dir: str = "data"
    name: str
    images: str
    image_column: str = ""
    image_suffix: Names = ()
    shard_images: ShardImages = 1024
    max_pixels: Annotated[PositiveCount, Field(le=MAX_PIXELS)] = MAX_PIXELS
    labels: dict[str, TruthConfig] = {}

    @pydantic.field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise ValueError(f"'{name}' is not a valid name; use a-z, 0-9 and _, and begin with a letter")
        if name in ("scenes", "folder", "tar", "parquet"):
            raise ValueError(f"'{name}:train' has another meaning as the name of images; choose another name")
        return name

    @pydantic.model_validator(mode="after")
    def _check_column(self) -> Self:
        if self.image_column and not self.images.startswith("parquet:"):
            raise ValueError(f"image_column is only for Parquet files, but images is '{self.images}'; remove it")
        if self.image_suffix and not self.images.startswith(("folder:", "tar:")):
            raise ValueError(
                f"image_suffix is only for folders and tar files, but images is '{self.images}'; remove it"
            )
        return self


class LabelConfig(Config):
    """Teachers label one image set, one column per teacher and task.

    A rerun with more teachers adds their columns. Each of several processes on one workdir takes every n-th shard.
    """

    free: ClassVar[frozenset[str]] = Config.free | {
        "teachers",
        "tasks",
        "gallery_images",
        "worker",
        "dry_run",
        "chips",
        "accept_failed",
    }

    stage: Literal["label"] = "label"
    data_dir: str = "data"
    devices: Count = 0
    images: str
    take: Count = 0
    teachers: Annotated[Names, Field(min_length=1)]
    tasks: dict[str, dict[str, Any]] = {}  # overrides of the teachers' pseudo-label options, by task
    accept_failed: Names = ()  # tasks that teachers label although they are near chance, or were not validated
    batch_size: BatchSize = 64
    shard_images: ShardImages = 1024
    gallery_images: Annotated[int, Field(ge=0, le=10_000), Number] = 32
    worker: str = "0/1"  # number of this process, from 0, and how many there are
    dry_run: bool = False  # label a sample, print what the whole set costs, and write nothing
    chips: Count = 0  # devices to forecast the hours for; 0 = those in use here

    @property
    def worker_of(self) -> tuple[int, int]:
        """The number of this process, and how many there are."""
        number, count = self.worker.split("/")
        return int(number), int(count)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if not re.fullmatch(r"\d{1,6}/[1-9]\d{0,5}", self.worker):
            raise ValueError(
                f"worker '{self.worker}' is invalid; give its number from 0 and the number of workers, like 0/2"
            )
        number, count = self.worker_of
        if number >= count:
            raise ValueError(f"worker {self.worker} does not exist; the last of {count} workers is {count - 1}/{count}")
        return self


class LabelsConfig(Config):
    """Inspects label columns: `describe` describes them, `verify` checks every file and label.

    columns: folders of columns, or of label runs, whose columns are all meant.
    images: the image set that they should belong to, as in `SourceConfig`, with `take`; "" = do not compare.
    """

    is_run: ClassVar[bool] = False

    stage: Literal["labels"] = "labels"
    action: Literal["describe", "verify"] = "describe"
    data_dir: str = "data"
    columns: Annotated[Names, Field(min_length=1)]
    images: str = ""
    take: Count = 0


class AuditConfig(Config):
    """The gate between labelling and training: statistics of an image set's label columns, and a verdict on each.

    images: the image set that the columns label, as in `SourceConfig`, with `take`. True labels that are stored with
      it, or come as columns, are what the others are scored against.
    columns: folders of columns, or of label runs, whose columns are all meant.
    evaluation: image sets that `images` should share nothing with; near-duplicates are looked for.
    duplicate_distance: most bits, of 256, in which the perceptual hashes of near-duplicates may differ.
    sample: images, spread over the set, whose labels are read; 0 = all.
    """

    stage: Literal["audit"] = "audit"
    data_dir: str = "data"
    images: str
    take: Count = 0
    columns: Annotated[Names, Field(min_length=1)]
    evaluation: Names = ()
    duplicate_distance: Annotated[int, Field(ge=0, lt=128), Number] = 48
    sample: Count = 0
