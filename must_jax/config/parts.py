"""What the configs of several stages share: network, optimizer, augmentation, sources of images and labels."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field

from must_jax.config.base import HERE, Channels, Config, Count, Decay, Names, Number, Rate, Scale, Share, Width

REMAT = ("stage1", "stage2", "stage3", "stage4", "fpn", "heads")  # parts of a network that `remat` may name


class ModelConfig(Config):
    """Architecture of backbone, pyramid and heads. Depth and width name the ResNet; channels are per pyramid level."""

    backbone: Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = "resnet50"
    width: Width = 1.0
    pyramid_channels: Channels = 256
    head_channels: Channels = 256
    head_convs: Annotated[int, Field(ge=0, le=100), Number] = 3
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; parameters are float32
    batch_norm_momentum: Annotated[float, Field(gt=0, lt=1), Number] = 0.9


class OptimizerConfig(Config):
    """Linear warm-up from 0, then cosine decay to 0 at the last step."""

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Rate = 0.1
    warmup_steps: Count = 0
    momentum: Decay = 0.9
    weight_decay: Annotated[float, Field(ge=0, le=1e6), Number] = 4e-5  # on kernels only, never on norms and biases
    clip_norm: Annotated[float, Field(ge=0, le=1e30), Number] = 0.0  # global gradient norm; 0 = off
    # Of parameters and statistics; 0 = off. It warms up: update t, from 0, has min(ema_decay, (1 + t) / (10 + t)).
    ema_decay: Decay = 0.0


class SourceConfig(Config):
    """One image set and the labels to read with it.

    images: "NAME/CONFIG:SPLIT" of a TFDS dataset ("scenes/teacher_depth:train"), or "folder:PATH".
    labels: where labels come from: "truth" (stored with the images), the folder of a column, or that of a label run,
      for all of its columns. Where an image has several of one task, a true one wins, and among others the first.
    take: only the first n images; 0 = all.
    min_confidence: by task; labels of columns below it are dropped: boxes, pixels (of columns made with
      keep_confidence) and distributions, by their largest probability.
    """

    images: str
    labels: Names = ("truth",)
    take: Count = 0
    min_confidence: dict[str, Share] = {}


def too_much_warmup(warmup_steps: int, steps: int) -> str:
    return (
        f"optimizer.warmup_steps {warmup_steps} must be below steps {steps}; "
        f"set {HERE}.optimizer.warmup_steps lower, or {HERE}.steps higher"
    )


class AugmentConfig(Config):
    """Random geometry of training examples. Scale is relative to the image fitted into the square input.

    scale_sampling: between scale_min and scale_max, "uniform" in the scale itself, as in the paper's code base, or
      "log_uniform": halving and doubling are equally likely.
    """

    flip: bool = True
    scale_min: Scale = 1.0
    scale_max: Scale = 1.0
    scale_sampling: Literal["uniform", "log_uniform"] = "uniform"

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min {self.scale_min} must not be above scale_max {self.scale_max}")
        return self


class ColumnsConfig(Config):
    """Which of the training labels are read, by task or by source: a teacher's name, or "truth".

    drop: tasks or teachers to remove. A task that then has no labels is not trained.
    keep: all others are removed; () = keep all. If it names tasks, other tasks without labels are not trained.
    """

    drop: Names = ()
    keep: Names = ()
