"""`model.json`: the description of a trained model, beside the checkpoints that hold its weights. Does not load jax."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic

from must_jax.config import ModelConfig, in_todays_names
from must_jax.config.base import input_hw_of
from must_jax.errors import UserError
from must_jax.files import MODEL_FILE, write_json
from must_jax.reading import read_json, validated

SCHEMA_VERSION = 1
REMEDY = f"remove {MODEL_FILE} and start that training run again, which resumes from its last checkpoint"
_ADVICE = f"restore it from a copy, or {REMEDY}"


class TaskRecord(pydantic.BaseModel):
    """The options of a task: `classes`, and those specific to the task."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)

    classes: tuple[str, ...] = ()

    @pydantic.model_validator(mode="before")
    @classmethod
    def _in_todays_names(cls, values: Any) -> Any:
        return in_todays_names(values)

    @property
    def options(self) -> dict[str, Any]:
        """All options except the classes."""
        return dict(self.model_extra or {})


class Settings(pydantic.BaseModel):
    """Settings of the training run. `optimizer` is missing in runs of earlier versions."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    optimizer: str = ""
    learning_rate: float
    batch_size: pydantic.PositiveInt
    steps: pydantic.NonNegativeInt


class BestRecord(pydantic.BaseModel):
    """How the model was chosen: its metric and value, after how many updates, and how many validations came after."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)

    metric: str
    value: float | None
    step: pydantic.NonNegativeInt | None
    since: pydantic.NonNegativeInt


class TrainingRecord(pydantic.BaseModel):
    """Figures of the training run, which result.json also has.

    Attributes:
      planned_steps: updates that the run was to have; with early stopping it may have had fewer.
      labelled: task -> images with labels to learn from; of large sets, estimated from a sample.
      untrained: tasks whose head has learnt nothing: no labels, or a weight of 0.
      best: how the model was chosen, if not as the last one.
      licences: teachers and labels that it was trained on, and those that these were -> the licence; "" = not known.
    """

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)

    steps: pydantic.NonNegativeInt | None = None
    seconds: float | None = None
    images_per_second: float | None = None
    data_wait_share: float | None = None
    mfu: float | None = None
    parameters: int | None = None
    loss_weights: dict[str, float] | None = None
    planned_steps: pydantic.NonNegativeInt | None = None
    labelled: dict[str, pydantic.NonNegativeInt] | None = None
    untrained: tuple[str, ...] = ()
    best: BestRecord | None = None
    unreadable: dict[str, str] = {}
    licences: dict[str, str] = {}


class Description(pydantic.BaseModel):
    """Everything that `trained.load` needs besides the checkpoints.

    Attributes:
      image_size: of the input in pixels: the side of a square, or height and width.
      metrics: "task/metric" -> value on the validation images; "task/metric@name" on those of a further source.
      validation: the sources that it was measured on, as in the config; None in runs of earlier versions.
      step: number of updates done of the checkpoint that holds the model; None = `settings.steps`.
      digest: sha256 of the parameters.
      stats_digest: sha256 of the statistics.
      checksum: sha256 of all the other fields.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1]  # SCHEMA_VERSION
    model: ModelConfig
    tasks: dict[str, TaskRecord]
    image_size: pydantic.PositiveInt | tuple[pydantic.PositiveInt, pydantic.PositiveInt]
    settings: Settings
    metrics: dict[str, float]
    validation: tuple[dict[str, Any], ...] | None = None
    step: pydantic.NonNegativeInt | None = None
    digest: str
    stats_digest: str
    training: TrainingRecord
    checksum: str

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width of the network's input in pixels."""
        return input_hw_of(self.image_size)

    @property
    def checkpoint(self) -> int:
        """The step of the checkpoint that holds the model."""
        return self.settings.steps if self.step is None else self.step


def checksum(values: Mapping[str, Any]) -> str:
    """sha256 of what `model.json` says, apart from the checksum itself."""
    others = {name: value for name, value in values.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def sign(workdir: Path, values: Mapping[str, Any]) -> None:
    """Writes what `model.json` is to say, with its checksum."""
    write_json(workdir / MODEL_FILE, {**values, "checksum": checksum(values)})


def change(workdir: Path, **changes: Any) -> None:
    """Changes fields of the description of a finished run; the others keep what they say.

    Raises:
      UserError: as `read`.
    """
    read(workdir)
    sign(workdir, read_json(workdir / MODEL_FILE, dict[str, Any], _ADVICE) | changes)


def read(workdir: str | Path) -> Description:
    """The description of a finished training run.

    Raises:
      UserError: there is no training run, or an unfinished one; its file is damaged.
    """
    workdir = Path(workdir)
    file = workdir / MODEL_FILE
    if not workdir.is_dir():
        raise UserError(f"there is no run {workdir}; train it first, or correct the path")
    if not file.exists():
        raise UserError(
            f"{workdir} is not a finished training run; run its train stage to the end, "
            f"or name a folder with {MODEL_FILE}"
        )
    values = read_json(file, dict[str, Any], _ADVICE)
    if isinstance(version := values.get("schema_version"), int) and version != SCHEMA_VERSION:
        raise UserError(f"{file} was written by another version of must_jax; load it with that one")
    told = validated(file, values, Description, _ADVICE)
    if told.checksum != checksum(values):
        raise UserError(f"{file} was changed after it was written; {_ADVICE}")
    return told
