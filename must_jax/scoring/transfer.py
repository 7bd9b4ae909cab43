"""Transfer of a representation to one downstream set: new heads, trained alone or together with the whole network."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jax.sharding import Mesh

from must_jax.config import InputConfig, TransferConfig
from must_jax.data.batching import Source, TruthReader, batch_like, eval_batches, train_batches
from must_jax.data.kept import KeptBatches, Room
from must_jax.engine.fit import fit
from must_jax.engine.measuring import Evaluation, evaluate
from must_jax.engine.mesh import put, put_batch, put_replicated
from must_jax.engine.mesh import split as split_over
from must_jax.engine.optimizers import build_optimizer, schedule
from must_jax.engine.recorder import Recorder
from must_jax.engine.skipped import Diverged, SkippedSideBySide
from must_jax.engine.state import State, Variables, state_shapes, trained_variables
from must_jax.engine.step import (
    HOST,
    RNG,
    SCHEDULE_SHAPES,
    Batch,
    PendingProgram,
    PredictStep,
    TrainStep,
    make_predict_step,
    make_side_by_side_step,
    shapes_of,
)
from must_jax.inputs.unreadable import Unreadable, lengths_of
from must_jax.models import rates
from must_jax.models.api import Features, Model, transfer
from must_jax.tasks.base import Task

MEASURED = ("validation", "test")
COPIES = 2  # augmented versions of each training image on whose features frozen transfer trains

CALIBRATION = 8  # batches of training images for the norm statistics of a random trunk
TRUNK = ("backbone", "fpn")
Placed = Callable[[Variables], Variables]  # random variables -> those with a trained backbone


class Trunk(NamedTuple):
    """`Model.features` and `Model.statistics`, compiled; all downstream sets share them.

    Attributes:
      pyramid_statistics: those on a trained backbone, which stays as it is.
      drawn: seed -> the variables of a random trunk in which all blocks contribute.
    """

    features: Callable[[Variables, jax.Array], Features]
    statistics: Callable[[Variables, jax.Array], Variables]
    pyramid_statistics: Callable[[Variables, jax.Array], Variables]
    drawn: Callable[[int], Variables]

    @classmethod
    def of(cls, model: Model, input_hw: tuple[int, int]) -> Trunk:
        @functools.cache
        def drawn(seed: int) -> Variables:
            return _parts(model.init(jax.random.key(seed), input_hw, identity_blocks=False), TRUNK)

        on_frozen = dataclasses.replace(model, is_frozen=True)
        return cls(jax.jit(model.features), jax.jit(model.statistics), jax.jit(on_frozen.statistics), drawn)


@dataclass(frozen=True)
class Downstream:
    """One held-out set: the model that learns it, and where its splits "train", "validation" and "test" come from.

    Attributes:
      input: who reads images, and how much ahead.
    """

    name: str
    task: Task
    model: Model
    input_hw: tuple[int, int]
    sources: Mapping[str, Source]
    input: InputConfig

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


class Training(NamedTuple):
    """One training from a starting point."""

    start: Start
    seed: int
    learning_rate: float


class Outcome(NamedTuple):
    """What a training came to; its variables are None if it diverged."""

    training: Training
    variables: Variables | None


class Transfer:
    """One downstream set in one mode. All starting points, seeds and learning rates share its two compiled programs.

    Attributes:
      side_by_side: how many trainings run at a time, one on each device.
    """

    def __init__(
        self, config: TransferConfig, downstream: Downstream, trunk: Trunk, mesh: Mesh, room: Room | None = None
    ) -> None:
        self._config, self._downstream, self._trunk, self._mesh = config, downstream, trunk, mesh
        self.side_by_side, self._room = mesh.size, room
        task, model = downstream.task, downstream.model

        def heads(variables: Variables, batch: Batch, train: bool) -> tuple[Any, Any]:
            return model.apply_heads(variables, batch["features"], train=train)

        def whole(variables: Variables, batch: Batch, train: bool) -> tuple[Any, Any]:
            return model.apply(variables, batch["image"], train=train, rng=batch.get(RNG))

        forward = {"frozen": heads, "finetune": whole}[config.mode]
        self._tasks, weight = {task.name: task}, 1.0 if task.weight is None else task.weight
        if config.mode == "finetune":
            model = dataclasses.replace(model, is_frozen=config.optimizer.backbone_rate == 0)
        self.optimizer = build_optimizer(config.optimizer, rates.shares_of(config.optimizer))
        self.step = make_side_by_side_step(
            forward, self._tasks, downstream.input_hw, {task.name: weight}, self.optimizer, mesh
        )
        self._fresh_optimizer = jax.jit(self.optimizer.init)
        self.predict = make_predict_step(forward, self._tasks, downstream.input_hw, mesh)
        self._step: TrainStep = self.step
        self._predict: PredictStep = self.predict
        self._unreadable = {split: Unreadable(lengths_of([source])) for split, source in downstream.sources.items()}
        self._truth = {
            split: TruthReader(source, self._tasks, self._unreadable[split].add)
            for split, source in downstream.sources.items()
            if split in MEASURED
        }
        # All starting points share these.
        self._train_batches, self._eval_batches = KeptBatches(self._read_train), KeptBatches(self._read_split)
        self._init = functools.cache(self._fresh)
        # Those of the starting points that train side by side.
        self._pools, self._held_out = Latest(self.side_by_side), Latest(len(MEASURED) * self.side_by_side)

    def shapes(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The arguments of `step` and those of `predict`, as `jax.ShapeDtypeStruct`s."""
        task, model, input_hw = self._downstream.task, self._downstream.model, self._downstream.input_hw
        like = batch_like({task.name: task.label}, input_hw=input_hw, batch_size=self._config.batch_size)
        variables, batch = model.shapes(input_hw), shapes_of(like)
        if self._config.mode == "frozen":
            features = jax.eval_shape(model.features, variables, batch["image"])
            batch = {"features": features, "labels": batch["labels"]}
            variables = _parts(variables, ("heads",))
        state = state_shapes(variables, self.optimizer, ema=self._config.optimizer.ema_decay > 0)
        together = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((self.side_by_side, *x.shape), x.dtype), (state, batch, SCHEDULE_SHAPES)
        )
        return together, (variables, {key: value for key, value in batch.items() if key not in HOST})

    def compile(self, compiler: Executor) -> Self:
        """Lets `compiler` begin with what the first trainings need: both programs, and each seed's variables."""
        step, predict = self.shapes()
        self._step = PendingProgram(compiler, self.step, step)
        self._predict = PendingProgram(compiler, self.predict, predict)
        for seed in self._config.seeds:
            compiler.submit(self._init, seed)
        return self

    def start(self, trained: Variables | Placed | None) -> Start:
        """A starting point with the backbone and pyramid of `trained`; None = random ones.

        Args:
          trained: or what it makes of random ones: some of their parts stay.
        """
        return {"frozen": self._frozen, "finetune": self._finetune}[self._config.mode](trained)

    def train(self, trainings: Sequence[Training]) -> list[Outcome]:
        """Trains them at the same time, as if each were alone: at most `side_by_side`."""
        idle = self.side_by_side - len(trainings)  # their devices repeat the last one
        each, steps = [*trainings, *[trainings[-1]] * idle], self._config.steps
        optimizers = [
            self._config.optimizer.model_copy(update={"learning_rate": training.learning_rate}) for training in each
        ]
        skipped = SkippedSideBySide(len(each))
        streams = {_stream(training): training.start.train(training.seed) for training in trainings}
        try:
            state = fit(
                self._step,
                put(_stacked([self._state(training) for training in each]), split_over(self._mesh)),
                _side_by_side(streams, [_stream(training) for training in each]),
                lambda k: _stacked(
                    [schedule(of, steps, training.seed, k) for of, training in zip(optimizers, each, strict=True)]
                ),
                range(steps),
                self._mesh,
                Recorder(skipped=skipped),
            )
        except Diverged:
            return [Outcome(training, None) for training in trainings]
        trained = jax.device_get(trained_variables(state))
        variables = [jax.tree.map(lambda leaf: leaf[number], trained) for number in range(len(each))]  # noqa: B023
        return [
            Outcome(training, None if number in skipped.diverged else variables[number])
            for number, training in enumerate(trainings)
        ]

    def measure(self, outcome: Outcome, split: str) -> Evaluation | None:
        """What it reaches on a split of `MEASURED`; None if the training diverged."""
        if outcome.variables is None:
            return None
        input_hw = self._downstream.input_hw
        examples = outcome.training.start.examples(split, outcome.training.seed)
        variables = put_replicated(self._mesh, outcome.variables)
        return evaluate(self._predict, variables, examples, self._truth[split], self._tasks, input_hw, self._mesh)

    def _state(self, training: Training) -> State:
        """Before the first update, as NumPy arrays."""
        variables = training.start.variables(training.seed)
        opt_state = jax.device_get(self._fresh_optimizer(variables["params"]))
        return {**variables, "opt_state": opt_state, "ema": variables if self._config.optimizer.ema_decay > 0 else {}}

    def _finetune(self, trained: Variables | Placed | None) -> Start:
        """All parameters are trained on augmented images."""

        def variables(seed: int) -> Variables:
            fresh = self._init(seed)
            if callable(trained):
                return trained(fresh)
            return transfer(fresh, trained) if trained else fresh

        return Start(variables, self._train_batches, lambda split, seed: self._eval_batches(split))

    def _frozen(self, trained: Variables | Placed | None) -> Start:
        """Only heads are trained, on features that are computed here and kept on the host.

        Heads and augmented images differ between seeds and, for a random starting point, so does the trunk. A trained
        trunk's features of held-out images do not.
        """
        start = object()

        @functools.cache
        def trunk(drawn_by: int) -> Variables:
            if trained is None or callable(trained):
                return put_replicated(self._mesh, self._random_trunk(drawn_by, trained))
            return put_replicated(self._mesh, _parts(trained, TRUNK))

        def drawn_by(seed: int) -> int:
            return seed if trained is None or callable(trained) else 0

        def pool(seed: int) -> Batch:
            batches = itertools.islice(self._train_batches(seed), self._pool_batches)
            featured = self._featured(trunk(drawn_by(seed)), batches, self._pool_batches, "labels")
            return jax.tree.map(lambda values: values.reshape(-1, *values.shape[2:]), featured)

        def held_out(split: str, drawn_by: int) -> list[Batch]:
            count = math.ceil(len(self._downstream.sources[split].images) / self._config.batch_size)
            featured = self._featured(trunk(drawn_by), self._eval_batches(split), count, *HOST)
            return [jax.tree.map(lambda values: values[k], featured) for k in range(count)]  # noqa: B023

        def train(seed: int) -> Iterator[Batch]:
            of_seed = self._pools.get((start, seed), lambda: pool(seed))
            return _shuffled(of_seed, self._config.batch_size, seed)

        def examples(split: str, seed: int) -> list[Batch]:
            drawn = drawn_by(seed)
            return self._held_out.get((start, split, drawn), lambda: held_out(split, drawn))

        return Start(lambda seed: _parts(self._init(seed), ("heads",)), train, examples)

    def _featured(self, trunk: Variables, batches: Iterable[Batch], count: int, *kept: str) -> Batch:
        """The features of `count` batches, and what is `kept` of them, with one more leading axis for the batches."""

        def featured(batch: Batch) -> Batch:
            features = jax.device_get(self._trunk.features(trunk, put_batch(self._mesh, batch["image"])))
            return {"features": features, **{key: batch[key] for key in kept}}

        return _joined(map(featured, batches), count, self._room.empty if self._room else np.empty)

    def _random_trunk(self, seed: int, placing: Placed | None = None) -> Variables:
        """A random trunk in which all blocks contribute and norms use statistics of the training images.

        As initialised for training, a random trunk would effectively be only its stem with shortcuts. Without
        statistics of its own, activations would explode or vanish with depth.

        Args:
          placing: puts a trained backbone into it, which keeps its statistics.
        """
        fresh = self._trunk.drawn(seed)
        trunk = placing(fresh) if placing else fresh
        compute = self._trunk.pyramid_statistics if placing else self._trunk.statistics
        placed, stats = put_replicated(self._mesh, trunk), []
        for batch in itertools.islice(self._train_batches(seed), CALIBRATION):
            stats.append(jax.device_get(compute(placed, put_batch(self._mesh, batch["image"]))))
        mean = jax.tree.map(lambda *each: np.mean(each, 0, dtype=np.float32), *stats)
        return {"params": trunk["params"], "stats": {**trunk["stats"], "fpn": mean["fpn"]} if placing else mean}

    def _fresh(self, seed: int) -> Variables:
        return self._downstream.model.init(jax.random.key(seed), self._downstream.input_hw)

    @property
    def _pool_batches(self) -> int:
        """Batches of training images on whose features heads are trained."""
        return math.ceil(COPIES * len(self._downstream.sources["train"].images) / self._config.batch_size)

    @property
    def _train_steps(self) -> int:
        """Batches of training images that are read at most."""
        return max(self._pool_batches, CALIBRATION) if self._config.mode == "frozen" else self._config.steps

    def _read_train(self, seed: int, start_step: int) -> Iterator[Batch]:
        batches = train_batches(
            [self._downstream.sources["train"]],
            {self._downstream.task.name: self._downstream.task.label},
            input_hw=self._downstream.input_hw,
            augment=self._config.augment,
            batch_size=self._config.batch_size,
            seed=seed,
            start_step=start_step,
            stop_step=self._train_steps,
            config=self._downstream.input,
            on_bad=self._unreadable["train"].add,
        )
        return self._unreadable["train"].guard(batches)

    def _read_split(self, split: str, start_step: int) -> Iterator[Batch]:
        batches = eval_batches(
            self._downstream.sources[split],
            {},
            input_hw=self._downstream.input_hw,
            batch_size=self._config.batch_size,
            start_step=start_step,
            config=self._downstream.input,
            on_bad=self._unreadable[split].add,
        )
        return self._unreadable[split].guard(batches)


def _parts(variables: Variables, parts: Iterable[str]) -> Variables:
    return {kind: {part: tree[part] for part in parts} for kind, tree in variables.items()}


def _stream(training: Training) -> tuple[Any, int]:
    """The same for trainings on the same batches."""
    return training.start.train, training.seed


def _side_by_side(streams: Mapping[Any, Iterator[Batch]], order: Sequence[Any]) -> Iterator[Batch]:
    """The next batch of each stream, stacked in this order; a stream that is named several times is read once."""
    while True:
        batches = {name: next(stream) for name, stream in streams.items()}
        yield _stacked([batches[name] for name in order])


def _stacked(trees: Sequence[Any]) -> Any:
    """NumPy trees of one structure -> one tree, with a leading axis for the trees."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _joined(batches: Iterable[Batch], count: int, empty: Callable[..., np.ndarray] = np.empty) -> Batch:
    """`count` batches of one size -> [count, ...]; no more than one of them is in memory twice.

    Args:
      empty: (shape, dtype) -> an array for the result.
    """
    whole = None
    for number, batch in enumerate(batches):
        if whole is None:
            whole = jax.tree.map(lambda part: empty((count, *np.shape(part)), part.dtype), batch)
        for all_, part in zip(jax.tree.leaves(whole), jax.tree.leaves(batch), strict=True):
            all_[number] = part
    return whole or {}


class Latest:
    """The `most` results that were last asked for; the oldest is released before another one is made."""

    def __init__(self, most: int) -> None:
        self._most, self._kept = most, dict[Any, Any]()

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """The result of `key`; if it is not among them, of `make`."""
        if key in self._kept:
            found = self._kept.pop(key)
        else:
            while len(self._kept) >= self._most:
                self._kept.pop(next(iter(self._kept)))
            found = make()
        self._kept[key] = found
        return found


def _shuffled(pool: Batch, batch_size: int, seed: int) -> Iterator[Batch]:
    """Endless batches of the pool's examples, in a new order every epoch."""
    rng, count = np.random.default_rng(seed), len(jax.tree.leaves(pool)[0])
    while True:
        order = rng.permutation(count)
        for first in range(0, count - batch_size + 1, batch_size):
            chosen = order[first : first + batch_size]
            yield jax.tree.map(lambda values: values[chosen], pool)  # noqa: B023
