"""Metrics of a model on every example of an image set, each counted once, at the resolution of its truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.sharding import Mesh

from must_jax import preemption
from must_jax.cores import ahead, cores
from must_jax.engine import distributed
from must_jax.engine.counting import Counting
from must_jax.engine.mesh import local_view, put_batch
from must_jax.engine.state import Variables
from must_jax.engine.step import HOST, Batch, MapTask, PredictStep, Task
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
    input_hw: tuple[int, int],
    mesh: Mesh,
) -> Evaluation:
    """Evaluates the predictions for all examples.

    Predictions are made for whole batches; the truth, which may be of any size, is read for a few images at a time.
    Maps are compared with it on the devices, which keep only counts; other predictions are small, and are fetched.

    Args:
      batches: as from `pipeline.eval_batches`; if several processes evaluate together, this one's rows of each.

    Raises:
      Preempted: the run was told to stop.
    """
    alone = not mesh.is_multi_process
    metrics = {name: task.metrics() for name, task in tasks.items()}
    counting: dict[str, Counting] = {}
    with ThreadPoolExecutor(readers := min(cores(), _READERS)) as pool:
        for batch in batches:
            if preemption.requested() if alone else distributed.any_says(preemption.requested()):
                raise Preempted("stopped while it was evaluated")
            inputs = {key: value for key, value in batch.items() if key not in HOST}
            predictions = local_view(predict(variables, put_batch(mesh, inputs)))
            maps = {name: predictions[name][task.counted] for name, task in tasks.items() if task.counted}
            counting = counting or {
                name: Counting(cast(MapTask, tasks[name]), metrics[name], map_) for name, map_ in maps.items()
            }
            read = partial(_read, truth, counting, batch["index"], contents := batch["content_hw"] / np.array(input_hw))
            rows = _by_turns(batch["mask"], len(mesh.local_devices))
            fetched: dict[int, dict[str, Any]] = {}
            for row, labels in zip(rows, ahead(rows, partial(_begin, pool, read), readers), strict=True):
                for name in labels.keys() & counting.keys():
                    counting[name].add(maps[name], row, labels.pop(name))
                fetched[row] = labels
            for name, map_ in maps.items():
                counting[name].finish(map_)
            small = jax.device_get({name: each for name, each in predictions.items() if name not in maps})
            for row in sorted(fetched):
                for name, label in fetched[row].items():
                    prediction = {key: value[row] for key, value in small[name].items()}
                    metrics[name].update(tasks[name].in_frame_of(label, prediction, tuple(contents[row])), label)
            jax.block_until_ready(predictions)  # or batches would pile up on the devices
    for each in counting.values():
        each.fetch()
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


def _read(
    truth: Truth, counting: Mapping[str, Counting], indices: np.ndarray, contents: np.ndarray, row: int
) -> dict[str, Any]:
    """The labels of one row, by task, or the tiles of those that are measured on the devices."""
    labels = {name: label for name, label in truth(int(indices[row])).items() if label["present"]}
    height, width = contents[row].tolist()
    return {
        name: counting[name].cut(label, (height, width)) if name in counting else label
        for name, label in labels.items()
    }


def _begin(pool: ThreadPoolExecutor, read: Callable[[int], dict[str, Any]], row: int) -> Callable[[], dict[str, Any]]:
    return pool.submit(read, row).result


def _by_turns(mask: np.ndarray, devices: int) -> list[int]:
    """The rows of a batch that hold an image, in turns from the parts of each device, so that all have work."""
    order = np.arange(len(mask)).reshape(devices, -1).T.ravel()
    return order[mask[order] > 0].tolist()
