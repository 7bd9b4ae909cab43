"""A Python function as a teacher: `python:MODULE:FUNCTION`.

The function takes a list of images, u8[h, w, 3] RGB each, or BGR if `input.colour` says so, upright, of any sizes, and
returns a list of their answers:

| kind | answer of a task |
|---|---|
| classification | f32[K] |
| detection | {"boxes": f32[n, 4], "scores": f32[n], "classes": i[n]}, as declared: by default xyxy in pixels |
| segmentation | i[h, w], or f32[h, w, K]; any resolution |
| depth | f32[h, w], any resolution, or {"depth": ..., "valid": ...} |
| normals | f32[h, w, 3], any resolution, or {"normals": ..., "valid": ...} |

An answer is {task: ...}; with a single task, the answer alone will do.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from must_jax.config.teachers import TeacherConfig, TeacherTaskConfig
from must_jax.data.fitting import Input, Placed
from must_jax.errors import UserError, nearest, told
from must_jax.teachers import foreign
from must_jax.teachers.foreign import ANSWER_BYTES, Answers, Foreign
from must_jax.teachers.reading import Reading
from must_jax.teachers.said import Said

_INPUT = ("size", "colour")  # what can be said of its input
_DEFAULTS: dict[str, dict[str, Any]] = {
    "classification": {"scores": "probabilities"},
    "detection": {"boxes": "xyxy", "box_unit": "pixels", "nms_iou": 1.0},
    "segmentation": {"scores": "probabilities"},
}


def load(declared: TeacherConfig, options: Mapping[str, Mapping[str, Any]]) -> Foreign:
    """The function of `declared.model` as a teacher.

    Raises:
      UserError: the module or the function does not exist or cannot be imported; something has to be declared.
    """
    given = [f"input.{key}" for key, value in declared.input if key not in _INPUT and value not in (None, (), 0, "own")]
    if given:
        raise UserError(f"teacher {declared.called}: a function gets images as they are; remove {', '.join(given)}")
    defaults = {
        name: TeacherTaskConfig(**_DEFAULTS.get(task.kind or name, {})) for name, task in declared.tasks.items()
    }
    readings = foreign.readings(declared, options, defaults)
    return Function(declared, readings, foreign.own_input(declared), _function(declared))


class Function(Foreign):
    """See the module."""

    def __init__(
        self,
        declared: TeacherConfig,
        readings: Mapping[str, Reading],
        input_: Input,
        function: Callable[[list[np.ndarray]], Sequence[Any]],
    ) -> None:
        super().__init__(declared, readings, input_)
        self._function = function

    def inputs_of(self, pixels: np.ndarray, placed: Sequence[Placed]) -> list[np.ndarray]:
        step = -1 if self.declared.input.colour == "bgr" else 1
        return [image[..., ::step] for image in foreign.images_of(pixels, placed)]

    def answers_to(self, images: list[np.ndarray], placed: Sequence[Placed]) -> Iterator[tuple[int, Answers]]:
        for part in self._parts(images):
            some = [images[number] for number in part]
            try:
                answers = self._function([image.copy() for image in some])
            except SystemExit as error:  # of a function, it would end this process without a word
                raise RuntimeError(f"it ended its process by sys.exit({error.code})") from error
            if not isinstance(answers, list | tuple) or len(answers) != len(some):
                raise TypeError(f"it returned no list of {len(some)} answers, but {_shown(answers)}")
            for number, answer, image in zip(part, answers, some, strict=True):
                yield number, self._answers(answer, image.shape[:2])
            del answers

    def _parts(self, images: Sequence[np.ndarray]) -> Iterator[range]:
        """The images of each call: as many as are declared, or as their maps of all classes have place."""
        maps = sum(each.outputs for each in self.readings.values() if each.task.kind == "segmentation")
        first, size = 0, 0
        for number, image in enumerate(images):
            size += 4 * maps * image.shape[0] * image.shape[1]
            full = number - first == self.declared.batch_size if self.declared.batch_size else size > ANSWER_BYTES
            if full and number > first:
                yield range(first, number)
                first, size = number, 4 * maps * image.shape[0] * image.shape[1]
        yield range(first, len(images))

    def _answers(self, answer: Any, image_hw: tuple[int, int]) -> Answers:
        if len(self.readings) == 1 and not (isinstance(answer, Mapping) and set(answer) == set(self.readings)):
            answer = dict.fromkeys(self.readings, answer)
        if not isinstance(answer, Mapping) or set(answer) != set(self.readings):
            raise TypeError(f"an answer should have {', '.join(self.readings)}, but is {_shown(answer)}")
        return {name: _said(reading, answer[name], image_hw) for name, reading in self.readings.items()}


def _said(reading: Reading, answer: Any, image_hw: tuple[int, int]) -> Said:
    kind = reading.task.kind
    if kind == "detection":
        boxes, scores, classes = (np.asarray(_part(answer, key)) for key in ("boxes", "scores", "classes"))
        boxes = boxes if boxes.size else boxes.reshape(0, 4)
        return reading.boxes(boxes, scores, reading.whole(classes), image_hw, "image")
    valid = None
    if isinstance(answer, Mapping):
        valid = np.asarray(answer["valid"]) if "valid" in answer else None
        answer = _part(answer, kind)
    values = np.asarray(answer)
    if kind == "classification":
        return reading.vector(values)
    if kind == "segmentation":
        if values.ndim == 2:
            return reading.ids(reading.whole(values), frame="image")
        return reading.regions(values, "image")
    return reading.depth(values, valid, "image") if kind == "depth" else reading.normals(values, valid, "image")


def _part(answer: Any, key: str) -> Any:
    if not isinstance(answer, Mapping) or key not in answer:
        raise TypeError(f"it should have '{key}', but is {_shown(answer)}")
    return answer[key]


def _function(declared: TeacherConfig) -> Callable[[list[np.ndarray]], Sequence[Any]]:
    module_name, _, name = declared.model.removeprefix("python:").partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # it runs anything
        raise UserError(f"teacher {declared.called}: {module_name} cannot be imported: {told(error)}") from error
    function: Callable[[list[np.ndarray]], Sequence[Any]] | None = getattr(module, name, None)
    if not callable(function):
        known = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise UserError(f"teacher {declared.called}: {module_name} has no function '{name}'; {nearest(name, known)}")
    return function


def _shown(answer: Any) -> str:
    if isinstance(answer, Mapping):
        return f"a mapping of {', '.join(map(str, answer)) or 'nothing'}"
    length = f" of {len(answer)}" if isinstance(answer, list | tuple) else ""
    return f"{type(answer).__name__}{length}"
