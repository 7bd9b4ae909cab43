"""Verifies that a column matches its manifest, byte for byte and label for label."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from must_jax import files
from must_jax.cores import cores
from must_jax.data.datasets import count_records
from must_jax.data.image_sets import ImageSet
from must_jax.data.known import UNSETTLED, Known, key_of
from must_jax.data.records import Records
from must_jax.errors import UserError
from must_jax.labels import manifest
from must_jax.labels.columns import labelled_images, read_records
from must_jax.labels.manifest import Manifest, ShardRecord
from must_jax.labels.writer import dataset_files
from must_jax.progress import Progress, say

_MOST_NAMED = 20  # damaged shards
_SHOWN_MB = 200  # less takes no time
_RERUN = "rerun the stage that wrote it"
_AGAIN = f"delete the file and {_RERUN}"
_ANEW = f"delete the column's folder and {_RERUN}"


Described = tuple[Path, Manifest]  # a column's folder and its manifest


def damage(folder: Path, column: Manifest) -> list[str]:
    """The problems with a column's files, one sentence each, naming the file; empty if there are none.

    Checks the manifest against its own checksum, each shard against its size, sha256 and number of records, the TFDS
    files against what they should say, and every label against its kind and class list.
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
        with Progress(f"reading {folder}", sum(_mb(shard) for shard in column.shards), "MB", at_once=True) as progress:
            for shard, why in zip(column.shards, differences, strict=True):
                found += [f"{folder / shard.file} {why}"] if why else []
                progress.advance(_mb(shard))
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
        with Progress(f"checking {folder}", column.images.length, at_once=True) as progress:
            for positions, problems in zip(ranges, pool.map(unreadable, ranges), strict=True):
                found += problems
                progress.advance(len(positions))
    return found


def check_unchanged(shards: Iterable[tuple[Path, ShardRecord]], share: tuple[int, int] = (0, 1)) -> None:
    """The quick part of `damage`, for the start of training: reads every byte that has not been read since it changed.

    Args:
      share: number of this process, and of processes that share the work on the same files.

    Raises:
      UserError: some were changed or damaged since they were written.
    """
    by_folder: dict[Path, list[ShardRecord]] = {}
    for folder, shard in shards:
        by_folder.setdefault(folder, []).append(shard)
    found = [problem for folder, records in by_folder.items() for problem in _changed(folder, records, share)]
    if found:
        for other in found[1:_MOST_NAMED]:
            say(f"damaged as well: {other}")
        raise UserError(f"{found[0]} (damaged shards in all: {len(found)})")


def state(shards: Iterable[tuple[Path, ShardRecord]]) -> str:
    """Differs between hosts that do not see the very same files; reads none of them."""
    text = hashlib.sha256()
    for folder, shard in shards:
        with contextlib.suppress(OSError):
            file = (folder / shard.file).stat()
            text.update(f"{shard.file} {file.st_size} {file.st_mtime_ns} {file.st_ctime_ns} {file.st_ino}\n".encode())
    return text.hexdigest()


def _changed(folder: Path, records: Sequence[ShardRecord], share: tuple[int, int]) -> list[str]:
    """The problems with this process's share of the shards in a folder."""
    known, now_ns = Known(folder), time.time_ns()
    keys = np.array([_key(folder, shard, now_ns) for shard in records], np.uint64)
    is_known, _, _ = known.look_up(keys)
    unread = [index for index in range(share[0], len(records), share[1]) if not is_known[index]]
    total_mb, found = sum(_mb(records[index]) for index in unread), []
    with contextlib.ExitStack() as stack:
        stack.callback(known.save, keys)
        progress = Progress(f"verifying {folder}", total_mb, "MB", at_once=True)
        if total_mb >= _SHOWN_MB:
            stack.enter_context(progress)
        pool = stack.enter_context(ThreadPoolExecutor(cores()))
        for index, why in zip(unread, pool.map(lambda index: _differs(folder, records[index]), unread), strict=True):
            if why:
                found.append(f"{folder / records[index].file} {why}")
            else:
                known.add(int(keys[index]))
            if total_mb >= _SHOWN_MB:
                progress.advance(_mb(records[index]))
    return found


def _key(folder: Path, shard: ShardRecord, now_ns: int) -> int:
    """Changes with the file, and with what it should hold."""
    name = f"{shard.file} {shard.sha256} {shard.count} {shard.summary.images}"
    try:
        return key_of(name, (folder / shard.file).stat(), now_ns)
    except OSError:
        return UNSETTLED


def _mb(shard: ShardRecord) -> float:
    return shard.bytes / 1e6


def other_images(folder: Path, column: Manifest, images: ImageSet) -> Iterator[str]:
    """The reasons why a column does not belong to these images in this order, one sentence each."""
    try:
        labelled = labelled_images(folder, column, images)
    except UserError as error:
        yield str(error)
        return
    for index, shard in enumerate(column.shards):
        names = hashlib.sha256()
        for position in column.shard_range(index):
            names.update(f"{labelled.record(position)['name']}\n".encode(errors="surrogateescape"))
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


def _unreadable(column: Manifest, records: Records, position: int) -> str:
    """Why the label of an image cannot be read, or ""."""
    try:
        column.label_kind.decode(records[position], len(column.classes))
    except Exception as error:
        return f"has a label of image {position} that cannot be read: {error}"
    return ""
