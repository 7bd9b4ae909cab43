"""Config of the scorecard."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

import pydantic
from pydantic import Field

from must_jax.config.base import (
    BatchSize,
    Bytes,
    Config,
    Count,
    ImageSize,
    Listed,
    MaxBoxes,
    Names,
    PositiveCount,
    Rate,
    Seed,
    TaskOptions,
    input_hw_of,
)
from must_jax.config.parts import (
    AugmentConfig,
    InputConfig,
    ModelConfig,
    OptimizerConfig,
    SourceConfig,
    too_much_warmup,
)
from must_jax.errors import nearest


class DownstreamConfig(Config):
    """One held-out task of the scorecard. The learning rate is chosen on validation, the value is from test."""

    task: str
    """What is to be learnt."""
    train: SourceConfig
    """The few labelled images that new heads are trained on."""
    validation: SourceConfig
    """Chooses the learning rate."""
    test: SourceConfig
    """What the scorecard reports."""
    options: TaskOptions = {}
    """The task's own options."""


class TransferConfig(Config):
    """One way to measure a representation: heads alone on frozen features, or everything fine-tuned."""

    mode: Literal["frozen", "finetune"]
    """`frozen`: new heads alone, on fixed features; `finetune`: all parameters."""
    inits: Names = ()
    """Names in the evaluation's `inits`; none = all of them."""
    steps: PositiveCount
    """Updates of each training."""
    batch_size: BatchSize = 32
    """Images of an update."""
    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=1, max_length=1000), Listed]
    """Each is tried with the first seed; the best one on validation is used for all seeds."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1000), Listed] = (0, 1, 2)
    """One training for each; the scorecard has their mean and spread."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer and schedule; its learning rate is one of `learning_rates`."""
    augment: AugmentConfig = AugmentConfig()
    """Random geometry of training images."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.optimizer.warmup_steps >= self.steps:
            raise ValueError(too_much_warmup(self.optimizer.warmup_steps, self.steps))
        return self


class EvaluateConfig(Config):
    """The scorecard: every starting point on every downstream set."""

    free: ClassVar[frozenset[str]] = Config.free | {"feature_bytes", "input"}

    stage: Literal["evaluate"] = "evaluate"
    data_dir: str = "data"
    """Folder of the image sets that are read by name."""
    devices: Count = 0
    """Devices to use; 0 = as many as can share the batches. On a CPU, virtual ones, at most one per core."""
    inits: Annotated[dict[str, str], Field(min_length=1)]
    """Starting points: a name -> the folder of a finished run; or a file or folder of weights of others, as of
    `model.weights`; none = random initialisation."""
    baselines: Annotated[Names, Field(exclude_if=lambda names: not names)] = ()
    """Those that all other trained ones are compared with, one by one, such as a checkpoint that they started from."""
    downstream: Annotated[dict[str, DownstreamConfig], Field(min_length=1)]
    """The held-out sets: a name -> its task and its images."""
    transfers: Annotated[tuple[TransferConfig, ...], Field(min_length=1, max_length=1000)]
    """Ways to measure a representation: heads alone, or everything fine-tuned."""
    model: ModelConfig = ModelConfig()
    """The network that all starting points have."""
    image_size: ImageSize = 64
    """Of the network's input in pixels: the side of a square, or height and width (`384,640` for 16:9), each a multiple
    of 32; images are fitted into it, aspect kept."""
    max_boxes: MaxBoxes = 100
    """Boxes of an image that are trained on."""
    feature_bytes: Bytes = 4 * 2**30
    """Memory for the features that frozen transfer trains on; those beyond lie in the workdir while they are needed."""
    input: InputConfig = InputConfig()
    """How batches are made ahead of the devices. Workers make only those that are trained on."""

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width of the network's input in pixels."""
        return input_hw_of(self.image_size)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for name in (name for transfer in self.transfers for name in transfer.inits):
            if name not in self.inits:
                raise ValueError(f"a transfer starts from '{name}', which is not in inits; {nearest(name, self.inits)}")
        for name in self.baselines:
            if not self.inits.get(name):
                known = [init for init, run in self.inits.items() if run]
                raise ValueError(f"baselines names '{name}', which is not a run in inits; {nearest(name, known)}")
        return self
