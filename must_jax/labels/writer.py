"""Writing a column, shard by shard. A shard depends only on its labels: rewritten, it has the same bytes."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from must_jax import files
from must_jax.config import in_todays_names
from must_jax.data import shards
from must_jax.data.kinds import Label, LabelKind, VectorLabel
from must_jax.errors import UserError
from must_jax.labels import manifest
from must_jax.labels.manifest import AbsentRecord, Manifest, ShardRecord
from must_jax.labels.summary import Summary, summarize

_FREE: dict[str, Any] = {  # what may change while a column is made
    **dict.fromkeys(("created", "must_jax", "shards", "complete", "checksum"), True),
    "source": {"path": True, "licence": True},  # annotations are known by their digest
    "teacher": {"metrics": True},  # it may have been measured on other images since
}


class Encoded(NamedTuple):
    """A label as it is stored, and its contribution to the summary."""

    record: bytes
    summary: Summary


class Shard:
    """A shard being written, with its summary so far."""

    def __init__(self, kind: LabelKind, encode: Callable[[Label], Encoded], write: Callable[[bytes], None]) -> None:
        self._kind, self._encode, self._write = kind, encode, write
        self.summary = Summary()
        self.absent: list[AbsentRecord] = []
        self._names = hashlib.sha256()

    @property
    def names(self) -> str:
        """The digest of the images' names so far."""
        return self._names.hexdigest()

    def add(self, name: str, label: Label) -> None:
        """Adds the label of the next image, which is called `name`. A label that cannot be written changes nothing."""
        self.add_encoded(name, self._encode(label))

    def add_encoded(self, name: str, label: Encoded) -> None:
        """As `add`, for a label that `ColumnWriter.encode` has encoded."""
        self._write(label.record)
        self._names.update(f"{name}\n".encode(errors="surrogateescape"))
        self.summary = self.summary.add(label.summary)

    def skip(self, name: str, reason: str) -> None:
        """Records that the next image has no label."""
        self.add(name, self._kind.absent((1, 1)))
        self.absent.append(AbsentRecord(name=name, reason=reason))


class ColumnWriter:
    """Creates a column, or resumes one with the same description. Several processes may write one column.

    Attributes:
      folder: the column's folder.
      manifest: as on disk.

    Raises:
      UserError: the folder holds a column with another description, or a damaged manifest.
    """

    def __init__(self, folder: Path, description: Manifest) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        files.create_text(folder / manifest.FILE, description.to_json())
        self.manifest = manifest.read(folder)
        _check_same(folder, self.manifest, description)
        self._kind = self.manifest.label_kind

    def written(self) -> dict[int, ShardRecord]:
        """The existing shards, whichever process wrote them."""
        beside = manifest.records_beside(self.folder)
        self.manifest = manifest.read(self.folder)
        return self.manifest.written(self.folder, beside)

    def missing(self) -> list[int]:
        """The shards that remain to be written, by any process."""
        written = self.written()
        return [index for index in self.manifest.indices if index not in written]

    @contextlib.contextmanager
    def shard(self, index: int) -> Iterator[Shard]:
        """Takes the shard's labels in the order of the images; commits after the last one.

        Raises:
          ValueError: there were more or fewer labels than images.
        """
        path = self.folder / self.manifest.shard_file(index)
        count = len(self.manifest.shard_range(index))
        with shards.committed(path) as write:
            shard = Shard(self._kind, self.encode, write)
            yield shard
            if shard.summary.images != count:
                raise ValueError(f"{path.name} takes {count} labels, got {shard.summary.images}")
        size, digest = path.stat().st_size, files.sha256(path)
        record = ShardRecord(
            file=path.name,
            count=count,
            bytes=size,
            sha256=digest,
            names=shard.names,
            summary=shard.summary,
            absent=tuple(shard.absent),
        )
        files.write_text(path.with_name(path.name + manifest.RECORD_SUFFIX), record.model_dump_json())

    def finish(self) -> None:
        """Makes the folder a TFDS dataset and marks it complete; every shard must exist. Idempotent.

        Raises:
          ValueError: a shard is missing.
        """
        records = manifest.records_beside(self.folder)
        if missing := self.missing():
            raise ValueError(f"{self.folder} lacks shards {missing}")
        if not records and manifest.is_whole(self.folder):
            return
        records = {shard.file: shard for shard in self.manifest.shards} | records
        listed = tuple(records[self.manifest.shard_file(index)] for index in self.manifest.indices)
        done = self.manifest.model_copy(update={"shards": listed, "complete": True}).sealed()
        for name, text in dataset_files(done, self.folder).items():
            files.write_text(self.folder / name, text)
        files.write_text(self.folder / manifest.FILE, done.to_json())
        for leftover in manifest.unfinished_files(self.folder):
            leftover.unlink(missing_ok=True)
        self.manifest = done

    def encode(self, label: Label) -> Encoded:
        """The slow part of adding a label; thread-safe."""
        # Summarises the label as it will be read: a threshold may lie between a confidence and its stored value.
        least = self.manifest.threshold.least(self.manifest.classes)
        as_read = self._kind.by_rule(self._kind.as_stored(label), least)
        record = self._kind.serialize(self._kind.encode(label))
        return Encoded(record, summarize(self._kind, as_read))


def still_to_write(folder: Path, description: Manifest) -> list[int]:
    """The shards that a `ColumnWriter` of this description would find missing, with its errors. Writes nothing."""
    if not (folder / manifest.FILE).exists():
        return list(description.indices)
    beside = manifest.records_beside(folder)
    there = manifest.read(folder)
    _check_same(folder, there, description)
    return there.missing(folder, beside)


def dataset_files(column: Manifest, folder: Path) -> dict[str, str]:
    """File name -> text, for the files that make the folder of a complete column a TFDS dataset."""
    features = tfds.features.FeaturesDict(column.label_kind.features())
    about = f"{column.task} labels by {column.maker}; see {manifest.FILE}"
    lengths, size = [shard.count for shard in column.shards], sum(shard.bytes for shard in column.shards)
    return shards.descriptions(folder, manifest.DATASET, features, about, lengths, size)


def _check_same(folder: Path, there: Manifest, wanted: Manifest) -> None:
    ours, theirs = wanted.model_dump(exclude=_FREE), there.model_dump(exclude=_FREE)
    ours["rule"], theirs["rule"] = map(in_todays_names, (ours["rule"], theirs["rule"]))
    theirs["kind"] = there.label_kind.to_dict()  # an older column may lack new fields
    if isinstance(there.label_kind, VectorLabel) and there.label_kind == wanted.label_kind:
        ours["kind"] = theirs["kind"]  # it goes on as it was begun, however many numbers it stores
    differing = [name for name, value in ours.items() if theirs[name] != value]
    if differing:
        raise UserError(
            f"{folder} holds labels made with another '{differing[0]}'; choose another workdir or delete that folder"
        )
