"""Does a written file say what the run says? Number by number, and by the metrics of each task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np
import pydantic

from must_jax.config import ExportConfig
from must_jax.engine.measuring import CHANCE
from must_jax.engine.mesh import put_batch
from must_jax.exporting.base import MODEL, Arrays, Network, Written, by_task
from must_jax.tasks.base import Task
from must_jax.training.validation import HeldOut, Measured, Validation

_MAP_RANK = 4  # images, rows, columns, channels


class Difference(pydantic.BaseModel):
    """Of one output, over all images.

    Attributes:
      largest: between two numbers, as a share of the largest finite number of a batch; of integers and booleans, 1 if
        any differ.
      differing: the share of numbers that differ by more than the tolerance; of maps, in the channel where most do, so
        that one channel of thousands counts.
    """

    largest: float
    differing: float


class Metric(pydantic.BaseModel):
    """Of the run, and of the file."""

    run: float
    file: float
    is_error: bool = False

    @property
    def loss(self) -> float:
        """How much worse the file is: in points, of errors in percent; below 0 = better."""
        if self.is_error:
            return 100 * (self.file - self.run) / max(abs(self.run), 1e-12)
        return self.run - self.file


class Parity(pydantic.BaseModel):
    """What was compared of a file.

    Attributes:
      metrics: by "task/metric".
      images: that were compared.
    """

    outputs: dict[str, Difference]
    metrics: dict[str, Metric]
    images: int


@dataclass
class Comparison:
    """Differences of arrays by name, added up over batches."""

    tolerance: float
    largest: dict[str, float] = field(default_factory=dict)
    differing: dict[str, np.ndarray] = field(default_factory=dict)  # by channel of a map
    counted: dict[str, int] = field(default_factory=dict)

    def add(self, ours: Arrays, theirs: Arrays) -> None:
        for name, expected in ours.items():
            expected, got = np.asarray(expected), np.asarray(theirs[name])
            if got.shape != expected.shape:
                raise ValueError(f"{name} is {list(got.shape)}, but {list(expected.shape)} was expected")
            off = (got != expected).astype(np.float64)
            if np.issubdtype(expected.dtype, np.floating):
                finite, same = np.isfinite(expected), (got == expected) | (np.isnan(got) & np.isnan(expected))
                scale = max(float(np.abs(expected).max(initial=0.0, where=finite)), 1e-12)
                with np.errstate(invalid="ignore"):  # inf - inf
                    off = np.abs(got.astype(np.float64) - expected) / scale
                off = np.where(same, 0.0, np.where(np.isnan(off), np.inf, off))
            self.largest[name] = max(self.largest.get(name, 0.0), float(off.max(initial=0.0)))
            off = off.reshape(-1, off.shape[-1] if off.ndim == _MAP_RANK else 1)
            self.differing[name] = self.differing.get(name, 0) + (off > self.tolerance).sum(axis=0)
            self.counted[name] = self.counted.get(name, 0) + len(off)

    def result(self) -> dict[str, Difference]:
        return {
            name: Difference(
                largest=largest, differing=self.differing[name].max(initial=0) / max(self.counted[name], 1)
            )
            for name, largest in self.largest.items()
        }


class Judge:
    """Compares files with the run on the same images.

    Args:
      held_out: labelled images; the labels of tasks that are not the run's are left out.
    """

    def __init__(self, config: ExportConfig, network: Network, held_out: list[HeldOut]) -> None:
        self._config, self._network, self._held_out = config, network, held_out
        self._images, size = sum(lengths := [len(held.source.images) for held in held_out]), config.batch_size
        pieces = network.normalised, network.levels, network.model.completed, network.outputs, network.predictions
        self._normalised, self._levels, self._completed, self._outputs, self._predictions = (
            jax.jit(piece) for piece in pieces
        )
        # Rows of each batch that are images; the rest is padding.
        self._rows = [min(size, length - start) for length in lengths for start in range(0, length, size)]

    def compare(self, written: Written) -> Parity:
        """Asks the file about all images."""
        comparison = Comparison(self._config.tolerance)

        network, rows = self._network, iter(self._rows)

        def answer(images: np.ndarray) -> dict[str, Any]:
            batch = np.asarray(self._normalised(images)) if written.is_prepared else images
            given = written.answers(batch)
            count = next(rows)
            comparison.add(*({name: x[:count] for name, x in said.items()} for said in (written.run(batch), given)))
            if written.holds == MODEL:
                return by_task(given if self._config.postprocess else self._predictions(dict(given)))
            levels = self._completed(network.variables, {level: given[level] for level in network.published})
            return by_task(self._predictions(self._outputs(network.variables, levels)))

        theirs = self._measured(answer)
        metrics = {
            name: Metric(run=ours, file=theirs[name], is_error=self._is_error(name))
            for name, ours in self._ours.items()
            if name.partition("@")[0].partition("/")[2] != CHANCE
        }
        return Parity(outputs=comparison.result(), metrics=metrics, images=self._images)

    @cached_property
    def _ours(self) -> dict[str, float]:
        def answer(images: np.ndarray) -> dict[str, Any]:
            levels = self._levels(self._network.variables, self._normalised(images))
            return by_task(self._predictions(self._outputs(self._network.variables, levels)))

        return self._measured(answer)

    def _measured(self, answer: Callable[[np.ndarray], dict[str, Any]]) -> dict[str, float]:
        """The metrics of whoever answers."""
        network = self._network
        mesh = network.trained.mesh

        def step_of(tasks: Mapping[str, Task]) -> Callable[..., Mapping[str, Any]]:
            def step(_: Any, batch: Mapping[str, Any]) -> Mapping[str, Any]:
                answers = jax.device_get(answer(np.asarray(batch["image"])))
                return put_batch(mesh, {name: answers[name] for name in tasks})

            return step

        settings = Measured(network.trained.input_hw, self._config.batch_size, self._config.input)
        trained = network.trained
        return Validation(settings, self._held_out, trained.tasks, trained.model, mesh, step_of=step_of).measure({})

    def _is_error(self, name: str) -> bool:
        task, _, metric = name.partition("@")[0].partition("/")
        return metric in self._network.trained.tasks[task].errors


def failures(parity: Parity, config: ExportConfig) -> Iterator[str]:
    """In which ways a file is out of tolerance; none if it may be handed out."""
    for name, difference in parity.outputs.items():
        if not difference.differing <= config.differing:
            yield (
                f"{100 * difference.differing:.3g} % of {name} differ by more than {config.tolerance:g} of its largest "
                f"number (up to {difference.largest:.3g}), more than config.differing allows"
            )
    for name, metric in parity.metrics.items():
        if not metric.loss <= config.metric_tolerance:
            yield (
                f"{name} is {metric.file:.4g} instead of {metric.run:.4g}, further off than config.metric_tolerance "
                "allows"
            )
