"""Starting points and downstream sets of an evaluation, opened and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax

from must_jax import trained
from must_jax.config import DownstreamConfig, EvaluateConfig, ModelConfig
from must_jax.config.architectures import ARCHITECTURES
from must_jax.data.batching import Source
from must_jax.errors import UserError
from must_jax.inputs import feeding, supervision
from must_jax.inputs.sources import open_source
from must_jax.inputs.targets import build_tasks, to_measure
from must_jax.models.api import Variables, build_model
from must_jax.progress import say
from must_jax.scoring.transfer import MEASURED, Downstream
from must_jax.trained import Trained
from must_jax.weights import files, loading


@dataclass(frozen=True)
class Published:
    """Weights of others as a starting point: the backbone is theirs, the pyramid a random one of each seed.

    Attributes:
      config: the network's architecture, with their `mean` and `std`.
      digest: of their files.
      trunk: backbone and pyramid, with shapes instead of what is not theirs.
    """

    config: ModelConfig
    digest: str
    trunk: Variables

    def placed(self, fresh: Variables) -> Variables:
        """Fresh variables with the backbone of others."""

        def chosen(new: jax.Array, theirs: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
            return new if isinstance(theirs, jax.ShapeDtypeStruct) else theirs

        return {
            kind: {**parts, "backbone": jax.tree.map(chosen, parts["backbone"], self.trunk[kind]["backbone"])}
            for kind, parts in fresh.items()
        }


Point = Trained | Published | None  # what a starting point is; None: random initialisation


def load_start(name: str, folder: str, model: ModelConfig, input_hw: tuple[int, int]) -> Point:
    """The finished run, or the weights of others; None for random initialisation."""
    if not folder:
        return None
    if files.are_at(folder):
        found = files.read(folder)
        shapes = build_model(model, {}).shapes(input_hw)
        trunk = loading.taken(found, ARCHITECTURES[model.backbone], shapes, input_hw)
        return Published(model.normalised_as(found.mean, found.std), found.digest, trunk)
    start = trained.load(folder, to_train=True)  # its tasks say what it was trained with
    for field, theirs in model.differing(start.config).items():
        raise UserError(
            f"config.model.{field} is {getattr(model, field)}, but config.inits.{name} ({folder}) was trained with "
            f"{theirs}; compare starting points of the same architecture"
        )
    return start


def network_of(model: ModelConfig, starts: Mapping[str, Point]) -> ModelConfig:
    """The network of an evaluation, with the `mean` and `std` of its starting points.

    Raises:
      UserError: they differ in these.
    """
    first = ""
    for name, start in starts.items():
        if start is None:
            continue
        if first and (differ := model.differing(start.config, ("mean", "std"))):
            raise UserError(
                f"images are normalised otherwise by config.inits.{name} than by {first} ({', '.join(differ)}); "
                "compare them in two evaluations"
            )
        first, model = first or name, model.normalised_as(start.config.mean, start.config.std)
    return model


def open_downstream(name: str, config: DownstreamConfig, evaluation: EvaluateConfig) -> Downstream:
    configs = {"train": config.train, "validation": config.validation, "test": config.test}
    sources = {split: open_source(c, evaluation.data_dir, (config.task,)) for split, c in configs.items()}
    train, *held_out = sources.values()
    tasks = build_tasks({config.task: config.options}, [train], evaluation.max_boxes, held_out)
    task = tasks[config.task]
    for split, source in sources.items():
        if not source.columns:
            raise UserError(
                f"config.downstream.{name}.{split} ({source.images.name}) has no labels of task '{task.name}'; "
                "use images that do, or another task"
            )
    input_hw = evaluation.input_hw
    learnt = supervision.check([train], tasks, input_hw, where=f"config.downstream.{name}.train")
    for split in MEASURED:
        sources[split] = to_measure(sources[split], tasks)
        supervision.check_held_out(sources[split], tasks, input_hw, f"config.downstream.{name}.{split}", learnt)
    _check_apart(f"config.downstream.{name}", sources)
    model = build_model(evaluation.model, {task.name: task.head(evaluation.model)})
    return Downstream(name, task, model, input_hw, sources, feeding.reading(evaluation.input))


def _check_apart(where: str, sources: Mapping[str, Source]) -> None:
    """Refuses test images that are trained on, and tells of other images that are in two splits."""
    train, validation, test = (sources[split] for split in ("train", *MEASURED))
    if same := supervision.overlap(test, train):
        raise UserError(
            f"{where}.test ({test.images.name}): {same} are in {where}.train ({train.images.name}), too; "
            "test on other images than those trained on"
        )
    for split, others in (("train", train), ("test", test)):
        if same := supervision.overlap(validation, others):
            say(
                f"look at {where}.validation ({validation.images.name}): {same} are in {where}.{split}, too, so the "
                "learning rate is not chosen on images of its own"
            )
