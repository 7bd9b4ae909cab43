"""Models of others as teachers: what all adapters have in common.

An adapter makes of a few images what the model takes (`inputs_of`), and says what it says about each (`answers_to`).
Everything else is here: threads of its own, in which one batch is made ready and others are read while the model is at
work, and the form of predictions.
"""

from __future__ import annotations

import abc
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np

from must_jax.config.teachers import Fit, TeacherConfig, TeacherInputConfig, TeacherTaskConfig
from must_jax.cores import cores
from must_jax.data import fitting
from must_jax.data.axes import parse
from must_jax.data.batching import TRAIN_MAP_STRIDE
from must_jax.data.fitting import Input, Placed
from must_jax.data.letterbox import Content
from must_jax.errors import UserError
from must_jax.labels.manifest import TeacherRecord
from must_jax.tasks import build_task
from must_jax.tasks.base import Task
from must_jax.teachers import declarations, mapping, said
from must_jax.teachers.base import Images, Predictions, Teacher
from must_jax.teachers.files import digest_of
from must_jax.teachers.reading import Reading
from must_jax.teachers.said import Said, predicted, shapes
from must_jax.teachers.tensors import mean_rgb

Answers = Mapping[str, Said]  # by task, about one image
_LONGEST = 1344  # pixels of an image that a model's own processor gets, by default; larger ones are reduced before

ANSWER_BYTES = 2**30  # of what the calls at a time of a model return, as far as it is known before
# That prepare images, or read batches. More would wait for each other at Python's lock, and the network for them.
THREADS = min(4, cores())


class Foreign(Teacher):
    """A model of others.

    Args:
      declared: as in the config.
      readings: of its tasks, by name.
      licence: as its files say.

    Attributes:
      at_once: batches of which `answers_to` is called at a time; the model itself gets them one by one, in its `turn`.
    """

    at_once = 1

    def __init__(
        self, declared: TeacherConfig, readings: Mapping[str, Reading], input_: Input, licence: str = ""
    ) -> None:
        self.declared, self.readings = declared, dict(readings)
        self.name, self.input, self.in_flight = declared.called, input_, 1 + self.at_once + 1
        self.tasks: Mapping[str, Task] = {name: reading.task for name, reading in readings.items()}
        self.map_hw = (-(-input_.height // TRAIN_MAP_STRIDE), -(-input_.width // TRAIN_MAP_STRIDE))
        self.record = TeacherRecord(
            name=self.name,
            digest=digest_of(declared),
            learning_rate=None,
            batch_size=None,
            steps=None,
            image_size=max(input_.height, input_.width),
            metrics={},
            licence=declared.licence or licence,
            declared=declared.model_dump(mode="json", exclude_defaults=True),
            classes={name: dict(r) for name, each in readings.items() if (r := mapping.record_of(each.mapping))},
        )

    def inputs_of(self, pixels: np.ndarray, placed: Sequence[Placed]) -> Any:
        """What the model takes, of u8[n, height, width, 3] RGB: made while it is at work on other images."""
        return pixels

    @abc.abstractmethod
    def answers_to(self, inputs: Any, placed: Sequence[Placed]) -> Iterator[tuple[int, Answers]]:
        """What the model says about each image, of which `inputs_of` has made its inputs, with the image's number.

        One by one, in any order: the probabilities of many classes at every pixel of a whole batch would not fit.
        """

    def ask(self, pixels: np.ndarray, placed: Sequence[Placed]) -> Iterator[tuple[int, Answers]]:
        """What the model says about each image: u8[n, height, width, 3] RGB, and where each lies in its input."""
        return self.answers_to(self.inputs_of(pixels, placed), placed)

    def begin(self, images: Images) -> Callable[[], Predictions]:
        rows = [row for row, placed in enumerate(images.placed) if placed]
        shown = [placed for placed in images.placed if placed]
        if not rows:
            return lambda: self._empty(len(images.placed))
        pixels = images.pixels[: len(rows)] if rows == list(range(len(rows))) else images.pixels[rows]
        ready = self._before.submit(self.inputs_of, pixels, shown)
        return self._thread.submit(lambda: self._predicted(ready.result(), rows, shown, len(images.placed))).result

    def alone(self, images: Images, row: int) -> Predictions:
        one = Images(images.pixels[row : row + 1], [images.placed[row]])
        return {
            name: {field: values[0] for field, values in fields.items()} for name, fields in self.begin(one)().items()
        }

    def rows(self, batch_size: int) -> int:
        return batch_size

    def answers(self, rows: int) -> Predictions:
        return {name: shapes(task, rows, self.map_hw) for name, task in self.tasks.items()}

    def warm_up(self, batch_size: int) -> None:
        with contextlib.suppress(Exception):  # it will be told with the images that it fails on
            self.forward(1)()  # a whole batch of the largest images could take minutes

    def content(self, placed: Placed) -> Content:
        return said.content_of(self.input, placed, self.map_hw)

    def forward(self, batch_size: int) -> Callable[[], object]:
        pixels = np.random.default_rng(0).integers(0, 256, self.blank(batch_size).shape, np.uint8)
        return lambda: deque(self.ask(pixels, [self.whole] * batch_size), maxlen=0)

    @property
    def whole(self) -> Placed:
        """Where an image lies that fills the input."""
        return Placed(0, 0, self.input.height, self.input.width)

    def _predicted(self, inputs: Any, rows: Sequence[int], placed: Sequence[Placed], count: int) -> Predictions:
        out, left = self._empty(count), {*range(len(rows))}
        for number, answers in self.answers_to(inputs, placed):
            left.remove(number)
            for name, task in self.tasks.items():
                one = predicted(task, answers[name], self.input, placed[number], self.map_hw)
                for field, value in one.items():
                    out[name][field][rows[number]] = value
        if left:
            raise ValueError(f"{len(rows) - len(left)} answers for {len(rows)} images")
        return out

    def _empty(self, count: int) -> dict[str, dict[str, np.ndarray]]:
        return {
            name: {field: like.copy() for field, like in fields.items()} for name, fields in self.answers(count).items()
        }

    @cached_property
    def _before(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, f"inputs-{self.name}")

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.at_once, f"teacher-{self.name}")

    @cached_property
    def turn(self) -> threading.Lock:
        """Held while the network runs, which would be slower if two batches shared the cores or the device."""
        return threading.Lock()


def readings(
    declared: TeacherConfig,
    options: Mapping[str, Mapping[str, Any]],
    told: Mapping[str, TeacherTaskConfig],
) -> dict[str, Reading]:
    """How each task is read: as declared, and where nothing is declared, as the model's files tell.

    Args:
      options: of tasks, for their pseudo labels.
      told: task -> what the files say; none where they say nothing.

    Raises:
      UserError: something has to be declared, or contradicts the files; an unknown task or option.
    """
    return {
        name: _reading(declared, name, each, options.get(name, {}), told.get(name))
        for name, each in declared.tasks.items()
    }


def _reading(
    declared: TeacherConfig,
    name: str,
    task: TeacherTaskConfig,
    options: Mapping[str, Any],
    told: TeacherTaskConfig | None,
) -> Reading:
    where = f"teacher {declared.called}, task {name}"
    kind = declarations.kind(declared, name)
    if told:
        usual = TeacherTaskConfig.model_fields  # what a config that was written down says, too
        filled = {key: getattr(told, key) for key in told.model_fields_set if getattr(task, key) == usual[key].default}
        task = task.model_copy(update=filled)
    given = declarations.classes_of(where, task.classes)
    if kind.has_classes and not given:
        raise UserError(
            f"{where}: its classes are not known; set tasks.{name}.classes to the names, or to a file of them"
        )
    chosen = mapping.load(task.mapping, given) if task.mapping else mapping.same(given)
    extra: dict[str, Any] = {"kind": kind.kind}
    if kind.kind == "depth":
        if task.depth_kind is None:
            raise UserError(
                f"{where}: what kind of depth it is has to be declared: tasks.{name}.depth_kind=metric_m, relative or "
                "inverse_relative (MiDaS, DPT and Depth Anything are inverse_relative)"
            )
        if task.depth_kind != "metric_m" and task.metres_per_unit != 1:
            raise UserError(f"{where}: {task.depth_kind} depth has no unit; remove tasks.{name}.metres_per_unit")
        extra["depth_kind"] = task.depth_kind
    axes = None
    if kind.kind == "normals":
        if not task.axes:
            raise UserError(
                f"{where}: where its x, y and z point has to be declared: tasks.{name}.axes, see docs/teachers.md"
            )
        try:
            axes = parse(task.axes)
        except ValueError as error:
            raise UserError(f"{where}: axes {error}") from None
    return Reading(
        build_task(name, chosen.classes if kind.has_classes else (), {**extra, **options}), task, chosen, axes
    )


def fitted_input(
    where: str,
    declared: TeacherInputConfig,
    hw: tuple[int, int],
    kinds: Collection[str],
    fit: Fit,
    padding_rgb: tuple[int, int, int] | None = None,
) -> Input:
    """For models that take images of one size: as declared.

    Args:
      hw: height and width of the input.
      kinds: of the model's tasks.
      fit, padding_rgb: where nothing is declared; without a colour, `mean`, so that padding becomes 0.

    Raises:
      UserError: it cannot be had of such models, or not for their tasks.
    """
    fit = declared.fit or fit
    if fit == "own":
        raise UserError(f"{where}: it has no processor of its own; set input.fit=letterbox, stretch or crop")
    if fit == "crop" and {*kinds} != {"classification"}:
        raise UserError(f"{where}: what is cropped would have no labels; set input.fit=letterbox or stretch")
    red, green, blue = declared.padding_rgb or padding_rgb or mean_rgb(declared)
    name: fitting.Fit = "corner" if fit == "letterbox_corner" else fit
    return Input(*hw, name, (red, green, blue), (declared.shorter_side or min(hw)) if fit == "crop" else 0)


def own_input(declared: TeacherConfig, wanted: int = 0) -> Input:
    """For models that get the image as it is: `config.input.size` only limits it.

    Args:
      wanted: pixels that the model makes of an image's longer side.

    Raises:
      UserError: the limit is below that.
    """
    size = declared.input.size or (max(_LONGEST, wanted),)
    if min(size) < wanted:
        raise UserError(
            f"teacher {declared.called}: input.size {min(size)} is less than the {wanted} pixels that the model itself "
            "makes of an image; remove it, or raise it"
        )
    return Input(size[0], size[-1], "whole", padding_rgb=(0, 0, 0))


def images_of(pixels: np.ndarray, placed: Sequence[Placed]) -> list[np.ndarray]:
    """The images alone, without padding: u8[h, w, 3] each."""
    return [
        np.ascontiguousarray(each[round(p.top) : round(p.top + p.height), round(p.left) : round(p.left + p.width)])
        for each, p in zip(pixels, placed, strict=True)
    ]
