"""Labels summarised in one line, in which a wrong unit, axis or scale, or a missing class, shows at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from must_jax.data.kinds import BoxesLabel, LabelKind, MapLabel, VectorLabel
from must_jax.labels.statistics import MOST_BOXES, Statistics
from must_jax.labels.summary import Summary
from must_jax.progress import counted, rounded

_MOST_CLASSES = 20  # listed at most
_MANY_BOXES, _FAR = 20, 0.6  # of this many boxes, at least one should reach farther than this share of its image
_TURNED = 0.1  # minimum component of the mean normal that counts as a direction


def told(kind: LabelKind, classes: tuple[str, ...], statistics: Statistics) -> str:
    """The contents of labels: classes with counts, boxes, values with their unit, directions with their meaning."""
    labelled = statistics.images - statistics.absent
    parts = []
    if classes:
        summary = Summary(images=statistics.images, images_with_class=statistics.class_images.tolist())
        parts.append(summary.told_classes(kind, classes))
    match kind:
        case BoxesLabel():
            parts += _boxes(statistics, labelled)
        case MapLabel():
            parts += _map(kind, classes, statistics)
    if statistics.empty and not isinstance(kind, VectorLabel):
        parts.append(f"{statistics.empty:,} of {counted(labelled, 'image')} empty")
    return "; ".join(parts)


def _boxes(statistics: Statistics, labelled: int) -> list[str]:
    boxes = int(statistics.class_amount.sum())
    filled = np.flatnonzero(statistics.boxes)
    most = f"{filled[-1]}{' or more' * (int(filled[-1]) == MOST_BOXES)}" if filled.size else "0"
    parts = [f"{counted(boxes, 'box')}, {boxes / max(labelled, 1):.3g} per image, at most {most}"]
    if statistics.ignored:
        parts.append(f"{counted(statistics.ignored, 'box')} to ignore")
    if boxes:
        low, middle, high = (100 * side for side in (statistics.low, statistics.quantile(0.5), statistics.high))
        down, across = 100 * statistics.reach_yx
        parts.append(
            f"size (root of the area) from {rounded(low, 2)} over about {rounded(middle, 2)} (median) to "
            f"{rounded(high)} % of the image's, reaching to {across:.0f} % of the width and {down:.0f} % of the height"
        )
        if boxes >= _MANY_BOXES and statistics.reach_yx.max() < _FAR:
            parts.append("no box in the right or lower part of an image: are they in pixels of images of this size?")
    return parts


def _map(kind: MapLabel, classes: Sequence[str], statistics: Statistics) -> list[str]:
    known = statistics.known / max(statistics.pixels, 1)
    if not statistics.known:
        return ["no pixel with a label"]
    if kind.content == "ids":
        shares = 100 * statistics.class_amount / statistics.known
        listed = np.argsort(-shares, kind="stable")[:_MOST_CLASSES]
        of_classes = ", ".join(f"{classes[index]} {shares[index]:.3g} %" for index in listed if shares[index])
        return [f"of the pixels {of_classes}", f"without label: {rounded(100 * (1 - known), 2)} %"]
    valid = f"valid: {100 * known:.3g} %"
    if kind.content == "scalar":
        low, high, middle = rounded(statistics.low), rounded(statistics.high), rounded(statistics.quantile(0.5), 2)
        return [
            f"{kind.field} from {low} over about {middle} (median) to {high}{f' {kind.unit}' * bool(kind.unit)}",
            valid,
        ]
    mean = statistics.total / statistics.known
    words = [
        (positive if value > 0 else negative)
        for value, negative, positive in zip(
            mean, ("left", "up", "towards the camera"), ("right", "down", "away from the camera"), strict=True
        )
        if abs(value) > _TURNED
    ]
    listed_mean = ", ".join(f"{value:.2f}" for value in mean + 0.0)
    return [
        f"mean of {kind.field} (x right, y down, z away from the camera): ({listed_mean}), "
        f"so they point {' and '.join(words) or 'nowhere in particular'}",
        valid,
    ]
