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
    """Teachers, student and fine-tuning: one model on the labels of one or more image sets.

    remat: parts of the network ("stage1" to "stage4", "fpn", "heads") whose activations are recomputed for the
      gradient instead of being stored: less memory, more operations, the same numbers.
    """

    free: ClassVar[frozenset[str]] = Config.free | {
        *("log_every", "checkpoint_every", "minimum", "accept_failed", "profile"),
        *("fsdp", "max_skipped", "ready_within_s", "remat"),
    }

    stage: Literal["train"] = "train"
    seed: Seed = 0
    data_dir: str = "data"
    devices: Count = 0  # 0 = as many as can share the batches; on a CPU, virtual ones, at most one per core
    train: Annotated[tuple[SourceConfig, ...], Field(min_length=1, max_length=MAX_LISTED)]
    validation: SourceConfig | None = None
    columns: ColumnsConfig = ColumnsConfig()
    fsdp: PositiveCount = 1  # devices that share one copy of the training state
    ready_within_s: Seconds = 600.0  # after the first host is ready; then the missing one is named
    # Task name -> that task's own options and its loss weight.
    tasks: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    image_size: ImageSize = 64
    max_boxes: MaxBoxes = 100
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    batch_size: BatchSize = 32
    accumulate: PositiveCount = 1  # parts of a batch that are processed in sequence, to save memory
    remat: Names = ()
    steps: PositiveCount = 1000
    max_skipped: Count = 5  # how many of 100 updates may be skipped because they are not finite
    log_every: PositiveCount = 50
    checkpoint_every: PositiveCount = 500
    init: str = ""  # a finished run whose backbone and pyramid to start from; "" = random
    minimum: dict[str, Float] = {}  # "task/metric" on validation that the finished model must reach
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
