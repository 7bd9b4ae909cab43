"""Transfer of a representation to one downstream set: new heads, trained alone or together with the whole network."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from must_jax.config import TransferConfig
from must_jax.data.kept import KeptBatches
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
COPIES = 2  # augmented versions of each training image on whose features frozen transfer trains

CALIBRATION = 8  # batches of training images for the norm statistics of a random trunk
TRUNK = ("backbone", "fpn")


class Trunk(NamedTuple):
    """`Model.features` and `Model.statistics`, compiled; all downstream sets share them."""

    features: Callable[[Variables, jax.Array], Features]
    statistics: Callable[[Variables, jax.Array], Variables]

    @classmethod
    def of(cls, model: Model) -> Trunk:
        return cls(jax.jit(model.features), jax.jit(model.statistics))


@dataclass(frozen=True)
class Downstream:
    """One held-out set: the model that learns it, and where its splits "train", "validation" and "test" come from."""

    name: str
    task: Task
    model: Model
    image_size: int
    sources: Mapping[str, Source]

    @property
    def kept(self) -> int:
        """Examples whose features frozen transfer keeps at a time."""
        return sum(len(source.images) * (1 if split in MEASURED else COPIES) for split, source in self.sources.items())


@dataclass(frozen=True)
class Start:
    """A starting point in one mode: initial variables and batches by seed, and the examples of a split."""

    variables: Callable[[int], Variables]
    train: Callable[[int], Iterator[Batch]]
    examples: Callable[[str, int], Iterable[Batch]]


class Transfer:
    """One downstream set in one mode. All starting points, seeds and learning rates share its two compiled programs."""

    def __init__(self, config: TransferConfig, downstream: Downstream, trunk: Trunk, mesh: Mesh) -> None:
        self._config, self._downstream, self._trunk, self._mesh = config, downstream, trunk, mesh
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
            split: TruthReader(source, self._tasks, self._unreadable[split].add)
            for split, source in downstream.sources.items()
            if split in MEASURED
        }
        # All starting points share these.
        self._train_batches, self._eval_batches = KeptBatches(self._read_train), KeptBatches(self._read_split)
        self._init = functools.cache(self._fresh)

    def start(self, trained: Variables | None) -> Start:
        """A starting point with the backbone and pyramid of `trained`; None = random ones."""
        return {"frozen": self._frozen, "finetune": self._finetune}[self._config.mode](trained)

    def measure(self, start: Start, seed: int, learning_rate: float, *splits: str) -> dict[str, float | None]:
        """Trains once. Returns each of these splits of `MEASURED` -> the headline metric; None: training diverged."""
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
            return dict.fromkeys(splits)
        variables = trained_variables(state)
        metric = f"{self._downstream.task.name}/{self._downstream.task.metric}"
        size = self._downstream.image_size
        return {
            split: evaluate(
                self.predict, variables, start.examples(split, seed), self._truth[split], self._tasks, size, self._mesh
            ).metrics[metric]
            for split in splits
        }

    def _finetune(self, trained: Variables | None) -> Start:
        """All parameters are trained on augmented images."""

        def variables(seed: int) -> Variables:
            fresh = self._init(seed)
            return transfer(fresh, trained) if trained else fresh

        return Start(variables, self._train_batches, lambda split, seed: self._eval_batches(split))

    def _frozen(self, trained: Variables | None) -> Start:
        """Only heads are trained, on features that are computed here and kept in host memory, one seed at a time.

        Heads and augmented images differ between seeds and, for a random starting point, so does the whole trunk. A
        trained trunk's features of held-out images do not.
        """

        def trunk(seed: int) -> Variables:
            return put_replicated(self._mesh, _parts(trained, TRUNK) if trained else self._random_trunk(seed))

        def pool(seed: int) -> Batch:
            count = math.ceil(COPIES * len(self._downstream.sources["train"].images) / self._config.batch_size)
            batches = itertools.islice(self._train_batches(seed), count)
            featured = (self._featured(trunk_of(drawn_by(seed)), batch, "labels") for batch in batches)
            return _joined(featured, count)

        def held_out(seed: int) -> dict[str, list[Batch]]:
            return {
                split: [self._featured(trunk_of(seed), batch, *HOST) for batch in self._eval_batches(split)]
                for split in MEASURED
            }

        trunk_of, pool_of, held_out_of = map(_latest, (trunk, pool, held_out))

        def drawn_by(seed: int) -> int:
            return 0 if trained else seed

        return Start(
            lambda seed: _parts(self._init(seed), ("heads",)),
            lambda seed: _shuffled(pool_of(seed), self._config.batch_size, seed),
            lambda split, seed: held_out_of(drawn_by(seed))[split],
        )

    def _featured(self, trunk: Variables, batch: Batch, *kept: str) -> Batch:
        features = jax.device_get(self._trunk.features(trunk, put_batch(self._mesh, batch["image"])))
        return {"features": features, **{key: batch[key] for key in kept}}

    def _random_trunk(self, seed: int) -> Variables:
        """A random trunk in which all blocks contribute and norms use statistics of the training images.

        As initialised for training, a random trunk would effectively be only its stem with shortcuts. Without
        statistics of its own, activations would explode or vanish with depth.
        """
        fresh = _parts(self._fresh(seed, identity_blocks=False), TRUNK)
        placed, stats = put_replicated(self._mesh, fresh), []
        for batch in itertools.islice(self._train_batches(seed), CALIBRATION):
            stats.append(jax.device_get(self._trunk.statistics(placed, put_batch(self._mesh, batch["image"]))))
        mean = jax.tree.map(lambda *each: np.mean(each, 0, dtype=np.float32), *stats)
        return {"params": fresh["params"], "stats": mean}

    def _fresh(self, seed: int, *, identity_blocks: bool = True) -> Variables:
        model, size = self._downstream.model, self._downstream.image_size
        return model.init(jax.random.key(seed), size, identity_blocks=identity_blocks)

    def _read_train(self, seed: int, start_step: int) -> Iterator[Batch]:
        batches = train_batches(
            [self._downstream.sources["train"]],
            {self._downstream.task.name: self._downstream.task.label},
            image_size=self._downstream.image_size,
            augment=self._config.augment,
            batch_size=self._config.batch_size,
            seed=seed,
            start_step=start_step,
            on_bad=self._unreadable["train"].add,
        )
        return self._unreadable["train"].guard(batches)

    def _read_split(self, split: str, start_step: int) -> Iterator[Batch]:
        batches = eval_batches(
            self._downstream.sources[split],
            {},
            image_size=self._downstream.image_size,
            batch_size=self._config.batch_size,
            start_step=start_step,
            on_bad=self._unreadable[split].add,
        )
        return self._unreadable[split].guard(batches)


def _parts(variables: Variables, parts: Iterable[str]) -> Variables:
    return {kind: {part: tree[part] for part in parts} for kind, tree in variables.items()}


def _joined(batches: Iterable[Batch], count: int) -> Batch:
    """`count` batches of one size as one; no more than one of them is in memory twice."""
    whole = None
    for number, batch in enumerate(batches):
        if whole is None:
            whole = jax.tree.map(lambda part: np.empty((count, *part.shape), part.dtype), batch)
        for all_, part in zip(jax.tree.leaves(whole), jax.tree.leaves(batch), strict=True):
            all_[number] = part
    return jax.tree.map(lambda all_: all_.reshape(-1, *all_.shape[2:]), whole)


def _latest(make: Callable[[int], Any]) -> Callable[[int], Any]:
    """Caches the last result of `make`, which is released before the next one is made."""
    kept: dict[int, Any] = {}

    def get(seed: int) -> Any:
        if seed not in kept:
            kept.clear()
            kept[seed] = make(seed)
        return kept[seed]

    return get


def _shuffled(pool: Batch, batch_size: int, seed: int) -> Iterator[Batch]:
    """Endless batches of the pool's examples, in a new order every epoch."""
    rng, count = np.random.default_rng(seed), len(jax.tree.leaves(pool)[0])
    while True:
        order = rng.permutation(count)
        for first in range(0, count - batch_size + 1, batch_size):
            chosen = order[first : first + batch_size]
            yield jax.tree.map(lambda values: values[chosen], pool)  # noqa: B023
