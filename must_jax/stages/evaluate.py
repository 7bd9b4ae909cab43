"""Evaluate: the scorecard. Every starting point on every downstream set, with the same steps and learning rates."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jax.sharding import Mesh

from must_jax import trained
from must_jax.config import DownstreamConfig, EvaluateConfig, ModelConfig, TransferConfig
from must_jax.data.pipeline import Source
from must_jax.engine import distributed
from must_jax.errors import UserError
from must_jax.files import write_json, write_text
from must_jax.models.api import build_model
from must_jax.progress import Progress, say
from must_jax.reading import read_json_lines
from must_jax.report import scorecard
from must_jax.report.scorecard import Row
from must_jax.stages import inputs, memory, overview, results, supervision
from must_jax.stages.transfer import MEASURED, Downstream, Transfer, Trunk
from must_jax.stages.workdir import REPORT, RESULT_FILE, check, claim
from must_jax.trained import Trained

RUNS_FILE = "runs.jsonl"

RULES = 2  # version of the measurement; results of other versions are measured again

Measured = Mapping[str, float | None]  # "validation" and "test" -> headline metric; None: training diverged


def run(config: EvaluateConfig, workdir: Path) -> None:
    """Writes `scorecard.json`, `scorecard.csv` and, last, `result.json` into the workdir.

    Every finished training run is in `runs.jsonl`, so an interrupted evaluation resumes with the next one, and a
    finished one only repeats what starts from a retrained model.

    Raises:
      UserError: a starting point that is missing, unfinished or of another architecture, a downstream set that lacks
        images or labels of its task, a workdir of another config; all checked before any work.
    """
    check(workdir, config)
    if _is_finished(config, workdir):
        say(f"{workdir} is finished; nothing to do")
        return
    mesh = inputs.mesh_of(config)
    with distributed.linked():
        inputs.check(config)
        _evaluate(config, workdir, mesh)


def _evaluate(config: EvaluateConfig, workdir: Path, mesh: Mesh) -> None:
    starts = {name: _load(name, folder, config.model) for name, folder in config.inits.items()}
    downstream = [_open(name, values, config) for name, values in config.downstream.items()]
    if any(transfer.mode == "frozen" for transfer in config.transfers):
        trunk = build_model(config.model, {})
        for each in downstream:
            memory.check_features(f"config.downstream.{each.name}", trunk, each.image_size, each.kept)
    if distributed.is_first():
        claim(workdir, config)
    distributed.wait("claimed")

    began = time.monotonic()
    rows = _measure(config, starts, downstream, mesh, workdir)
    if distributed.is_first():
        scorecard.write(rows, workdir)
        result = {
            "seconds": time.monotonic() - began,
            "starts": {name: _described(start) for name, start in starts.items()},
        }
        write_json(workdir / RESULT_FILE, result)
        overview.write(workdir.resolve().name, [overview.Entry(workdir.resolve().name, config, workdir)], workdir)
        say(f"{workdir}: {len(rows)} results in {workdir / scorecard.JSON_FILE}, see {workdir / REPORT}")
    distributed.wait("written")


def _is_finished(config: EvaluateConfig, workdir: Path) -> bool:
    """Whether everything is measured, from the current starting points (those that still exist)."""
    if (told := results.read(workdir, results.EvaluateResult)) is None:
        return False
    now = {name: inputs.run_digest(folder) for name, folder in config.inits.items()}
    return all(
        digest is None or (name in told.starts and told.starts[name].digest == digest) for name, digest in now.items()
    )


def choose(validation: Mapping[float, float | None]) -> float:
    """The learning rate with the best validation value; the first of equals.

    A rate that diverged is not chosen; if all of them did, the lowest one is.
    """
    finished = {rate: value for rate, value in validation.items() if value is not None}
    return max(finished, key=finished.__getitem__) if finished else min(validation)


class Runs:
    """The finished training runs on disk: name -> measured values, one line each; every process has its own file."""

    def __init__(self, workdir: Path) -> None:
        number = distributed.position()
        self._path = workdir / (f"runs-{number}.jsonl" if number else RUNS_FILE)
        self._done: dict[str, Measured] = {}
        for path in {self._path, *workdir.glob(results.RUNS_FILES)}:
            done = read_json_lines(path, results.RunRecord)  # unreadable ones are measured again
            if path == self._path:
                write_text(path, "".join(f"{json.dumps(each.model_dump())}\n" for each in done))
            self._done |= {each.run: {"validation": each.validation, "test": each.test} for each in done}

    def __len__(self) -> int:
        return len(self._done)

    def get(self, name: str, measure: Callable[[], Measured]) -> Measured:
        """The stored values of the run `name`; if there are none, measures and stores them."""
        if name not in self._done:
            self._done[name] = measure()
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"run": name, **self._done[name]}) + "\n")
                file.flush()
                os.fsync(file.fileno())
        return self._done[name]


def _measure(
    config: EvaluateConfig, starts: Mapping[str, Trained | None], sets: list[Downstream], mesh: Mesh, workdir: Path
) -> list[Row]:
    """All results; each process measures its share, and the first process then has all of them."""
    trunk = Trunk.of(build_model(config.model, {}))
    cells = [
        (number, transfer, downstream, init)
        for number, transfer in enumerate(config.transfers)
        for downstream in sets
        for init in transfer.inits or starts
    ]

    def rows_of(cells: Sequence[tuple[int, TransferConfig, Downstream, str]]) -> list[Row]:
        runs, rows = Runs(workdir), []
        total = sum(len(transfer.learning_rates) + len(transfer.seeds) - 1 for _, transfer, _, _ in cells)
        with Progress(f"evaluating {workdir.name}", total, "runs") as progress:
            for _, of_set in itertools.groupby(cells, key=lambda cell: (cell[0], cell[2].name)):
                group = list(of_set)
                number, transfer, downstream, _ = group[0]
                # Compiled, and features computed, only once a run of it is missing.
                program = functools.cache(functools.partial(Transfer, transfer, downstream, trunk, mesh))
                data = _digest(downstream)
                for _, _, _, init in group:
                    name = f"{number}/{transfer.mode}/{downstream.name} {data}/rules {RULES}/{init}"
                    rows += _rows(name, init, transfer, downstream, starts[init], program, runs, progress)
        return rows

    rows = rows_of(cells[distributed.position() :: distributed.processes()])
    if distributed.processes() > 1:
        distributed.wait("measured")
        rows = rows_of(cells) if distributed.is_first() else []
    return rows


def _rows(
    name: str,
    init: str,
    transfer: TransferConfig,
    downstream: Downstream,
    trained: Trained | None,
    program: Callable[[], Transfer],
    runs: Runs,
    progress: Progress,
) -> list[Row]:
    """One starting point on one set: the first seed's validation selects a learning rate, and all seeds are tested."""
    start = functools.cache(lambda: program().start(trained.variables if trained else None))
    made_of = trained.digest[:16] if trained else "random"  # a retrained starting point is measured again

    def measured(seed: int, rate: float, *splits: str) -> Measured:
        run = f"{name}/{made_of}/seed {seed}/rate {rate:g}/{' and '.join(splits)}"
        values = runs.get(run, lambda: program().measure(start(), seed, rate, *splits))
        progress.note(f"{transfer.mode} {downstream.name} from {init}")
        progress.advance()
        return values

    first, *others = transfer.seeds
    splits = MEASURED if len(transfer.learning_rates) > 1 else ("test",)  # with one rate there is no choice
    tried = {rate: measured(first, rate, *splits) for rate in transfer.learning_rates}
    rate = choose({rate: values.get("validation") for rate, values in tried.items()})
    by_seed = {first: tried[rate]} | {seed: measured(seed, rate, "test") for seed in others}
    task = downstream.task
    what = init, task.name, downstream.name, transfer.mode, task.metric
    cost = rate, transfer.steps, transfer.steps * transfer.batch_size
    return [Row(*what, values["test"], seed, *cost) for seed, values in by_seed.items()]


def _load(name: str, folder: str, model: ModelConfig) -> Trained | None:
    """The finished run; None for random initialisation."""
    if not folder:
        return None
    start = trained.load(folder)
    for field, value in model.model_dump().items():
        if (theirs := getattr(start.config, field)) != value:
            raise UserError(
                f"config.model.{field} is {value}, but config.inits.{name} ({folder}) was trained with {theirs}; "
                "compare starting points of the same architecture"
            )
    return start


def _open(name: str, config: DownstreamConfig, evaluation: EvaluateConfig) -> Downstream:
    configs = {"train": config.train, "validation": config.validation, "test": config.test}
    sources = {split: inputs.open_source(c, evaluation.data_dir, (config.task,)) for split, c in configs.items()}
    train, *held_out = sources.values()
    task = inputs.build_tasks({config.task: config.options}, [train], evaluation.max_boxes, held_out)[config.task]
    for split, source in sources.items():
        if not source.columns:
            raise UserError(
                f"config.downstream.{name}.{split} ({source.images.name}) has no labels of task '{task.name}'; "
                "use images that do, or another task"
            )
    tasks, size = {task.name: task}, evaluation.image_size
    learnt = supervision.check([train], tasks, size, where=f"config.downstream.{name}.train")
    for split in MEASURED:
        supervision.check_held_out(sources[split], tasks, size, f"config.downstream.{name}.{split}", learnt)
    _check_apart(f"config.downstream.{name}", sources)
    model = build_model(evaluation.model, {task.name: task.head(evaluation.model)})
    return Downstream(name, task, model, evaluation.image_size, sources)


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


def _digest(downstream: Downstream) -> str:
    """Changes with the images and labels of any split."""
    data = inputs.fingerprint(list(downstream.sources.values()))
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def _described(start: Trained | None) -> dict[str, object]:
    if start is None:
        return {"tasks": [], "image_steps": 0, "digest": None}
    image_steps = start.settings["steps"] * start.settings["batch_size"]
    return {"tasks": list(start.tasks), "image_steps": image_steps, "digest": start.digest}
