"""Reading a column: random access to the labels of an image set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from must_jax.data import encodings
from must_jax.data.image_sets import ImageSet
from must_jax.errors import UserError
from must_jax.labels import manifest
from must_jax.labels.manifest import Manifest

NAMES_LISTED = 5


class LabelColumn:
    """One teacher's labels of one task, in the order of their image set.

    Attributes:
      task, kind, classes: what the labels are.
      teacher: its record in the manifest, with `learning_rate` and `batch_size`; None for true labels.

    Raises:
      UserError: no column there, one that is not complete, a damaged manifest, a missing or truncated shard.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = manifest.read(self.folder)
        self.task, self.kind, self.classes = self.manifest.task, self.manifest.label_kind, self.manifest.classes
        teacher = self.manifest.teacher
        self.teacher: dict[str, Any] | None = teacher.model_dump() if teacher else None
        _check_whole(self.folder, self.manifest)
        builder = tfds.builder_from_directory(self.folder)
        self._records = encodings.Records(builder, "train", list(encodings.features(self.kind)))

    def __len__(self) -> int:
        return self.manifest.images.length

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return encodings.decode(self.kind, self._records[index], len(self.classes))


def open_column(folder: str | Path, images: ImageSet) -> LabelColumn:
    """A column to be read beside `images`, which may be only the first ones of those it labels (`take`).

    Raises:
      UserError: as `LabelColumn`, and a column of another image set, or of fewer images.
    """
    column = LabelColumn(folder)
    labelled = column.manifest.images
    if labelled.length < len(images):
        raise UserError(
            f"{folder} labels {labelled.length} images of {labelled.name}, but {images.name} has {len(images)}; "
            "read it with the image set that it was made for, or with take"
        )
    if labelled.digest != images.digest:
        raise UserError(
            f"{folder} labels {labelled.name}, not {images.name} as it is now; label this one, or read the other"
        )
    return column


def _check_whole(folder: Path, description: Manifest) -> None:
    if missing := description.missing(folder):
        names = ", ".join(description.shard_file(index) for index in missing[:NAMES_LISTED])
        if description.complete:
            raise UserError(
                f"{folder} has lost labels, these files are missing or truncated: {names}; rerun the label stage"
            )
        done = description.shard_count - len(missing)
        raise UserError(
            f"{folder} is not finished, {done} of {description.shard_count} shards are written; rerun the label stage"
        )
    if description.complete and description.checksum != description.compute_checksum():
        raise UserError(f"{folder / manifest.FILE} was changed after the labels were written; rerun the label stage")
    if not description.complete:
        raise UserError(f"{folder} is not finished, only its last step is missing; rerun the label stage")
