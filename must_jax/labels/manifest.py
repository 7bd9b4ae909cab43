"""`manifest.json` of a column: what its labels are, how and from what they were made, and its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pydantic

from must_jax.data.encodings import kind_from_dict, kind_to_dict
from must_jax.data.kinds import LabelKind, MapLabel
from must_jax.errors import UserError
from must_jax.labels import files
from must_jax.labels.summary import Summary

FILE = "manifest.json"
_INVALID = {"ids": "255", "scalar": "code 0", "vector": "code 0"}  # by content of a map


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class ImagesRecord(_Record):
    """The image set, whose order and length the column shares."""

    name: str
    length: int
    digest: str


class TeacherRecord(_Record):
    """Who made the labels.

    Attributes:
      digest: sha256 of the parameters.
      learning_rate, batch_size, steps: of its training; the student's loss weights follow from them.
      image_size: height = width of its input in pixels.
      metrics: "task/metric" -> value on its own validation images.
      data_licence: of the data that it was trained on; "" = unknown.
    """

    name: str
    digest: str
    learning_rate: float
    batch_size: int
    steps: int
    image_size: int
    metrics: dict[str, float]
    data_licence: str = ""


class AbsentRecord(_Record):
    """An image without a label, and why."""

    name: str
    reason: str


class ShardRecord(_Record):
    file: str
    count: int
    bytes: int
    sha256: str
    summary: Summary
    absent: tuple[AbsentRecord, ...] = ()


class Manifest(_Record):
    """Everything but `created`, `shards` and `complete` is known before the first label.

    Attributes:
      kind: the label kind as `encodings.kind_to_dict` writes it.
      unit, invalid: of a map's values, and how a missing value is coded in the files.
      map_stride: pixels of the teacher's input a cell of a map; 0 without maps.
      rule: the task's options, which say how predictions became labels.
      min_confidence: of the rule; what is less sure is left out, or, where the confidence is kept, left to the reader.
      preprocessing: how an image became the teacher's input.
      shard_images: images a shard; only the last one has fewer.
    """

    schema_version: Literal[1] = 1
    task: str
    kind: dict[str, Any]
    classes: tuple[str, ...]
    unit: str = ""
    invalid: str = ""
    map_stride: int = 0
    rule: dict[str, Any]
    min_confidence: float = 0.0
    preprocessing: str
    images: ImagesRecord
    teacher: TeacherRecord
    shard_images: pydantic.PositiveInt
    must_jax: str
    created: str
    shards: tuple[ShardRecord, ...] = ()
    complete: bool = False

    @classmethod
    def describe(cls, kind: LabelKind, **values: Any) -> Manifest:
        """A column that is yet to be made; the other fields come as `values`."""
        if isinstance(kind, MapLabel):
            values |= {"unit": kind.unit, "invalid": _INVALID[kind.content]}
        return cls(kind=kind_to_dict(kind), **values)

    @property
    def label_kind(self) -> LabelKind:
        return kind_from_dict(self.kind)

    @property
    def shard_count(self) -> int:
        return -(-self.images.length // self.shard_images)

    def shard_range(self, index: int) -> range:
        """Positions of the images of a shard."""
        start = index * self.shard_images
        return range(start, min(start + self.shard_images, self.images.length))

    def shard_file(self, index: int) -> str:
        """As TFDS names it."""
        return f"labels-train.array_record-{index:05d}-of-{self.shard_count:05d}"

    def summary(self) -> Summary:
        total = Summary()
        for shard in self.shards:
            total = total.add(shard.summary)
        return total

    def absent(self) -> list[AbsentRecord]:
        """The images that have no label, and why."""
        return [image for shard in self.shards for image in shard.absent]

    def missing(self, folder: Path) -> list[int]:
        """Shards that are not listed, or whose file is gone or has another size."""
        sizes = {shard.file: shard.bytes for shard in self.shards}
        files_ = [folder / self.shard_file(index) for index in range(self.shard_count)]
        return [i for i, file in enumerate(files_) if not file.is_file() or file.stat().st_size != sizes.get(file.name)]

    def write(self, folder: Path) -> None:
        files.write_text(folder / FILE, self.model_dump_json(indent=1) + "\n")


def read(folder: Path) -> Manifest:
    """The manifest of a column's folder.

    Raises:
      UserError: there is none, it cannot be read, or it is of another schema.
    """
    path = folder / FILE
    if not path.is_file():
        raise UserError(
            f"{folder} is not a label column, it has no {FILE}; give the folder of a column that the label stage wrote"
        )
    try:
        values = json.loads(path.read_text())
        version = values["schema_version"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged; delete {folder} and rerun the label stage") from None
    if version != Manifest.model_fields["schema_version"].default:
        raise UserError(
            f"{path} has schema version {version}, this must_jax reads version 1; use the version that wrote it"
        )
    try:
        return Manifest.model_validate(values)
    except pydantic.ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"{path} is damaged at '{where}'; delete {folder} and rerun the label stage") from None
