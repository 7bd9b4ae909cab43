"""Metrics of a model on every example of an image set, each counted once, at the resolution of its truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from must_jax import preemption
from must_jax.cores import ahead, cores
from must_jax.engine import distributed
from must_jax.engine.mesh import local_part, put_batch
from must_jax.engine.state import Variables
from must_jax.engine.step import HOST, Batch, PredictStep, Task
from must_jax.errors import Preempted

CHANCE = "chance"
_READERS = 8  # threads, at most: the truth of a large photo takes hundreds of megabytes, and only one thread measures
Details = Mapping[str, Any]  # of one task, as JSON values: see `tasks.base.TaskMetrics.details`
Truth = Callable[[int], Mapping[str, Any]]  # index of an image -> the labels it has, by task, as stored


class Evaluation(NamedTuple):
    """What was measured; the same in all processes.

    Attributes:
      metrics: "task/metric" -> value. "task/chance" is the task's headline metric for the best constant prediction on
        the same examples.
      details: task -> what lies behind its metrics: by class, confusions, curves.
    """

    metrics: dict[str, float]
    details: dict[str, Details]


def evaluate(
    predict: PredictStep,
    variables: Variables,
    batches: Iterable[Batch],
    truth: Truth,
    tasks: Mapping[str, Task],
    image_size: int,
    mesh: Mesh,
) -> Evaluation:
    """Evaluates the predictions for all examples.

    Predictions are made for whole batches; the truth, which may be of any size, is read for a few images at a time.

    Args:
      batches: as from `pipeline.eval_batches`; if several processes evaluate together, this one's rows of each.

    Raises:
      Preempted: the run was told to stop.
    """
    alone = not mesh.is_multi_process
    metrics = {name: task.metrics() for name, task in tasks.items()}
    with ThreadPoolExecutor(readers := min(cores(), _READERS)) as pool:
        for batch in batches:
            if preemption.requested() if alone else distributed.any_says(preemption.requested()):
                raise Preempted("stopped while it was evaluated")
            inputs = {key: value for key, value in batch.items() if key not in HOST}
            predictions = local_part(predict(variables, put_batch(mesh, inputs)))
            rows = np.flatnonzero(batch["mask"])
            indices = batch["index"][rows].tolist()
            truths = ahead(indices, lambda index: pool.submit(truth, index).result, readers)
            for row, labels in zip(rows, truths, strict=True):
                height, width = (batch["content_hw"][row] / image_size).tolist()
                for name, label in labels.items():
                    prediction = {key: value[row] for key, value in predictions[name].items()}
                    aligned = tasks[name].in_frame_of(label, prediction, (height, width))
                    metrics[name].update(aligned, label)
    if not alone:
        metrics, *others = distributed.gather(metrics)
        for other in others:
            for name, metric in metrics.items():
                metric.merge(other[name])
    return Evaluation(
        {
            f"{name}/{key}": value
            for name, metric in metrics.items()
            for key, value in {**metric.result(), CHANCE: metric.chance()}.items()
        },
        {name: metric.details() for name, metric in metrics.items()},
    )
