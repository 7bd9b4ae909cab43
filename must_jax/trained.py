"""A finished training run as an object: its network, its tasks, and their predictions for images."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import jax
import numpy as np
from jax.sharding import Mesh

from must_jax import description
from must_jax.config import ModelConfig, TrainConfig, in_todays_names
from must_jax.config.base import input_hw_of, size_told
from must_jax.cores import ahead, cores
from must_jax.data.augment import letterbox_geometry, resized
from must_jax.data.given import Image, check_array, pixels, several
from must_jax.data.kinds import Label
from must_jax.data.letterbox import Content, content_of
from must_jax.description import REMEDY, Description, Settings, TaskRecord, TrainingRecord
from must_jax.engine.checkpoint import different, restore_variables
from must_jax.engine.mesh import keep_programs, make_mesh, put_batch, put_replicated, replicated, split
from must_jax.engine.state import Variables, count_parameters, digest
from must_jax.engine.step import Batch, PredictStep, image_forward, make_predict_step
from must_jax.errors import UserError, is_out_of_memory, nearest
from must_jax.files import MODEL_FILE
from must_jax.models.api import OF_HEADS, Features, Model, build_model, check_levels, pool
from must_jax.tasks import build_task
from must_jax.tasks.base import Task

CHECKPOINTS = "checkpoints"

Predictions = Mapping[str, Mapping[str, Any]]  # by task, arrays with a leading batch axis
_Answers = tuple[Predictions, Features]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Wanted(NamedTuple):
    """What a model is asked for.

    Attributes:
      levels: features, of `models.api.STRIDES`.
      pooled: whether their means over each image, instead of maps.
      labels: whether the tasks' predictions, too.
    """

    levels: tuple[str, ...] = ()
    pooled: bool = False
    labels: bool = True


LABELS = Wanted()


class Predicted(NamedTuple):
    """What a model says about one image.

    Attributes:
      image_hw: its height and width in pixels.
      content: the shares of the input's rows and columns that it takes up, from the top left.
      labels: as `Trained.predict` returns them.
      features: by level, as `Trained.features` returns them, without the leading axis.
    """

    image_hw: tuple[int, int]
    content: Content
    labels: dict[str, Label]
    features: dict[str, np.ndarray]


class _Fitted(NamedTuple):
    """An image in the top left corner of the network's input, u8[H, W, 3], of which it takes up the share `content`."""

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
      image_size: of the input in pixels, as in the config: the side of a square, or height and width.
      settings: optimizer (missing in earlier versions' runs), learning_rate, batch_size and steps of the training run.
      metrics: "task/metric" -> value on the validation images; "task/metric@name" on those of a further source.
      digest: sha256 of the parameters.
      untrained, licences: see `description.TrainingRecord`.
    """

    workdir: Path
    model: Model
    variables: Variables
    config: ModelConfig
    tasks: dict[str, Task]
    image_size: int | tuple[int, int]
    settings: dict[str, Any]
    metrics: dict[str, float]
    digest: str
    untrained: tuple[str, ...] = ()
    licences: Mapping[str, str] = field(default_factory=dict)
    mesh: Mesh = field(default_factory=lambda: make_mesh(1, devices=jax.local_devices()))

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width of the input in pixels; images are fitted into its top left corner."""
        return input_hw_of(self.image_size)

    def __repr__(self) -> str:
        tasks = (f"{name} ({len(task.classes)} classes)" if task.classes else name for name, task in self.tasks.items())
        size = f"{count_parameters(self.variables['params']):,} parameters, {size_told(self.input_hw)} px"
        return f"Trained('{self.workdir}': {', '.join([self.config.backbone, size, *tasks])})"

    def with_options(self, options: Mapping[str, Mapping[str, Any]]) -> Trained:
        """The same model with other options of its tasks, such as {"detection": {"score_threshold": 0.2}}.

        Raises:
          UserError: a task that the model does not have; an option that is unknown, or would change what labels mean.
        """
        for name, given in options.items():
            if name not in self.tasks:
                raise UserError(f"{self.workdir} has no task '{name}'; {nearest(name, self.tasks)}")
            if not isinstance(given, Mapping):
                raise UserError(f"the options of {name} are {given!r}; pass a mapping from options to values")
        tasks = {}
        for name, task in self.tasks.items():
            given = in_todays_names(dict(options.get(name, {})))
            other = build_task(name, task.classes, task.options | given)
            if other.model_copy(update={"max_boxes": task.max_boxes}).label != task.label:
                raise UserError(
                    f"tasks.{name} would turn the labels of {self.workdir} from {task.label} into {other.label}; a "
                    "model's labels are of the kind it was trained on, so only set thresholds"
                )
            tasks[name] = other
        return replace(self, tasks=tasks)

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
        fitted = self._fitted(pixels(image))
        return self._labels(fitted, self.predict_batch(fitted.input[None]), 0)

    def predict_many(self, images: Iterable[Image], batch_size: int = 16) -> Iterator[dict[str, Label]]:
        """What `predict` returns for each image, in their order. Reading, predicting and the rest happen side by side.

        `images` can be a generator: only about four batches of them are taken ahead of the results.
        """
        return (each.labels for each in self.each(several(images), pixels, _raised, batch_size))

    def features(
        self, images: Iterable[Image], levels: Sequence[str] = ("c5",), pooled: bool = False, batch_size: int = 16
    ) -> dict[str, np.ndarray]:
        """The backbone's features of N images of any size.

        Each image is fitted into the top left corner of the input, (H, W) = `input_hw`, as in `predict`, and the rest
        is filled with `data.augment.PADDING_RGB`. So all maps have one shape, and the last rows or columns of images of
        another aspect are padding. An image's features do not depend on the others, up to rounding.

        Args:
          images: as in `predict_many`. All results are in memory; take large sets a part at a time.
          levels: the backbone's stages "c2", "c3", "c4", "c5", with a stride of 4, 8, 16, 32 pixels of the input, and
            the levels of its pyramid, "p3" to "p7", with a stride of 8 to 128.
          pooled: means over each image, instead of maps. A cell that the image covers in part counts in part.

        Returns:
          {level: f32[N, h, w, channels]}, h = H / stride and w = W / stride, rounded up, and "content": f32[N, 2], the
          shares of rows and columns that are image; pooled, {level: f32[N, channels]}.

        Raises:
          UserError: an unknown level; an image that cannot be read, or is none; a batch does not fit into memory.
        """
        wanted = Wanted((levels,) if isinstance(levels, str) else tuple(levels), pooled, labels=False)
        check_levels(wanted.levels)
        each = list(self.each(several(images), pixels, _raised, batch_size, wanted))
        if each:
            features = {level: np.stack([one.features[level] for one in each]) for level in wanted.levels}
        else:
            variables, batch = self._inputs(1)
            content = jax.ShapeDtypeStruct((1, 2), np.float32)
            _, shapes = jax.eval_shape(self._featured(wanted), variables, {**batch, "content": content})
            features = {level: np.zeros((0, *shape.shape[1:]), np.float32) for level, shape in shapes.items()}
        contents = np.array([one.content for one in each], np.float32).reshape(-1, 2)
        return features | ({} if pooled else {"content": contents})

    def each(
        self,
        items: Iterable[_Item],
        read: Callable[[_Item], np.ndarray],
        use: Callable[[_Item, Predicted | Exception], _Result],
        batch_size: int,
        wanted: Wanted = LABELS,
    ) -> Iterator[_Result]:
        """The results of `use` for each item and what the model says about it, in the order of the items.

        Args:
          read: gives an item's pixels, u8[H, W, 3]. If it raises UserError or OSError, `use` gets that error instead.
          use: called, like `read`, from several threads at a time.
          batch_size: images that the devices work on at a time, rounded up to what they can share evenly.
          wanted: what to ask the model for, all of it in one forward pass.

        Raises:
          UserError: a batch of no images, or one that does not fit into memory.
        """
        if not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"batch_size is {batch_size!r}, but must be a whole number of at least 1")
        rows = 0  # of the largest batch yet: all others are filled up to it, as every new size has to be compiled

        def fit(item: _Item) -> tuple[_Item, _Fitted | Exception]:
            try:
                return item, self._fitted(read(item))
            except (UserError, OSError) as error:
                return item, error

        def begin(batch: list[tuple[_Item, _Fitted | Exception]]) -> Callable[[], list[Callable[[], _Result]]]:
            nonlocal rows
            rows = max(rows, len(batch) + -len(batch) % self.mesh.size)
            with self._fits_memory(rows):
                inputs = np.zeros((rows, *self.input_hw, 3), np.uint8)
                contents = np.ones((rows, 2), np.float32)
                for row, (_, fitted) in enumerate(batch):
                    if isinstance(fitted, _Fitted):
                        inputs[row], contents[row] = fitted.input, fitted.content
                begun = self._begun(wanted, inputs, contents)
                jax.tree.map(lambda x: x.copy_to_host_async(), begun)
            return lambda: finish(batch, begun)

        def finish(batch: list[tuple[_Item, _Fitted | Exception]], begun: _Answers) -> list[Callable[[], _Result]]:
            with self._fits_memory(rows):  # programs run asynchronously, so this is where most of them fail
                predictions, maps = jax.device_get(begun)

            def result(row: int, item: _Item, fitted: _Fitted | Exception) -> _Result:
                if isinstance(fitted, Exception):
                    return use(item, fitted)
                labels, features = self._labels(fitted, predictions, row), {name: x[row] for name, x in maps.items()}
                return use(item, Predicted(fitted.image_hw, fitted.content, labels, features))

            return [partial(result, row, *each) for row, each in enumerate(batch)]

        pool = ThreadPoolExecutor(cores())
        try:
            fitted = ahead(items, lambda item: pool.submit(fit, item).result, 2 * batch_size)
            answers = itertools.chain.from_iterable(ahead(_batches(fitted, batch_size), begin, 1))
            yield from ahead(answers, lambda answer: pool.submit(answer).result, min(cores(), batch_size))
        finally:
            pool.shutdown(cancel_futures=True)

    @contextlib.contextmanager
    def _fits_memory(self, rows: int) -> Iterator[None]:
        """Says in a sentence that a batch of `each` does not fit; `rows` are a multiple of the devices."""
        try:
            yield
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            devices, size = self.mesh.size, f"of {size_told(self.input_hw)} px"
            if rows > devices:
                what = f"a batch of {rows} images {size} does not fit into memory"
                raise UserError(f"{what}; set batch_size to {rows // devices // 2 * devices} or less") from error
            each = "" if devices == 1 else f" of each of {devices} devices"  # a smaller batch is filled up
            raise UserError(
                f"one image {size} does not fit into the memory{each}; free some, or use a device that has more"
            ) from error

    def _fitted(self, pixels: np.ndarray) -> _Fitted:
        image_hw = pixels.shape[0], pixels.shape[1]
        geometry = letterbox_geometry(image_hw, self.input_hw)
        content = content_of((geometry.y.out_length, geometry.x.out_length), self.input_hw)
        return _Fitted(image_hw, content, resized(geometry, pixels))

    def _labels(self, fitted: _Fitted, predictions: Predictions, row: int) -> dict[str, Label]:
        labels = {}
        for name, task in self.tasks.items() if predictions else ():  # predictions come back sorted by name
            prediction = {key: value[row] for key, value in predictions[name].items()}
            label = task.pseudo_label(task.on_image(prediction, fitted.content, fitted.image_hw))
            label = task.label.by_rule(label, task.min_confidence.least(task.classes))
            labels[name] = task.label.without_empty_slots(label)
        return labels

    def predict_batch(self, images: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        """u8[B, H, W, 3] RGB, (H, W) = `input_hw` -> {task: predictions with a leading B}; maps have stride 4.

        No rule is applied: all boxes and probabilities are there, and maps are of the whole input. Images of another
        aspect belong into the top left corner, and the rest is filled with `data.augment.PADDING_RGB`, as in training.
        Each new B triggers one compilation.

        Raises:
          UserError: the array has another type or shape.
        """
        height, width = self.input_hw
        check_array(images, f"images are u8[batch, {height}, {width}, 3] RGB", 4)
        if images.shape[1:3] != self.input_hw:
            raise UserError(
                f"images are {height} x {width} pixels, but these are {images.shape[1]} x "
                f"{images.shape[2]}; pass each to `predict`, which resizes it to fit the input"
            )
        if missing := -len(images) % self.mesh.size:
            images = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
        predictions = jax.device_get(self._predict(self._on_devices, {"image": images}))
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
        images = jax.ShapeDtypeStruct((batch_size, *self.input_hw, 3), np.uint8)
        return jax.eval_shape(lambda: self.variables), {"image": images}

    def _begun(self, wanted: Wanted, images: np.ndarray, contents: np.ndarray) -> _Answers:
        """Starts answering, without waiting."""
        if not wanted.levels:
            return self._predict(self._on_devices, put_batch(self.mesh, {"image": images})), {}
        return self._featured(wanted)(self._on_devices, put_batch(self.mesh, {"image": images, "content": contents}))

    def _featured(self, wanted: Wanted) -> jax.stages.Wrapped:
        """`(variables, {"image", "content"}) -> (predictions by task, features by level)`."""
        model, tasks, input_hw = self.model, self.tasks if wanted.labels else {}, self.input_hw

        def answer(variables: Variables, batch: Batch) -> _Answers:
            found = model.features(variables, batch["image"], (*OF_HEADS, *wanted.levels))
            predictions = {}
            if tasks:
                outputs, _ = model.apply_heads(variables, found, train=False)
                predictions = {name: task.predict(outputs[name], input_hw) for name, task in tasks.items()}
            maps = {level: found[level] for level in wanted.levels}
            return predictions, pool(maps, batch["content"], input_hw) if wanted.pooled else maps

        if wanted not in self._featuring:
            given, made = (replicated(self.mesh), split(self.mesh)), split(self.mesh)
            self._featuring[wanted] = jax.jit(answer, in_shardings=given, out_shardings=made)
        return self._featuring[wanted]

    @cached_property
    def _featuring(self) -> dict[Wanted, jax.stages.Wrapped]:
        return {}

    @cached_property
    def _on_devices(self) -> Variables:
        return put_replicated(self.mesh, self.variables)

    @cached_property
    def _predict(self) -> PredictStep:
        return make_predict_step(image_forward(self.model), self.tasks, self.input_hw, self.mesh)

    @cached_property
    def _condensed(self) -> jax.stages.Wrapped:
        return make_predict_step(image_forward(self.model), self.tasks, self.input_hw, self.mesh, condense=True)


def load(workdir: str | Path, mesh: Mesh | None = None, *, to_train: bool = False) -> Trained:
    """The model of a finished training run; predictions run on `mesh` (one device if None).

    Tasks that learn from images alone have nothing to say about one: it has them only `to_train`.

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
    if differing := different(variables, model.shapes(told.input_hw)):
        raise UserError(f"{workdir / MODEL_FILE} describes a network other than the trained one: {differing}; {REMEDY}")
    model = model if to_train else model.of_images()
    return Trained(
        workdir=workdir,
        model=model,
        variables=variables,
        config=told.model,
        tasks={name: tasks[name] for name in model.heads},
        image_size=told.image_size,
        settings=told.settings.model_dump(exclude_unset=True),
        metrics=told.metrics,
        digest=told.digest,
        untrained=told.training.untrained,
        licences=told.training.licences,
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
        tasks={name: TaskRecord(classes=task.classes, **task.options) for name, task in tasks.items()},
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


def _raised(_: Image, predicted: Predicted | Exception) -> Predicted:
    if isinstance(predicted, Exception):
        raise predicted
    return predicted


def _batches(items: Iterator[_Item], size: int) -> Iterator[list[_Item]]:
    while batch := list(itertools.islice(items, size)):
        yield batch
