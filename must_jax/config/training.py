"""Config of a training run."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic
from pydantic import Field

from must_jax.config.base import (
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
)
from must_jax.config.parts import (
    REMAT,
    AugmentConfig,
    ColumnsConfig,
    ModelConfig,
    OptimizerConfig,
    SourceConfig,
    too_much_warmup,
)
from must_jax.errors import nearest


class TrainConfig(Config):
    """Teachers, student and fine-tuning: one model on the labels of one or more image sets."""

    free: ClassVar[frozenset[str]] = Config.free | {
        *("log_every", "checkpoint_every", "minimum", "accept_failed", "profile"),
        *("fsdp", "max_skipped", "ready_within_s", "remat"),
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
    validation: SourceConfig | None = None
    """What the finished model is measured on; none = not at all, and then it cannot label."""
    columns: ColumnsConfig = ColumnsConfig()
    """Which of the labels are read, by task or by source: a teacher's name, or `truth`."""
    fsdp: PositiveCount = 1
    """Devices that share one copy of the training state."""
    ready_within_s: Seconds = 600.0
    """Seconds to wait for other hosts after the first one is ready; then the missing one is named."""
    tasks: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    """Task -> its own options and its loss weight."""
    image_size: ImageSize = 64
    """Height and width of the network's input in pixels, a multiple of 32; images are fitted into it, aspect kept."""
    max_boxes: MaxBoxes = 100
    """Boxes of an image that are trained on."""
    augment: AugmentConfig = AugmentConfig()
    """Random geometry of training images."""
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
    """A finished run whose backbone and pyramid to start from; none = random."""
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
        if self.minimum and self.validation is None:
            raise ValueError("minimum needs a validation source to be measured on; add 'validation'")
        for key in self.minimum:
            if key.split("/")[0] not in self.tasks:
                raise ValueError(
                    f"minimum names '{key}', which is not a metric of a task here; "
                    f"{nearest(key.split('/')[0], self.tasks)}"
                )
        for task in self.accept_failed:
            if task not in self.tasks:
                raise ValueError(f"accept_failed names '{task}', which is not a task here; {nearest(task, self.tasks)}")
        for part in self.remat:
            if part not in REMAT:
                raise ValueError(f"remat names '{part}', which is not a part of the network; {nearest(part, REMAT)}")
        return self
