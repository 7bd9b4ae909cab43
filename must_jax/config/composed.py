"""Configs that contain those of other stages."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic
from pydantic import Field

from must_jax.config.base import Config, Count, Names, Number, PositiveCount, as_written
from must_jax.config.data import AuditConfig, LabelConfig, PrepareConfig
from must_jax.config.evaluation import EvaluateConfig
from must_jax.config.training import TrainConfig
from must_jax.errors import nearest

InPipeline = PrepareConfig | TrainConfig | LabelConfig | AuditConfig | EvaluateConfig


class PipelineConfig(Config):
    """Stages in sequence, each in a folder of its name under the workdir, then a report."""

    free: ClassVar[frozenset[str]] = Config.free | {"title", "stages"}  # each stage has a workdir of its own

    stage: Literal["pipeline"] = "pipeline"
    title: str = "must_jax"
    """Of the report."""
    data_dir: str = "data"
    """Folder of the image sets that are read by name; passed on to all stages."""
    devices: Count = 0
    """Passed on to all stages; 0 = what each of them says."""
    stages: Annotated[dict[str, Annotated[InPipeline, Field(discriminator="stage")]], Field(min_length=1)]
    """A name -> the config of a stage, which runs in the folder of that name; those whose config or inputs have changed
    are repeated. `{workdir}` in a value stands for the
    pipeline's own folder."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for name, stage in self.stages.items():
            if isinstance(stage, LabelConfig) and stage.dry_run:
                raise ValueError(
                    f"stages.{name}.dry_run makes no labels for later stages; use it with configs/label.py"
                )
        return self


class _AboutRuns(Config):
    """Looks at what runs have left. All other keys belong to the run, and are not read."""

    model_config = pydantic.ConfigDict(extra="ignore")

    is_run: ClassVar[bool] = False

    @pydantic.model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, values: Any) -> Any:
        return as_written(cls, values)


class DescribeConfig(_AboutRuns):
    """Describes the contents of a workdir. All other keys belong to the run, and are not read."""

    stage: Literal["describe"] = "describe"


class ReportConfig(_AboutRuns):
    """Writes one page about runs, `report/index.html` in the workdir. All other keys belong to the run, and are not
    read."""

    stage: Literal["report"] = "report"
    runs: Names = ()
    """Workdirs to report on, of any stages, finished or not; none = that of the command."""
    moved_data_dir: str = ""
    """Folder of the image sets, if they have been moved; empty = where each run found them."""
    ranked_images: Annotated[int, Field(ge=0, le=10_000), Number] = 100
    """Images of a task, drawn at random, of which the worst and the best are shown; 0 = no model is run."""


PROGRAMS = ("train", "evaluate", "label", "features")  # that the stage `compile` knows


class TargetConfig(Config):
    """What `compile` compiles for."""

    topology: str
    """Chip and slice as the TPU documentation names them: v5e:4x8, v4:2x2x4, v5p:4x4x4, v6e:16x16."""
    programs: Names = ()
    """Which of the stage's programs: train, evaluate, label and, for the scorecard, features; none = all."""
    classes: dict[str, PositiveCount] = {}
    """Task -> number of classes, where neither data nor a teacher tells it."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for name in self.programs:
            if name not in PROGRAMS:
                raise ValueError(f"programs names '{name}', which is not a program; {nearest(name, PROGRAMS)}")
        return self


class CompileConfig(Config):
    """Compiles the programs of another stage, whose keys stand beside `compile`, for TPUs that need not be attached."""

    is_run: ClassVar[bool] = False

    stage: Literal["compile"] = "compile"
    compile: TargetConfig
    """What to compile for."""
    of: TrainConfig | LabelConfig | EvaluateConfig
    """The other stage's config."""


class ReplayConfig(Config):
    """Repeats one update of a training, whose keys stand beside `replay`."""

    is_run: ClassVar[bool] = False

    stage: Literal["replay"] = "replay"
    replay: Count
    """Number of the update, from 0."""
    of: TrainConfig
    """The training's config."""
