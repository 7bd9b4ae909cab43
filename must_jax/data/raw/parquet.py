"""Parquet files in the layout of Hugging Face datasets: images as bytes, or as structs of `bytes` and `path`."""

from __future__ import annotations

import bisect
import contextlib
import functools
import hashlib
import itertools
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from must_jax.data import folders
from must_jax.data.raw.base import Item, find_files
from must_jax.errors import UserError, nearest
from must_jax.progress import Progress

_BY_PAGES = {"pre_buffer": False, "buffer_size": 2**20}  # else whole row groups are read, hundreds of images
_BATCH_ROWS = 4


class _Contents(NamedTuple):
    """Of each file, the rows in it and before it; whether every row has a path of its own; columns beside them."""

    ends: list[int]
    has_paths: bool
    others: list[str]


class Parquet:
    """See RawImages. Rows without bytes are counted as images that cannot be read.

    Names are the paths beside the bytes, which labels know, if every row has one of its own; else "FILE/ROW".
    """

    skipped: tuple[tuple[str, str], ...] = ()
    others = 0

    def __init__(self, spec: str, pattern: str, column: str) -> None:
        self._spec, self._column = spec, column
        self._files = find_files(spec, pattern, (".parquet",))
        self.digest = folders.digest((file.name, file.size_bytes) for file in self._files)
        self.size_bytes = sum(file.size_bytes for file in self._files)

    @property
    def unread(self) -> list[str]:
        return self._contents.others

    @property
    def named_by(self) -> Literal["", "path"]:
        return "path" if self._contents.has_paths else ""

    def __len__(self) -> int:
        return self._contents.ends[-1]

    def items(self, positions: range) -> Iterator[Item]:
        ends, has_paths, _ = self._contents
        number = bisect.bisect_right(ends, positions.start)
        while number < len(ends) and (start := ends[number - 1] if number else 0) < positions.stop:
            file = self._files[number]
            rows = range(max(positions.start, start) - start, min(positions.stop, ends[number]) - start)
            for row, (data, path) in zip(rows, self._values(file.path, rows) if rows else (), strict=True):
                name = _name(path) if has_paths else f"{file.name}/{row}"
                yield Item(name, len(data or b""), functools.partial(_bytes, data))
            number += 1

    @functools.cached_property
    def _contents(self) -> _Contents:
        """All files have been found to have a column of images."""
        counts: list[int] = []
        others: set[str] = set()
        digests: list[np.ndarray] = []  # of the files up to the first one whose rows do not all have a path
        with Progress(f"listing {self._spec}", total=len(self._files), unit="files") as progress:
            for file in self._files:
                with _opened(file.path) as table:
                    column = _image_column(file.path, table.schema_arrow, self._column)
                    found = _path_digests(table, column) if len(digests) == len(counts) else None
                    digests += [] if found is None else [found]
                    others |= {*table.schema_arrow.names} - {column.name}
                    counts.append(table.metadata.num_rows)
                progress.advance()
        distinct = len(np.unique(np.concatenate(digests))) if len(digests) == len(counts) else 0
        return _Contents(list(itertools.accumulate(counts)), distinct == sum(counts), sorted(others))

    def _values(self, path: Path, rows: range) -> Iterator[tuple[bytes | None, bytes | None]]:
        """The images in these rows, and their paths if these are names; few are in memory at a time."""
        fields = ["bytes", "path"] if self._contents.has_paths else ["bytes"]
        with _opened(path) as table:
            column = _image_column(path, table.schema_arrow, self._column)
            counts = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
            ends = list(itertools.accumulate(counts))
            first = bisect.bisect_right(ends, rows.start)
            groups = range(first, bisect.bisect_left(ends, rows.stop) + 1)
            is_struct = pa.types.is_struct(column.type)
            columns = [f"{column.name}.{field}" for field in fields] if is_struct else [column.name]
            arrays = (batch.column(0) for batch in table.iter_batches(_BATCH_ROWS, groups, columns=columns))
            values = (
                (value.as_py(), path)
                for array in arrays
                for value, path in zip(
                    pc.struct_field(array, "bytes") if is_struct else array,
                    _paths(array) if self._contents.has_paths else itertools.repeat(None),
                    strict=False,  # the latter may be endless
                )
            )
            start = ends[first - 1] if first else 0
            yield from itertools.islice(values, rows.start - start, rows.stop - start)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with pq.ParquetFile(path, **_BY_PAGES) as table:
            yield table
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is no Parquet file, or a damaged one ({reason}); replace it") from None


def _image_column(path: Path, schema: pa.Schema, wanted: str) -> pa.Field:
    if wanted and wanted not in schema.names:
        raise UserError(f"{path} has no column '{wanted}' (config.image_column); {nearest(wanted, schema.names)}")
    if wanted and not _holds_bytes(schema.field(wanted).type):
        raise UserError(
            f"column '{wanted}' of {path} holds {schema.field(wanted).type}, but images are binary, or a struct with "
            f"binary 'bytes'; its columns are {', '.join(schema.names)}"
        )
    found = [wanted] if wanted else [field.name for field in schema if _holds_bytes(field.type)]
    if not found:
        raise UserError(
            f"{path} has no column of images (binary, or a struct with binary 'bytes'); its columns are "
            f"{', '.join(schema.names)}"
        )
    if len(found) > 1:
        raise UserError(f"{path} has several columns of bytes, {', '.join(found)}; choose with config.image_column")
    return schema.field(found[0])


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _path_digests(table: Any, column: pa.Field) -> np.ndarray | None:
    """u64[rows], of the names by path: 8 bytes each. None where there is no path, or some rows have none."""
    if not pa.types.is_struct(column.type) or not any(
        field.name == "path" and (pa.types.is_string(field.type) or pa.types.is_large_string(field.type))
        for field in column.type
    ):
        return None
    digests = []
    for batch in table.iter_batches(columns=[f"{column.name}.path"]):
        for path in _paths(batch.column(0)):
            if not (name := _name(path)):
                return None
            digests.append(hashlib.blake2b(name.encode(), digest_size=8).digest())
    return np.frombuffer(b"".join(digests), np.uint64)


def _paths(structs: pa.Array) -> list[bytes | None]:
    return pc.struct_field(structs, "path").cast(pa.large_binary()).to_pylist()  # text need not be UTF-8


def _name(path: bytes | None) -> str:
    """A path as a name: relative and printable; "" where it names nothing."""
    name = posixpath.normpath((path or b"").decode(errors="backslashreplace")).lstrip("/")
    return "" if name in (".", "..") else name


def _bytes(data: bytes | None) -> bytes:
    if data is None:
        raise UserError("the row holds no bytes")
    return data
