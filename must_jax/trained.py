"""A finished training run as an object: its network, its tasks, and their predictions for images."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import jax
import numpy as np
from jax.sharding import Mesh

from must_jax import description
from must_jax.config import ModelConfig, TrainConfig
from must_jax.cores import ahead, cores
from must_jax.data.augment import apply as place
from must_jax.data.augment import letterbox_geometry
from must_jax.data.confidence import by_rule
from must_jax.data.decoding import decode_image
from must_jax.data.encodings import Label
from must_jax.data.kinds import without_empty_slots
from must_jax.data.letterbox import Content, content_of
from must_jax.description import REMEDY, Description, Settings, TaskRecord, TrainingRecord
from must_jax.engine.checkpoint import different, restore_variables
from must_jax.engine.mesh import keep_programs, make_mesh, put_batch, put_replicated
from must_jax.engine.state import Variables, count_parameters, digest
from must_jax.engine.step import Batch, Forward, PredictStep, make_predict_step
from must_jax.errors import UserError, is_out_of_memory
from must_jax.files import MODEL_FILE
from must_jax.models.api import Model, build_model
from must_jax.progress import counted
from must_jax.tasks import build_task
from must_jax.tasks.base import Task

CHECKPOINTS = "checkpoints"
_ARRAY_LIKE = ("__array__", "__array_interface__")
_SHOWN = 300  # characters of a path

Predictions = Mapping[str, Mapping[str, Any]]  # by task, arrays with a leading batch axis
Image = np.ndarray | bytes | bytearray | memoryview | str | Path
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Predicted(NamedTuple):
    """One image's predictions, as `Trained.predict` returns them. `image_hw`: its height and width in pixels."""

    image_hw: tuple[int, int]
    labels: dict[str, Label]


class _Fitted(NamedTuple):
    """An image in the top left corner of the network's input, u8[S, S, 3], of which it takes up the share `content`."""

    image_hw: tuple[int, int]
    content: Content
    input: np.ndarray


@dataclass(frozen=True, repr=False)
class Trained:
    """A trained model, created by `load`.

    Attributes:
      workdir: the run's folder.
      model, variables: the network and its NumPy arrays (the moving average if training kept one).
      config: the network's architecture.
      tasks: by name, in the order of the config.
      image_size: height = width of the input in pixels; images are fitted into its top left corner.
      settings: optimizer (missing in earlier versions' runs), learning_rate, batch_size and steps of the training run.
      metrics: "task/metric" -> value on the validation images; "task/metric@name" on those of a further source.
      digest: sha256 of the parameters.
      untrained: tasks whose head has learnt nothing.
    """

    workdir: Path
    model: Model
    variables: Variables
    config: ModelConfig
    tasks: dict[str, Task]
    image_size: int
    settings: dict[str, Any]
    metrics: dict[str, float]
    digest: str
    untrained: tuple[str, ...] = ()
    mesh: Mesh = field(default_factory=lambda: make_mesh(1, devices=jax.local_devices()))

    def __repr__(self) -> str:
        tasks = (f"{name} ({len(task.classes)} classes)" if task.classes else name for name, task in self.tasks.items())
        size = f"{count_parameters(self.variables['params']):,} parameters, {self.image_size} px"
        return f"Trained('{self.workdir}': {self.config.backbone}, {size}, {', '.join(tasks)})"

    def predict(self, image: Image) -> dict[str, Label]:
        """The model's predictions for one image, by task, as labels of the whole image.

        Args:
          image: u8[H, W, 3] RGB of any size, or an encoded image: its path or its bytes.

        Returns:
          {task: label} by each task's rule for pseudo labels: {"probs": f32[K]}; {"boxes_yxyx": f32[n, 4] in fractions
          of the image, "classes": i32[n], "scores": f32[n]} of the n boxes found; maps of the image's size:
          {"ids": i32[H, W]} with 255 where unsure (and "confidence": f32[H, W] where the task keeps it),
          {"depth" | "normals": f32[H, W(, 3)], "valid": f32[H, W]}. Class names are `tasks[name].classes`.

        Raises:
          UserError: the file does not exist or is not an image, or the array has another type or shape.
        """
        fitted = self._fitted(_pixels(image))
        return self._labels(fitted, self.predict_batch(fitted.input[None]), 0)

    def predict_many(self, images: Iterable[Image], batch_size: int = 16) -> Iterator[dict[str, Label]]:
        """What `predict` returns for each image, in their order. Reading, predicting and the rest happen side by side.

        `images` can be a generator: only about four batches of them are taken ahead of the results.
        """

        def labels(_: Image, predicted: Predicted | Exception) -> dict[str, Label]:
            if isinstance(predicted, Exception):
                raise predicted
            return predicted.labels

        return self.each(images, _pixels, labels, batch_size)

    def each(
        self,
        items: Iterable[_Item],
        read: Callable[[_Item], np.ndarray],
        use: Callable[[_Item, Predicted | Exception], _Result],
        batch_size: int,
    ) -> Iterator[_Result]:
        """The results of `use` for each item and its predictions, in the order of the items.

        Args:
          read: gives an item's pixels, u8[H, W, 3]. If it raises UserError or OSError, `use` gets that error instead.
          use: called, like `read`, from several threads at a time.
          batch_size: images that the devices work on at a time, rounded up to what they can share evenly.

        Raises:
          UserError: a batch does not fit into memory.
        """
        rows = 0  # of the largest batch yet: all others are filled up to it, as every new size has to be compiled

        def fit(item: _Item) -> _Fitted | Exception:
            try:
                return self._fitted(read(item))
            except (UserError, OSError) as error:
                return error

        def begin(batch: list[tuple[_Item, _Fitted | Exception]]) -> Callable[[], list[Callable[[], _Result]]]:
            nonlocal rows
            rows = max(rows, len(batch) + -len(batch) % self.mesh.size)
            with self._fits_memory(rows):
                inputs = np.zeros((rows, self.image_size, self.image_size, 3), np.uint8)
                for row, (_, fitted) in enumerate(batch):
                    if isinstance(fitted, _Fitted):
                        inputs[row] = fitted.input
                begun = self._predict(self._on_devices, put_batch(self.mesh, {"image": inputs}))
                jax.tree.map(lambda x: x.copy_to_host_async(), begun)
            return lambda: finish(batch, begun)

        def finish(batch: list[tuple[_Item, _Fitted | Exception]], begun: Predictions) -> list[Callable[[], _Result]]:
            with self._fits_memory(rows):  # programs run asynchronously, so this is where most of them fail
                predictions = jax.device_get(begun)

            def result(row: int, item: _Item, fitted: _Fitted | Exception) -> _Result:
                if isinstance(fitted, Exception):
                    return use(item, fitted)
                return use(item, Predicted(fitted.image_hw, self._labels(fitted, predictions, row)))

            return [partial(result, row, *each) for row, each in enumerate(batch)]

        pool = ThreadPoolExecutor(cores())
        try:
            fitted = ahead(items, lambda item: partial(_pair, item, pool.submit(fit, item)), 2 * batch_size)
            answers = itertools.chain.from_iterable(ahead(_batches(fitted, batch_size), begin, 1))
            yield from ahead(answers, lambda answer: pool.submit(answer).result, min(cores(), batch_size))
        finally:
            pool.shutdown(cancel_futures=True)

    @contextlib.contextmanager
    def _fits_memory(self, batch_size: int) -> Iterator[None]:
        """Says in a sentence that a batch of `each` does not fit."""
        try:
            yield
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            what = f"a batch of {counted(batch_size, 'image')} of {self.image_size} px"
            remedy = f"set batch_size to {batch_size // 2} or less"
            if batch_size == 1:
                remedy = "free some, or use a device that has more"
            raise UserError(f"{what} does not fit into memory; {remedy}") from error

    def _fitted(self, pixels: np.ndarray) -> _Fitted:
        image_hw = pixels.shape[0], pixels.shape[1]
        geometry = letterbox_geometry(image_hw, self.image_size)
        content = content_of((geometry.y.out_length, geometry.x.out_length), self.image_size)
        return _Fitted(image_hw, content, place(geometry, pixels, {}, {}, self.image_size)[0])

    def _labels(self, fitted: _Fitted, predictions: Predictions, row: int) -> dict[str, Label]:
        labels = {}
        for name, task in self.tasks.items():
            prediction = {key: value[row] for key, value in predictions[name].items()}
            label = task.pseudo_label(task.on_image(prediction, fitted.content, fitted.image_hw))
            labels[name] = without_empty_slots(task.label, by_rule(task.label, label, task.min_confidence))
        return labels

    def predict_batch(self, images: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        """u8[B, S, S, 3] RGB, S = `image_size` -> {task: predictions with a leading B}; maps have stride 4.

        Each new B triggers one compilation.

        Raises:
          UserError: the array has another type or shape.
        """
        _check_array(images, f"images are u8[batch, {self.image_size}, {self.image_size}, 3] RGB", 4)
        if images.shape[1:3] != (self.image_size,) * 2:
            raise UserError(
                f"images are {self.image_size} x {self.image_size} pixels, but these are {images.shape[2]} x "
                f"{images.shape[1]}; pass each to `predict`, which resizes it to fit the input"
            )
        missing = -len(images) % self.mesh.size
        images = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
        predictions = jax.device_get(self._predict(self._on_devices, put_batch(self.mesh, {"image": images})))
        return jax.tree.map(lambda x: x[: len(x) - missing], predictions)

    def dispatch(self, images: np.ndarray | jax.Array) -> Predictions:
        """Starts predicting without waiting: `jax.device_get` of the result waits. Condensed for pseudo labels.

        Args:
          images: as in `predict_batch`, on the host or on the devices; B must be a multiple of their number.
        """
        return self._condensed(self._on_devices, put_batch(self.mesh, {"image": images}))

    def answers(self, batch_size: int) -> Predictions:
        """Shapes and types of what `dispatch` returns for a batch."""
        return cast(Predictions, jax.eval_shape(self._condensed, *self._inputs(batch_size)))

    def memory(self, batch_size: int) -> tuple[int, int] | None:
        """Bytes per device for a batch of `dispatch` (compiled for it): images, predictions, temporary memory.

        None if the compiler does not report it.
        """
        variables, batch = self._inputs(batch_size)
        used = self._condensed.lower(variables, batch).compile().memory_analysis()
        if used is None:
            return None
        images_bytes = math.prod(batch["image"].shape) // self.mesh.size
        return images_bytes + used.output_size_in_bytes, used.temp_size_in_bytes

    def _inputs(self, batch_size: int) -> tuple[Variables, dict[str, jax.ShapeDtypeStruct]]:
        """Shapes and types of what the compiled predictions take."""
        images = jax.ShapeDtypeStruct((batch_size, self.image_size, self.image_size, 3), np.uint8)
        return jax.eval_shape(lambda: self.variables), {"image": images}

    @cached_property
    def _on_devices(self) -> Variables:
        return put_replicated(self.mesh, self.variables)

    @cached_property
    def _predict(self) -> PredictStep:
        return make_predict_step(image_forward(self.model), self.tasks, self.image_size, self.mesh)

    @cached_property
    def _condensed(self) -> jax.stages.Wrapped:
        return make_predict_step(image_forward(self.model), self.tasks, self.image_size, self.mesh, condense=True)


def image_forward(model: Model) -> Forward:
    """The forward of a whole model, from the batch's images."""

    def forward(variables: Variables, batch: Batch, train: bool) -> tuple[Mapping[str, Any], Any]:
        return model.apply(variables, batch["image"], train=train)

    return forward


def load(workdir: str | Path, mesh: Mesh | None = None) -> Trained:
    """The model of a finished training run; predictions run on `mesh` (one device if None).

    Raises:
      UserError: there is no training run, or an unfinished one; its files are damaged or do not match each other.
    """
    workdir = Path(workdir)
    told = description.read(workdir)
    keep_programs()
    try:
        tasks = {name: build_task(name, task.classes, task.options) for name, task in told.tasks.items()}
        model = build_model(told.model, {name: task.head(told.model) for name, task in tasks.items()})
    except UserError as error:
        raise UserError(f"{workdir / MODEL_FILE} is damaged, or was written by another version: {error}") from None
    variables = restore_variables(workdir / CHECKPOINTS, told.checkpoint)
    _check_signed(workdir, told, variables)
    if differing := different(variables, model.shapes(told.image_size)):
        raise UserError(f"{workdir / MODEL_FILE} describes a network other than the trained one: {differing}; {REMEDY}")
    return Trained(
        workdir=workdir,
        model=model,
        variables=variables,
        config=told.model,
        tasks=tasks,
        image_size=told.image_size,
        settings=told.settings.model_dump(exclude_unset=True),
        metrics=told.metrics,
        digest=told.digest,
        untrained=told.training.untrained,
        mesh=mesh or make_mesh(1, devices=jax.local_devices()),
    )


def _check_signed(workdir: Path, told: Description, variables: Variables) -> None:
    """Raises UserError unless these weights have the digests in model.json."""
    for part, signed in (("params", told.digest), ("stats", told.stats_digest)):
        if digest(variables[part]) != signed:
            folder = workdir / CHECKPOINTS
            raise UserError(
                f"{folder} does not hold the weights that {workdir / MODEL_FILE} signs; "
                f"restore the checkpoint of step {told.checkpoint}, or {REMEDY}"
            )


def describe(
    workdir: Path,
    config: TrainConfig,
    tasks: Mapping[str, Task],
    metrics: Mapping[str, float],
    *,
    variables: Variables,
    training: Mapping[str, Any],
    validation: Sequence[Mapping[str, Any]] = (),
    steps: int | None = None,
    step: int | None = None,
) -> None:
    """Writes model.json: all that `load` needs besides the checkpoints.

    Args:
      training: figures of the run itself.
      validation: what the metrics were measured on, as in the config.
      steps: updates that were done; None = all of the config.
      step: those after which the model was saved; None = all that were done.
    """
    optimizer, steps = config.optimizer, config.steps if steps is None else steps
    told = Description(
        schema_version=1,
        model=config.model,
        tasks={name: TaskRecord.model_validate(task.model_dump(mode="json")) for name, task in tasks.items()},
        image_size=config.image_size,
        settings=Settings(
            optimizer=optimizer.name,
            learning_rate=optimizer.learning_rate,
            batch_size=config.batch_size,
            steps=steps,
        ),
        metrics=dict(metrics),
        validation=tuple(dict(source) for source in validation),
        step=steps if step is None else step,
        digest=digest(variables["params"]),
        stats_digest=digest(variables["stats"]),
        training=TrainingRecord.model_validate(training),
        checksum="",  # of the other values, hence the last
    )
    description.sign(workdir, told.model_dump(mode="json") | {"training": dict(training)})


def _check_array(array: Any, wanted: str, ndim: int) -> None:
    """Raises UserError, with advice on the conversion, unless the array is a non-empty u8[..., 3] with `ndim` axes."""
    advice = None
    if not isinstance(array, np.ndarray):
        convertible = isinstance(array, list) or any(hasattr(array, name) for name in _ARRAY_LIKE)
        advice = "convert it with np.asarray" if convertible else "pass an array"
        raise UserError(f"{wanted}, but this is a {type(array).__name__}; {advice}")
    if array.ndim == ndim and array.size and array.shape[-1] == 3:
        advice = "pass (array >> 8).astype(np.uint8)" if array.dtype == np.uint16 else None
        if array.dtype == bool or np.issubdtype(array.dtype, np.floating):
            advice = "pass np.uint8(array.clip(0, 1) * 255 + 0.5) if its values are in [0, 1]"
        if advice is None and array.dtype != np.uint8:
            advice = "pass array.astype(np.uint8) if its values are in [0, 255]"
    elif not array.size:
        advice = "it is empty"
    elif array.ndim == ndim and array.shape[-1] == 4:
        advice = "drop its alpha channel with array[..., :3]"
    elif array.ndim == ndim and array.shape[-1] == 1:
        advice = "for grey values pass np.repeat(array, 3, -1)"
    elif array.ndim == ndim - 1:
        advice = "for grey values pass np.stack([array] * 3, -1)"
    elif array.ndim >= 3 and array.shape[-3] == 3:
        advice = "move its channels to the end with np.moveaxis(array, -3, -1)"
    else:
        advice = "pass another array"
    if advice:
        raise UserError(f"{wanted}, but this array is {array.dtype}{list(array.shape)}; {advice}")


def _pixels(image: Any) -> np.ndarray:
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_image(bytes(image))
    if not isinstance(image, str | Path):
        _check_array(image, "an image is u8[height, width, 3] RGB", 3)
        return image
    if not os.path.isfile(image):
        raise UserError(f"there is no image {str(image)[:_SHOWN]}; check its path")
    return decode_image(Path(image).read_bytes())


def _pair(item: _Item, result: Future[_Result]) -> tuple[_Item, _Result]:
    return item, result.result()


def _batches(items: Iterator[_Item], size: int) -> Iterator[list[_Item]]:
    while batch := list(itertools.islice(items, size)):
        yield batch
