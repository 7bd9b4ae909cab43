"""Finished runs of must_jax as teachers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, cast

import jax
import numpy as np

from must_jax.data.batching import map_hw_of
from must_jax.data.fitting import Input
from must_jax.engine.mesh import put_batch
from must_jax.labels.manifest import TeacherRecord
from must_jax.models.api import Model
from must_jax.tasks import build_task
from must_jax.tasks.base import Task
from must_jax.teachers.base import Images, Predictions, Teacher
from must_jax.teachers.mapping import ClassMapping, record_of
from must_jax.trained import Trained


class Own(Teacher):
    """A trained model on its mesh.

    Args:
      names: its tasks -> what they are called here.
      mappings: its tasks -> their classes here.
      digest: of the model and the mappings; "" = of the model alone.
    """

    def __init__(
        self,
        model: Trained,
        name: str,
        names: Mapping[str, str] | None = None,
        mappings: Mapping[str, ClassMapping] | None = None,
        digest: str = "",
    ) -> None:
        self.model, self.name, self._mappings, self._digest = model, name, mappings or {}, digest
        self._names = {task: (names or {}).get(task, task) for task in model.tasks}
        self.tasks = {self._names[name]: task.called(self._names[name]) for name, task in model.tasks.items()}
        self.input = Input(*model.input_hw)
        self.map_hw = map_hw_of(model.input_hw)
        metrics = {self._here(key): value for key, value in model.metrics.items() if key.split("/")[0] in self._names}
        self.record = TeacherRecord(
            name=name,
            digest=digest or model.digest,
            image_size=model.image_size,
            metrics=metrics,
            licences=dict(model.licences),
            classes={self._names[name]: dict(r) for name, each in self._mappings.items() if (r := record_of(each))},
            **model.settings,
        )

    def called(self, task: str) -> str:
        """The name that one of the model's tasks has here."""
        return self._names[task]

    def without(self, tasks: Collection[str]) -> Own:
        """The same teacher without some of the model's tasks."""
        left = {name: task for name, task in self.model.tasks.items() if name not in tasks}
        model = dataclasses.replace(self.model, tasks=left)
        return Own(model, self.name, self._names, self._mappings, self._digest)

    def rows(self, batch_size: int) -> int:
        return batch_size + -batch_size % self.model.mesh.size

    def begin(self, images: Images) -> Callable[[], Predictions]:
        begun = self.model.dispatch(images.on(self.model.mesh))
        jax.tree.map(lambda x: x.copy_to_host_async(), begun)
        return lambda: self._called(jax.device_get(begun))

    def alone(self, images: Images, row: int) -> Predictions:
        alone = np.zeros_like(images.pixels)  # at its own position, the row gets the same prediction
        alone[row] = images.pixels[row]
        return self._called(jax.tree.map(itemgetter(row), jax.device_get(self.model.dispatch(alone))))

    def answers(self, rows: int) -> Predictions:
        return self._called(self.model.answers(rows))

    def warm_up(self, batch_size: int) -> None:
        jax.block_until_ready(self.model.dispatch(self.blank(batch_size)))

    def forward(self, batch_size: int) -> Callable[[], object]:
        pixels = np.random.default_rng(0).integers(0, 256, self.blank(batch_size).shape, np.uint8)
        resident = put_batch(self.model.mesh, pixels)
        return lambda: self.model.dispatch(resident)

    @property
    def devices(self) -> int:
        return self.model.mesh.size

    def _called(self, predictions: Predictions) -> Predictions:
        return {self._names[name]: values for name, values in predictions.items()}

    def _here(self, metric: str) -> str:
        task, slash, rest = metric.partition("/")
        return self._names[task] + slash + rest


@dataclass(frozen=True)
class _Merged:
    """A network with other classes of some tasks: their outputs are joined on the device, before any is chosen.

    Attributes:
      index: task -> as `Task.merged` takes it.
    """

    network: Model
    tasks: Mapping[str, Task]
    index: Mapping[str, np.ndarray]

    def apply(
        self, variables: Any, images: jax.Array, *, train: bool, rng: jax.Array | None = None
    ) -> tuple[Mapping[str, Any], Any]:
        outputs, statistics = self.network.apply(variables, images, train=train, rng=rng)
        merged = {name: self.tasks[name].merged(outputs[name], index) for name, index in self.index.items()}
        return {**outputs, **merged}, statistics


def mapped_tasks(tasks: Mapping[str, Task], mappings: Mapping[str, ClassMapping]) -> dict[str, Task]:
    """The tasks with other classes."""
    return {
        name: build_task(name, each.classes, each.options(task.options)) if (each := mappings.get(name)) else task
        for name, task in tasks.items()
    }


def mapped_network(network: Model, tasks: Mapping[str, Task], mappings: Mapping[str, ClassMapping]) -> Model:
    """The network whose outputs are those of `mapped_tasks`, for labelling."""
    index = {name: mapping.index for name, mapping in mappings.items() if not mapping.unchanged}
    return cast(Model, _Merged(network, tasks, index)) if index else network


def owned(models: Mapping[str, Trained]) -> list[Own]:
    """Trained models by the names that they have as teachers."""
    return [Own(model, name) for name, model in models.items()]
