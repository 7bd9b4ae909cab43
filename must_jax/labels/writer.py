"""Writing a column, shard by shard. A shard is a function of its labels alone: written again, it has the same bytes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from must_jax.data import encodings
from must_jax.data.confidence import by_rule
from must_jax.data.encodings import Label
from must_jax.data.kinds import LabelKind
from must_jax.errors import UserError
from must_jax.labels import files, manifest
from must_jax.labels.manifest import AbsentRecord, Manifest, ShardRecord
from must_jax.labels.summary import Summary, summarize

_PROGRESS = {"created", "shards", "complete"}  # what changes while a column is made


class Shard:
    """What goes into one shard, with its summary so far."""

    def __init__(self, kind: LabelKind, write: Callable[[Label], None], min_confidence: float) -> None:
        self._kind, self._write, self._min_confidence = kind, write, min_confidence
        self.summary = Summary()
        self.absent: list[AbsentRecord] = []

    def add(self, label: Label) -> None:
        """The next image's label."""
        self._write(label)
        self.summary = self.summary.add(summarize(self._kind, by_rule(self._kind, label, self._min_confidence)))

    def skip(self, name: str, reason: str) -> None:
        """The next image has no label."""
        self.add(encodings.absent(self._kind, (1, 1)))
        self.absent.append(AbsentRecord(name=name, reason=reason))


class ColumnWriter:
    """Begins a column, or goes on with one of the same description.

    Attributes:
      folder, manifest: as they are on disk.

    Raises:
      UserError: the folder holds a column that is described otherwise, or a damaged manifest.
    """

    def __init__(self, folder: Path, description: Manifest) -> None:
        self.folder = folder
        self._kind = description.label_kind
        self._features = tfds.features.FeaturesDict(encodings.features(self._kind))
        self._serializer = tfds.core.example_serializer.ExampleSerializer(self._features.get_serialized_info())
        if (folder / manifest.FILE).exists():
            self.manifest = manifest.read(folder)
            _check_same(folder, self.manifest, description)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self.manifest = description
            self.manifest.write(folder)

    def missing(self) -> list[int]:
        """Shards still to be written."""
        return self.manifest.missing(self.folder)

    @contextlib.contextmanager
    def shard(self, index: int) -> Iterator[Shard]:
        """Takes the shard's labels in the images' order; commits after the last one.

        Raises:
          ValueError: there were more or fewer labels than images.
        """
        path = self.folder / self.manifest.shard_file(index)
        count = len(self.manifest.shard_range(index))
        with files.committed(path) as temporary:
            writer = ArrayRecordWriter(str(temporary), "group_size:1")  # random access, as TFDS writes it
            least = self.manifest.min_confidence
            shard = Shard(self._kind, lambda label: writer.write(self._serialize(label)), least)
            try:
                yield shard
            finally:
                writer.close()
            if shard.summary.images != count:
                raise ValueError(f"{path.name} takes {count} labels, got {shard.summary.images}")
            size, digest = temporary.stat().st_size, files.sha256(temporary)
        absent = tuple(shard.absent)
        self._list(
            ShardRecord(file=path.name, count=count, bytes=size, sha256=digest, summary=shard.summary, absent=absent)
        )

    def finish(self) -> None:
        """Makes the folder a TFDS dataset and marks it complete; every shard must be there."""
        if missing := self.missing():
            raise ValueError(f"{self.folder} lacks shards {missing}")
        files.write_text(self.folder / "features.json", json.dumps(self._features.to_json(), indent=4, sort_keys=True))
        files.write_text(self.folder / "dataset_info.json", self._dataset_info())
        self._replace(complete=True)

    def _serialize(self, label: Label) -> bytes:
        example = self._features.encode_example(encodings.encode(self._kind, label))
        # `serialize_example` of TFDS leaves the order of the fields to the process's hash seed
        return self._serializer.get_tf_example(example).SerializeToString(deterministic=True)

    def _list(self, shard: ShardRecord) -> None:
        others = [other for other in self.manifest.shards if other.file != shard.file]
        self._replace(shards=tuple(sorted([*others, shard], key=lambda shard: shard.file)))

    def _replace(self, **changes: object) -> None:
        self.manifest = self.manifest.model_copy(update=changes)
        self.manifest.write(self.folder)

    def _dataset_info(self) -> str:
        description = f"{self.manifest.task} labels by {self.manifest.teacher.name}; see {manifest.FILE}"
        identity = tfds.core.dataset_info.DatasetIdentity(
            name="labels", version=tfds.core.Version("1.0.0"), data_dir=str(self.folder), module_name=""
        )
        info = tfds.core.DatasetInfo(builder=identity, features=self._features, description=description)
        info.set_file_format("array_record")
        train = tfds.core.SplitInfo(
            name="train",
            shard_lengths=[shard.count for shard in self.manifest.shards],
            num_bytes=sum(shard.bytes for shard in self.manifest.shards),
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=self.folder, dataset_name="labels", split="train", filetype_suffix="array_record"
            ),
        )
        info.set_splits(tfds.core.splits.SplitDict([train]))
        return info.as_json


def _check_same(folder: Path, there: Manifest, wanted: Manifest) -> None:
    ours, theirs = wanted.model_dump(exclude=_PROGRESS), there.model_dump(exclude=_PROGRESS)
    differing = [name for name, value in ours.items() if theirs[name] != value]
    if differing:
        raise UserError(
            f"{folder} holds labels made with another '{differing[0]}'; choose another workdir or delete that folder"
        )
