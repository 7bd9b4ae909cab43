"""Opens TFDS datasets in ArrayRecord by their own description, or refuses them in one sentence that names the file."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader

from must_jax.cores import cores
from must_jax.data.shards import DESCRIPTIONS
from must_jax.errors import UserError
from must_jax.reading import read_json

METADATA_FILE = "metadata.json"
_REASON = 200  # characters of a library's message


def open_dataset(folder: Path, advice: str) -> tfds.core.DatasetBuilder:
    """Opens the dataset in a folder.

    Args:
      advice: what to do if it is damaged.

    Raises:
      UserError: its description is missing or damaged.
    """
    for name in DESCRIPTIONS:
        read_json(folder / name, dict[str, Any], advice)
    if (folder / METADATA_FILE).exists():
        read_json(folder / METADATA_FILE, dict[str, Any], advice)
    with reading(folder, advice):
        builder = tfds.builder_from_directory(folder)
        _ = builder.info.features, builder.info.splits
    return builder


@contextlib.contextmanager
def reading(folder: Path, advice: str) -> Iterator[None]:
    """Inside, whatever libraries raise about a dataset that they cannot read becomes a UserError of one sentence."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:_REASON] or "no reason given"
        what = f"{folder} cannot be read as a TFDS dataset ({type(error).__name__}: {why})"
        raise UserError(f"{what}; {advice}") from None


def check_shards(builder: tfds.core.DatasetBuilder, splits: Collection[str], advice: str) -> None:
    """Opens every shard of these splits; with wrong numbers of records, images would get other images' labels.

    Raises:
      UserError: a shard is missing, damaged, or does not hold as many records as `dataset_info.json` says.
    """
    with reading(Path(builder.data_dir), advice):
        infos = [builder.info.splits[split] for split in splits]
        shards = [
            (Path(path), length)
            for info in infos
            for path, length in zip(info.filepaths, info.shard_lengths, strict=True)
        ]
    with ThreadPoolExecutor(cores()) as pool:
        for (path, length), count in zip(shards, pool.map(count_records, (path for path, _ in shards)), strict=True):
            if count != length:
                raise UserError(
                    f"{path} holds {count} records, and {builder.data_dir}/{DESCRIPTIONS[1]} says {length}; {advice}"
                    if isinstance(count, int)
                    else f"{path} {count}; {advice}"
                )


def count_records(path: Path) -> int | str:
    """The number of records in a shard, or why they cannot be counted, in words."""
    if not path.is_file():
        return "is not a file" if path.exists() else "is missing"
    try:
        return ArrayRecordReader(str(path)).num_records()
    except Exception as error:  # whatever the library raises on damaged bytes
        return f"cannot be read ({' '.join(str(error).split())[:_REASON]})"
