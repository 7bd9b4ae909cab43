"""Semantic segmentation: one class per pixel."""

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
from must_jax.config.base import ShareByClass
from must_jax.data.confidence import sure
from must_jax.data.kinds import IGNORE_ID, WIDE_IGNORE_ID, IdsLabel
from must_jax.data.letterbox import Content, most_likely
from must_jax.errors import UserError
from must_jax.models.heads import dense_head
from must_jax.tasks import drawing
from must_jax.tasks.base import AnyArray, Arrays, Details, NumpyArrays, Sums
from must_jax.tasks.chance import most_frequent
from must_jax.tasks.confusion import Confusion, confused
from must_jax.tasks.maps import AnyArrays, MapMetrics, MapTask
from must_jax.tasks.measures import log_sums, masked_sum, resize_maps


class Segmentation(MapTask):
    """Softmax cross-entropy per pixel; pseudo labels are hard and ignore unsure pixels (paper section 3)."""

    kind: ClassVar[str] = "segmentation"
    metric: ClassVar[str] = "miou"
    has_classes: ClassVar[bool] = True
    counted: ClassVar[str] = "probs"
    threshold: ClassVar[str] = "confidence_threshold"

    classes: Annotated[tuple[str, ...], Field(max_length=WIDE_IGNORE_ID)] = ()
    """Class names in the order of their indices."""
    confidence_threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Pixels of a pseudo label whose largest probability is smaller are left unlabelled."""
    confidence_thresholds: ShareByClass = Field(default_factory=dict)
    """Class -> a `confidence_threshold` of its own."""
    keep_confidence: bool = False
    """Stored pseudo labels keep the id and probability of every pixel, so that the threshold is applied when they are
    read, and another one can be set without labelling again."""

    @property
    def label(self) -> IdsLabel:
        return IdsLabel("ids", confidence=self.keep_confidence, wide=len(self.classes) > IGNORE_ID)

    def head(self, model: ModelConfig) -> nn.Module:
        return dense_head(len(self.classes), model)

    def loss(self, outputs: Arrays, labels: Arrays, input_hw: tuple[int, int]) -> Sums:
        ids = labels["ids"]
        known = (ids != self.label.ignore_id) & (labels["present"][:, None, None] > 0)
        logits = resize_maps(outputs["maps"], ids.shape[1:])
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(known, ids, 0))
        return {"cross_entropy": masked_sum(entropy, known.astype(jnp.float32))}

    def predict(self, outputs: Arrays, input_hw: tuple[int, int]) -> Arrays:
        """{"probs": f32[B, h, w, K]} at the head's resolution, stride 4."""
        return {"probs": jax.nn.softmax(outputs["maps"])}

    def merged(self, outputs: Arrays, index: np.ndarray) -> Arrays:
        """Probabilities add up; one more channel, the last one, is of what belongs to no class, if anything does."""
        count = len(self.classes)
        other = bool((index < 0).any())
        return {"maps": log_sums(outputs["maps"], np.where(index < 0, count, index), count + other)}

    def condense(self, predictions: Mapping[str, AnyArray]) -> Mapping[str, AnyArray]:
        """{"ids": u8 or u16[B, h, w], "confidence": f32[B, h, w]}: instead of K numbers per cell.

        Cells that probably belong to no class have no label.
        """
        probs, count = predictions["probs"], len(self.classes)
        ids = probs.argmax(-1)
        if probs.shape[-1] > count:
            ids = ids + (ids == count).astype(ids.dtype) * (self.label.ignore_id - count)
        return {"ids": ids.astype(np.uint16 if self.label.wide else np.uint8), "confidence": probs.max(-1)}

    def on_image(self, prediction: NumpyArrays, content: Content, hw: tuple[int, int]) -> NumpyArrays:
        """{"ids": i32[*hw], "confidence": f32[*hw]}, from linearly interpolated probabilities."""
        ids, confidence = most_likely(prediction["probs"], content, hw)
        return {"ids": ids, "confidence": confidence}

    def truth(self, label: NumpyArrays) -> NumpyArrays:
        """{"ids": u8 or u16[h, w]}: the class + 1."""
        ids, ignore_id = label["ids"], self.label.ignore_id
        numbers = np.where(ids == ignore_id, 0, ids + 1)
        if (largest := numbers.max(initial=0) - 1) >= len(self.classes):
            raise UserError(
                f"the truth has class id {largest}, but there are {len(self.classes)} classes; correct either"
            )
        return {"ids": numbers.astype(np.uint16 if self.label.wide else np.uint8)}

    def counts(self, predicted: Any, truth: AnyArrays, fit: AnyArrays) -> dict[str, Any]:
        """See `confused`.

        Args:
          predicted: f32[n, h, w, K], or the most probable class, i32[n, h, w].
        """
        if predicted.ndim == 4:
            predicted = jnp.argmax(predicted, -1).astype(jnp.int32)
        ids = truth["ids"].astype(np.int32)
        return confused(ids - 1, predicted, ids > 0, len(self.classes))

    def metrics(self) -> SegmentationMetrics:
        return SegmentationMetrics(self)

    def pseudo_label(self, prediction: NumpyArrays) -> dict[str, np.ndarray]:
        if "probs" in prediction:
            prediction = self.condense(prediction)
        confidence = np.asarray(prediction["confidence"])
        label = {"ids": np.array(prediction["ids"], np.int32), "present": np.ones((), np.float32)}
        if self.keep_confidence:
            return label | {"confidence": confidence}
        kept = sure(confidence, label["ids"], self.min_confidence.least(self.classes))
        label["ids"][~kept] = self.label.ignore_id
        return label

    def as_prediction(self, label: NumpyArrays) -> NumpyArrays:
        """Pixels without a label keep `label.ignore_id`, which is never right."""
        return {"ids": label["ids"]}

    def draw(self, image: np.ndarray, label: NumpyArrays) -> np.ndarray:
        return drawing.regions(drawing.canvas(image), label["ids"], self.classes)

    def describe(self, label: NumpyArrays) -> dict[str, Any]:
        """Share of the image by class, largest first; "unsure" is the share without a label."""
        names = [*self.classes, "unsure"]
        ids = np.minimum(label["ids"], len(self.classes))
        shares = np.bincount(ids.ravel(), minlength=len(names)) / ids.size
        return {names[i]: round(float(shares[i]), 3) for i in np.argsort(-shares, kind="stable") if shares[i] > 0}


class SegmentationMetrics(MapMetrics):
    """Metrics over all labelled pixels, pooled over all images, in percent.

    `miou`: mean intersection over union, over the classes that the truth or a prediction has. `pixel_accuracy`: pixels
    whose class is right.
    """

    @property
    def _confusion(self) -> Confusion:
        return Confusion(self._task.classes, self._counts)

    def result(self) -> dict[str, float]:
        confusion = self._confusion
        iou = confusion.iou
        return {
            "miou": float(np.mean(iou[~np.isnan(iou)])) if confusion.truth.any() else 0.0,
            "pixel_accuracy": confusion.accuracy,
        }

    def details(self) -> Details:
        confusion = self._confusion
        return confusion.details({"IoU": confusion.iou, "accuracy": confusion.recall, "pixels": confusion.truth})

    def chance(self) -> float:
        """Predicting the most frequent class everywhere gives it its share of the pixels as IoU, and all others 0."""
        truth = self._confusion.truth
        return most_frequent(truth) / max(int(np.count_nonzero(truth)), 1)
