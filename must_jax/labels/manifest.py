"""`manifest.json` of a column: what its labels are, their provenance, and its files.

While a column is being written, the record of each finished shard is a separate file beside it, so that several
processes can write shards of one column without communicating. At the end, the records are collected in the manifest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from must_jax.data import shards
from must_jax.data.confidence import Threshold, check_classes
from must_jax.data.image_sets import ImageSet
from must_jax.data.kinds import LabelKind, MapLabel, kind_from_dict
from must_jax.errors import UserError
from must_jax.labels.summary import Summary
from must_jax.reading import read_json, validated

FILE = "manifest.json"
DATASET = "labels"  # the TFDS name of every column
RECORD_SUFFIX = ".json"  # of a shard's record, while the column is being made
SHARD_FILES = f"{DATASET}-{shards.SPLIT}.array_record-*-of-?????"
_MEANING: dict[str, Any] = {
    **dict.fromkeys(
        ("task", "task_kind", "kind", "classes", "unit", "map_stride", "rule", "min_confidence", "min_confidences"),
        True,
    ),
    "teacher": {"name", "digest", "optimizer", "learning_rate", "batch_size"},  # loss weights follow from the last ones
    "shards": {"__all__": {"sha256"}},
}


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class ImagesRecord(_Record):
    """The image set, whose order and length the column shares.

    Attributes:
      digest: of the whole set.
      sampled: these are the images that `take` takes from it, not all of them.
      numbers: of a sample, the digest of their numbers in the set, see `ImageSet.which`.
    """

    name: str
    length: pydantic.NonNegativeInt
    digest: str
    # Columns of whole sets are described as before there were samples.
    sampled: Annotated[bool, pydantic.Field(exclude_if=lambda sampled: not sampled)] = False
    numbers: Annotated[str, pydantic.Field(exclude_if=lambda numbers: not numbers)] = ""

    @classmethod
    def of(cls, images: ImageSet) -> ImagesRecord:
        return cls(
            name=images.name,
            length=len(images),
            digest=images.digest,
            sampled=images.sampled,
            numbers=images.which(),
        )


class TeacherRecord(_Record):
    """The teacher that made the labels.

    Attributes:
      digest: sha256 of the parameters.
      optimizer, learning_rate, batch_size, steps: of its training; the student's loss weights follow from them. "" or
        None if unknown, such as the optimizer in columns made before it was recorded.
      image_size: of its input in pixels: the side of a square, or height and width; of a model of others the longer
        side.
      metrics: "task/metric" -> value on its own validation images; of a model of others, on those of its check.
      data_licence: of the data that it was trained on; "" = unknown.
      licence: of a model of others and its labels.
      licences: teachers and labels that a run of must_jax was trained on -> the licence, where it is known.
      declared: how a model of others is read, as in the config; what it leaves out are defaults.
      classes: task -> its own class -> the class of the labels, where that is another; None = dropped.
    """

    name: str
    digest: str
    optimizer: str = ""
    learning_rate: float | None
    batch_size: int | None
    steps: int | None
    image_size: int | tuple[int, int]
    metrics: dict[str, float]
    data_licence: str = ""
    # Columns of runs of must_jax are described as before there were other teachers.
    licence: Annotated[str, pydantic.Field(exclude_if=lambda licence: not licence)] = ""
    licences: Annotated[dict[str, str], pydantic.Field(exclude_if=lambda licences: not licences)] = {}
    declared: Annotated[dict[str, Any], pydantic.Field(exclude_if=lambda declared: not declared)] = {}
    classes: Annotated[dict[str, dict[str, str | None]], pydantic.Field(exclude_if=lambda classes: not classes)] = {}


class SourceRecord(_Record):
    """The origin of true labels.

    Attributes:
      format: its name in `prepare`, e.g. "coco".
      path: the file or folder, as given.
      options: of the format, e.g. a map's unit and codes, or classes.
      digest: of the annotations; for PNG files, of their names and sizes.
      licence: of the data; "" = unknown.
    """

    format: str
    path: str
    options: dict[str, Any]
    digest: str
    licence: str = ""


class AbsentRecord(_Record):
    """An image without a label, and why."""

    name: str
    reason: str


class ShardRecord(_Record):
    """One file. `names`: sha256 of its images' names, in order, each followed by a line feed."""

    file: str
    count: Annotated[int, pydantic.Field(ge=0, lt=2**31)]
    bytes: Annotated[int, pydantic.Field(ge=0, lt=2**63)]
    sha256: str
    names: str
    summary: Summary
    absent: tuple[AbsentRecord, ...] = ()


class Manifest(_Record):
    """The manifest. All fields but `created`, `shards`, `complete` and `checksum` are known before the first label.

    Attributes:
      task: its name.
      task_kind: what kind of task it is; "" = its name says so.
      kind: the label kind as `LabelKind.to_dict` writes it.
      unit: of a map's values.
      invalid: how a missing value of a map is coded in the files.
      map_stride: pixels of the teacher's input per cell of a map; 0 without maps.
      rule: the task's options, which say how predictions became labels.
      min_confidence: the rule's threshold. Anything with a lower confidence is left out: when the labels are stored or,
        if they are stored with their confidence, when they are read.
      min_confidences: those of single classes, by name.
      preprocessing: how an image became the teacher's input.
      teacher, source: the origin of the labels; one of the two.
      shard_images: images per shard; only the last one has fewer.
      created: when the column was begun; setting SOURCE_DATE_EPOCH makes it reproducible.
      checksum: sha256 of all the other fields of a complete column.
    """

    schema_version: Literal[1] = 1
    task: str
    task_kind: Annotated[str, pydantic.Field(exclude_if=lambda kind: not kind)] = ""
    kind: dict[str, Any]
    classes: tuple[str, ...]
    unit: str = ""
    invalid: str = ""
    map_stride: int = 0
    rule: dict[str, Any]
    min_confidence: float = 0.0
    min_confidences: Annotated[dict[str, float], pydantic.Field(exclude_if=lambda some: not some)] = {}
    preprocessing: str
    images: ImagesRecord
    teacher: TeacherRecord | None = None
    source: SourceRecord | None = None
    shard_images: pydantic.PositiveInt
    must_jax: str
    created: str
    shards: tuple[ShardRecord, ...] = ()
    complete: bool = False
    checksum: str = ""

    @pydantic.model_validator(mode="after")
    def fits_together(self) -> Manifest:
        """Checks what readers rely on; sizes first, since nothing may loop up to a damaged one."""
        if self.shard_count > shards.MOST_SHARDS:
            raise ValueError(f"there are {self.shard_count:,} shards, and at most {shards.MOST_SHARDS:,} can be named")
        check_classes(self.min_confidences, self.classes, "min_confidences")
        if any(len(shard.summary.images_with_class) > max(1, len(self.classes)) for shard in self.shards):
            raise ValueError("a shard counts more classes than there are")
        _ = self.label_kind
        return self

    @classmethod
    def describe(cls, kind: LabelKind, **values: Any) -> Manifest:
        """The manifest of a column that is yet to be made; `values` are the other fields."""
        if isinstance(kind, MapLabel):
            values |= {"unit": kind.unit, "invalid": kind.invalid}
        return cls(kind=kind.to_dict(), **{"created": _now(), **values})

    @property
    def threshold(self) -> Threshold:
        """`min_confidence`, of all classes and of single ones."""
        return Threshold(self.min_confidence, self.min_confidences)

    @property
    def maker(self) -> str:
        """The teacher's name, or the format of true labels."""
        return self.teacher.name if self.teacher else self.source.format if self.source else ""

    @property
    def options(self) -> dict[str, Any]:
        """Those of its task, as `tasks.build_task` takes them."""
        return {**self.rule, **({"kind": self.task_kind} if self.task_kind else {})}

    @property
    def labels(self) -> str:
        """16 hex digits of the labels and their meaning, not of when, from where or by which version they were made."""
        values = self.model_dump(mode="json", include=_MEANING)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def stage(self) -> str:
        """The stage that writes it."""
        return "label" if self.teacher else "prepare"

    @property
    def anew(self) -> str:
        """How to get labels of the images as they are now."""
        if self.teacher:
            return "label them in another --workdir, and read those labels"
        return "delete the column's folder and rerun the prepare stage"

    @property
    def label_kind(self) -> LabelKind:
        return kind_from_dict(self.kind)

    @property
    def shard_count(self) -> int:
        return -(-self.images.length // self.shard_images)

    @property
    def indices(self) -> range:
        """The indices of all shards."""
        return range(self.shard_count)

    def shard_range(self, index: int) -> range:
        """The positions of a shard's images."""
        start = index * self.shard_images
        return range(start, min(start + self.shard_images, self.images.length))

    def shard_file(self, index: int) -> str:
        """The shard's file name, as TFDS expects it."""
        return shards.shard_file(DATASET, index, self.shard_count)

    def summary(self) -> Summary:
        total = Summary()
        for shard in self.shards:
            total = total.add(shard.summary)
        return total

    def absent(self) -> list[AbsentRecord]:
        """The images that have no label, and why."""
        return [image for shard in self.shards for image in shard.absent]

    def written(self, folder: Path, beside: Mapping[str, ShardRecord] | None = None) -> dict[int, ShardRecord]:
        """Shards with a record and a file of the recorded size. `beside`: the result of `records_beside`, if known."""
        records = {shard.file: shard for shard in self.shards} | dict(beside or records_beside(folder))
        known = ((index, records.get(self.shard_file(index))) for index in self.indices)
        return {index: record for index, record in known if record and _size(folder / record.file) == record.bytes}

    def missing(self, folder: Path, beside: Mapping[str, ShardRecord] | None = None) -> list[int]:
        """The shards that are not `written`."""
        written = self.written(folder, beside)
        return [index for index in self.indices if index not in written]

    def sealed(self) -> Manifest:
        """The manifest with its checksum."""
        return self.model_copy(update={"checksum": _checksum(self.model_dump(mode="json"))})

    def to_json(self) -> str:
        return self.model_dump_json(indent=1) + "\n"


def is_whole(folder: Path) -> bool:
    """Whether a column is complete, with nothing missing or, as far as sizes and the checksum tell, changed."""
    column = read(folder)
    return (
        column.complete
        and is_as_written(folder)
        and not column.missing(folder)
        and all((folder / name).is_file() for name in shards.DESCRIPTIONS)
    )


def is_as_written(folder: Path) -> bool:
    """Whether the manifest of a complete column still matches its checksum, which covers all its other fields."""
    values = read_json(folder / FILE, dict[str, Any], _advice(folder))
    return values.get("checksum") == _checksum(values)


def _checksum(values: Mapping[str, Any]) -> str:
    others = {name: value for name, value in values.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def records_beside(folder: Path) -> dict[str, ShardRecord]:
    """File name -> record of the shards that are written, but not yet collected in the manifest.

    To find all shards while other processes write, read these first and the manifest afterwards.
    """
    records = {}
    for path in folder.glob(f"{SHARD_FILES}{RECORD_SUFFIX}"):
        with contextlib.suppress(UserError):  # just collected; or damaged, then the shard is made again
            record = read_json(path, ShardRecord, "")
            records[record.file] = record
    return records


def unfinished_files(folder: Path) -> list[Path]:
    """The files that only an unfinished column needs: records of shards, and temporary files of killed processes."""
    return [*folder.glob(f"{SHARD_FILES}{RECORD_SUFFIX}"), *folder.glob(f"{SHARD_FILES}*.tmp-*")]


def _size(file: Path) -> int:
    """The size in bytes; -1 = no such file."""
    return file.stat().st_size if file.is_file() else -1


def _now() -> str:
    """The current time, or SOURCE_DATE_EPOCH, in ISO 8601 with whole seconds."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return (datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)).isoformat(timespec="seconds")


def read(folder: Path) -> Manifest:
    """The manifest of a column's folder.

    Raises:
      UserError: there is none, it cannot be read, or it is of another schema.
    """
    path = folder / FILE
    if not path.exists():
        raise UserError(
            f"{folder} is not a label column, it has no {FILE}; give the folder of a column that a stage wrote"
        )
    values = read_json(path, dict[str, Any], _advice(folder))
    version = values.get("schema_version")
    if isinstance(version, int) and version != Manifest.model_fields["schema_version"].default:
        raise UserError(
            f"{path} has schema version {version}, this must_jax reads version 1; use the version that wrote it"
        )
    return validated(path, values, Manifest, _advice(folder))


def _advice(folder: Path) -> str:
    return f"delete {folder} and rerun the stage that wrote it"
