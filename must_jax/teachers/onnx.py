"""ONNX files as teachers, run by onnxruntime.

A trial on two images of noise shows the shapes of the outputs, which tell how they can be read (`outputs`, `layouts`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from must_jax import cores
from must_jax.config.teachers import Fit, TeacherConfig, TeacherTaskConfig
from must_jax.data.fitting import Input, Placed
from must_jax.errors import UserError
from must_jax.teachers import declarations, foreign, layouts, outputs
from must_jax.teachers.files import path_of
from must_jax.teachers.foreign import ANSWER_BYTES, THREADS, Answers, Foreign
from must_jax.teachers.onnx_file import KIND_OF_TASK, Metadata, metadata
from must_jax.teachers.outputs import Output, Plan
from must_jax.teachers.reading import Reading
from must_jax.teachers.tensors import Encoding

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
_SIZES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32}  # of an input for sizes
_YOLO_PADDING = (114, 114, 114)


@dataclass(frozen=True)
class _Inputs:
    """What the model takes.

    Attributes:
      batch: images of a call, if the file fixes it.
      sizes: a second input, which takes the width and height of each image, as RT-DETR and D-FINE have it.
      stacked: whether there is a batch axis.
    """

    name: str
    type: np.dtype
    channels_first: bool
    hw: tuple[int, int]
    batch: int | None
    stacked: bool
    sizes: onnxruntime.NodeArg | None


def load(declared: TeacherConfig, options: Mapping[str, Mapping[str, Any]]) -> Foreign:
    """The file of `declared.model` as a teacher.

    Raises:
      UserError: the file is missing, damaged or cannot be run; something has to be declared, or contradicts it.
    """
    where = f"teacher {declared.called}"
    session = _session(where, path_of(declared), declared)
    said = metadata(session.get_modelmeta().custom_metadata_map)
    told = {name: _told(f"{where}, task {name}", declared, name, said) for name in declared.tasks}
    readings = foreign.readings(declared, options, told)
    taken = _inputs(where, session, declared, said)
    encoding = Encoding.of(where, declared.input, taken.type, taken.channels_first)
    runner = _Runner(session, taken, encoding)
    values, runner = _trial(where, runner)
    seen = [Output(name, value.shape, value.dtype) for name, value in values.items()]
    plans: dict[str, Plan] = {}
    for name, reading in readings.items():
        at = f"{where}, task {name}"
        some = outputs.chosen(at, reading, seen)
        if reading.task.kind == "detection":
            plans[name] = layouts.plan(at, reading, some, taken.hw, said)
        else:
            plans[name] = outputs.plan(at, reading, some, values, taken.hw)
        if taken.sizes and plans[name].told.get("layout") == "torchvision" and reading.declared.first_class is None:
            raise UserError(
                f"{at}: models that take sizes as {taken.sizes.name} number their classes from 0 or from 1; say which "
                f"in its tasks.{name}.first_class"
            )
        told[name] = told[name].model_copy(update=plans[name].told)
    readings = foreign.readings(declared, options, told)
    input_ = _input(where, declared, readings, taken.hw, said)
    teacher = Onnx(declared, readings, input_, said.licence, runner, plans, values)
    teacher.check(values)
    return teacher


class Onnx(Foreign):
    """See the module.

    Args:
      values: its outputs for a trial.
    """

    def __init__(
        self,
        declared: TeacherConfig,
        readings: Mapping[str, Reading],
        input_: Input,
        licence: str,
        runner: _Runner,
        plans: Mapping[str, Plan],
        values: Mapping[str, np.ndarray],
    ) -> None:
        each = sum(value.nbytes for value in values.values()) // (runner.inputs.batch or 2)
        self.at_once = min(THREADS, max(1, ANSWER_BYTES // max(each, 1)))
        super().__init__(declared, readings, input_, licence)
        self._runner, self._plans = runner, plans
        most = max(1, ANSWER_BYTES // self.at_once // max(each, 1))
        self._most = runner.inputs.batch or declared.batch_size or most

    def inputs_of(self, pixels: np.ndarray, placed: Sequence[Placed]) -> list[tuple[int, dict[str, np.ndarray]]]:
        """For each call, how many images it is of, and what the model takes."""
        step = self._most
        parts = (pixels[first : first + step] for first in range(0, len(pixels), step))
        return [(len(some), self._runner.feeds(some)) for some in parts]

    def answers_to(
        self, inputs: list[tuple[int, dict[str, np.ndarray]]], placed: Sequence[Placed]
    ) -> Iterator[tuple[int, Answers]]:
        first = 0
        for count, feeds in inputs:
            with self.turn:
                values = self._runner.outputs(feeds)
            yield from ((first + row, self._answers(values, row)) for row in range(count))
            first += count
            del values

    def forward(self, batch_size: int) -> Callable[[], object]:
        step = min(self._most, batch_size)
        pixels = np.random.default_rng(0).integers(0, 256, self.blank(step).shape, np.uint8)
        feeds = self._runner.feeds(pixels)
        return lambda: [self._runner.run(feeds) for _ in range(-(-batch_size // step))]

    def check(self, values: Mapping[str, np.ndarray]) -> None:
        """Reads the outputs of a trial.

        Raises:
          UserError: they cannot be what is declared.
        """
        try:
            self._answers(values, 0)
        except FloatingPointError:  # of noise, a model may say anything
            return
        except ValueError as error:
            raise UserError(f"teacher {self.name}: {error}") from None

    def _answers(self, values: Mapping[str, np.ndarray], row: int) -> Answers:
        answers = {}
        for name, plan in self._plans.items():
            arrays = [values[each][row] if plan.batched else values[each] for each in plan.outputs]
            answers[name] = plan.read(self.readings[name], arrays, (self.input.height, self.input.width))
        return answers


class _Runner:
    """The network: images -> its outputs by name."""

    def __init__(self, session: onnxruntime.InferenceSession, inputs: _Inputs, encoding: Encoding) -> None:
        self.session, self.inputs, self.encoding = session, inputs, encoding
        self.names = [each.name for each in session.get_outputs()]

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        return self.outputs(self.feeds(pixels))

    def outputs(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self.names, self.run(feeds), strict=True))

    def feeds(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """u8[n, height, width, 3] RGB -> what the model takes, filled up to the batch that its file fixes."""
        tensor = self.encoding(pixels, self.inputs.batch or 0)
        feeds = {self.inputs.name: tensor if self.inputs.stacked else tensor[0]}
        if wanted := self.inputs.sizes:
            sizes = np.tile(np.array(self.inputs.hw[::-1], _SIZES[wanted.type]), (len(tensor), 1))
            feeds[wanted.name] = sizes if len(wanted.shape) == 2 else sizes[0]
        return feeds

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs in the order of `names`."""
        values: list[np.ndarray] = self.session.run(self.names, dict(feeds))
        return values


def _session(where: str, path: Path, declared: TeacherConfig) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = declared.threads or cores.cores()  # it would not see which cores it may use
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised, too
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # images are decoded on the same cores
    cuda = declared.device != "cpu" and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if declared.device == "cuda" and not cuda:
        raise UserError(f"{where}: this onnxruntime sees no GPU; pip install onnxruntime-gpu, or set its device=cpu")
    providers: list[Any] = ["CPUExecutionProvider"]
    if cuda:
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # from the packages that jax installs
        # The fastest algorithm of each convolution would be found by trying, with other results in every process.
        settings = {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"}
        providers.insert(0, ("CUDAExecutionProvider", settings))
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # it has a class of its own for each kind
        raise UserError(f"{where}: onnxruntime cannot load {path}: {_first_line(error)}") from None
    if declared.device == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise UserError(f"{where}: onnxruntime cannot use the GPU; install the CUDA of its version, or set device=cpu")
    return session


def _told(where: str, config: TeacherConfig, name: str, said: Metadata) -> TeacherTaskConfig:
    """What the metadata say about a task.

    Raises:
      UserError: they contradict the config.
    """
    kind = declarations.kind(config, name)
    if said.task == "obb":
        raise UserError(f"{where}: its file says task=obb, whose boxes are turned; such boxes cannot be read")
    expected = KIND_OF_TASK.get(said.task)
    if expected and expected != kind.kind:
        raise UserError(
            f"{where}: its file says task={said.task}, which is read as {expected}, but the config says {kind.kind}; "
            "correct its tasks"
        )
    if not kind.has_classes or not said.names:
        return TeacherTaskConfig()
    declared, names = declarations.classes_of(where, config.tasks[name].classes), declarations.unique(said.names)
    if declared and len(declared) != len(names):
        raise UserError(
            f"{where}: {len(declared)} classes are declared, but its file names {len(names)}: "
            f"{', '.join(names[:3])}, ...; remove classes, or correct them"
        )
    for index, (ours, theirs) in enumerate(zip(declared, names, strict=False)):
        if ours != theirs:
            raise UserError(
                f"{where}: class {index} is declared as '{ours}', but its file calls it '{theirs}'; remove classes, "
                "and rename them with a mapping if needed"
            )
    return TeacherTaskConfig(classes=names)


def _inputs(where: str, session: onnxruntime.InferenceSession, declared: TeacherConfig, said: Metadata) -> _Inputs:
    images = [each for each in session.get_inputs() if each.type in _TYPES and len(each.shape) in (3, 4)]
    others = [each for each in session.get_inputs() if each not in images]
    sizes = [each for each in others if each.type in _SIZES and each.shape[-1:] == [2] and len(each.shape) < 3]
    if len(images) != 1 or len(others) != len(sizes) or len(sizes) > 1:
        shown = ", ".join(f"{each.name} {each.type} {each.shape}" for each in session.get_inputs())
        raise UserError(
            f"{where}: its inputs are {shown}, but it should take images, [batch, 3, height, width] or [batch, height, "
            "width, 3], and at most their sizes besides; export it with such an input"
        )
    (image,) = images
    stacked = len(image.shape) == 4
    batch, shape = (image.shape[0], image.shape[1:]) if stacked else (1, image.shape)
    first = _channels_first(where, image.name, shape, declared)
    hw = _size(where, shape[1:] if first else shape[:2], declared, said)
    fixed = batch if isinstance(batch, int) and batch > 0 else None
    if fixed and declared.batch_size not in (0, fixed):
        raise UserError(f"{where}: batch_size is {declared.batch_size}, but its file fixes {fixed}; remove it")
    return _Inputs(image.name, np.dtype(_TYPES[image.type]), first, hw, fixed, stacked, sizes[0] if sizes else None)


def _channels_first(where: str, name: str, shape: Sequence[int | str], declared: TeacherConfig) -> bool:
    says = declared.input.channels
    first, last = (shape[axis] == 3 or not isinstance(shape[axis], int) for axis in (0, 2))
    if not first and not last:
        raise UserError(f"{where}: its input {name} {list(shape)} has no axis of three channels; only RGB can be given")
    if says and not (first if says == "first" else last):
        raise UserError(f"{where}: input.channels={says}, but its input {name} is {list(shape)}; remove it")
    exact = [shape[axis] == 3 for axis in (0, 2)]
    if not says and exact[0] == exact[1]:
        raise UserError(
            f"{where}: from its input {name} {list(shape)} it cannot be seen which axis has the channels; set "
            "input.channels=first or last"
        )
    return says == "first" if says else exact[0]


def _size(where: str, shape: Sequence[int | str], declared: TeacherConfig, said: Metadata) -> tuple[int, int]:
    """Height and width of the input."""
    wanted = declared.input.size or said.size or ()
    fixed = [side if isinstance(side, int) and side > 0 else None for side in shape]
    if not wanted and None in fixed:
        raise UserError(f"{where}: its file fixes no input size; set input.size to the pixels of a side, as in 640")
    height, width = (
        side or want for side, want in zip(fixed, (wanted[0], wanted[-1]) if wanted else (0, 0), strict=True)
    )
    if declared.input.size and (height, width) != (wanted[0], wanted[-1]):
        raise UserError(
            f"{where}: input.size is {'x'.join(map(str, wanted))}, but its file fixes {height}x{width}; remove it"
        )
    return height, width


def _input(
    where: str, declared: TeacherConfig, readings: Mapping[str, Reading], hw: tuple[int, int], said: Metadata
) -> Input:
    """How images get into it: letterboxed into a YOLO, cropped for a classifier, otherwise stretched, by default."""
    kinds = {reading.task.kind for reading in readings.values()}
    yolo = any(reading.declared.layout in layouts.YOLO for reading in readings.values()) and not said.is_rtdetr
    default: Fit = "letterbox" if yolo else "crop" if kinds == {"classification"} else "stretch"
    return foreign.fitted_input(where, declared.input, hw, kinds, default, _YOLO_PADDING if yolo else None)


def _trial(where: str, runner: _Runner) -> tuple[dict[str, np.ndarray], _Runner]:
    """The outputs for noise; and the runner, of one image at a time if it can do no more.

    Raises:
      UserError: the model cannot be run.
    """
    inputs = runner.inputs
    noise = np.random.default_rng(0).integers(0, 256, (inputs.batch or 2, *inputs.hw, 3), np.uint8)
    try:
        values = runner(noise)
        if inputs.batch or all(each.shape[:1] == (2,) for each in values.values()):
            return values, runner
    except Exception as error:  # it has a class of its own for each kind
        if inputs.batch:
            raise UserError(
                f"{where}: the model cannot be run with images of {inputs.hw[0]}x{inputs.hw[1]}: {_first_line(error)}"
            ) from None
    return _trial(where, _Runner(runner.session, replace(inputs, batch=1), runner.encoding))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
