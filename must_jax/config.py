"""What a run is: frozen, typed configurations, one class a stage.

A config file (`configs/*.py`) returns an `ml_collections.ConfigDict`; `parsing.parse` turns it into one of these
classes, once. Below `main` nothing looks a key up by string. An unknown key is an error that names the nearest known
one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic_core import PydanticCustomError

from must_jax.errors import nearest

HERE = "<path>"  # in a message: the path of the config that it is about


def _listed(value: Any) -> Any:
    """A tuple on the command line is a comma list, --config.teachers=runs/a,runs/b, a single value, or empty."""
    if isinstance(value, str):
        return value.split(",") if value else ()
    return (value,) if isinstance(value, int | float) else value


Listed = pydantic.BeforeValidator(_listed)
Names = Annotated[tuple[str, ...], Listed]
ImageSize = Annotated[int, Field(gt=0, multiple_of=32)]  # input height = width in pixels; C5 has stride 32


class _Config(pydantic.BaseModel):
    """`free` are the keys that may change between restarts of a run, since they do not change what is computed."""

    free: ClassVar[frozenset[str]] = frozenset({"data_dir", "devices"})
    is_run: ClassVar[bool] = True  # whether it makes what is in its workdir, and does not only look at something

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, allow_inf_nan=False)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, values: Any) -> Any:
        """Comes first: a misspelt key is worth more than the "missing" that it causes."""
        for key in values if isinstance(values, Mapping) else ():
            if key not in cls.model_fields:
                raise PydanticCustomError(
                    "unknown_key", "unknown", {"key": key, "hint": nearest(str(key), cls.model_fields)}
                )
        return values


REMAT = ("stage1", "stage2", "stage3", "stage4", "fpn", "heads")  # parts of a network that `remat` may name


class ModelConfig(_Config):
    """Architecture of backbone, pyramid and heads. Depth and width name the ResNet; channels are per pyramid level."""

    backbone: Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = "resnet50"
    width: PositiveFloat = 1.0
    pyramid_channels: PositiveInt = 256
    head_channels: PositiveInt = 256
    head_convs: NonNegativeInt = 3
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; parameters are float32
    batch_norm_momentum: Annotated[float, Field(gt=0, lt=1)] = 0.9


class OptimizerConfig(_Config):
    """Linear warm-up from 0, then cosine decay to 0 at the last step."""

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: PositiveFloat = 0.1
    warmup_steps: NonNegativeInt = 0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegativeFloat = 4e-5  # on kernels only, never on norms and biases
    clip_norm: NonNegativeFloat = 0.0  # global gradient norm; 0 = off
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of parameters and statistics; 0 = off


class SourceConfig(_Config):
    """One image set and the labels to read with it.

    images: "NAME/CONFIG:SPLIT" of a TFDS dataset ("scenes/teacher_depth:train"), or "folder:PATH".
    labels: where labels come from: "truth" (stored with the images), the folder of a column, or that of a label run,
      for all of its columns. Where an image has several of one task, a true one wins, and among others the first.
    take: only the first n images; 0 = all.
    min_confidence: by task; what the labels of columns are less sure of is left out: boxes, pixels (of columns made
      with keep_confidence) and distributions, by their largest probability.
    """

    images: str
    labels: Names = ("truth",)
    take: NonNegativeInt = 0
    min_confidence: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}


def _below(warmup_steps: int, steps: int) -> str:
    return (
        f"optimizer.warmup_steps {warmup_steps} must be below steps {steps}; "
        f"set {HERE}.optimizer.warmup_steps lower, or {HERE}.steps higher"
    )


class AugmentConfig(_Config):
    """Random geometry of training examples. Scale is relative to the image fitted into the square input."""

    flip: bool = True
    scale_min: PositiveFloat = 1.0
    scale_max: PositiveFloat = 1.0

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min {self.scale_min} must not be above scale_max {self.scale_max}")
        return self


class ColumnsConfig(_Config):
    """Which of the training labels are read, by task or by who made them: a teacher's name, or "truth".

    drop: left out; a task or teacher. A task that has no labels then is not learnt.
    keep: all others are left out; () = none are. Where it names tasks, other tasks without labels are not learnt.
    """

    drop: Names = ()
    keep: Names = ()


class TruthConfig(_Config):
    """True labels that people have, in one of the formats of `labels/formats`; they become a column of one task.

    path: the file or folder that holds them; "" where the images' names do.
    options: the format's own: a unit, a class list.
    licence: of the labels; "" = unknown.
    """

    format: str
    path: str = ""
    options: dict[str, Any] = {}
    licence: str = ""


class PrepareConfig(_Config):
    """Images as people have them become an image set, `data_dir/NAME`, which other stages read as "NAME:train".

    images: "folder:PATH", "tar:FILES", "parquet:FILES" or "tfds:NAME/CONFIG:SPLIT"; FILES are a file, a folder or a
      pattern with *.
    image_column: of Parquet files; "" = the only one that holds bytes.
    max_pixels: of an image that is taken.
    labels: by task, what people have labelled these images with; more can be added later.
    """

    stage: Literal["prepare"] = "prepare"
    data_dir: str = "data"
    name: str
    images: str
    image_column: str = ""
    shard_images: PositiveInt = 1024
    max_pixels: PositiveInt = 200_000_000
    labels: dict[str, TruthConfig] = {}

    @pydantic.field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise ValueError(f"'{name}' is no name for it; use a-z, 0-9 and _, and begin with a letter")
        if name in ("scenes", "folder", "tar", "parquet"):
            raise ValueError(f"'{name}:train' means something else where images are named; choose another name")
        return name

    @pydantic.model_validator(mode="after")
    def _check_column(self) -> Self:
        if self.image_column and not self.images.startswith("parquet:"):
            raise ValueError(f"image_column is one of Parquet files, but images is '{self.images}'; leave it out")
        return self


class TrainConfig(_Config):
    """Teachers, student and fine-tuning: one model on the labels of one or more image sets.

    remat: parts of the network ("stage1" to "stage4", "fpn", "heads") whose activations are computed again for the
      gradient instead of being kept: less memory, more operations, the same numbers.
    """

    free: ClassVar[frozenset[str]] = _Config.free | {
        *("log_every", "checkpoint_every", "minimum", "accept_failed", "profile"),
        *("fsdp", "max_skipped", "ready_within_s", "remat"),
    }

    stage: Literal["train"] = "train"
    seed: NonNegativeInt = 0
    data_dir: str = "data"
    devices: NonNegativeInt = 0  # 0 = as many as can share the batches; on a CPU virtual ones, at most one a core
    train: Annotated[tuple[SourceConfig, ...], Field(min_length=1)]
    validation: SourceConfig | None = None
    columns: ColumnsConfig = ColumnsConfig()
    fsdp: PositiveInt = 1  # devices that share one copy of the training state
    ready_within_s: PositiveFloat = 600.0  # of the first host that is ready; then the one that is missing is named
    # Task name -> that task's own options and its loss weight.
    tasks: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    image_size: ImageSize = 64
    max_boxes: PositiveInt = 20
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    batch_size: PositiveInt = 32
    accumulate: PositiveInt = 1  # parts of a batch that are worked on one after the other, for less memory
    remat: Names = ()
    steps: PositiveInt = 1000
    max_skipped: NonNegativeInt = 5  # of 100 updates that may be left out because they are not finite
    log_every: PositiveInt = 50
    checkpoint_every: PositiveInt = 500
    init: str = ""  # a finished run whose backbone and pyramid to start from; "" = random
    minimum: dict[str, float] = {}  # "task/metric" on validation that the finished model must reach
    accept_failed: Names = ()  # tasks whose label columns are trained on even if they failed (labels/gate.py)
    profile: str = ""  # updates to trace, as in 100:110; "" = none

    @property
    def profiled(self) -> range:
        """The updates to trace, numbered from 1."""
        match = re.fullmatch(r"(\d+):(\d+)", self.profile)
        return range(int(match[1]), int(match[2]) + 1) if match else range(0)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.optimizer.warmup_steps >= self.steps:
            raise ValueError(_below(self.optimizer.warmup_steps, self.steps))
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}")
        if self.profile and not (self.profiled and self.profiled[0] >= 1 and self.profiled[-1] <= self.steps):
            raise ValueError(
                f"profile {self.profile} is no range of updates; write FIRST:LAST, both from 1 to steps {self.steps}"
            )
        if self.minimum and self.validation is None:
            raise ValueError("minimum needs a validation source to be measured on; add 'validation'")
        for key in self.minimum:
            if key.split("/")[0] not in self.tasks:
                raise ValueError(
                    f"minimum names '{key}', which is of no task here; {nearest(key.split('/')[0], self.tasks)}"
                )
        for task in self.accept_failed:
            if task not in self.tasks:
                raise ValueError(f"accept_failed names '{task}', which is no task here; {nearest(task, self.tasks)}")
        for part in self.remat:
            if part not in REMAT:
                raise ValueError(f"remat names '{part}', which is no part of a network; {nearest(part, REMAT)}")
        return self


class LabelConfig(_Config):
    """Teachers label one image set, one column a teacher and task.

    A rerun with further teachers adds their columns. Of several processes on one workdir each takes every n-th shard.
    """

    free: ClassVar[frozenset[str]] = _Config.free | {
        "teachers",
        "tasks",
        "gallery_images",
        "worker",
        "dry_run",
        "chips",
    }

    stage: Literal["label"] = "label"
    data_dir: str = "data"
    devices: NonNegativeInt = 0
    images: str
    take: NonNegativeInt = 0
    teachers: Annotated[Names, Field(min_length=1)]
    tasks: dict[str, dict[str, Any]] = {}  # overrides of the teachers' pseudo-label options, by task
    batch_size: PositiveInt = 64
    shard_images: PositiveInt = 1024
    gallery_images: NonNegativeInt = 32
    worker: str = "0/1"  # this process, from 0, and how many
    dry_run: bool = False  # label a sample, print what the whole set costs, and write nothing
    chips: NonNegativeInt = 0  # devices to forecast the hours for; 0 = those in use here

    @property
    def worker_of(self) -> tuple[int, int]:
        """Number and count."""
        number, count = self.worker.split("/")
        return int(number), int(count)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if not re.fullmatch(r"\d+/[1-9]\d*", self.worker):
            raise ValueError(f"worker '{self.worker}' is none; give its number from 0 and how many there are, like 0/2")
        number, count = self.worker_of
        if number >= count:
            raise ValueError(f"worker {self.worker} is not there; of {count} workers the last is {count - 1}/{count}")
        return self


class LabelsConfig(_Config):
    """Looks at label columns: `describe` prints what they are, `verify` checks every file and label of them.

    columns: folders of columns, or of label runs, whose columns are all meant.
    images: the image set that they should belong to, as in `SourceConfig`, with `take`; "" = do not compare.
    """

    is_run: ClassVar[bool] = False

    stage: Literal["labels"] = "labels"
    action: Literal["describe", "verify"] = "describe"
    data_dir: str = "data"
    columns: Annotated[Names, Field(min_length=1)]
    images: str = ""
    take: NonNegativeInt = 0


class AuditConfig(_Config):
    """The gate between labelling and training: what the label columns of an image set hold, and a verdict on each.

    images: the image set that the columns label, as in `SourceConfig`, with `take`. True labels that are stored with
      it, or come as columns, are what the others are scored against.
    columns: folders of columns, or of label runs, whose columns are all meant.
    evaluation: image sets that `images` should share nothing with; near-duplicates are looked for.
    duplicate_distance: of the 256 bits of two images' perceptual hashes at most so many differ between near-duplicates.
    sample: images, spread over the set, whose labels are read; 0 = all.
    """

    stage: Literal["audit"] = "audit"
    data_dir: str = "data"
    images: str
    take: NonNegativeInt = 0
    columns: Annotated[Names, Field(min_length=1)]
    evaluation: Names = ()
    duplicate_distance: Annotated[int, Field(ge=0, lt=128)] = 48
    sample: NonNegativeInt = 0


class DownstreamConfig(_Config):
    """One held-out task of the scorecard. The learning rate is chosen on validation, the value is of test."""

    task: str
    train: SourceConfig
    validation: SourceConfig
    test: SourceConfig
    options: dict[str, Any] = {}


class TransferConfig(_Config):
    """One way to measure a representation: heads alone on frozen features, or everything fine-tuned."""

    mode: Literal["frozen", "finetune"]
    inits: Names = ()  # names in `EvaluateConfig.inits`; () = all of them
    steps: PositiveInt
    batch_size: PositiveInt = 32
    # Each is tried with the first seed, the best one is used for all seeds.
    learning_rates: Annotated[tuple[PositiveFloat, ...], Field(min_length=1), Listed]
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1), Listed] = (0, 1, 2)
    optimizer: OptimizerConfig = OptimizerConfig()
    augment: AugmentConfig = AugmentConfig()

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.optimizer.warmup_steps >= self.steps:
            raise ValueError(_below(self.optimizer.warmup_steps, self.steps))
        return self


class EvaluateConfig(_Config):
    """The scorecard: every starting point on every downstream set."""

    stage: Literal["evaluate"] = "evaluate"
    data_dir: str = "data"
    devices: NonNegativeInt = 0
    inits: Annotated[
        dict[str, str], Field(min_length=1)
    ]  # name -> folder of a finished run; "" = random initialisation
    downstream: Annotated[dict[str, DownstreamConfig], Field(min_length=1)]  # name of the set -> what it is
    transfers: Annotated[tuple[TransferConfig, ...], Field(min_length=1)]
    model: ModelConfig = ModelConfig()  # all starting points must have it
    image_size: ImageSize = 64
    max_boxes: PositiveInt = 20

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for name in (name for transfer in self.transfers for name in transfer.inits):
            if name not in self.inits:
                raise ValueError(f"a transfer starts from '{name}', which is not in inits; {nearest(name, self.inits)}")
        return self


InPipeline = TrainConfig | LabelConfig | AuditConfig | EvaluateConfig


class PipelineConfig(_Config):
    """Stages one after the other, each in a folder of its name under the workdir, then a report.

    "{workdir}" in a value of a stage stands for the pipeline's own folder, `data_dir` and `devices` are handed on.
    """

    stage: Literal["pipeline"] = "pipeline"
    title: str = "must_jax"
    data_dir: str = "data"
    devices: NonNegativeInt = 0
    stages: Annotated[dict[str, Annotated[InPipeline, Field(discriminator="stage")]], Field(min_length=1)]

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for name, stage in self.stages.items():
            if isinstance(stage, LabelConfig) and stage.dry_run:
                raise ValueError(f"stages.{name}.dry_run makes no labels to go on with; use it with configs/label.py")
        return self


class DescribeConfig(_Config):
    """What is in a workdir, and how it came there. All other keys are those of the run, and not read."""

    model_config = pydantic.ConfigDict(extra="ignore")

    is_run: ClassVar[bool] = False

    stage: Literal["describe"] = "describe"

    @pydantic.model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, values: Any) -> Any:
        return values


PROGRAMS = ("train", "evaluate", "label", "features")  # that the stage `compile` knows


class TargetConfig(_Config):
    """What `compile` compiles for.

    topology: chip and slice as the TPU documentation names them: "v5e:4x8", "v4:2x2x4", "v5p:4x4x4", "v6e:16x16".
    programs: which of the stage's programs; () = all. "train", "evaluate" and "label", and of the scorecard "features".
    classes: task -> number of classes, where no data or teacher tells.
    """

    topology: str
    programs: Names = ()
    classes: dict[str, PositiveInt] = {}

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for name in self.programs:
            if name not in PROGRAMS:
                raise ValueError(f"programs names '{name}', which is none; {nearest(name, PROGRAMS)}")
        return self


class CompileConfig(_Config):
    """The programs of another stage, `of`, compiled for TPUs that need not be here."""

    is_run: ClassVar[bool] = False

    stage: Literal["compile"] = "compile"
    compile: TargetConfig
    of: TrainConfig | LabelConfig | EvaluateConfig


class ReplayConfig(_Config):
    """Update number `replay`, from 0, of the training `of` again."""

    is_run: ClassVar[bool] = False

    stage: Literal["replay"] = "replay"
    replay: NonNegativeInt
    of: TrainConfig


AnyConfig = PrepareConfig | InPipeline | LabelsConfig | PipelineConfig | DescribeConfig | CompileConfig | ReplayConfig
STAGE_CONFIGS: dict[str, type[AnyConfig]] = {
    "prepare": PrepareConfig,
    "train": TrainConfig,
    "label": LabelConfig,
    "labels": LabelsConfig,
    "audit": AuditConfig,
    "evaluate": EvaluateConfig,
    "pipeline": PipelineConfig,
    "describe": DescribeConfig,
}


def digest(config: pydantic.BaseModel) -> str:
    """Sixteen hex digits that change when any value of the config changes."""
    canonical = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
