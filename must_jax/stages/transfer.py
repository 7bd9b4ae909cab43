"""What a representation is worth on one downstream set: fresh heads on it, trained alone or with the whole network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from must_jax.config import TransferConfig
from must_jax.data.pipeline import Source, TruthReader, eval_batches, train_batches
from must_jax.engine.evaluate import evaluate
from must_jax.engine.fit import fit
from must_jax.engine.mesh import put_batch, put_replicated
from must_jax.engine.optimizers import build_optimizer
from must_jax.engine.skipped import Diverged
from must_jax.engine.state import Variables, init_state, trained_variables
from must_jax.engine.step import HOST, Batch, make_predict_step, make_train_step
from must_jax.models.api import Features, Model, transfer
from must_jax.stages.inputs import Unreadable, lengths
from must_jax.tasks.base import Task

MEASURED = ("validation", "test")
COPIES = 2  # augmented versions of each training image whose features frozen transfer learns from

FeatureStep = Callable[[Variables, jax.Array], Features]


@dataclass(frozen=True)
class Downstream:
    """One held-out set: the model that learns it, and where its splits "train", "validation" and "test" come from."""

    name: str
    task: Task
    model: Model
    image_size: int
    sources: Mapping[str, Source]


@dataclass(frozen=True)
class Start:
    """A starting point as one mode sees it: by seed the first variables and batches, by split what to measure on."""

    variables: Callable[[int], Variables]
    train: Callable[[int], Iterator[Batch]]
    examples: Callable[[str], Iterable[Batch]]


class Transfer:
    """One downstream set in one mode. All starting points, seeds and learning rates share its two compiled programs.

    Args:
      features: the compiled `Model.features`, which all downstream sets share.
    """

    def __init__(self, config: TransferConfig, downstream: Downstream, features: FeatureStep, mesh: Mesh) -> None:
        self._config, self._downstream, self._features, self._mesh = config, downstream, features, mesh
        task, model = downstream.task, downstream.model

        def heads(variables: Variables, batch: Batch, train: bool) -> tuple[Any, Any]:
            return model.apply_heads(variables, batch["features"], train=train)

        def whole(variables: Variables, batch: Batch, train: bool) -> tuple[Any, Any]:
            return model.apply(variables, batch["image"], train=train)

        forward = {"frozen": heads, "finetune": whole}[config.mode]
        self._tasks, weight = {task.name: task}, 1.0 if task.weight is None else task.weight
        self.optimizer = build_optimizer(config.optimizer)
        self.step = make_train_step(forward, self._tasks, {task.name: weight}, self.optimizer, mesh)
        self.predict = make_predict_step(forward, self._tasks, downstream.image_size, mesh)
        self._unreadable = {split: Unreadable(lengths([source])) for split, source in downstream.sources.items()}
        self._truth = {
            split: TruthReader(downstream.sources[split], self._tasks, self._unreadable[split].add)
            for split in MEASURED
        }

    def start(self, trained: Variables | None) -> Start:
        """What to learn from, starting at backbone and pyramid of `trained`; None = random ones."""
        return {"frozen": self._frozen, "finetune": self._finetune}[self._config.mode](trained)

    def measure(self, start: Start, seed: int, learning_rate: float) -> dict[str, float]:
        """Trains once; split -> the task's headline metric. A model that diverged is worth 0."""
        optimizer = self._config.optimizer.model_copy(update={"learning_rate": learning_rate})
        state = init_state(start.variables(seed), self.optimizer, self._mesh, ema=optimizer.ema_decay > 0)
        try:
            state = fit(
                self.step,
                state,
                start.train(seed),
                optimizer,
                self._config.steps,
                mesh=self._mesh,
                batch_size=self._config.batch_size,
            )
        except Diverged:
            return dict.fromkeys(MEASURED, 0.0)
        variables = trained_variables(state)
        metric = f"{self._downstream.task.name}/{self._downstream.task.metric}"
        size = self._downstream.image_size
        return {
            split: evaluate(
                self.predict, variables, start.examples(split), self._truth[split], self._tasks, size, self._mesh
            )[metric]
            for split in MEASURED
        }

    def _finetune(self, trained: Variables | None) -> Start:
        """All parameters learn, from augmented images."""

        def variables(seed: int) -> Variables:
            fresh = self._fresh(seed)
            return transfer(fresh, trained) if trained else fresh

        return Start(variables, self._train_batches, self._eval_batches)

    def _frozen(self, trained: Variables | None) -> Start:
        """Heads learn alone, from features that are computed here, once, and kept in the host's memory.

        A random starting point has the backbone of the first seed for all seeds.
        """
        trained = trained or self._fresh(self._config.seeds[0])
        trunk = put_replicated(self._mesh, _parts(trained, ("backbone", "fpn")))

        def featurize(batch: Batch, *kept: str) -> Batch:
            features = jax.device_get(self._features(trunk, put_batch(self._mesh, batch["image"])))
            return {"features": features, **{key: batch[key] for key in kept}}

        images, batch_size = len(self._downstream.sources["train"].images), self._config.batch_size
        batches = itertools.islice(self._train_batches(self._config.seeds[0]), math.ceil(COPIES * images / batch_size))
        pool = jax.tree.map(lambda *parts: np.concatenate(parts), *(featurize(batch, "labels") for batch in batches))
        held_out = {split: [featurize(batch, *HOST) for batch in self._eval_batches(split)] for split in MEASURED}
        return Start(
            lambda seed: _parts(self._fresh(seed), ("heads",)),
            lambda seed: _shuffled(pool, batch_size, seed),
            held_out.__getitem__,
        )

    def _fresh(self, seed: int) -> Variables:
        return self._downstream.model.init(jax.random.key(seed), self._downstream.image_size)

    def _train_batches(self, seed: int) -> Iterator[Batch]:
        batches = train_batches(
            [self._downstream.sources["train"]],
            {self._downstream.task.name: self._downstream.task.label},
            image_size=self._downstream.image_size,
            augment=self._config.augment,
            batch_size=self._config.batch_size,
            seed=seed,
            on_bad=self._unreadable["train"].add,
        )
        return self._unreadable["train"].guard(batches)

    def _eval_batches(self, split: str) -> Iterator[Batch]:
        batches = eval_batches(
            self._downstream.sources[split],
            {},
            image_size=self._downstream.image_size,
            batch_size=self._config.batch_size,
            on_bad=self._unreadable[split].add,
        )
        return self._unreadable[split].guard(batches)


def _parts(variables: Variables, parts: Iterable[str]) -> Variables:
    return {kind: {part: tree[part] for part in parts} for kind, tree in variables.items()}


def _shuffled(pool: Batch, batch_size: int, seed: int) -> Iterator[Batch]:
    """Endless batches of the pool's examples, every epoch in a new order."""
    rng, count = np.random.default_rng(seed), len(jax.tree.leaves(pool)[0])
    while True:
        order = rng.permutation(count)
        for first in range(0, count - batch_size + 1, batch_size):
            chosen = order[first : first + batch_size]
            yield jax.tree.map(lambda values: values[chosen], pool)  # noqa: B023
