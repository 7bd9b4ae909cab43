"""Metrics of a model on every example of an image set, each counted once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jax.sharding import Mesh

from must_jax import preemption
from must_jax.engine import distributed
from must_jax.engine.mesh import local_part, put_batch
from must_jax.engine.state import Variables
from must_jax.engine.step import Batch, PredictStep, Task
from must_jax.errors import Preempted

CHANCE = "chance"


def evaluate(
    predict: PredictStep, variables: Variables, batches: Iterable[Batch], tasks: Mapping[str, Task], mesh: Mesh
) -> dict[str, float]:
    """ "task/metric" -> value, for the tasks that are labelled in `batches` (padding has `present` = 0).

    "task/chance" is what the best constant answer gets of the task's headline metric on these very examples.

    Args:
      batches: where several processes evaluate together, this one's rows of each; all get the same values.

    Raises:
      Preempted: the run was told to stop.
    """
    alone = not mesh.is_multi_process
    metrics = {name: task.metrics() for name, task in tasks.items()}
    for batch in batches:
        if preemption.requested() if alone else distributed.any_says(preemption.requested()):
            raise Preempted("stopped while it was evaluated")
        # Labels stay on the host: predictions are all that metrics need from the devices.
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        predictions = local_part(predict(variables, put_batch(mesh, inputs)))
        for name, metric in metrics.items():
            metric.update(predictions[name], batch["labels"][name])
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
