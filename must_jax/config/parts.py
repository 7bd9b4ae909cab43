"""What the configs of several stages share: network, optimizer, augmentation, sources of images and labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from must_jax.config.architectures import ARCHITECTURES, ResNetParts
from must_jax.config.base import (
    HERE,
    Channels,
    Config,
    Count,
    Decay,
    Listed,
    Names,
    Number,
    Rate,
    Scale,
    Share,
    ShareOrByClass,
    Width,
)
from must_jax.errors import nearest

Padding = Literal["zeros", "edge"]
REMAT = ("stage1", "stage2", "stage3", "stage4", "fpn", "heads")  # parts of a network that `remat` may name
_OF_TRAINING = ("weights", "drop_path")  # keys of a network that a trained one does not depend on


class ModelConfig(Config):
    """Architecture of backbone, pyramid and heads."""

    backbone: str = "resnet50"
    """A name of `python -m must_jax.backbones`, as timm calls it."""
    weights: Annotated[str, Field(exclude_if=lambda path: not path)] = ""
    """Weights of others that the backbone starts with: a safetensors or npz file, or the folder of a model of timm or
    transformers (docs/models.md); none = random, or those of `init`."""
    mean: Annotated[tuple[Share, ...], Field(exclude_if=lambda values: not values), Listed] = ()
    """Subtracted from red, green and blue, which are from 0 to 1; none = as the weights or `init` have it, or as the
    backbone was published."""
    std: Annotated[tuple[Share, ...], Field(exclude_if=lambda values: not values), Listed] = ()
    """Red, green and blue are divided by it; none = as for `mean`."""
    width: Width = 1.0
    """Factor on all channels of a ResNet."""
    drop_path: Annotated[float, Field(ge=0, lt=1, exclude_if=lambda rate: rate == 0), Number] = 0.0
    """Stochastic depth: the share of the images for which an update leaves out the last block of the backbone; it rises
    evenly from 0 at the first one."""
    pyramid_channels: Channels = 256
    """Channels of each level of the feature pyramid."""
    head_channels: Channels = 256
    """Channels of the convolutions of each head."""
    head_convs: Annotated[int, Field(ge=0, le=100), Number] = 3
    """Convolutions of each head, before its last layer."""
    head_padding: Padding = "zeros"
    """What the convolutions of the heads for maps see beyond the image: `zeros`, or its outermost cells again (`edge`).
    With zeros, maps of unusual images have a frame of odd cells (docs/images.md)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters are always float32."""
    batch_norm_momentum: Annotated[float, Field(gt=0, lt=1), Number] = 0.9
    """Share of the running statistics that an update keeps."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.backbone not in ARCHITECTURES:
            raise ValueError(
                f"there is no backbone '{self.backbone}'; {nearest(self.backbone, ARCHITECTURES)}; "
                "python -m must_jax.backbones lists them"
            )
        for key in ("mean", "std"):
            if len(values := getattr(self, key)) not in (0, 3):
                raise ValueError(f"{key} has {len(values)} values, but an image has three channels; give three")
        if 0 in self.std:
            raise ValueError(f"std {self.std} must be above 0, it is what channels are divided by")
        if self.width != 1 and not isinstance(ARCHITECTURES[self.backbone].parts, ResNetParts):
            raise ValueError(f"width is for ResNets, whose channels it multiplies; set {HERE}.width=1, or a ResNet")
        return self

    def differing(self, other: ModelConfig, keys: Iterable[str] | None = None) -> dict[str, Any]:
        """Of these keys, None = all that make the network, those that `other` has otherwise, with its values.

        `mean` and `std` that are not set here are as there.
        """
        if keys is None:
            keys = [key for key in type(self).model_fields if key not in _OF_TRAINING]
        theirs = {key: getattr(other, key) for key in keys}
        unset = {key for key in ("mean", "std") if not getattr(self, key)}
        return {key: value for key, value in theirs.items() if value != getattr(self, key) and key not in unset}

    def normalised_as(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Self:
        """With these `mean` and `std`, where none are set."""
        return self.model_copy(update={"mean": self.mean or mean, "std": self.std or std})


class OptimizerConfig(Config):
    """Linear warm-up from 0, then cosine decay to 0 at the last step."""

    name: Literal["sgd", "adamw", "lars"] = "sgd"
    """The optimizer: SGD with momentum, AdamW, or LARS, which is SGD with steps in proportion to each kernel, for very
    large batches."""
    learning_rate: Rate = 0.1
    """At the end of the warm-up, the highest of the schedule."""
    warmup_steps: Count = 0
    """Updates in which the learning rate rises from 0; fewer than `steps`."""
    momentum: Decay = 0.9
    """Of SGD and LARS; for AdamW, the decay of the first moment."""
    weight_decay: Annotated[float, Field(ge=0, le=1e6), Number] = 4e-5
    """On kernels only, never on norms and biases."""
    backbone_rate: Annotated[Share, Field(exclude_if=lambda share: share == 1)] = 1.0
    """Factor on the learning rate of the backbone; 0 = it is frozen, with its statistics. What a ViT has
    beside its published weights, the layers that make maps of several strides, learns as heads do."""
    layer_decay: Annotated[float, Field(gt=0, le=1, exclude_if=lambda decay: decay == 1), Number] = 1.0
    """Each block of the backbone has this share of the learning rate of what follows it; 1 = all have the same."""
    clip_norm: Annotated[float, Field(ge=0, le=1e30), Number] = 0.0
    """Largest norm of the whole gradient; 0 = off."""
    ema_decay: Decay = 0.0
    """Of the moving average of parameters and statistics that the finished model has; 0 = off. It warms up: update t,
    from 0, has min(ema_decay, (1 + t) / (10 + t))."""


class SourceConfig(Config):
    """One image set and the labels to read with it."""

    images: str
    """An image set: `NAME:SPLIT` of one that was prepared, `NAME/CONFIG:SPLIT` of a TFDS dataset, `folder:PATH`. A
    split can be a part (`train[:80%]`) or a sum (`train+validation`)."""
    labels: Names = ("truth",)
    """Where labels come from: `truth` (stored with the images), the folder of a column, or that of a label run, for all
    of its columns. If an image has several of one task, a true one wins, among others the first."""
    take: Count = 0
    """A sample of n images, the same in every run and part of every larger one; 0 = all."""
    names: dict[str, str] = {}
    """Another name for the task of some labels: a stored task, or the folder of a column -> the task that it is here.
    So two segmentations of different classes can meet in one model."""
    min_confidence: dict[str, ShareOrByClass] = {}
    """By task: labels of columns below it are dropped: boxes, pixels (of columns made with keep_confidence) and
    distributions, by their largest probability. `TASK.CLASS` sets that of a single class."""

    def called(self, task: str, folder: str = "") -> str:
        """What labels of a stored task, in a column's folder of this name, are called here."""
        return self.names.get(folder, self.names.get(task, task))


class ValidationConfig(SourceConfig):
    """A labelled image set that the model is measured on."""

    tasks: Names = ()
    """Which of the tasks that are labelled there are measured; none = all."""
    name: str = ""
    """Needed if a task is measured on another source before: the metrics are then TASK/METRIC@NAME."""


def too_much_warmup(warmup_steps: int, steps: int) -> str:
    return (
        f"optimizer.warmup_steps {warmup_steps} must be below steps {steps}; "
        f"set {HERE}.optimizer.warmup_steps lower, or {HERE}.steps higher"
    )


class AugmentConfig(Config):
    """Random geometry of training examples."""

    flip: bool = True
    """Mirrors half of the images."""
    scale_min: Scale = 1.0
    """Smallest scale, relative to the image fitted into the input."""
    scale_max: Scale = 1.0
    """Largest scale; above 1, a part of the image is cut out."""
    scale_sampling: Literal["uniform", "log_uniform"] = "uniform"
    """Between the two: `uniform` in the scale itself, as in the paper's code base, or `log_uniform`: halving and
    doubling are equally likely."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min {self.scale_min} must not be above scale_max {self.scale_max}")
        return self


class ColumnsConfig(Config):
    """Which of the training labels are read, by task or by source: a teacher's name, or "truth"."""

    drop: Names = ()
    """Tasks or teachers whose labels are not read. A task that then has no labels is not trained."""
    keep: Names = ()
    """Labels of all other tasks or teachers are not read; none = keep all. If it names tasks, other tasks without
    labels are not trained."""

    def reads(self, *names: str) -> bool:
        """Whether the labels that go by these names, of a task and a source, are read."""
        return not {*names} & {*self.drop} and (not self.keep or bool({*names} & {*self.keep}))


class InputConfig(Config):
    """How batches are made ahead of the devices. It does not change them."""

    workers: Annotated[int | None, Field(ge=0, le=1024), Number] = None
    """Processes that read and augment images, and as many that make labels where labels are made; none = one per core
    where GPUs or TPUs compute, 0 on CPUs; 0 = threads of this process, of which only one at a time runs Python. All
    workers together have one thread per core. Threads always measure sets of at most 4,096 images, since workers take
    seconds to start."""
    prefetch_bytes: Annotated[int, Field(gt=0, le=2**50), Number] = 2**31
    """Memory for batches that are ready or being made, besides those in use; where labels are made, also for what waits
    to be written. One is always made ahead."""
