"""Metrics of whole batches."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from must_jax.tasks.base import Task, TaskMetrics


def count(
    metrics: TaskMetrics, task: Task, predictions: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]
) -> TaskMetrics:
    """Counts every image of a batch, as an evaluation does whose images fill the input; returns `metrics`."""
    for row in range(len(labels["present"])):
        prediction, label = (
            {key: np.asarray(value)[row] for key, value in each.items()} for each in (predictions, labels)
        )
        metrics.update(task.in_frame_of(label, prediction, (1.0, 1.0)), label)
    return metrics
