"""Metrics of a model on every example of an image set, each counted once, at the resolution of its truth."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
from jax.sharding import Mesh

from must_jax import preemption
from must_jax.cores import cores
from must_jax.engine import distributed
from must_jax.engine.mesh import local_part, put_batch
from must_jax.engine.state import Variables
from must_jax.engine.step import HOST, Batch, PredictStep, Task
from must_jax.errors import Preempted

CHANCE = "chance"
Truth = Callable[[int], Mapping[str, Any]]  # index of an image -> its labels by task, as stored; those that it has


def evaluate(
    predict: PredictStep,
    variables: Variables,
    batches: Iterable[Batch],
    truth: Truth,
    tasks: Mapping[str, Task],
    image_size: int,
    mesh: Mesh,
) -> dict[str, float]:
    """ "task/metric" -> value.

    Predictions are for whole batches; the truth, whose size is whatever it is, is read for a few images at a time.

    "task/chance" is the task's headline metric for the best constant prediction on the same examples.

    Args:
      batches: as of `pipeline.eval_batches`; where several processes evaluate together, this one's rows of each. All of
        them get the same values.

    Raises:
      Preempted: the run was told to stop.
    """
    alone = not mesh.is_multi_process
    metrics = {name: task.metrics() for name, task in tasks.items()}
    with ThreadPoolExecutor(cores()) as pool:
        for batch in batches:
            if preemption.requested() if alone else distributed.any_says(preemption.requested()):
                raise Preempted("stopped while it was evaluated")
            inputs = {key: value for key, value in batch.items() if key not in HOST}
            predictions = local_part(predict(variables, put_batch(mesh, inputs)))
            rows = np.flatnonzero(batch["mask"])
            for row, labels in zip(rows, _ahead(pool, truth, batch["index"][rows].tolist()), strict=True):
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
    return {
        f"{name}/{key}": value
        for name, metric in metrics.items()
        for key, value in {**metric.result(), CHANCE: metric.chance()}.items()
    }


def _ahead(pool: Executor, truth: Truth, indices: Iterable[int]) -> Iterator[Mapping[str, Any]]:
    """The truth of these images in order; threads read no more than two a core in advance."""
    coming: deque[Any] = deque()
    for index in indices:
        coming.append(pool.submit(truth, index))
        if len(coming) > 2 * cores():
            yield coming.popleft().result()
    while coming:
        yield coming.popleft().result()
