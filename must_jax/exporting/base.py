"""What is exported: a network as pure functions of arrays, and a written file as something that answers."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from must_jax.engine.mesh import put_replicated
from must_jax.models.api import Features, Model, Variables
from must_jax.tasks.base import Task
from must_jax.trained import Trained

Arrays = Mapping[str, Any]  # by name: a level, or "task/field"
Predictions = dict[str, dict[str, Any]]
LEVELS = ("c2", "c3", "c4", "c5")
BACKBONE, MODEL = "backbone", "model"  # what a file may hold
_OTHER = "other"  # what hubs call a licence that follows from several, or is not known
LIBRARIES = ("timm", "transformers")  # they have backbones in formats of their own


@dataclass(frozen=True)
class Network:
    """A trained model, computing in float32, in the pieces that files hold.

    Arrays have a leading batch axis, maps the channels last.
    """

    trained: Trained

    @cached_property
    def model(self) -> Model:
        return replace(self.trained.model, dtype=jnp.dtype(jnp.float32))

    @property
    def input_hw(self) -> tuple[int, int]:
        """Rows and columns of the images."""
        return self.trained.input_hw

    @property
    def seen_hw(self) -> tuple[int, int]:
        """Rows and columns that the backbone sees of them."""
        return self.model.seen_hw(self.input_hw)

    @property
    def licence(self) -> str:
        """Of a file: that of all that the run was trained on, if they have the same; otherwise `_OTHER`."""
        licences = set(self.trained.licences.values())
        return licences.pop() or _OTHER if len(licences) == 1 else _OTHER

    @property
    def normalisation(self) -> dict[str, list[float]]:
        """{"mean", "std"}: of red, green and blue from 0 to 1."""
        both = (("mean", self.model.mean), ("std", self.model.std))
        return {name: [round(x / 255, 8) for x in values] for name, values in both}

    @property
    def published(self) -> tuple[str, ...]:
        """The levels that other libraries' backbones give."""
        return self.model.backbone.published

    @cached_property
    def variables(self) -> Variables:
        """On the devices."""
        return put_replicated(self.trained.mesh, self.trained.variables)

    @cached_property
    def metadata(self) -> dict[str, str]:
        """What a file should say of itself, as text: tasks with their classes and units, normalisation, licences."""
        trained = self.trained
        tasks = {name: {"kind": task.kind, **_about(task)} for name, task in trained.tasks.items()}
        return {
            "must_jax": importlib.metadata.version("must_jax"),
            "backbone": trained.config.backbone,
            "tasks": json.dumps(tasks),
            "input_hw": json.dumps(self.input_hw),
            **{name: json.dumps(values) for name, values in self.normalisation.items()},
            "licences": json.dumps(dict(trained.licences)),
            "digest": trained.digest,
        }

    def function(
        self, holds: str, *, is_prepared: bool, postprocess: bool = True, levels: Collection[str] = LEVELS
    ) -> Callable[[jax.Array], Arrays]:
        """Images -> arrays by name, closing over the parameters.

        Args:
          holds: `BACKBONE`, of which these `levels` are wanted, or `MODEL`.
          is_prepared: see `Written`.
          postprocess: whether models give predictions; otherwise what the heads say.
        """
        variables = self.trained.variables

        def function(images: jax.Array) -> Arrays:
            maps = self.levels(variables, images if is_prepared else self.normalised(images))
            if holds == BACKBONE:
                return {level: maps[level] for level in levels}
            outputs = self.outputs(variables, maps)
            return self.predictions(outputs) if postprocess else outputs

        return function

    def normalised(self, images: jax.Array) -> jax.Array:
        """u8[B, H, W, 3] RGB -> f32[B, h, w, 3], what the backbone sees."""
        return self.model.normalised(images)

    def levels(self, variables: Variables, normalised: jax.Array) -> Features:
        """-> {"c2", ..., "c5"}."""
        return self.model.stages(variables, normalised)

    def outputs(self, variables: Variables, levels: Features) -> dict[str, Any]:
        """-> {"task/output": what the heads say}."""
        return flat(self.model.apply_stages(variables, levels))

    def predictions(self, outputs: Arrays) -> dict[str, Any]:
        """-> {"task/field": predictions}, as `Trained.predict_batch` returns them."""
        input_hw, nested = self.trained.input_hw, by_task(outputs)
        return flat({name: task.predict(nested[name], input_hw) for name, task in self.trained.tasks.items()})


def _about(task: Task) -> dict[str, Any]:
    """Its classes, and the options that say what its numbers mean."""
    meanings = {name: value for name, value in task.options.items() if name == "depth_kind"}
    return ({"classes": list(task.classes)} if task.classes else {}) | meanings


def flat(nested: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """{task: {field: array}} -> {"task/field": array}."""
    return {f"{task}/{field}": array for task, fields in nested.items() for field, array in fields.items()}


def by_task(arrays: Arrays) -> Predictions:
    """The inverse of `flat`."""
    nested: Predictions = {}
    for name, array in arrays.items():
        task, _, field = name.partition("/")
        nested.setdefault(task, {})[field] = array
    return nested


@dataclass(frozen=True)
class Written:
    """A file, or a folder of them, and its own runtime.

    Attributes:
      name: relative to the export's folder.
      holds: `BACKBONE` or `MODEL`.
      is_prepared: whether it takes f32[B, h, w, 3], as `Network.normalised` returns them; otherwise u8[B, H, W, 3].
      function: what it is to compute: a batch -> arrays by name; jit-able.
      answers: the same, computed by the runtime that it is written for.
      example: lines of Python that load it and run it in the export's folder.
    """

    name: str
    holds: str
    is_prepared: bool
    function: Callable[[jax.Array], Arrays]
    answers: Callable[[np.ndarray], Arrays]
    example: str

    @cached_property
    def run(self) -> Callable[[Any], Arrays]:
        """`function`, compiled by jax once for each size of a batch."""
        return jax.jit(self.function)
