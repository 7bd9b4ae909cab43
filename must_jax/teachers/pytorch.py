"""What models in PyTorch have in common as teachers: where they run, and which images run together."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import torch

from must_jax.config.teachers import TeacherConfig
from must_jax.cores import cores
from must_jax.data.fitting import Input, Placed
from must_jax.errors import UserError
from must_jax.teachers import foreign
from must_jax.teachers.foreign import THREADS, Answers, Foreign
from must_jax.teachers.reading import Reading
from must_jax.teachers.said import cells_of

Tensors = dict[str, torch.Tensor]  # what a model is called with, by argument
Hw = tuple[int, int]
_MOST_NUMBERS = 3 * 2**22  # of a call's input, by default: 4 images of 1024 x 1024 pixels, 83 of 224 x 224


class PyTorch(Foreign):
    """A model whose images are prepared one by one; those that come out with the same shapes run together."""

    at_once = THREADS

    def __init__(
        self,
        declared: TeacherConfig,
        readings: Mapping[str, Reading],
        input_: Input,
        licence: str,
        model: torch.nn.Module,
    ) -> None:
        super().__init__(declared, readings, input_, licence)
        self._device = _device(declared)
        torch.backends.cudnn.deterministic = True
        self._model = model.eval().requires_grad_(False).to(self._device, torch.float32)

    @abc.abstractmethod
    def prepare(self, image: np.ndarray) -> Tensors:
        """u8[h, w, 3] RGB -> tensors with a batch axis of 1."""

    @abc.abstractmethod
    def read(self, outputs: Any, images_hw: Sequence[Hw], cells_hw: Sequence[Hw]) -> list[Answers]:
        """What the model says about each image of a batch.

        Args:
          images_hw: rows and columns of each image, as it was prepared.
          cells_hw: those of the map that will be kept of it.
        """

    @property
    def _reading(self) -> Reading:
        """That of its only task."""
        [reading] = self.readings.values()
        return reading

    def run(self, inputs: Tensors) -> Any:
        """The model's outputs for a batch."""
        return self._model(**inputs)

    def inputs_of(self, pixels: np.ndarray, placed: Sequence[Placed]) -> tuple[list[Hw], list[Tensors]]:
        """The images' rows and columns, and each as it was prepared."""
        images = [np.ascontiguousarray(each) for each in self._images(pixels, placed)]
        return [image.shape[:2] for image in images], list(self._preparing.map(self.prepare, images))

    def answers_to(
        self, inputs: tuple[list[Hw], list[Tensors]], placed: Sequence[Placed]
    ) -> Iterator[tuple[int, Answers]]:
        images_hw, prepared = inputs
        cells = [cells_of(self.input, each, self.map_hw) for each in placed]
        with torch.inference_mode():
            for rows, tensors in self._batches(prepared):
                with self.turn:
                    outputs = self.run(tensors)
                some = self.read(outputs, [images_hw[i] for i in rows], [cells[i] for i in rows])
                yield from zip(rows, some, strict=True)
                del outputs, some

    @cached_property
    def _preparing(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(THREADS, f"preparing-{self.name}")

    def forward(self, batch_size: int) -> Callable[[], object]:
        """On images of the shape that photographs usually have."""
        _, height, width, _ = self.blank(1).shape
        image = np.random.default_rng(0).integers(0, 256, (min(height, width * 3 // 4), width, 3), np.uint8)
        with torch.inference_mode():
            batches = list(self._batches([self.prepare(image)] * batch_size))

        def begin() -> None:
            with torch.inference_mode():
                for _, inputs in batches:
                    self.run(inputs)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)

        return begin

    def _images(self, pixels: np.ndarray, placed: Sequence[Placed]) -> list[np.ndarray]:
        images = foreign.images_of(pixels, placed)
        return [image[..., ::-1] for image in images] if self.declared.input.colour == "bgr" else images

    def _batches(self, prepared: Sequence[Tensors]) -> Iterator[tuple[list[int], Tensors]]:
        """The images of a batch, by their numbers, and what the model is called with."""
        groups: dict[tuple[tuple[str, torch.Size], ...], list[int]] = {}
        for i, each in enumerate(prepared):
            groups.setdefault(tuple((key, value.shape) for key, value in each.items()), []).append(i)
        for group in groups.values():
            most = max(value.numel() for value in prepared[group[0]].values())
            size = self.declared.batch_size or max(1, _MOST_NUMBERS // most)
            for first in range(0, len(group), size):
                rows = group[first : first + size]
                joined = {key: torch.cat([prepared[i][key] for i in rows]) for key in prepared[rows[0]]}
                yield rows, {key: value.to(self._device) for key, value in joined.items()}


def numbers(tensor: torch.Tensor) -> np.ndarray:
    """As an array; floats are f32."""
    tensor = tensor.detach().cpu()
    values: np.ndarray = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return values


def _device(declared: TeacherConfig) -> torch.device:
    if declared.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"teacher {declared.called}: PyTorch finds no GPU; remove device=cuda, or install a build of it that does"
        )
    on_gpu = declared.device != "cpu" and torch.cuda.is_available()
    # On a GPU the cores prepare images, each in a thread of one core.
    torch.set_num_threads(declared.threads or (1 if on_gpu else cores()))
    return torch.device("cuda" if on_gpu else "cpu")
