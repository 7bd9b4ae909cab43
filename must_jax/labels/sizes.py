"""The disk space that a column will need."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader

from must_jax.data import shards
from must_jax.data.kinds import LabelKind
from must_jax.labels.manifest import Manifest

_RECORD = 640  # bytes: field names and framing of one record, headers and tables of its pictures
_SHARD = 3 * 2**16  # overhead of a file: each of its own parts starts a block of 64 KiB


def most_bytes(kind: LabelKind, map_hw: tuple[int, int], images: int, shard_images: int) -> int:
    """An upper estimate for all shards of a column: its codes before compression."""
    return images * (_RECORD + kind.most_bytes(map_hw)) + math.ceil(images / shard_images) * _SHARD


def stored_records(folder: Path, description: Manifest) -> list[bytes]:
    """The records of a column whose shards are all written, whether or not it is finalised."""
    files = [folder / description.shard_file(index) for index in range(description.shard_count)]
    return [record for file in files for record in ArrayRecordReader(str(file)).read_all()]


def column_bytes(sample: Sequence[bytes], images: int, shard_images: int, folder: Path) -> int:
    """The size of all shards of a column whose records are like those of a sample.

    A file is cut into blocks of 64 KiB, which is more than small labels need themselves. So a shard of each size is
    written, by repeating the sample, and measured; `folder` holds it in the meantime.
    """
    whole, rest = divmod(images, shard_images)
    return sum(
        times * _shard_bytes(sample, count, folder)
        for times, count in ((whole, shard_images), (1, rest))
        if times * count
    )


def _shard_bytes(sample: Sequence[bytes], count: int, folder: Path) -> int:
    path = folder / "shard"
    with shards.committed(path) as write:
        for record in itertools.islice(itertools.cycle(sample), count):
            write(record)
    size = path.stat().st_size
    path.unlink()
    return size
