"""From a network's square input back to the image: without the padding, a label covers the image exactly."""

from __future__ import annotations

import cv2
import numpy as np

from must_jax.data.encodings import Label
from must_jax.data.kinds import BoxesLabel, LabelKind, MapLabel, VectorLabel

_ALL_VALID = 0.999  # of the interpolated validity, up to rounding


def cut_padding(kind: LabelKind, label: Label, content_hw: tuple[int, int], image_size: int) -> Label:
    """A label of the whole input -> the label of the image in its top left corner, `content_hw` of `image_size` pixels.

    Boxes are clipped to the image and left out where they lie outside. Maps keep their stride; where that does not
    divide the content, they are resampled by less than half a cell: ids by nearest neighbour, the others linearly.
    """
    fractions = np.array(content_hw, np.float32) / np.float32(image_size)
    match kind:
        case VectorLabel():
            return label
        case BoxesLabel():
            boxes = np.clip(label["boxes_yxyx"] / np.tile(fractions, 2), 0, 1)
            inside = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
            return label | {"boxes_yxyx": boxes, "valid": label["valid"] * inside}
        case MapLabel(content="ids"):
            ids = _resample(label[kind.field].astype(np.uint8), fractions, cv2.INTER_NEAREST)
            cut = {kind.field: ids.astype(np.int32), "present": label["present"]}
            if kind.confidence:
                cut["confidence"] = _resample(label["confidence"], fractions, cv2.INTER_NEAREST)
            return cut
        case MapLabel():
            weight = _resample(label["valid"], fractions, cv2.INTER_LINEAR)
            values = _resample(label[kind.field], fractions, cv2.INTER_LINEAR)
            if kind.content == "vector":
                values = values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), np.float32(1e-6))
            valid = (weight > _ALL_VALID).astype(np.float32)
            return {kind.field: values, "valid": valid, "present": label["present"]}


def _resample(map_: np.ndarray, fractions: np.ndarray, interpolation: int) -> np.ndarray:
    """[h, w, ...] -> the top left `fractions` of it, at the nearest whole number of cells, at least one."""
    cells = fractions * np.array(map_.shape[:2], np.float32)
    size = np.maximum(1, np.rint(cells)).astype(int)
    if np.array_equal(size, cells):
        return map_[: size[0], : size[1]]
    scale = cells / size  # source cells an output cell; centres lie at (i + 1/2)
    source_y, source_x = ((np.arange(n, dtype=np.float32) + 0.5) * s - 0.5 for n, s in zip(size, scale, strict=True))
    x, y = np.meshgrid(source_x.astype(np.float32), source_y.astype(np.float32))
    return cv2.remap(map_, x, y, interpolation, borderMode=cv2.BORDER_REPLICATE)
