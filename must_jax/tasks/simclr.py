"""SimCLR: self-supervision by telling the views of an image from those of all others (Chen et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from must_jax.config import ModelConfig
from must_jax.data.kinds import NoLabel
from must_jax.errors import UserError
from must_jax.models import views
from must_jax.models.layers import BatchNorm
from must_jax.tasks.base import Arrays, Details, NumpyArrays, Sums, Task
from must_jax.tasks.measures import masked_sum

VIEWS = 2  # of an image
_COMPARED = 1024  # images at a time, with all others


class SimCLR(Task):
    """NT-Xent over the batch of all devices: each view has to find the other one of its image among all other views.

    It teaches the backbone alone, and neither the pyramid nor other heads.
    """

    kind: ClassVar[str] = "simclr"
    metric: ClassVar[str] = "top1"
    self_supervised: ClassVar[bool] = True

    temperature: Annotated[float, Field(gt=0, le=100)] = 0.1
    """Similarities, from -1 to 1, are divided by it."""
    outputs: Annotated[int, Field(ge=1, le=2**16)] = 128
    """Numbers of an embedding."""
    hidden: Annotated[int, Field(ge=0, le=2**16)] = 0
    """Channels of the hidden layer between backbone and embedding; 0 = as many as the backbone's last stage has."""
    crop_min: Annotated[float, Field(gt=0, le=1)] = 0.08
    """The smallest part of the image's area that a view shows."""
    jitter: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Strength of the changes of colours between views."""
    grey: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the views that are without colour."""
    blur: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the views that are blurred."""

    @property
    def label(self) -> NoLabel:
        return NoLabel()

    def head(self, model: ModelConfig) -> ProjectionHead:
        distortion = views.Distortion(self.crop_min, self.jitter, self.grey, self.blur)
        return ProjectionHead(self.outputs, self.hidden, model.batch_norm_momentum, distortion)

    def loss(self, outputs: Arrays, labels: Arrays, input_hw: tuple[int, int]) -> Sums:
        return {"nt_xent": nt_xent(outputs["embeddings"], labels["present"], self.temperature)}

    def predict(self, outputs: Arrays, input_hw: tuple[int, int]) -> Arrays:
        return {"embeddings": _normalised(outputs["embeddings"])}

    def metrics(self) -> SimCLRMetrics:
        return SimCLRMetrics()

    def pseudo_label(self, prediction: NumpyArrays) -> dict[str, np.ndarray]:
        raise UserError(f"{self.name} has no labels to give, it learns from images alone; use a model of other tasks")

    def draw(self, image: np.ndarray, label: NumpyArrays) -> np.ndarray:
        return image

    def describe(self, label: NumpyArrays) -> dict[str, Any]:
        return {}


class ProjectionHead(nn.Module):
    """Mean of C5, a linear layer, norm, ReLU, and a linear layer: {"embeddings": [B, 2, outputs]}, of two views."""

    outputs: int
    hidden: int = 0
    momentum: float = 0.9
    distortion: views.Distortion = views.Distortion()

    @nn.nowrap
    def views(self, images: jax.Array, key: jax.Array) -> jax.Array:
        """See `models/heads.py`."""
        return views.draw(images, key, VIEWS, self.distortion)

    @nn.compact
    def __call__(self, features: Mapping[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        x = features["c5"].astype(jnp.float32).mean((1, 2), keepdims=True)
        x = nn.Dense(self.hidden or x.shape[-1], use_bias=False, name="project")(x)
        x = nn.relu(BatchNorm(self.momentum, name="norm")(x, train))
        return {"embeddings": nn.Dense(self.outputs, use_bias=False, name="embed")(x)[:, 0, 0]}


def nt_xent(embeddings: jax.Array, present: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of finding a view's partner among all other views: the sum over views, and their number.

    Args:
      embeddings: f32[B, 2, D], of any length.
      present: f32[B]; images with 0 are neither asked about nor among the others.
    """
    embeddings = _normalised(embeddings)
    partner = (embeddings[:, 0] * embeddings[:, 1]).sum(-1) / temperature
    views = embeddings.reshape(-1, embeddings.shape[-1])
    similar = jnp.matmul(views, views.T, precision=jax.lax.Precision.HIGHEST) / temperature
    there = jnp.repeat(present, VIEWS)
    compared = (there[None] > 0) & ~jnp.eye(len(views), dtype=bool)
    entropy = jax.nn.logsumexp(jnp.where(compared, similar, -1e9), axis=1) - jnp.repeat(partner, VIEWS)
    return masked_sum(entropy, there)


def _normalised(embeddings: jax.Array) -> jax.Array:
    return embeddings * jax.lax.rsqrt(jnp.square(embeddings).sum(-1, keepdims=True) + 1e-12)


class SimCLRMetrics:
    """`top1`: percent of images of which one view is most similar to the other, of those of all images measured.

    The more images, the harder it is. Views are drawn as in training, but always the same.
    """

    def __init__(self) -> None:
        self._embeddings: list[np.ndarray] = []  # f32[2, D] each

    def update(self, prediction: NumpyArrays, label: NumpyArrays) -> None:
        if label["present"]:
            self._embeddings.append(np.asarray(prediction["embeddings"], np.float32))

    def merge(self, other: SimCLRMetrics) -> None:
        self._embeddings += other._embeddings

    def result(self) -> dict[str, float]:
        if not self._embeddings:
            return {"top1": 0.0}
        some, others = np.stack(self._embeddings, axis=1)
        found = 0
        for start in range(0, len(some), _COMPARED):
            similar = some[start : start + _COMPARED] @ others.T
            found += int((similar.argmax(1) == start + np.arange(len(similar))).sum())
        return {"top1": 100 * found / len(some)}

    def details(self) -> Details:
        return {}

    def chance(self) -> float:
        return 100 / len(self._embeddings) if self._embeddings else 0.0
