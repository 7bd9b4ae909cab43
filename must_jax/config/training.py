"""Config of a training run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic
from pydantic import Field

from must_jax.config.base import (
    HERE,
    MAX_LISTED,
    BatchSize,
    Config,
    Count,
    Float,
    ImageSize,
    MaxBoxes,
    Names,
    PositiveCount,
    Seconds,
    Seed,
    TasksOptions,
    input_hw_of,
)
from must_jax.config.parts import (
    REMAT,
    AugmentConfig,
    ColumnsConfig,
    InputConfig,
    ModelConfig,
    OptimizerConfig,
    SourceConfig,
    ValidationConfig,
    too_much_warmup,
)
from must_jax.errors import nearest

PARTS = ("backbone", "fpn", "heads")  # of a network, that `init_parts` may name


def _sources(value: Any) -> Any:
    """A single source, as configs of earlier versions have it, is a list of one."""
    return (value,) if isinstance(value, Mapping) else value


class TrainConfig(Config):
    """Teachers, student and fine-tuning: one model on the labels of one or more image sets."""

    free: ClassVar[frozenset[str]] = Config.free | {
        *("log_every", "checkpoint_every", "minimum", "accept_failed", "profile"),
        *("validation", "validate_every", "patience"),  # with `best`, checkpoints are bound to them (stages/train.py)
        *("fsdp", "max_skipped", "ready_within_s", "remat", "input"),
    }

    stage: Literal["train"] = "train"
    seed: Seed = 0
    """Of initial parameters, the order of images and their augmentation."""
    data_dir: str = "data"
    """Folder of the image sets that are read by name."""
    devices: Count = 0
    """Devices to use; 0 = as many as can share the batches. On a CPU, virtual ones, at most one per core."""
    train: Annotated[tuple[SourceConfig, ...], Field(min_length=1, max_length=MAX_LISTED)]
    """What is trained on: a list of image sets with their labels."""
    validation: Annotated[
        tuple[ValidationConfig, ...], Field(max_length=MAX_LISTED), pydantic.BeforeValidator(_sources)
    ] = ()
    """What the model is measured on: a list of labelled image sets. Without one for its tasks, it cannot label."""
    validate_every: Count = 0
    """Updates between two validations, each with a checkpoint; there is one after the last update anyway; 0 = only
    that."""
    best: str = ""
    """TASK/METRIC: of all models that were validated, the one with the highest value is kept, the first of equals;
    none = that of the last update."""
    patience: Count = 0
    """Training ends after so many validations in a row without a better value of `best`; 0 = never."""
    columns: ColumnsConfig = ColumnsConfig()
    """Which of the labels are read, by task or by source: a teacher's name, or `truth`."""
    fsdp: PositiveCount = 1
    """Devices that share one copy of the training state."""
    ready_within_s: Seconds = 600.0
    """Seconds to wait for other hosts after the first one is ready; then the missing one is named."""
    tasks: Annotated[TasksOptions, Field(min_length=1)]
    """Task -> its own options and its loss weight."""
    image_size: ImageSize = 64
    """Of the network's input in pixels: the side of a square, or height and width (`384,640` for 16:9), each a multiple
    of 32; images are fitted into it, aspect kept."""
    max_boxes: MaxBoxes = 100
    """Boxes of an image that are trained on."""
    augment: AugmentConfig = AugmentConfig()
    """Random geometry of training images."""
    input: InputConfig = InputConfig()
    """How batches are made ahead of the devices."""
    model: ModelConfig = ModelConfig()
    """The network."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer and schedule."""
    batch_size: BatchSize = 32
    """Images of an update, over all devices."""
    accumulate: PositiveCount = 1
    """Parts of a batch that are processed in sequence, to save memory."""
    remat: Names = ()
    """Parts of the network (stage1 to stage4, fpn, heads) whose activations are recomputed for the gradient instead of
    being stored: less memory, more operations, the same numbers."""
    steps: PositiveCount = 1000
    """Updates."""
    max_skipped: Count = 5
    """How many of 100 updates may be skipped because they are not finite."""
    log_every: PositiveCount = 50
    """Updates between two lines of metrics."""
    checkpoint_every: PositiveCount = 500
    """Updates between two checkpoints."""
    init: str = ""
    """A finished run to start from; none = random."""
    init_parts: Names = ("backbone", "fpn")
    """What is taken from it: backbone, fpn (the pyramid), heads. Of the heads, those of tasks that have the same name,
    classes and shape here; others are new."""
    minimum: dict[str, Float] = {}
    """TASK/METRIC -> the least value on validation that the finished model must reach."""
    accept_failed: Names = ()
    """Tasks whose label columns are trained on even if they failed the gate."""
    profile: str = ""
    """Updates to trace, FIRST:LAST; none = no trace."""

    @property
    def profiled(self) -> range:
        """The updates to trace, numbered from 1."""
        match = re.fullmatch(r"(\d+):(\d+)", self.profile)
        return range(int(match[1]), int(match[2]) + 1) if match else range(0)

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width of the network's input in pixels."""
        return input_hw_of(self.image_size)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.optimizer.warmup_steps >= self.steps:
            raise ValueError(too_much_warmup(self.optimizer.warmup_steps, self.steps))
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}")
        if self.profile and not (self.profiled and self.profiled[0] >= 1 and self.profiled[-1] <= self.steps):
            raise ValueError(
                f"profile {self.profile} is not a range of updates; write FIRST:LAST, both from 1 to steps {self.steps}"
            )
        self._check_validation()
        for task in self.accept_failed:
            if task not in self.tasks:
                raise ValueError(f"accept_failed names '{task}', which is not a task here; {nearest(task, self.tasks)}")
        for part in self.remat:
            if part not in REMAT:
                raise ValueError(f"remat names '{part}', which is not a part of the network; {nearest(part, REMAT)}")
        return self

    def _check_validation(self) -> None:
        for key, metrics in {"minimum": self.minimum, "best": [self.best] * bool(self.best)}.items():
            if metrics and not self.validation:
                raise ValueError(
                    f"{key} needs images to be measured on; set {HERE}.validation.0.images, or --{HERE}.{key}=none"
                )
            for metric in metrics:
                if (task := metric.split("/")[0]) not in self.tasks:
                    raise ValueError(
                        f"{key} names '{metric}', which is not a metric of a task here; {nearest(task, self.tasks)}"
                    )
        for number, source in enumerate(self.validation):
            if re.search(r"[^\w.-]", source.name):
                raise ValueError(f"validation.{number}.name '{source.name}' may have letters, digits, '.', '_' and '-'")
            for task in source.tasks:
                if task not in self.tasks:
                    raise ValueError(
                        f"validation.{number}.tasks names '{task}', which is not a task here; "
                        f"{nearest(task, self.tasks)}"
                    )
        if self.patience and not self.best:
            raise ValueError(f"patience needs a metric to watch; set {HERE}.best, for example to 'depth/delta1'")
        for part in self.init_parts:
            if part not in PARTS:
                raise ValueError(f"init_parts names '{part}', which is not a part of a network; {nearest(part, PARTS)}")
