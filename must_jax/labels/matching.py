"""Writing a column of true labels, image by image, matched by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from must_jax.cores import cores
from must_jax.data.decoding import ImageShape, image_shape
from must_jax.data.image_sets import ImageSet
from must_jax.data.kinds import Label
from must_jax.data.kinds.statistics import Statistics
from must_jax.errors import UserError
from must_jax.files import taken
from must_jax.labels import manifest
from must_jax.labels.formats.base import Annotations, Photo
from must_jax.labels.formats.refusals import MOST_NAMED, refusal
from must_jax.labels.manifest import Manifest, SourceRecord
from must_jax.labels.writer import ColumnWriter, Encoded
from must_jax.progress import Progress

_READ_TOGETHER = 64  # labels
_ABSENT: Label = {"present": np.float32(0)}
_PART = 16  # labels per task of a thread


class Photos:
    """The images of a set: their names, and their shapes in 12 bytes each. Every image is read once, here.

    Args:
      shapes: whether to find the shapes as well, which requires reading the images; names may not.
    """

    def __init__(self, images: ImageSet, *, shapes: bool) -> None:
        def look(index: int) -> tuple[str, ImageShape | None]:
            if not shapes:
                return images.name_of(index), None
            record = images.record(index)
            return record["name"], image_shape(record["image"])

        self.names: list[str] = []
        self._shapes = np.zeros((len(images), 3), np.int32)
        with (
            Progress(f"reading the names of {images.name}", len(images)) as progress,
            ThreadPoolExecutor(cores()) as pool,
        ):
            for together in _chunks(range(len(images))):
                for index, (name, shape) in zip(together, pool.map(look, together), strict=True):
                    self.names.append(name)
                    self._shapes[index] = shape or 0
                progress.advance(len(together))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Photo:
        height, width, orientation = self._shapes[index].tolist()
        return Photo(self.names[index], ImageShape(height, width, orientation) if height else None)


def is_finished(folder: Path, images: ImageSet, source: SourceRecord) -> bool:
    """Whether the column exists, is complete, and was made from these annotations for these images.

    Raises:
      UserError: there is a column of other annotations, options or images, finished or not.
    """
    if not (folder / manifest.FILE).exists():
        return False
    column = manifest.read(folder)
    if column.source is None:
        raise UserError(f"{folder} holds labels of a teacher; delete it, or import true labels to another folder")
    if (column.images.digest, column.images.length) != (images.digest, len(images)):
        raise UserError(f"{folder} labels an earlier state of {column.images.name}; delete it to start over")
    made, wanted = (each.model_dump(include={"format", "options", "digest"}) for each in (column.source, source))
    if made != wanted:
        what = "options" if made["digest"] == wanted["digest"] else "annotations"
        raise UserError(
            f"{folder} was made from other {what} than those now in {source.path or images.name} ({source.format}); "
            "delete it to import them again"
        )
    return manifest.is_whole(folder)


def check(description: Manifest, photos: Photos, annotations: Annotations) -> Statistics:
    """Reads all labels. Returns their statistics.

    Raises:
      UserError: files, or all of them together, contradict what was declared.
    """

    def part(positions: Sequence[int]) -> tuple[Statistics, list[str]]:
        statistics, refused = Statistics(len(description.classes)), []
        for position in positions:
            try:
                label = annotations.label(photos[position])
            except UserError as error:
                refused.append(str(error))
            else:
                annotations.kind.count(_ABSENT if label is None else label, position, statistics)
        return statistics, refused

    total, refused, of = Statistics(len(description.classes)), [], ""
    what = f"checking {description.task} labels of {description.images.name}"
    with Progress(what, len(photos)) as progress, ThreadPoolExecutor(cores()) as pool:
        for together in _chunks(range(len(photos))):
            parts = [together[start : start + _PART] for start in range(0, len(together), _PART)]
            for statistics, problems in pool.map(part, parts):
                total.merge(statistics)
                refused += problems
            progress.advance(len(together))
            if len(refused) > MOST_NAMED and together.stop < len(photos):
                of = f" of the first {together.stop:,}"
                break
    annotations.review(total)
    if refused:
        raise refusal(refused, of=of)
    return total


def write(folder: Path, description: Manifest, photos: Photos, annotations: Annotations) -> Manifest:
    """Writes the missing shards from checked labels. Images without a label become absent, with the reason.

    Returns:
      The manifest of the finished column.

    Raises:
      UserError: another process is working there.
    """

    def encoded(index: int) -> Encoded | None:
        label = annotations.label(photos[index])
        return None if label is None else writer.encode(label)

    what = f"{description.task} labels of {description.images.name}"
    with taken(folder, "wait for it"), ThreadPoolExecutor(cores()) as pool:
        writer = ColumnWriter(folder, description)
        ranges = {shard: writer.manifest.shard_range(shard) for shard in writer.missing()}
        done = len(photos) - sum(map(len, ranges.values()))
        with Progress(f"importing {what}", len(photos), start=done) as progress:
            for index, positions in ranges.items():
                with writer.shard(index) as shard:
                    for together in _chunks(positions):
                        for position, label in zip(together, pool.map(encoded, together), strict=True):
                            if label is None:
                                shard.skip(photos.names[position], f"not in the {description.maker} labels")
                            else:
                                shard.add_encoded(photos.names[position], label)
                        progress.advance(len(together))
        writer.finish()
    return writer.manifest


def _chunks(positions: range) -> Iterator[range]:
    return (positions[start : start + _READ_TOGETHER] for start in range(0, len(positions), _READ_TOGETHER))
