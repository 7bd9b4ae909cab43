"""Configs of the stages that create and inspect image sets and label columns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic
from pydantic import Field

from must_jax.config.base import (
    BatchSize,
    Config,
    Count,
    Names,
    Number,
    OptionsOf,
    PositiveCount,
    ShardImages,
    TasksOptions,
)
from must_jax.config.parts import InputConfig, SourceConfig
from must_jax.config.teachers import Teachers

MAX_PIXELS = 200_000_000  # of an image, wherever one is read


class TruthConfig(Config):
    """True labels in one of the formats of `labels/formats`, to be imported as a column of one task."""

    format: str
    """One of the formats listed below."""
    path: str = ""
    """The file or folder that holds the labels; none where the images' names do."""
    options: Annotated[dict[str, Any], OptionsOf("format")] = {}
    """The format's own: a unit, a class list."""
    licence: str = ""
    """Of the labels; none = unknown."""
    kind: str = ""
    """What kind of task they are for; none = its name says so."""


class PrepareConfig(Config):
    """Imports images as an image set, `data_dir/NAME`, which other stages read as "NAME:train"."""

    free: ClassVar[frozenset[str]] = Config.free | {  # all: the set itself records what it is made from, and compares
        *("name", "images", "image_column", "image_suffix", "shuffle", "shard_images", "max_pixels", "labels")
    }

    stage: Literal["prepare"] = "prepare"
    data_dir: str = "data"
    """Folder of the image sets that are read by name."""
    name: str
    """Of the image set: other stages read it as `NAME:train`."""
    images: str
    """`folder:PATH`, `tar:FILES`, `parquet:FILES` or `tfds:NAME/CONFIG:SPLIT`; FILES are a file, a folder or a pattern
    with *."""
    image_column: str = ""
    """Of Parquet files; none = the only one that holds bytes."""
    image_suffix: Names = ()
    """For folders and tar files: the endings of images (jpg, rgb.png), or * for all. None = all pictures of a folder;
    of pictures in a tar file that share a name, the one with a plain suffix (.jpg beside .seg.png)."""
    shuffle: bool = False
    """Keeps the images in a random order, always the same one, so that a part of the set (`NAME:train[:80%]`) is a
    sample of all of it, and not the first of its folders."""
    shard_images: ShardImages = 1024
    """Images of a file."""
    max_pixels: Annotated[PositiveCount, Field(le=MAX_PIXELS)] = MAX_PIXELS
    """Of an image that is imported; at most as many as are read anywhere."""
    labels: dict[str, TruthConfig] = {}
    """Task -> the labels that people have given these images; more can be added later."""

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
        if self.shuffle and self.images.startswith("parquet:"):
            raise ValueError("shuffle is not for Parquet files, whose rows can only be read in order; remove it")
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
        "input",
        "dry_run",
        "chips",
        "accept_failed",
        "check_images",
        "check_on",
        "checked",
    }
    former: ClassVar[Mapping[str, str]] = {"processes": "now input.workers"}

    stage: Literal["label"] = "label"
    data_dir: str = "data"
    """Folder of the image sets that are read by name."""
    devices: Count = 0
    """Devices to use; 0 = as many as can share the batches. On a CPU, virtual ones, at most one per core."""
    images: str
    """The image set to label, as in `train.0.images`."""
    take: Count = 0
    """A sample of n images, the same in every run and part of every larger one; 0 = all."""
    teachers: Annotated[Teachers, Field(min_length=1)]
    """Folders of finished runs, or models of others with what has to be said about them; each labels for all of its
    tasks."""
    tasks: TasksOptions = {}
    """Task -> options of its pseudo labels, instead of the teachers' own."""
    accept_failed: Names = ()
    """Tasks that teachers label although they are near chance, were not validated, or seem to be read wrongly."""
    check_images: Annotated[int, Field(ge=0, le=1000), Number] = 32
    """Images on which models of others are checked before they label, as by the stage `check`: one that is read wrongly
    is refused, with the line to change; 0 = none."""
    check_on: SourceConfig | None = None
    """A set with true labels for that check; none = the images to label, without truth."""
    checked: str = ""
    """Workdir of a finished check, whose verdict counts for teachers that are read as they were there."""
    batch_size: BatchSize = 64
    """Images of a batch, over all devices."""
    shard_images: ShardImages = 1024
    """Labels of a file."""
    gallery_images: Annotated[int, Field(ge=0, le=10_000), Number] = 32
    """Images in gallery.html."""
    worker: str = "0/1"
    """Number of this process, from 0, and how many there are; each takes every n-th shard."""
    input: InputConfig = InputConfig()
    """How batches are made ahead of the devices, and labels behind them."""
    dry_run: bool = False
    """Labels a sample, prints what the whole set costs, and writes nothing."""
    chips: Count = 0
    """With `dry_run`: devices to forecast the hours for; 0 = those in use here."""

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
        if self.check_on and not self.check_on.labels:
            raise ValueError("check_on is for true labels, but its labels are none; name them, or remove check_on")
        return self


class LabelsConfig(Config):
    """Inspects label columns: `describe` describes them, `verify` checks every file and label."""

    is_run: ClassVar[bool] = False

    stage: Literal["labels"] = "labels"
    action: Literal["describe", "verify"] = "describe"
    """`describe` columns, or `verify` every file and label."""
    data_dir: str = "data"
    """Folder of the image sets that are read by name."""
    columns: Annotated[Names, Field(min_length=1)]
    """Folders of columns, or of label runs, whose columns are all meant."""
    images: str = ""
    """The image set that the columns should belong to; none = do not compare."""
    take: Count = 0
    """As the columns were made with; 0 = all."""


class AuditConfig(Config):
    """The gate between labelling and training: statistics of an image set's label columns, and a verdict on each."""

    stage: Literal["audit"] = "audit"
    data_dir: str = "data"
    """Folder of the image sets that are read by name."""
    images: str
    """The image set that the columns label. True labels that are stored with it, or come as columns, are what the
    others are scored against."""
    take: Count = 0
    """As the columns were made with; 0 = all."""
    columns: Annotated[Names, Field(min_length=1)]
    """Folders of columns, or of label runs, whose columns are all meant."""
    evaluation: Names = ()
    """Image sets that `images` should share nothing with; near-duplicates are looked for."""
    duplicate_distance: Annotated[int, Field(ge=0, lt=128), Number] = 48
    """Most bits, of 256, in which the perceptual hashes of near-duplicates may differ."""
    sample: Count = 0
    """Images, spread over the set, whose labels are read; 0 = all."""
