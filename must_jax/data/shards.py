"""Writing TFDS datasets in ArrayRecord, one shard at a time and without TensorFlow: images are passed in encoded."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from must_jax import files

SPLIT = "train"
MOST_SHARDS = 99_999  # the most that TFDS can number
COLUMNS = "columns"  # folder of the label columns beside an image set's versions, and in a label run
FEATURES_FILE, INFO_FILE = DESCRIPTIONS = "features.json", "dataset_info.json"


def shard_file(dataset: str, index: int, count: int) -> str:
    """The name of a shard's file in TFDS."""
    return f"{dataset}-{SPLIT}.array_record-{index:05d}-of-{count:05d}"


def serializer(features: tfds.features.FeaturesDict) -> Callable[[Mapping[str, Any]], bytes]:
    """A function that turns a record into its bytes, the same in every process; thread-safe."""
    serialize = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())

    def serialized(record: Mapping[str, Any]) -> bytes:
        example = serialize.get_tf_example(features.encode_example(record))
        # `serialize_example` of TFDS leaves the order of the fields to the process's hash seed
        return example.SerializeToString(deterministic=True)

    return serialized


@contextlib.contextmanager
def committed(path: Path, options: str = "") -> Iterator[Callable[[bytes], None]]:
    """Yields a function that appends a record.

    Afterwards the shard is at `path`, whole, or, if the block raises, not at all. `options` are those of an
    ArrayRecordWriter, besides the one for random access.
    """
    with files.committed(path) as temporary:
        writer = ArrayRecordWriter(str(temporary), f"group_size:1,{options}".rstrip(","))
        try:
            yield writer.write
        finally:
            writer.close()


def describe(
    folder: Path,
    dataset: str,
    features: tfds.features.FeaturesDict,
    description: str,
    lengths: Sequence[int],
    size_bytes: int,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Makes a folder of shards a TFDS dataset by writing `features.json` and, last, `dataset_info.json`.

    Args:
      lengths: records of each shard; 0 is fine.
      size_bytes: of all shards.
      metadata: what the dataset's `info.metadata` will be.
    """
    texts = descriptions(folder, dataset, features, description, lengths, size_bytes)
    if metadata is not None:
        files.write_json(folder / "metadata.json", metadata)
    for name, text in texts.items():
        files.write_text(folder / name, text)


def descriptions(
    folder: Path,
    dataset: str,
    features: tfds.features.FeaturesDict,
    description: str,
    lengths: Sequence[int],
    size_bytes: int,
) -> dict[str, str]:
    """File name -> text of what `describe` writes, without the metadata; for the arguments see there."""
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=dataset, version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name=""
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features, description=description)
    info.set_file_format("array_record")
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=dataset, split=SPLIT, filetype_suffix="array_record"
    )
    split = tfds.core.SplitInfo(
        name=SPLIT, shard_lengths=list(lengths), num_bytes=size_bytes, filename_template=template
    )
    info.set_splits(tfds.core.splits.SplitDict([split]))
    return {FEATURES_FILE: json.dumps(features.to_json(), indent=4, sort_keys=True), INFO_FILE: info.as_json}
