"""Outputs of a model, told apart by their shapes: which of them a task reads, and how. Detectors' are in `layouts`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from must_jax.errors import UserError, nearest
from must_jax.teachers.reading import Reading
from must_jax.teachers.said import Said

_SUM = 1e-3  # by how much the sum of probabilities may differ from 1


class Output(NamedTuple):
    """An output of a model, as it came out of a trial.

    Attributes:
      full: its shape, with the batch axis if it has one.
    """

    name: str
    full: tuple[int, ...]
    type: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image, if it has a batch axis."""
        return self.full[1:]

    @property
    def is_whole(self) -> bool:
        """Whether it has whole numbers."""
        return np.issubdtype(self.type, np.integer)

    def __str__(self) -> str:
        return f"{self.name} {list(self.full)}"


class Plan(NamedTuple):
    """How a task is read from a model's outputs.

    Attributes:
      outputs: their names.
      read: from their arrays for one image, without a batch axis, and the input's height and width.
      told: keys of the task's config that follow from it.
      batched: whether the outputs have a batch axis; if not, the model takes one image at a time.
    """

    outputs: tuple[str, ...]
    read: Callable[[Reading, Sequence[np.ndarray], tuple[int, int]], Said]
    told: dict[str, Any]
    batched: bool = True


def chosen(where: str, reading: Reading, outputs: Sequence[Output]) -> list[Output]:
    """The outputs that are declared, in their order; all, if none are.

    Raises:
      UserError: there is no such output.
    """
    names = {each.name: each for each in outputs}
    for name in reading.declared.outputs:
        if name not in names:
            raise UserError(f"{where}: it has no output '{name}'; {nearest(name, names)}")
    return [names[name] for name in reading.declared.outputs] or [*outputs]


def plan(
    where: str,
    reading: Reading,
    outputs: Sequence[Output],
    values: dict[str, np.ndarray],
    hw: tuple[int, int],
) -> Plan:
    """How a classifier, a map of classes, depth or normals are read: from the only output that fits.

    Args:
      values: of the outputs, for a trial of noise.
      hw: of the input.

    Raises:
      UserError: none fits, or several do.
    """
    finders, wanted = _KINDS[reading.task.kind]
    found: list[Plan] = []
    for find in finders:
        found = found or [each for output in outputs for each in find(output, reading, hw)]
    count = reading.outputs
    if not found:
        besides = (
            f" ({len(reading.mapping.given)} and the background)" if reading.declared.background is not None else ""
        )
        raise UserError(
            f"{where}: none of its outputs {shown(outputs)} is {wanted.format(count=count)}{besides}; correct its "
            f"classes, which leave the background out, or set its tasks.{reading.task.name}.background (0 = the first, "
            "-1 = the last of its outputs), or say which is meant in its outputs"
        )
    if len(found) > 1:
        names = " or ".join(dict.fromkeys(each.outputs[0] for each in found))
        raise UserError(f"{where}: {names} fit; say which is meant in its tasks.{reading.task.name}.outputs")
    told = dict(found[0].told)
    if told.get("scores") == "softmax" and _sums_up(values[found[0].outputs[0]], count):
        told["scores"] = "probabilities"
    return found[0]._replace(told=told)


def _sums_up(values: np.ndarray, count: int) -> bool:
    """Whether the values along the axis of classes are probabilities already."""
    for axis in range(1, values.ndim):
        if values.shape[axis] == count and count > 1 and values.min() >= 0:
            return bool(np.abs(values.astype(np.float64).sum(axis) - 1).max() < _SUM)
    return False


def _vectors(output: Output, reading: Reading, hw: tuple[int, int]) -> Iterator[Plan]:
    if int(np.prod(output.shape)) == max(output.shape, default=1) == reading.outputs and not output.is_whole:
        yield Plan((output.name,), _read_vector, {"scores": "softmax"})


def _regions(output: Output, reading: Reading, hw: tuple[int, int]) -> Iterator[Plan]:
    name, count = (output.name,), reading.outputs
    for axis, read in ((0, _read_regions_first), (2, _read_regions_last)):
        if len(output.shape) != 3 or output.is_whole or not _covers(_without_axis(output.shape, axis), hw):
            continue
        if output.shape[axis] == count > 1:
            yield Plan(name, read, {"scores": "softmax"})
        elif output.shape[axis] == 1 and count <= 2 and reading.declared.scores in ("sigmoid", "probabilities"):
            yield Plan(name, read, {})
    if _covers(_flat(output.shape), hw) and output.is_whole:
        yield Plan(name, _read_ids, {})


def _float_ids(output: Output, reading: Reading, hw: tuple[int, int]) -> Iterator[Plan]:
    if _covers(_flat(output.shape), hw) and reading.outputs > 2:
        yield Plan((output.name,), _read_ids, {})


def _depths(output: Output, reading: Reading, hw: tuple[int, int]) -> Iterator[Plan]:
    if _covers(_flat(output.shape), hw) and not output.is_whole:
        yield Plan((output.name,), _read_depth, {})


def _normals(output: Output, reading: Reading, hw: tuple[int, int]) -> Iterator[Plan]:
    for axis, read in ((0, _read_normals_first), (2, _read_normals_last)):
        if len(output.shape) == 3 and output.shape[axis] == 3 and _covers(_without_axis(output.shape, axis), hw):
            yield Plan((output.name,), read, {})


def _covers(shape: tuple[int, ...], hw: tuple[int, int]) -> bool:
    """Whether it may be the shape of a map of the input: of the same aspect, up to rounding."""
    return len(shape) == 2 and abs(shape[0] * hw[1] - shape[1] * hw[0]) <= sum(hw) and max(shape) <= 4 * max(hw)


def _without_axis(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A map of one channel -> without the axis of channels."""
    if len(shape) != 3 or 1 not in (shape[0], shape[2]):
        return shape
    return shape[1:] if shape[0] == 1 else shape[:2]


def _one_channel(map_: np.ndarray) -> np.ndarray:
    return map_.reshape(_flat(map_.shape))


def _read_vector(reading: Reading, arrays: Sequence[np.ndarray], hw: tuple[int, int]) -> Said:
    return reading.vector(arrays[0].reshape(-1))


def _read_regions_first(reading: Reading, arrays: Sequence[np.ndarray], hw: tuple[int, int]) -> Said:
    return reading.regions(arrays[0].transpose(1, 2, 0))


def _read_regions_last(reading: Reading, arrays: Sequence[np.ndarray], hw: tuple[int, int]) -> Said:
    return reading.regions(arrays[0])


def _read_ids(reading: Reading, arrays: Sequence[np.ndarray], hw: tuple[int, int]) -> Said:
    return reading.ids(reading.whole(_one_channel(arrays[0])))


def _read_depth(reading: Reading, arrays: Sequence[np.ndarray], hw: tuple[int, int]) -> Said:
    return reading.depth(_one_channel(arrays[0]))


def _read_normals_first(reading: Reading, arrays: Sequence[np.ndarray], hw: tuple[int, int]) -> Said:
    return reading.normals(arrays[0].transpose(1, 2, 0))


def _read_normals_last(reading: Reading, arrays: Sequence[np.ndarray], hw: tuple[int, int]) -> Said:
    return reading.normals(arrays[0])


_KINDS = {
    "classification": ((_vectors,), "a vector of {count} classes: [batch, {count}]"),
    "segmentation": (
        (_regions, _float_ids),
        "a map of {count} classes: [batch, {count}, h, w] or [batch, h, w, {count}]; of ids: [batch, h, w]; or of one "
        "channel for two classes, with scores=probabilities or sigmoid",
    ),
    "depth": ((_depths,), "a map of depth: [batch, h, w], with or without an axis of one channel"),
    "normals": ((_normals,), "a map of normals: [batch, 3, h, w] or [batch, h, w, 3]"),
}


def shown(outputs: Sequence[Output]) -> str:
    """Their names and shapes."""
    return ", ".join(map(str, outputs))
