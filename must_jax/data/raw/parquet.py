"""Parquet files in the layout of Hugging Face datasets: images as bytes, or as structs of `bytes` and `path`."""

from __future__ import annotations

import bisect
import contextlib
import functools
import hashlib
import itertools
import posixpath
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from must_jax.data import folders
from must_jax.data.folders import LeftOut
from must_jax.data.raw.base import Item, find_files
from must_jax.errors import UserError, nearest
from must_jax.progress import Progress

_BY_PAGES = {"pre_buffer": False, "buffer_size": 2**20}  # else whole row groups are read, hundreds of images
_BATCH_ROWS = 4
_READ = "binary, or a struct with binary 'bytes'"
_BYTES = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
)
_BASE64 = ("data:image", "/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "SUkq", "TU0AK", "Qk0")  # how images begin


class _Contents(NamedTuple):
    """For each file, the number of rows up to its end; whether every image has its own path; the other columns."""

    ends: list[int]
    has_paths: bool
    others: list[str]


class Parquet:
    """See RawImages. Rows without bytes are counted as images that cannot be read.

    Names are the paths beside the bytes, which labels refer to, if every row has its own path, apart from rows that
    hold nothing at all; else "FILE/ROW".
    """

    skipped: tuple[tuple[str, str], ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    others = 0
    images_are = "images are rows, and its files have none"

    def __init__(self, spec: str, pattern: str, column: str) -> None:
        self._spec, self._column = spec, column
        self._files = find_files(spec, pattern, (".parquet",))
        self.digest = folders.digest((file.name, file.size_bytes) for file in self._files)
        self.size_bytes = sum(file.size_bytes for file in self._files)

    @property
    def unread(self) -> list[str]:
        return self._contents.others

    @property
    def called(self) -> str:
        if self._contents.has_paths:
            return ""
        first = next(file.name for file, end in zip(self._files, self._contents.ends, strict=True) if end)
        return (
            f"not every row has a path of its own, so images, and their labels, are called by file and row: '{first}/0'"
        )

    @property
    def named_by(self) -> Literal["", "path"]:
        return "path" if self._contents.has_paths else ""

    def names(self) -> None:
        return None

    def __len__(self) -> int:
        return self._contents.ends[-1]

    def items(self, positions: range) -> Iterator[Item]:
        ends, has_paths, _ = self._contents
        number = bisect.bisect_right(ends, positions.start)
        while number < len(ends) and (start := ends[number - 1] if number else 0) < positions.stop:
            file = self._files[number]
            rows = range(max(positions.start, start) - start, min(positions.stop, ends[number]) - start)
            for row, (data, path) in zip(rows, self._values(file.path, rows) if rows else (), strict=True):
                name = (has_paths and _name(path)) or f"{file.name}/{row}"
                yield Item(name, len(data or b""), functools.partial(_bytes, data, path), f"{file.name}/{row}")
            number += 1

    @functools.cached_property
    def _contents(self) -> _Contents:
        """Lists all files, and checks that each has a column of images."""
        counts: list[int] = []
        others: set[str] = set()
        with_bytes, example = 0, ""
        digests: list[np.ndarray] = []  # of the files up to the first one whose rows do not all have a path
        with Progress(f"listing {self._spec}", total=len(self._files), unit="files") as progress:
            for file in self._files:
                with _opened(file.path) as table:
                    column = _image_column(file.path, table, self._column)
                    found = _path_digests(table, column) if len(digests) == len(counts) else None
                    digests += [] if found is None else [found]
                    others |= {*table.schema_arrow.names} - {column.name}
                    counts.append(table.metadata.num_rows)
                    with_bytes += counts[-1] - _nulls(table, column)
                    example = example or _first_path(table, column)
                progress.advance()
        if not with_bytes and example:
            raise UserError(
                f"images='{self._spec}': the rows hold paths alone, '{example}' for instance, and no bytes; embed the "
                "files when the Parquet files are written, or give the folder with the files"
            )
        paths = np.concatenate(digests) if digests and len(digests) == len(counts) else np.zeros(0, np.uint64)
        has_paths = 0 < len(np.unique(paths)) == len(paths)
        return _Contents(list(itertools.accumulate(counts)), has_paths, sorted(others))

    def _values(self, path: Path, rows: range) -> Iterator[tuple[bytes | None, bytes | None]]:
        """The images in these rows, and their paths; few are in memory at a time."""
        with _opened(path) as table:
            column = _image_column(path, table, self._column)
            counts = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
            ends = list(itertools.accumulate(counts))
            first = bisect.bisect_right(ends, rows.start)
            groups = range(first, bisect.bisect_left(ends, rows.stop) + 1)
            fields = [f"{column.name}.{field}" for field in _fields(column.type)] or [column.name]
            arrays = (batch.column(0) for batch in table.iter_batches(_BATCH_ROWS, groups, columns=fields))
            values = itertools.chain.from_iterable(zip(_images(array), _paths(array), strict=True) for array in arrays)
            start = ends[first - 1] if first else 0
            yield from itertools.islice(values, rows.start - start, rows.stop - start)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with pq.ParquetFile(path, **_BY_PAGES) as table:
            yield table
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a Parquet file, or is damaged ({reason}); replace it") from None


def _image_column(path: Path, table: Any, wanted: str) -> pa.Field:
    schema = table.schema_arrow
    if twice := [name for name in schema.names if schema.names.count(name) > 1]:
        raise UserError(f"{path} has several columns called '{twice[0]}'; write it with another name for each")
    if wanted and wanted not in schema.names:
        raise UserError(f"{path} has no column '{wanted}' (config.image_column); {nearest(wanted, schema.names)}")
    if wanted and not _holds_bytes(schema.field(wanted).type):
        raise UserError(
            f"column '{wanted}' of {path} is {schema.field(wanted).type}, but images are {_READ}"
            f"{_looks_like(table, [schema.field(wanted)])}; its columns are {', '.join(schema.names)}"
        )
    found = [wanted] if wanted else [field.name for field in schema if _holds_bytes(field.type)]
    # Bytes of one width for all rows are checksums rather than images, if there is another column.
    found = [name for name in found if not pa.types.is_fixed_size_binary(schema.field(name).type)] or found
    if not found:
        types = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise UserError(
            f"{path} has no column of images ({_READ}){_looks_like(table, schema)}; its columns are {types}"
        )
    if len(found) > 1:
        raise UserError(f"{path} has several columns of bytes, {', '.join(found)}; choose with config.image_column")
    return schema.field(found[0])


def _looks_like(table: Any, fields: Iterable[pa.Field]) -> str:
    """What a column that is not read may hold, and what to do about it; "" = nothing known."""
    for field in fields:
        if _is_list(field.type) and _holds_bytes(field.type.value_type):
            return f"; '{field.name}' holds lists of them, which are not read: write one row per image"
        if _is_text(field.type):
            first = next((value for batch in _batches(table, field) for value in batch if value), "")
            if first.startswith(_BASE64):
                return (
                    f"; '{field.name}' holds images as text in base64, which is not read: write their bytes as binary"
                )
            if folders.is_image(first):
                return f"; '{field.name}' holds paths ('{first}'), which are not read: write the files' bytes as binary"
    return ""


def _batches(table: Any, field: pa.Field) -> Iterator[list[str]]:
    return (batch.column(0).to_pylist() for batch in table.iter_batches(_BATCH_ROWS, columns=[field.name]))


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return any(is_kind(kind) for is_kind in _BYTES)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _fields(kind: pa.DataType) -> list[str]:
    """The fields of a struct that are read: the bytes, and the path if it is text."""
    if not pa.types.is_struct(kind):
        return []
    return ["bytes", *(field.name for field in kind if field.name == "path" and _is_text(field.type))]


def _nulls(table: Any, column: pa.Field) -> int:
    """Rows without bytes, as far as the file's statistics say."""
    leaf = ".".join([column.name, *_fields(column.type)[:1]])
    number = [table.schema.column(each).path for each in range(len(table.schema))].index(leaf)
    groups = (table.metadata.row_group(each).column(number) for each in range(table.num_row_groups))
    statistics = [group.statistics for group in groups if group.is_stats_set]
    return sum(each.null_count for each in statistics if each.has_null_count)


def _first_path(table: Any, column: pa.Field) -> str:
    if "path" not in _fields(column.type):
        return ""
    batches = table.iter_batches(_BATCH_ROWS, columns=[f"{column.name}.path"])
    return next((_name(path) for batch in batches for path in _paths(batch.column(0)) if path), "")


def _path_digests(table: Any, column: pa.Field) -> np.ndarray | None:
    """u64[rows with a path]: digests of the names that paths give. None if images have no path, or some have none."""
    if "path" not in _fields(column.type):
        return None
    digests = []
    for batch in table.iter_batches(columns=[f"{column.name}.path"]):
        structs = batch.column(0)
        for path, holds_nothing in zip(_paths(structs), structs.is_null(), strict=True):
            if name := _name(path):
                digests.append(hashlib.blake2b(name.encode(), digest_size=8).digest())
            elif not holds_nothing.as_py():
                return None
    return np.frombuffer(b"".join(digests), np.uint64)


def _images(array: pa.Array) -> Iterator[bytes | None]:
    values = pc.struct_field(array, "bytes") if pa.types.is_struct(array.type) else array
    return (value.as_py() for value in values)


def _paths(array: pa.Array) -> list[bytes | None]:
    if "path" not in _fields(array.type):
        return [None] * len(array)
    paths = pc.struct_field(array, "path")
    if pa.types.is_dictionary(paths.type):
        paths = paths.dictionary_decode()
    return paths.cast(pa.large_binary()).to_pylist()  # text need not be UTF-8


def _name(path: bytes | None) -> str:
    """A path as a name: relative and printable; "" if it names nothing."""
    name = posixpath.normpath((path or b"").decode(errors="backslashreplace")).lstrip("/")
    return "" if name in (".", "..") else name


def _bytes(data: bytes | None, path: bytes | None) -> bytes:
    if data is None and path:
        raise UserError(
            f"the row holds a path, {path.decode(errors='backslashreplace')}, and no bytes; embed the files when the "
            "Parquet file is written"
        )
    if data is None:
        raise UserError("the row holds no bytes")
    return data
