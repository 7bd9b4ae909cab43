"""Writing a column, shard by shard. A shard is a function of its labels alone: written again, it has the same bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from must_jax import files
from must_jax.data import encodings, shards
from must_jax.data.encodings import Label
from must_jax.data.kinds import LabelKind
from must_jax.errors import UserError
from must_jax.labels import manifest
from must_jax.labels.manifest import AbsentRecord, Manifest, ShardRecord
from must_jax.labels.summary import Summary, summarize

_PROGRESS = {"created", "shards", "complete"}  # what changes while a column is made


class Shard:
    """What goes into one shard, with its summary so far."""

    def __init__(self, kind: LabelKind, write: Callable[[Label], None]) -> None:
        self._kind, self._write = kind, write
        self.summary = Summary()
        self.absent: list[AbsentRecord] = []

    def add(self, label: Label) -> None:
        """The next image's label."""
        self._write(label)
        self.summary = self.summary.add(summarize(self._kind, label))

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
        self._serialize = shards.serializer(self._features)
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
        with shards.committed(path) as write:
            shard = Shard(self._kind, lambda label: write(self._serialize(encodings.encode(self._kind, label))))
            yield shard
            if shard.summary.images != count:
                raise ValueError(f"{path.name} takes {count} labels, got {shard.summary.images}")
        size, digest, absent = path.stat().st_size, files.sha256(path), tuple(shard.absent)
        self._list(
            ShardRecord(file=path.name, count=count, bytes=size, sha256=digest, summary=shard.summary, absent=absent)
        )

    def finish(self) -> None:
        """Makes the folder a TFDS dataset and marks it complete; every shard must be there."""
        if missing := self.missing():
            raise ValueError(f"{self.folder} lacks shards {missing}")
        description = f"{self.manifest.task} labels by {self.manifest.teacher.name}; see {manifest.FILE}"
        lengths = [shard.count for shard in self.manifest.shards]
        size = sum(shard.bytes for shard in self.manifest.shards)
        shards.describe(self.folder, manifest.DATASET, self._features, description, lengths, size)
        self._replace(complete=True)

    def _list(self, shard: ShardRecord) -> None:
        others = [other for other in self.manifest.shards if other.file != shard.file]
        self._replace(shards=tuple(sorted([*others, shard], key=lambda shard: shard.file)))

    def _replace(self, **changes: object) -> None:
        self.manifest = self.manifest.model_copy(update=changes)
        self.manifest.write(self.folder)


def _check_same(folder: Path, there: Manifest, wanted: Manifest) -> None:
    ours, theirs = wanted.model_dump(exclude=_PROGRESS), there.model_dump(exclude=_PROGRESS)
    differing = [name for name, value in ours.items() if theirs[name] != value]
    if differing:
        raise UserError(
            f"{folder} holds labels made with another '{differing[0]}'; choose another workdir or delete that folder"
        )
