"""What a teacher is, for everything that asks one: labelling, its forecast, the check of how it is read."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from must_jax.data.fitting import Input, Placed
from must_jax.data.letterbox import Content
from must_jax.engine.mesh import put_batch
from must_jax.labels.manifest import TeacherRecord
from must_jax.tasks.base import Task

Predictions = Mapping[str, Mapping[str, Any]]  # by task; arrays with a leading batch axis


class Images:
    """A batch as one kind of input shows it.

    Attributes:
      pixels: u8[rows, height, width, 3] RGB; zeros where there is no image, so that shapes never change.
      placed: where each image lies in its row, for the first rows; None for one that could not be read.
    """

    def __init__(self, pixels: np.ndarray, placed: Sequence[Placed | None]) -> None:
        self.pixels, self.placed = pixels, placed
        self._sent: dict[Mesh, jax.Array] = {}

    def on(self, mesh: Mesh) -> jax.Array:
        """The pixels on devices, sent once for all teachers there."""
        if mesh not in self._sent:
            self._sent[mesh] = put_batch(mesh, self.pixels)
        return self._sent[mesh]


class Teacher(abc.ABC):
    """A model that labels: one of must_jax, or of others.

    Predictions are condensed (`Task.condense`), and those of the whole input as if the image lay in its
    top left corner, of which it takes up the share `content(placed)`: {task: {field: [rows, ...]}}, maps of `map_hw`
    cells.

    Attributes:
      name: becomes part of its columns' names.
      tasks: by name, with the options of this run.
      input: how it is shown images.
      record: its provenance, for manifests, with the metrics of all its tasks.
      map_hw: rows and columns of its maps.
      in_flight: batches that are begun before the answers to the first one are awaited: by default one that is being
        computed and one that is being fetched.
    """

    name: str
    tasks: Mapping[str, Task]
    input: Input
    record: TeacherRecord
    map_hw: tuple[int, int]
    in_flight: int = 2

    def content(self, placed: Placed) -> Content:
        """The share of rows and columns that an image takes up in predictions."""
        return placed.height / self.input.height, placed.width / self.input.width

    @abc.abstractmethod
    def rows(self, batch_size: int) -> int:
        """Rows of the arrays that hold a batch: at least as many."""

    @abc.abstractmethod
    def begin(self, images: Images) -> Callable[[], Predictions]:
        """Starts predicting. The result waits, and has at least as many rows as there are images.

        Either may raise anything.
        """

    @abc.abstractmethod
    def alone(self, images: Images, row: int) -> Predictions:
        """The predictions for one image, without a batch axis, after the batch as a whole has failed."""

    @abc.abstractmethod
    def answers(self, rows: int) -> Predictions:
        """Shapes and types of what `begin` returns for so many rows."""

    @abc.abstractmethod
    def warm_up(self, batch_size: int) -> None:
        """Loads and compiles what batches of this size need."""

    @abc.abstractmethod
    def forward(self, batch_size: int) -> Callable[[], object]:
        """Starts the network alone, on a batch that is where it computes; `jax.block_until_ready` waits for it."""

    @property
    def devices(self) -> int:
        """How many it computes on."""
        return 1

    def blank(self, batch_size: int) -> np.ndarray:
        """u8[rows, height, width, 3], zeros."""
        return np.zeros((self.rows(batch_size), self.input.height, self.input.width, 3), np.uint8)
