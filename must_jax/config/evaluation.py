"""Config of the scorecard."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from must_jax.config.base import (
    BatchSize,
    Config,
    Count,
    ImageSize,
    Listed,
    MaxBoxes,
    Names,
    PositiveCount,
    Rate,
    Seed,
)
from must_jax.config.parts import AugmentConfig, ModelConfig, OptimizerConfig, SourceConfig, too_much_warmup
from must_jax.errors import nearest


class DownstreamConfig(Config):
    """One held-out task of the scorecard. The learning rate is chosen on validation, the value is from test."""

    task: str
    train: SourceConfig
    validation: SourceConfig
    test: SourceConfig
    options: dict[str, Any] = {}


class TransferConfig(Config):
    """One way to measure a representation: heads alone on frozen features, or everything fine-tuned."""

    mode: Literal["frozen", "finetune"]
    inits: Names = ()  # names in `EvaluateConfig.inits`; () = all of them
    steps: PositiveCount
    batch_size: BatchSize = 32
    # Each is tried with the first seed; the best one is used for all seeds.
    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=1, max_length=1000), Listed]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1000), Listed] = (0, 1, 2)
    optimizer: OptimizerConfig = OptimizerConfig()
    augment: AugmentConfig = AugmentConfig()

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.optimizer.warmup_steps >= self.steps:
            raise ValueError(too_much_warmup(self.optimizer.warmup_steps, self.steps))
        return self


class EvaluateConfig(Config):
    """The scorecard: every starting point on every downstream set."""

    stage: Literal["evaluate"] = "evaluate"
    data_dir: str = "data"
    devices: Count = 0
    inits: Annotated[
        dict[str, str], Field(min_length=1)
    ]  # name -> folder of a finished run; "" = random initialisation
    downstream: Annotated[dict[str, DownstreamConfig], Field(min_length=1)]  # name of the set -> what it is
    transfers: Annotated[tuple[TransferConfig, ...], Field(min_length=1, max_length=1000)]
    model: ModelConfig = ModelConfig()  # all starting points must have it
    image_size: ImageSize = 64
    max_boxes: MaxBoxes = 100

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for name in (name for transfer in self.transfers for name in transfer.inits):
            if name not in self.inits:
                raise ValueError(f"a transfer starts from '{name}', which is not in inits; {nearest(name, self.inits)}")
        return self
