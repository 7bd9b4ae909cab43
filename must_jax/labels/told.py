"""Labels summarised in one line, in which a wrong unit, axis or scale, or a missing class, shows at once."""

from __future__ import annotations

from must_jax.data.kinds import LabelKind
from must_jax.data.kinds.statistics import Statistics
from must_jax.labels.summary import Summary
from must_jax.progress import counted


def told(kind: LabelKind, classes: tuple[str, ...], statistics: Statistics) -> str:
    """The contents of labels: classes with counts, boxes, values with their unit, directions with their meaning."""
    labelled = statistics.images - statistics.absent
    parts = []
    if classes:
        summary = Summary(images=statistics.images, images_with_class=statistics.class_images.tolist())
        parts.append(summary.told_classes(kind, classes))
    parts += kind.told(statistics, classes)
    if statistics.empty:
        parts.append(f"{statistics.empty:,} of {counted(labelled, 'image')} empty")
    return "; ".join(parts)
