"""Parquet files in the layout of Hugging Face datasets."""

from __future__ import annotations

import bisect
import contextlib
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from must_jax.data import folders
from must_jax.data.raw.base import Item, find_files
from must_jax.errors import UserError, nearest
from must_jax.progress import Progress

_BY_PAGES = {"pre_buffer": False, "buffer_size": 2**20}  # else whole row groups are read, hundreds of images
_BATCH_ROWS = 4


class Parquet:
    """See RawImages; names are "FILE/ROW". Rows without bytes are counted as images that cannot be read."""

    skipped: tuple[tuple[str, str], ...] = ()
    others = 0

    def __init__(self, spec: str, pattern: str, column: str) -> None:
        self._spec, self._column = spec, column
        self._files = find_files(spec, pattern, (".parquet",))
        self.digest = folders.digest((file.name, file.size_bytes) for file in self._files)
        self.size_bytes = sum(file.size_bytes for file in self._files)

    def __len__(self) -> int:
        return self._ends[-1]

    def items(self, positions: range) -> Iterator[Item]:
        number = bisect.bisect_right(self._ends, positions.start)
        while number < len(self._ends) and (start := self._ends[number - 1] if number else 0) < positions.stop:
            file = self._files[number]
            rows = range(max(positions.start, start) - start, min(positions.stop, self._ends[number]) - start)
            for row, data in zip(rows, self._values(file.path, rows) if rows else (), strict=True):
                yield Item(f"{file.name}/{row}", len(data or b""), functools.partial(_bytes, data))
            number += 1

    @functools.cached_property
    def _ends(self) -> list[int]:
        """Of each file, the rows in it and before it; all have been found to have a column of images."""
        counts = []
        with Progress(f"listing {self._spec}", total=len(self._files), unit="files") as progress:
            for file in self._files:
                with _opened(file.path) as table:
                    _image_column(file.path, table.schema_arrow, self._column)
                    counts.append(table.metadata.num_rows)
                progress.advance()
        return list(itertools.accumulate(counts))

    def _values(self, path: Path, rows: range) -> Iterator[bytes | None]:
        """The bytes in these rows, of which few are in memory at a time."""
        with _opened(path) as table:
            column = _image_column(path, table.schema_arrow, self._column)
            counts = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
            ends = list(itertools.accumulate(counts))
            first = bisect.bisect_right(ends, rows.start)
            groups = range(first, bisect.bisect_left(ends, rows.stop) + 1)
            is_struct = pa.types.is_struct(column.type)
            batches = table.iter_batches(
                _BATCH_ROWS, groups, columns=[f"{column.name}.bytes" if is_struct else column.name]
            )
            arrays = (batch.column(0) for batch in batches)
            values = (
                value.as_py() for array in arrays for value in (pc.struct_field(array, "bytes") if is_struct else array)
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


def _bytes(data: bytes | None) -> bytes:
    if data is None:
        raise UserError("the row holds no bytes")
    return data
