"""The interface of a task. One file per kind of task implements it; nothing else in the package refers to one by name.

A task has a *kind*, the class here, and a *name*, the user's: a model may have two detections of different classes.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Protocol, Self, TypedDict, TypeVar

import flax.linen as nn
import jax
import numpy as np
import pydantic
from pydantic import Field

from must_jax.config import ModelConfig
from must_jax.config.base import MaxBoxes, read_options
from must_jax.data.confidence import Threshold, check_classes
from must_jax.data.kinds import LabelKind
from must_jax.data.letterbox import Content
from must_jax.errors import UserError

Arrays = Mapping[str, jax.Array]  # one task's outputs, predictions or labels; the leading axis is the batch, B
NumpyArrays = Mapping[str, np.ndarray]
AnyArray = TypeVar("AnyArray", jax.Array, np.ndarray)
Sums = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, weight); the mean is taken after merging over devices


class Table(TypedDict):
    """Columns by class. A value is None where there is none, as the precision of a class that is never predicted."""

    classes: list[str]
    columns: dict[str, list[float | None] | list[int]]


class Confusion(TypedDict):
    """`counts[t][p]`: how much of true class t was predicted as class p; a last column, "none", where that happens."""

    classes: list[str]
    counts: list[list[int]]


class Curve(TypedDict):
    """Lines over one axis: name -> (x values, y values)."""

    title: str
    x: str
    y: str
    series: dict[str, tuple[list[float], list[float]]]


class Details(TypedDict, total=False):
    """JSON values in one form for all tasks, so that a report needs to know none of them; every part is optional."""

    per_class: Table
    confusion: Confusion
    curves: list[Curve]
    remark: str  # what is strange about all predictions together, in a few words


class TaskMetrics(Protocol):
    """Accumulates over images on the host."""

    def update(self, prediction: NumpyArrays, label: NumpyArrays) -> None:
        """Counts one image, unless its label has `present` = 0. No batch axis.

        Args:
          prediction: in the label's frame and, for maps, at its resolution; see `Task.in_frame_of`.
          label: the stored label, complete.
        """
        ...

    def merge(self, other: Any) -> None:
        """Adds what another accumulator of the same task has seen, for instance in another process."""
        ...

    def result(self) -> dict[str, float]:
        """Metric name -> value; shares and scores are in percent (0..100)."""
        ...

    def details(self) -> Details:
        """What lies behind the result."""
        ...

    def chance(self) -> float:
        """The headline metric of the best prediction that ignores the image, on the truth seen so far; 0 without any.

        A model that is hardly better (`labels/judging.py`) has not learnt the task, and must not label.
        """
        ...


class Task(pydantic.BaseModel, abc.ABC):
    """A task with its options: frozen, comparable, serialisable (`model_dump`) into a model's description."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: ClassVar[str]  # key in the registry
    metric: ClassVar[str]  # headline metric of the scorecard; higher is better
    errors: ClassVar[frozenset[str]] = frozenset()  # metrics of which less is better
    has_classes: ClassVar[bool] = False
    self_supervised: ClassVar[bool] = False  # learns from images alone: it needs no labels, and has none to give
    threshold: ClassVar[str] = ""  # the option below which the rule leaves things out; its plural is that by class
    counted: ClassVar[str] = ""  # the map in its predictions, if it has one: the devices measure it (`tasks/maps.py`)

    name: Annotated[str, Field(exclude=True)] = ""
    """In configs, batches, outputs, metrics and columns; none = its kind."""
    classes: tuple[str, ...] = ()
    """Class names in the order of their indices; empty for tasks without classes."""
    weight: Annotated[float, Field(ge=0, le=1e6)] | None = None
    """Of the loss; none = computed from the teacher's settings by the paper's rule, 1 without a teacher."""
    max_boxes: MaxBoxes = 100
    """Box slots per image, for tasks that have boxes."""

    def __hash__(self) -> int:
        return hash((self.kind, self.name, self.classes))  # options by class are mappings, which have none

    @pydantic.model_validator(mode="before")
    @classmethod
    def _read_options(cls, values: Any) -> Any:
        values = read_options(cls, values)
        return values | {"name": values.get("name") or cls.kind}

    @property
    def options(self) -> dict[str, Any]:
        """All that `build_task` needs besides name and classes, as JSON values; `kind` only if the name is another."""
        kind = {"kind": self.kind} if self.kind != self.name else {}
        return kind | self.model_dump(mode="json", exclude={"classes"})

    def called(self, name: str) -> Self:
        """The same task under another name."""
        return self.model_copy(update={"name": name})

    @property
    @abc.abstractmethod
    def label(self) -> LabelKind:
        """The kind of its labels, for the data pipeline and the label store."""

    @property
    def answer(self) -> LabelKind:
        """The kind of its pseudo labels: that of its labels, except for the number of slots."""
        return self.label

    @pydantic.model_validator(mode="after")
    def _check_thresholds(self) -> Self:
        if self.classes:
            check_classes(self.min_confidence.of_class, self.classes, f"{self.threshold}s")
        return self

    @property
    def min_confidence(self) -> Threshold:
        """Below it, the rule leaves things out of a pseudo label: the options `threshold` and, by class, its plural."""
        if not self.threshold:
            return Threshold()
        return Threshold(getattr(self, self.threshold), getattr(self, f"{self.threshold}s"))

    @property
    def asks(self) -> str:
        """The option of which a lower value lets more be found; "" if there is none."""
        return self.threshold if self.min_confidence.of_all else ""

    @abc.abstractmethod
    def head(self, model: ModelConfig) -> nn.Module:
        """A module `(features, train) -> outputs`; see `models/heads.py` for the features."""

    @abc.abstractmethod
    def loss(self, outputs: Arrays, labels: Arrays, input_hw: tuple[int, int]) -> Sums:
        """Differentiable terms whose means add up to the task's loss. Absent examples have zero weight.

        Args:
          input_hw: the input's height and width in pixels.
        """

    @abc.abstractmethod
    def predict(self, outputs: Arrays, input_hw: tuple[int, int]) -> Arrays:
        """Outputs -> predictions in label form, static shapes, jit-able. `input_hw`: the input's pixels."""

    def merged(self, outputs: Arrays, index: np.ndarray) -> Arrays:
        """The outputs of a head with other classes -> those of one with this task's classes, jit-able.

        Args:
          index: i32, for each class of that head the one of this task that it belongs to; -1 = none.
        """
        raise UserError(f"a mapping of classes of {self.kind} is not supported; remove the mapping of {self.name}")

    def condense(self, predictions: Mapping[str, AnyArray]) -> Mapping[str, AnyArray]:
        """The part of the predictions that `pseudo_label` needs, jit-able: labelling fetches only this from devices."""
        return predictions

    def on_image(self, prediction: NumpyArrays, content: Content, hw: tuple[int, int]) -> NumpyArrays:
        """One image's prediction for the whole input -> for the image alone, its maps with `hw` rows and columns.

        Args:
          content: the share of the input's rows and columns that the image takes up, from the top left.
        """
        return self.label.on_image(prediction, content, hw)

    def in_frame_of(self, label: NumpyArrays, prediction: NumpyArrays, content: Content) -> NumpyArrays:
        """`on_image`, at the resolution of the label."""
        return self.on_image(prediction, content, self.label.map_hw(label))

    @abc.abstractmethod
    def metrics(self) -> TaskMetrics:
        """A fresh accumulator."""

    @abc.abstractmethod
    def pseudo_label(self, prediction: NumpyArrays) -> dict[str, np.ndarray]:
        """The rule: one image's prediction, full or condensed (no batch axis) -> its label (paper section 3)."""

    def as_prediction(self, label: NumpyArrays) -> NumpyArrays:
        """A label in the form of a prediction, so that `metrics` can compare it with another label."""
        return label

    @abc.abstractmethod
    def draw(self, image: np.ndarray, label: NumpyArrays) -> np.ndarray:
        """A label or pseudo label of one image as a picture: u8[H, W, 3] -> u8[H, W, 3], RGB."""

    @abc.abstractmethod
    def describe(self, label: NumpyArrays) -> dict[str, Any]:
        """A label of one image as JSON values, short enough to read (boxes, top classes, ranges, class shares)."""
