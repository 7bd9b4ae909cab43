"""Loads teachers and asks them about encoded images, by the way that labelling takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_graphs
import pytest
from onnx_graphs import COLOURS, Graph, Input
from photos import encoded, picture

from must_jax.config.teachers import TeacherConfig
from must_jax.data.fitting import Reader
from must_jax.data.image_sets import ImageSet
from must_jax.data.letterbox import Content
from must_jax.errors import UserError
from must_jax.teachers import loading
from must_jax.teachers.base import Images, Teacher
from must_jax.teachers.foreign import Foreign

SIDE = 128
SQUARE = Input(height=SIDE, width=SIDE)
BOXES = {"red": (30, 40, 130, 120), "blue": (110, 150, 190, 260)}  # of an image with 200 x 300 pixels


class _Bytes:
    """As much of an image set as a reader needs."""

    name = "photos"

    def __init__(self, images: Sequence[bytes]) -> None:
        self._images = images

    def record(self, index: int) -> Mapping[str, Any]:
        return {"name": f"{index}.png", "image": self._images[index]}


def shown(teacher: Teacher, images: Sequence[bytes]) -> Images:
    """The images in the teacher's input."""
    reader = Reader(cast(ImageSet, _Bytes(images)), [range(len(images))])
    pixels = np.full((len(images), teacher.input.height, teacher.input.width, 3), 77, np.uint8)
    examples = reader(0, range(len(images)), {teacher.input: pixels})
    assert not any(example.error for example in examples)
    return Images(pixels, [example.placed[teacher.input] for example in examples])


def answers(teacher: Teacher, images: Sequence[bytes], task: str) -> list[dict[str, np.ndarray]]:
    """What it says about each: boxes as shares of the upright image, without empty slots, maps without padding."""
    batch = shown(teacher, images)
    predictions = teacher.begin(batch)()[task]
    like = teacher.answers(len(images))[task]
    assert {name: (each.shape, each.dtype) for name, each in predictions.items()} == {
        name: (each.shape, each.dtype) for name, each in like.items()
    }
    assert all(placed for placed in batch.placed)
    return [
        _cut(teacher, {name: values[row] for name, values in predictions.items()}, teacher.content(placed))
        for row, placed in enumerate(batch.placed)
        if placed
    ]


def _cut(teacher: Teacher, one: dict[str, np.ndarray], content: Content) -> dict[str, np.ndarray]:
    if "boxes_yxyx" in one:
        real = one["valid"] > 0
        boxes = one["boxes_yxyx"][real] / np.array(2 * content, np.float32)
        return {"boxes_yxyx": boxes, "classes": one["classes"][real], "scores": one["scores"][real]}
    if "probs" in one:
        return one
    rows, columns = (max(1, round(n * share)) for n, share in zip(teacher.map_hw, content, strict=True))
    return {name: map_[:rows, :columns] for name, map_ in one.items()}


def config(file: Path, tasks: Mapping[str, Any], **more: Any) -> TeacherConfig:
    return TeacherConfig.model_validate({"model": str(file), "tasks": tasks} | more)


def loaded(
    file: Path, tasks: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]] | None = None, **more: Any
) -> Foreign:
    teacher = loading.load(config(file, tasks, **more), options or {}, None)  # type: ignore[arg-type]  # no mesh
    assert isinstance(teacher, Foreign)
    return teacher


def detects(**more: Any) -> dict[str, Any]:
    return {"detection": {"classes": COLOURS, **more}}


def planted(height: int = 200, width: int = 300, boxes: Mapping[str, Any] = BOXES, strength: float = 0.8) -> np.ndarray:
    return onnx_graphs.planted(picture(height, width), boxes, strength)


def png(image: np.ndarray) -> bytes:
    return encoded(image, "PNG")


def are(found: Mapping[str, np.ndarray], boxes: Mapping[str, Any], hw: tuple[int, int], side: int = SIDE) -> None:
    """These boxes and no others were found, to half a pixel of the input, with their classes."""
    assert sorted(found["classes"]) == sorted(COLOURS.index(colour) for colour in boxes)
    for colour, box in boxes.items():
        (at,) = np.flatnonzero(found["classes"] == COLOURS.index(colour))
        off_px = np.abs(found["boxes_yxyx"][at] * np.tile(hw, 2) - box)
        assert off_px.max() < 0.5 * max(1, max(hw) / side), (colour, off_px)


def refused(file: Path, tasks: Mapping[str, Any], names: list[str], **more: Any) -> str:
    with pytest.raises(UserError) as error:
        loaded(file, tasks, **more)
    text = str(error.value)
    assert all(name in text for name in names), text
    assert "\n" not in text
    return text


def says(file: Path, name: str, shape: tuple[int, ...], value: float = 0.0, input_: Input = SQUARE) -> Path:
    """A model that says the same of every image."""
    graph = Graph(input_)
    nothing = graph("Mul", graph("ReduceMean", graph.rgb, axes=[1, 2, 3], keepdims=0), np.float32(0))
    nothing = graph("Reshape", nothing, np.array([-1] + [1] * (len(shape) - 1)))
    out = graph("Add", nothing, np.full((1, *shape[1:]), value, np.float32))
    graph.output(out, name, ("batch", *shape[1:]))
    return graph.save(file)
