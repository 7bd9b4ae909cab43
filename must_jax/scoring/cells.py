"""The cells of a scorecard: every starting point on every downstream set, with the same steps and learning rates."""

from __future__ import annotations

import functools
import gc
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self

from jax.sharding import Mesh

from must_jax.config import EvaluateConfig, TransferConfig
from must_jax.data.kept import Room
from must_jax.engine import distributed
from must_jax.engine.measuring import Evaluation
from must_jax.inputs.sources import fingerprint_of
from must_jax.models.api import build_model
from must_jax.progress import Progress
from must_jax.report.scorecard import Row
from must_jax.runs.results import RunRecord
from must_jax.scoring.opening import Point, Published
from must_jax.scoring.run_log import Runs
from must_jax.scoring.transfer import Downstream, Outcome, Start, Training, Transfer, Trunk

RULES = 3  # version of the measurement; results of other versions are measured again


def choose(validation: Mapping[float, float | None]) -> float:
    """The learning rate with the best validation value; the first of equals.

    A rate that diverged is not chosen; if all of them did, the lowest one is.
    """
    finished = {rate: value for rate, value in validation.items() if value is not None}
    return max(finished, key=finished.__getitem__) if finished else min(validation)


def measure(
    config: EvaluateConfig, starts: Mapping[str, Point], sets: list[Downstream], mesh: Mesh, workdir: Path
) -> list[Row]:
    """All results; each process measures its share, and the first process then has all of them."""
    trunk, room = Trunk.of(build_model(config.model, {}), config.input_hw), Room(config.feature_bytes, workdir)
    cells = [
        (number, transfer, downstream, init)
        for number, transfer in enumerate(config.transfers)
        for downstream in sets
        for init in transfer.inits or starts
    ]

    def rows_of(cells: Sequence[tuple[int, TransferConfig, Downstream, str]]) -> list[Row]:
        runs, rows = Runs(workdir), []
        total = sum(len(transfer.learning_rates) + len(transfer.seeds) - 1 for _, transfer, _, _ in cells)
        groups = [list(of_set) for _, of_set in itertools.groupby(cells, key=lambda cell: (cell[0], cell[2].name))]
        makers = [functools.partial(Transfer, group[0][1], group[0][2], trunk, mesh, room) for group in groups]
        with Progress(f"evaluating {workdir.name}", total, "runs") as progress, _Programs(makers) as programs:
            for which, group in enumerate(groups):
                number, transfer, downstream, _ = group[0]
                data = _digest(downstream)
                name = f"{number}/{transfer.mode}/{downstream.name} {data}/rules {RULES}"
                inits = [init for *_, init in group]
                for at in range(0, len(inits), mesh.size):  # few enough for their features
                    some = {init: starts[init] for init in inits[at : at + mesh.size]}
                    program = functools.partial(programs.of, which)
                    rows += _OfSet(name, transfer, downstream, some, program, runs, progress).rows()
                programs.release(which)
        return rows

    rows = rows_of(cells[distributed.position() :: distributed.processes()])
    if distributed.processes() > 1:
        distributed.wait("measured")
        rows = rows_of(cells) if distributed.is_first() else []
    return rows


class _Programs:
    """The programs of each set, made once a training needs them, and compiled while the set before it trains."""

    def __init__(self, makers: Sequence[Callable[[], Transfer]]) -> None:
        self._makers, self._made = makers, dict[int, Transfer]()
        self._compiler = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._compiler.shutdown(cancel_futures=True)

    def of(self, number: int) -> Transfer:
        for each in range(number, min(number + 2, len(self._makers))):
            if each not in self._made:
                self._made[each] = self._makers[each]().compile(self._compiler)
        return self._made[number]

    def release(self, number: int) -> None:
        """Also what its trainings have kept, features of images above all."""
        self._made.pop(number, None)
        gc.collect()  # some of it refers to what made it


class _Job(NamedTuple):
    init: str
    seed: int
    rate: float


class _OfSet:
    """Some starting points on one set: the first seed's validation selects a learning rate, all seeds are tested."""

    def __init__(
        self,
        name: str,
        config: TransferConfig,
        downstream: Downstream,
        starts: Mapping[str, Point],
        program: Callable[[], Transfer],
        runs: Runs,
        progress: Progress,
    ) -> None:
        self._name, self._config, self._downstream, self._starts = name, config, downstream, starts
        self._program, self._runs, self._progress = program, runs, progress
        self._start = functools.cache(self._made)
        self._to_do = len(starts) * (len(config.learning_rates) + len(config.seeds) - 1)

    def rows(self) -> list[Row]:
        first, *others = self._config.seeds
        rates, task = self._config.learning_rates, self._downstream.task
        if len(rates) > 1:
            self._try(first)
            chosen = {init: self._chosen(init, first) for init in self._starts}
        else:  # there is no choice, and no need of validation
            chosen, others = dict.fromkeys(self._starts, rates[0]), [first, *others]
        jobs = [_Job(init, seed, rate) for init, rate in chosen.items() for seed in others]
        for job, outcome in self._trainings([job for job in jobs if self._run(job) not in self._runs]):
            self._runs.add([self._tested(job, outcome)])
        self._progress.advance(self._to_do)  # what has been measured before
        steps, images = self._config.steps, self._config.steps * self._config.batch_size

        def row(init: str, rate: float, seed: int) -> Row:
            measured = self._runs[self._run(_Job(init, seed, rate))]
            about = (init, task.name, self._downstream.name, self._config.mode, task.metric)
            return Row(*about, measured.test, seed, rate, steps, images, measured.details)

        return [row(init, rate, seed) for init, rate in chosen.items() for seed in self._config.seeds]

    def _try(self, seed: int) -> None:
        """Measures every rate on validation, and the one that is best there on test."""
        jobs = [_Job(init, seed, rate) for init in self._starts for rate in self._config.learning_rates]
        missing = {job.init for job in jobs if self._run(job) not in self._runs}
        trainings = self._trainings([job for job in jobs if job.init in missing])
        for _, of_init in itertools.groupby(trainings, key=lambda each: each[0].init):
            values: dict[float, float | None] = {}
            for job, outcome in of_init:
                values[job.rate] = self._value(self._program().measure(outcome, "validation"))
                if choose(values) == job.rate:
                    best, best_outcome = job, outcome  # of the others, nothing needs to be kept
            tested = self._tested(best, best_outcome)
            others = {rate: RunRecord(run=self._run(best._replace(rate=rate)), test=None) for rate in values}
            tried = {**others, best.rate: tested}
            self._runs.add([tried[rate].model_copy(update={"validation": value}) for rate, value in values.items()])

    def _tested(self, job: _Job, outcome: Outcome) -> RunRecord:
        """The headline metric on test and, of the first seed, what lies behind it, but not how classes are confused."""
        found = self._program().measure(outcome, "test")
        tested: dict[str, Any] = {"run": self._run(job), "test": self._value(found)}
        if found and job.seed == self._config.seeds[0]:
            details = found.details[self._downstream.task.name]
            tested["details"] = {key: value for key, value in details.items() if key != "confusion"}  # can be large
        return RunRecord.model_validate(tested)

    def _value(self, found: Evaluation | None) -> float | None:
        task = self._downstream.task
        return found.metrics[f"{task.name}/{task.metric}"] if found else None

    def _chosen(self, init: str, seed: int) -> float:
        rates = self._config.learning_rates
        return choose({rate: self._runs[self._run(_Job(init, seed, rate))].validation for rate in rates})

    def _trainings(self, jobs: Sequence[_Job]) -> Iterator[tuple[_Job, Outcome]]:
        """Each of these, and what it was trained to; as many side by side as there are devices."""
        done = 0
        while done < len(jobs):
            some = jobs[done : done + self._program().side_by_side]
            trainings = [Training(self._start(job.init), job.seed, job.rate) for job in some]
            self._progress.note(f"{self._config.mode} {self._downstream.name} from {some[0].init}")
            yield from zip(some, self._program().train(trainings), strict=True)
            done += len(some)
            self._to_do -= len(some)
            self._progress.advance(len(some))

    def _run(self, job: _Job) -> str:
        start = self._starts[job.init]
        made_of = start.digest[:16] if start else "random"  # a retrained starting point is measured again
        return f"{self._name}/{job.init}/{made_of}/seed {job.seed}/rate {job.rate:g}"

    def _made(self, init: str) -> Start:
        start = self._starts[init]
        if isinstance(start, Published):
            return self._program().start(start.placed)
        return self._program().start(start.variables if start else None)


def _digest(downstream: Downstream) -> str:
    """Changes with the images and labels of any split."""
    data = fingerprint_of(list(downstream.sources.values()))
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
