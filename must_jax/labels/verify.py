"""Verifies that a column matches its manifest, byte for byte and label for label."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from must_jax import files
from must_jax.cores import cores
from must_jax.data import encodings
from must_jax.data.datasets import count_records
from must_jax.data.image_sets import ImageSet
from must_jax.errors import UserError
from must_jax.labels import manifest
from must_jax.labels.columns import read_records
from must_jax.labels.manifest import Manifest, ShardRecord
from must_jax.labels.writer import dataset_files
from must_jax.progress import say

_MOST_NAMED = 20  # damaged shards
_RERUN = "rerun the stage that wrote it"
_AGAIN = f"delete the file and {_RERUN}"
_ANEW = f"delete the column's folder and {_RERUN}"


Described = tuple[Path, Manifest]  # a column's folder and its manifest


def damage(folder: Path, column: Manifest, advance: Callable[[int], None] = lambda images: None) -> list[str]:
    """The problems with a column's files, one sentence each, naming the file; empty if there are none.

    Checks the manifest against its own checksum, each shard against its size, sha256 and number of records, the TFDS
    files against what they should say, and every label against its kind and class list.

    Args:
      advance: called for each shard whose labels have been checked, with the number of its images.
    """
    if not column.complete:
        return [f"{folder} is not finished; {_RERUN}"]
    found = []
    if not manifest.is_as_written(folder):
        found.append(f"{folder / manifest.FILE} was changed after the column was written; {_ANEW}")
    wanted = [(column.shard_file(index), len(column.shard_range(index))) for index in column.indices]
    if [(shard.file, shard.count) for shard in column.shards] != wanted:
        return [*found, f"{folder / manifest.FILE} does not list the shards of {column.images.length} images; {_ANEW}"]
    for name, text in dataset_files(column, folder).items():
        if not (folder / name).is_file():
            found.append(f"{folder / name} is missing; {_RERUN}")
        elif (folder / name).read_bytes() != text.encode():
            found.append(f"{folder / name} was changed, TFDS would read other labels; {_AGAIN}")
    with ThreadPoolExecutor(cores()) as pool:
        differences = pool.map(functools.partial(_differs, folder), column.shards)
        for shard, why in zip(column.shards, differences, strict=True):
            found += [f"{folder / shard.file} {why}"] if why else []
        if found:
            return found
        try:
            records = read_records(folder, column)
        except UserError as error:
            return [str(error)]

        def unreadable(positions: range) -> list[str]:
            path = folder / column.shard_file(positions.start // column.shard_images)
            return [f"{path} {why}; {_AGAIN}" for i in positions if (why := _unreadable(column, records, i))]

        ranges = [column.shard_range(index) for index in column.indices]
        for positions, problems in zip(ranges, pool.map(unreadable, ranges), strict=True):
            found += problems
            advance(len(positions))
    return found


def check_unchanged(shards: Iterable[tuple[Path, ShardRecord]]) -> None:
    """The quick part of `damage`, for the start of training: reads every byte of these shards in their folders.

    Raises:
      UserError: some were changed or damaged since they were written.
    """
    given = list(shards)
    with ThreadPoolExecutor(cores()) as pool:
        problems = pool.map(lambda each: _differs(*each), given)
        found = [f"{folder / shard.file} {why}" for (folder, shard), why in zip(given, problems, strict=True) if why]
    if found:
        for other in found[1:_MOST_NAMED]:
            say(f"damaged as well: {other}")
        raise UserError(f"{found[0]} (damaged shards in all: {len(found)})")


def other_images(folder: Path, column: Manifest, images: ImageSet) -> Iterator[str]:
    """The reasons why a column does not belong to these images in this order, one sentence each."""
    if images.digest != column.images.digest:
        yield (
            f"{folder} labels different images ({column.images.name}) from those that {images.name} has now; "
            f"{column.anew}"
        )
    if len(images) > column.images.length:
        yield f"{folder} labels {column.images.length} images, but {images.name} has {len(images)}; {column.anew}"
        return
    for index, shard in enumerate(column.shards):
        positions, names = column.shard_range(index), hashlib.sha256()
        if positions.stop > len(images):  # only the first images are to be checked
            return
        for position in positions:
            names.update(f"{images.record(position)['name']}\n".encode(errors="surrogateescape"))
        if names.hexdigest() != shard.names:
            yield f"{folder / shard.file} labels other images, or in another order, than {images.name}"


def disagreements(columns: Sequence[Described]) -> Iterator[str]:
    """The contradictions between columns that are to be read together: image sets, class lists, units."""
    for index, (folder, column) in enumerate(columns):
        for other_folder, other in columns[:index]:
            if column.images.digest != other.images.digest:
                yield f"{folder} and {other_folder} label different images ({column.images.name}, {other.images.name})"
            if column.task == other.task and column.classes != other.classes:
                yield f"{folder} and {other_folder} have different class lists of task {column.task}"
            if column.task == other.task and column.unit != other.unit:
                yield f"{folder} and {other_folder} have different units, '{column.unit}' and '{other.unit}'"


def _differs(folder: Path, shard: ShardRecord) -> str:
    """Why the shard's file is not what was written, and what to do; or ""."""
    path = folder / shard.file
    if not path.is_file():
        return f"is missing; {_RERUN}"
    if (size := path.stat().st_size) != shard.bytes:
        return f"has {size} bytes instead of {shard.bytes}; {_AGAIN}"
    if files.sha256(path) != shard.sha256:
        return f"has other bytes than were written (sha256 differs); {_AGAIN}"
    count = count_records(path)
    if count == shard.count == shard.summary.images:
        return ""
    if isinstance(count, str):
        return f"{count}; {_AGAIN}"
    return f"holds {count} labels instead of {shard.count}; {_AGAIN}"


def _unreadable(column: Manifest, records: encodings.Records, position: int) -> str:
    """Why the label of an image cannot be read, or ""."""
    try:
        encodings.decode(column.label_kind, records[position], len(column.classes))
    except Exception as error:
        return f"has a label of image {position} that cannot be read: {error}"
    return ""
