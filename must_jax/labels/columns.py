"""Reading a column: random access to the labels of an image set."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from must_jax.data import shards
from must_jax.data.confidence import check_classes
from must_jax.data.datasets import open_dataset, reading
from must_jax.data.image_sets import ImageSet
from must_jax.data.records import NUMBERS, Records, Stored, stored
from must_jax.data.shards import COLUMNS
from must_jax.errors import UserError
from must_jax.labels import manifest
from must_jax.labels.manifest import Manifest

NAMES_LISTED = 5


class LabelColumn:
    """One teacher's labels of one task, in the order of their image set.

    Attributes:
      task, kind, classes: what the labels are.
      teacher: its record in the manifest; None for true labels.
      min_confidence: anything with a lower confidence is left out; initially the threshold of the column's rule.

    Raises:
      UserError: the folder has no column, or an incomplete one, a damaged manifest, or a missing or truncated shard.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = manifest.read(self.folder)
        self.task, self.kind, self.classes = self.manifest.task, self.manifest.label_kind, self.manifest.classes
        self.teacher = self.manifest.teacher
        self.min_confidence = self.manifest.threshold
        self._least = self.min_confidence.least(self.classes)
        self._stored_from = 0.0 if self.kind.keeps_confidence else self._least
        _check_whole(self.folder, self.manifest)
        self._records = read_records(self.folder, self.manifest)
        self._positions = np.arange(self.manifest.images.length, dtype=np.int32)

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        label = self.kind.decode(self._records[int(self._positions[index])], len(self.classes))
        if np.any(self._least > self._stored_from):
            label = self.kind.confident(label, self._least)
        return self.kind.converted(label, self.manifest.unit)

    @property
    def is_as_made(self) -> bool:
        """Whether the whole column is read, by its own rule: then its manifest's summary is of the labels as read."""
        return len(self) == self.manifest.images.length and self.min_confidence == self.manifest.threshold

    def called(self, task: str) -> LabelColumn:
        """The same labels as those of another task."""
        column = copy.copy(self)
        column.task = task
        return column

    def at(self, positions: np.ndarray) -> LabelColumn:
        """The same column, for the images at these positions only."""
        column = copy.copy(self)
        column._positions = self._positions[positions]
        return column

    def in_unit(self, unit: str) -> LabelColumn:
        """The same column of maps, read in another unit, for which `units.can_be_read` is true."""
        column = copy.copy(self)
        column.kind = self.kind.in_unit(unit)
        return column

    def at_least(self, min_confidence: float | Mapping[str, float]) -> LabelColumn:
        """The same column, read with another threshold (see `confidence.confident`), of all classes or of some by name.

        Raises:
          UserError: the labels have no confidence, there is no such class, or what is below the rule's own threshold
            was not stored.
        """
        threshold = self.min_confidence.replaced(min_confidence)
        given = f"min_confidence.{self.task} = {threshold}"
        if not self.kind.has_confidence:
            keep = self.kind.can_keep_confidence
            remedy = "label again with keep_confidence, or remove" if keep else "remove"
            raise UserError(
                f"{given} cannot be applied, {self.folder} holds labels without confidence; {remedy} this option"
            )
        try:
            check_classes(threshold.of_class, self.classes, f"min_confidence.{self.task}")
        except ValueError as error:
            raise UserError(f"{error}; {self.folder} has {len(self.classes)} classes") from None
        least = threshold.least(self.classes)
        if np.any(least < self._stored_from):
            made_with = self.manifest.threshold
            raise UserError(
                f"{given} cannot be applied, {self.folder} was labelled with a threshold of {made_with} and holds "
                "nothing below; raise it to that, or label again with a lower threshold"
            )
        column = copy.copy(self)
        column.min_confidence, column._least = threshold, least
        return column


def read_records(folder: Path, column: Manifest) -> Records:
    """The records of a complete column, read in the same way as by TFDS.

    Raises:
      UserError: their description for TFDS is damaged, or does not match the manifest.
    """
    again = f"delete {shards.INFO_FILE} and {shards.FEATURES_FILE} there, and rerun the {column.stage} stage"
    builder = open_dataset(folder, again)
    with reading(folder, again):
        splits, features = builder.info.splits, column.label_kind.features()
        split = splits.get(shards.SPLIT)
        there = [(Path(path).name, length) for path, length in zip(split.filepaths, split.shard_lengths, strict=True)]
        if list(splits) != [shards.SPLIT] or there != [(shard.file, shard.count) for shard in column.shards]:
            raise UserError(f"{folder / shards.INFO_FILE} does not describe the shards of {manifest.FILE}; {again}")
        records = Records(builder, shards.SPLIT, list(features))
        if not _fit(records.stored, stored(tfds.features.FeaturesDict(features), list(features))):
            raise UserError(f"{folder / shards.FEATURES_FILE} does not describe {column.task} labels; {again}")
    return records  # the sizes and checksums of the shards themselves are in the manifest


def _fit(there: list[Stored], ours: list[Stored]) -> bool:
    """Whether names agree and, except for encoded fields, whose features have changed since, shapes and types."""
    return [each.path for each in there] == [each.path for each in ours] and all(
        known.dtype.kind not in NUMBERS or known == each for each, known in zip(there, ours, strict=True)
    )


def open_column(folder: str | Path, images: ImageSet) -> LabelColumn:
    """A column to be read with `images`, which may be a sample of those that it labels (`take`).

    Raises:
      UserError: as `LabelColumn`, or the column is of another image set, or of fewer images.
    """
    column = LabelColumn(folder)
    there = labelled_images(Path(folder), column.manifest, images)
    if there is images:
        return column
    positions = np.searchsorted(there.numbers, images.numbers)
    if not np.array_equal(np.take(there.numbers, positions, mode="clip"), images.numbers):
        raise _of_others(Path(folder), column.manifest, images)
    return column.at(positions)


def labelled_images(folder: Path, column: Manifest, images: ImageSet) -> ImageSet:
    """The images that a column labels, of the same set as `images`, which are among them.

    Raises:
      UserError: the column is of another image set, or `images` are not among those that it labels.
    """
    labelled = column.images
    if labelled.digest != images.digest and labelled.name != images.name:
        raise UserError(
            f"{folder} labels {labelled.name}, not {images.name}; read it with images='{labelled.name}' (and take=N "
            f"for a sample of N images), or {column.anew}"
        )
    if labelled.digest != images.digest:
        raise _of_others(folder, column, images)
    if labelled.sampled and labelled.length < len(images):
        raise UserError(
            f"{folder} labels a sample of {labelled.length} images of {labelled.name}, but {len(images)} are to be "
            f"read; set take={labelled.length}, or {column.anew}"
        )
    take = labelled.length if labelled.sampled else 0
    there = images if (labelled.sampled, take) == (images.sampled, take and len(images)) else images.taking(take)
    if len(there) != labelled.length:
        raise UserError(
            f"{folder} labels {labelled.length} images of {labelled.name}, which has {len(there)} now; if they were "
            "labelled with take, they are its first images, and take is a sample since then; "
            f"{column.anew}"
        )
    if there.which() != labelled.numbers:
        raise _of_others(folder, column, images)
    return there


def _of_others(folder: Path, column: Manifest, images: ImageSet) -> UserError:
    sample = f", a sample of {column.images.length}" if column.images.sampled else ""
    since = "; photos have become readable, or unreadable, since" if column.images.digest == images.digest else ""
    return UserError(
        f"{folder} labels different images ({column.images.name}{sample}) from those that {images.name} has now"
        f"{since}; {column.anew}"
    )


def beside(images: ImageSet, tasks: Collection[str] | None = None) -> list[Path]:
    """The folders of true labels stored with the dataset of the images; each is named after its task.

    Args:
      tasks: only columns of these tasks that label the split of the images; None = all.
    """
    if images.place is None:
        return []
    folders = sorted(file.parent for file in (images.place.folder / COLUMNS).glob(f"*/{manifest.FILE}"))
    return [each for each in folders if tasks is None or (each.name in tasks and is_of(each, images))]


def is_of(folder: Path, images: ImageSet) -> bool:
    """Whether a column that `beside` finds labels the split of the images."""
    return images.place is not None and _split(manifest.read(folder).images.name) == images.place.split


def open_beside(folder: Path, images: ImageSet) -> LabelColumn:
    """A column that `beside` finds; `images` may be a part of the split that it labels.

    Raises:
      UserError: as `open_column`.
    """
    assert images.place is not None
    return open_column(folder, images.place.whole()).at(images.place.positions)


def _split(images: str) -> str:
    return images.rpartition(":")[2]


def _check_whole(folder: Path, description: Manifest) -> None:
    again = f"rerun the {description.stage} stage"
    if description.complete and not manifest.is_as_written(folder):
        raise UserError(f"{folder / manifest.FILE} was changed after the labels were written; {again}")
    if missing := description.missing(folder):
        names = ", ".join(description.shard_file(index) for index in missing[:NAMES_LISTED])
        if description.complete:
            raise UserError(f"{folder} has lost labels, these files are missing or truncated: {names}; {again}")
        done = description.shard_count - len(missing)
        raise UserError(f"{folder} is not finished, {done} of {description.shard_count} shards are written; {again}")
    if not description.complete:
        raise UserError(f"{folder} is not finished, only its last step is missing; {again}")


def _holds(path: Path) -> list[Path]:
    """The columns that a path refers to; may be empty."""
    if (path / manifest.FILE).exists():
        return [path]
    runs = [*(path / COLUMNS).glob(f"*/{manifest.FILE}")] or path.glob(f"*/{manifest.FILE}")
    return sorted(file.parent for file in runs)


def find_columns(path: Path) -> list[Path]:
    """The columns that a path refers to: itself, or all columns of a label run or of a folder of columns.

    Raises:
      UserError: there are none.
    """
    folders = _holds(path)
    if not folders:
        raise UserError(f"there is no label column in {path}; name the folder of a column or of a label run")
    return folders
