"""Configs that contain those of other stages."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic
from pydantic import Field

from must_jax.config.base import Config, Count, Names, PositiveCount
from must_jax.config.data import AuditConfig, LabelConfig
from must_jax.config.evaluation import EvaluateConfig
from must_jax.config.training import TrainConfig
from must_jax.errors import nearest

InPipeline = TrainConfig | LabelConfig | AuditConfig | EvaluateConfig


class PipelineConfig(Config):
    """Stages in sequence, each in a folder of its name under the workdir, then a report.

    "{workdir}" in a value of a stage stands for the pipeline's own folder, `data_dir` and `devices` are passed on.
    """

    stage: Literal["pipeline"] = "pipeline"
    title: str = "must_jax"
    data_dir: str = "data"
    devices: Count = 0
    stages: Annotated[dict[str, Annotated[InPipeline, Field(discriminator="stage")]], Field(min_length=1)]

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for name, stage in self.stages.items():
            if isinstance(stage, LabelConfig) and stage.dry_run:
                raise ValueError(
                    f"stages.{name}.dry_run makes no labels for later stages; use it with configs/label.py"
                )
        return self


class DescribeConfig(Config):
    """Describes the contents of a workdir. All other keys belong to the run, and are not read."""

    model_config = pydantic.ConfigDict(extra="ignore")

    is_run: ClassVar[bool] = False

    stage: Literal["describe"] = "describe"

    @pydantic.model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, values: Any) -> Any:
        return values


PROGRAMS = ("train", "evaluate", "label", "features")  # that the stage `compile` knows


class TargetConfig(Config):
    """What `compile` compiles for.

    topology: chip and slice as the TPU documentation names them: "v5e:4x8", "v4:2x2x4", "v5p:4x4x4", "v6e:16x16".
    programs: which of the stage's programs; () = all. "train", "evaluate", "label" and, for the scorecard, "features".
    classes: task -> number of classes, where neither data nor a teacher tells it.
    """

    topology: str
    programs: Names = ()
    classes: dict[str, PositiveCount] = {}

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for name in self.programs:
            if name not in PROGRAMS:
                raise ValueError(f"programs names '{name}', which is not a program; {nearest(name, PROGRAMS)}")
        return self


class CompileConfig(Config):
    """The programs of another stage, `of`, compiled for TPUs that need not be attached."""

    is_run: ClassVar[bool] = False

    stage: Literal["compile"] = "compile"
    compile: TargetConfig
    of: TrainConfig | LabelConfig | EvaluateConfig


class ReplayConfig(Config):
    """Repeats update number `replay`, from 0, of the training `of`."""

    is_run: ClassVar[bool] = False

    stage: Literal["replay"] = "replay"
    replay: Count
    of: TrainConfig
