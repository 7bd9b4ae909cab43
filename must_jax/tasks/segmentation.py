"""Semantic segmentation: a class a pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

from must_jax.config import ModelConfig
from must_jax.data.kinds import IGNORE_ID, MapLabel
from must_jax.errors import UserError
from must_jax.models.heads import DenseHead
from must_jax.tasks import drawing
from must_jax.tasks.base import AnyArray, Arrays, NumpyArrays, Sums, Task
from must_jax.tasks.chance import most_frequent
from must_jax.tasks.measures import masked_sum, resize_maps, resize_on_host


class Segmentation(Task):
    """Softmax cross-entropy a pixel; pseudo labels are hard and leave unsure pixels out (paper section 3).

    Attributes:
      confidence_threshold: pixels of a pseudo label whose largest probability is smaller become IGNORE_ID.
      keep_confidence: whether stored pseudo labels keep ids and probability of all pixels, so that the threshold is
        applied when they are read and another one can be set without labelling again.
    """

    name: ClassVar[str] = "segmentation"
    metric: ClassVar[str] = "miou"
    has_classes: ClassVar[bool] = True

    classes: Annotated[tuple[str, ...], Field(max_length=IGNORE_ID)] = ()
    confidence_threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    keep_confidence: bool = False

    @property
    def label(self) -> MapLabel:
        return MapLabel("ids", "ids", confidence=self.keep_confidence)

    @property
    def min_confidence(self) -> float:
        return self.confidence_threshold

    def head(self, model: ModelConfig) -> nn.Module:
        return DenseHead(len(self.classes), model.head_convs, model.head_channels, model.batch_norm_momentum)

    def loss(self, outputs: Arrays, labels: Arrays) -> Sums:
        ids = labels["ids"]
        known = (ids != IGNORE_ID) & (labels["present"][:, None, None] > 0)
        logits = resize_maps(outputs["maps"], ids.shape[1:])
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(known, ids, 0))
        return {"cross_entropy": masked_sum(entropy, known.astype(jnp.float32))}

    def predict(self, outputs: Arrays, image_size: int) -> Arrays:
        """{"probs": f32[B, h, w, K]} at the head's resolution, stride 4."""
        return {"probs": jax.nn.softmax(outputs["maps"])}

    def condense(self, predictions: Mapping[str, AnyArray]) -> Mapping[str, AnyArray]:
        """{"ids": u8[B, h, w], "confidence": f32[B, h, w]}: no longer K numbers a cell."""
        probs = predictions["probs"]
        return {"ids": probs.argmax(-1).astype(np.uint8), "confidence": probs.max(-1)}

    def metrics(self) -> SegmentationMetrics:
        return SegmentationMetrics(len(self.classes))

    def pseudo_label(self, prediction: NumpyArrays) -> dict[str, np.ndarray]:
        if "probs" in prediction:
            prediction = self.condense(prediction)
        confidence = np.asarray(prediction["confidence"])
        label = {"ids": np.array(prediction["ids"], np.int32), "present": np.ones((), np.float32)}
        if self.keep_confidence:
            return label | {"confidence": confidence}
        label["ids"][confidence < self.confidence_threshold] = IGNORE_ID
        return label

    def as_prediction(self, label: NumpyArrays) -> NumpyArrays:
        """Pixels without a label have no probability of any class."""
        return {"probs": (label["ids"][..., None] == np.arange(len(self.classes))).astype(np.float32)}

    def draw(self, image: np.ndarray, label: NumpyArrays) -> np.ndarray:
        return drawing.regions(drawing.canvas(image), label["ids"], self.classes)

    def describe(self, label: NumpyArrays) -> dict[str, Any]:
        """Share of the image by class, largest first; "unsure" is the share without a label."""
        names = [*self.classes, "unsure"]
        ids = np.minimum(label["ids"], len(self.classes))
        shares = np.bincount(ids.ravel(), minlength=len(names)) / ids.size
        return {names[i]: round(float(shares[i]), 3) for i in np.argsort(-shares, kind="stable") if shares[i] > 0}


class SegmentationMetrics:
    """`miou`: mean intersection over union, pixels pooled over all images, classes that occur in the truth, percent."""

    def __init__(self, classes: int):
        self._confusion = np.zeros((classes, classes), np.int64)  # [truth, predicted]

    def update(self, predictions: NumpyArrays, labels: NumpyArrays) -> None:
        classes = len(self._confusion)
        for probs, ids, present in zip(predictions["probs"], labels["ids"], labels["present"], strict=True):
            if present:
                predicted = resize_on_host(probs, ids.shape).argmax(-1)
                known = ids != IGNORE_ID
                if (largest := ids.max(where=known, initial=0)) >= classes:
                    raise UserError(
                        f"the truth has class id {largest}, but there are {classes} classes; correct either"
                    )
                pairs = ids[known].astype(np.int64) * classes + predicted[known]
                self._confusion += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def merge(self, other: SegmentationMetrics) -> None:
        self._confusion += other._confusion

    def result(self) -> dict[str, float]:
        truth, hits = self._confusion.sum(1), np.diag(self._confusion)
        union = truth + self._confusion.sum(0) - hits
        occurs = truth > 0
        return {"miou": float(100 * np.mean(hits[occurs] / union[occurs])) if occurs.any() else 0.0}

    def chance(self) -> float:
        """The most frequent class everywhere has its share of the pixels as IoU, all others have 0."""
        truth = self._confusion.sum(1)
        return most_frequent(truth) / max(int(np.count_nonzero(truth)), 1)
