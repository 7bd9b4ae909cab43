"""What a teacher says about one image, and what it was read from: read otherwise without running the network again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import jax
import numpy as np

from must_jax.data.augment import resized
from must_jax.data.fitting import Placed
from must_jax.data.kinds import Label
from must_jax.data.letterbox import Content
from must_jax.errors import told
from must_jax.tasks.base import NumpyArrays, Task
from must_jax.teachers.base import Images, Teacher
from must_jax.teachers.foreign import Foreign
from must_jax.teachers.reading import Reading
from must_jax.teachers.said import Boxes, Regions, Said, Values, Vector, predicted


@dataclass(frozen=True)
class Call:
    """One reading of outputs, which can be repeated on another `Reading`: the name of its method, and what it got."""

    method: str
    positional: tuple[Any, ...]
    named: Mapping[str, Any]

    def on(self, reading: Reading) -> Said:
        """Raises what the reading raises where the outputs cannot be read so."""
        said: Said = getattr(reading, self.method)(*self.positional, **self.named)
        return said


@dataclass(frozen=True)
class Heard:
    """What a teacher says about one image.

    Attributes:
      predictions: by task, condensed, as `Teacher` describes them; tasks whose outputs cannot be read are missing.
      content: the share of rows and columns that the image takes up in them.
      calls: by task, how a model of others was read.
      placed: where the image lies in the input.
      error: why there are no predictions; "" if there are.
    """

    predictions: Mapping[str, NumpyArrays]
    content: Content
    placed: Placed
    calls: Mapping[str, Call] = field(default_factory=dict)
    error: str = ""


class _Listener:
    """Stands in for a `Reading` while its teacher is asked, and keeps what it is to read."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self.calls: list[Call] = []

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._reading, name)
        if name.startswith("_") or not callable(value):
            return value

        def call(*positional: Any, **named: Any) -> Any:
            self.calls.append(Call(name, positional, named))
            said = value(*positional, **named)
            if not isinstance(said, Vector | Boxes | Regions | Values):  # a step on the way
                self.calls.pop()
            return said

        return call


def ask(teacher: Teacher, image: np.ndarray) -> Heard:
    """Asks about one image, u8[h, w, 3] RGB. Never raises what the teacher raises."""
    pixels, placed = _shown(teacher, image)
    if isinstance(teacher, Foreign):
        return _ask_foreign(teacher, pixels, placed)
    content = teacher.content(placed)
    batch = teacher.blank(1)
    batch[0] = pixels
    try:
        told_ = teacher.begin(Images(batch, [placed, *[None] * (len(batch) - 1)]))()
    except Exception as error:  # it is another's
        return Heard({}, content, placed, error=told(error))
    return Heard(jax.tree.map(lambda values: np.asarray(values)[0], dict(told_)), content, placed)


def read_again(teacher: Foreign, heard: Heard, task: str, reading: Reading) -> NumpyArrays | None:
    """The prediction that another reading makes of the same outputs; None if they cannot be read so."""
    if task not in heard.calls:
        return None
    try:
        said = heard.calls[task].on(reading)
        return predicted(reading.task, said, teacher.input, heard.placed, teacher.map_hw)
    except Exception:  # it is another's
        return None


def label_of(task: Task, prediction: NumpyArrays, heard: Heard) -> Label:
    """The label of a prediction, as labelling makes it."""
    return task.label.cut_padding(task.pseudo_label(prediction), heard.content)


def _shown(teacher: Teacher, image: np.ndarray) -> tuple[np.ndarray, Placed]:
    geometry = teacher.input.geometry(image.shape[:2])
    return resized(geometry, image, teacher.input.padding_rgb), teacher.input.placed(geometry)


def _ask_foreign(teacher: Foreign, pixels: np.ndarray, placed: Placed) -> Heard:
    listeners = {name: _Listener(reading) for name, reading in teacher.readings.items()}
    listening = copy.copy(teacher)
    listening.readings = cast(dict[str, Reading], dict(listeners))
    predictions: dict[str, NumpyArrays] = {}
    error = ""
    try:
        [(_, answers)] = listening.ask(pixels[None], [placed])
        for name, task in teacher.tasks.items():
            predictions[name] = predicted(task, answers[name], teacher.input, placed, teacher.map_hw)
    except Exception as raised:  # it is another's
        error = told(raised)
    calls = {name: listener.calls[-1] for name, listener in listeners.items() if listener.calls}
    return Heard(predictions, teacher.content(placed), placed, calls, error)
