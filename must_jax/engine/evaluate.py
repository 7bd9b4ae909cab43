"""Metrics of a model on every example of an image set, each counted once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import jax
from jax.sharding import Mesh

from must_jax.engine.mesh import put_batch
from must_jax.engine.state import Variables
from must_jax.engine.step import Batch, PredictStep, Task


def evaluate(
    predict: PredictStep, variables: Variables, batches: Iterable[Batch], tasks: Mapping[str, Task], mesh: Mesh
) -> dict[str, float]:
    """ "task/metric" -> value, for the tasks that are labelled in `batches` (padding has `present` = 0)."""
    metrics = {name: task.metrics() for name, task in tasks.items()}
    for batch in batches:
        # Labels stay on the host: predictions are all that metrics need from the devices.
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        predictions = jax.device_get(predict(variables, put_batch(mesh, inputs)))
        for name, metric in metrics.items():
            metric.update(predictions[name], batch["labels"][name])
    return {f"{name}/{key}": value for name, metric in metrics.items() for key, value in metric.result().items()}
