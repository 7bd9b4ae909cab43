"""Training: a teacher or the student, from a config to a finished model in its workdir."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from must_jax import description, preemption, trained
from must_jax.config import TrainConfig
from must_jax.engine import distributed
from must_jax.engine.checkpoint import Checkpoints, check_same, check_space, restore_variables
from must_jax.engine.clock import DATA, INIT, RESTORE, SAVE, Clock
from must_jax.engine.fit import fit
from must_jax.engine.goodput import GoodputLog
from must_jax.engine.mesh import everywhere, local_rows, put_replicated
from must_jax.engine.metric_log import VALIDATION, MetricWriter
from must_jax.engine.recorder import Recorder
from must_jax.engine.skipped import Skipped
from must_jax.engine.state import State, count_parameters, trained_variables
from must_jax.engine.step import STOP, Batch
from must_jax.engine.tracing import traced
from must_jax.engine.utilisation import measured
from must_jax.engine.validations import Best, Validations
from must_jax.errors import UserError
from must_jax.files import write_json
from must_jax.inputs import feeding, supervision
from must_jax.inputs.named import mesh_of
from must_jax.inputs.sources import check_unchanged, licences_of
from must_jax.inputs.unreadable import Unreadable, lengths_of
from must_jax.progress import Progress, counted, say
from must_jax.reading import read_bytes
from must_jax.runs import curves
from must_jax.runs.workdir import RESULT_FILE, SKIPPED_FILE, check, claim
from must_jax.tasks import without_labels
from must_jax.training import going_on, self_test, validation
from must_jax.training.building import Training, prepare
from must_jax.training.validation import Validation, check_measured

PROFILE = "profile"


def run(config: TrainConfig, workdir: Path) -> None:
    """Trains into `workdir`, or resumes there, or goes on with a finished run, or says that there is nothing to do.

    A finished run goes on if the config has more steps; if it has another validation, only that is done again.

    Writes config.json, metrics.jsonl, event files, goodput.jsonl, checkpoints/, validation.json (of the model, with
    details), model.json (all that `trained.load` needs) and, last, result.json.

    Raises:
      UserError: anything in config or data that cannot work, before any work; a workdir of another config; a finished
        model that does not reach `config.minimum` (it can still be loaded).
      Preempted: the run received SIGTERM and saved its state.
    """
    told = description.read(workdir) if (workdir / trained.MODEL_FILE).exists() else None
    changed = going_on.changed(config, workdir, told)
    check(workdir, config, changed)
    idle = False
    with contextlib.ExitStack() as whole:
        if told is None or not going_on.is_complete(config, told):
            _train(config, workdir, told, changed, whole)
        elif not going_on.is_measured(config, workdir, told):
            _measure_again(config, workdir, told, whole)
        else:
            idle = True
    told = description.read(workdir)
    _check_minimum(config, workdir, told.metrics)
    if distributed.is_first():
        write_json(workdir / RESULT_FILE, {"metrics": told.metrics, **told.training.model_dump(exclude_unset=True)})
    chosen = f", the model after step {told.checkpoint}" * (told.checkpoint != told.settings.steps)
    end = going_on.end(config, told, idle)
    say(f"{workdir}: {told.settings.steps} steps{chosen}, {_pairs(told.metrics)}{end}")


def _train(
    config: TrainConfig,
    workdir: Path,
    told: description.Description | None,
    changed: Collection[str],
    whole: contextlib.ExitStack,
) -> None:
    """A run that is asked to stop once it has started stops, at the latest, on leaving `whole`.

    Args:
      told: the finished run that goes on, if it does, with the keys `changed`.
    """
    clock, compiler = Clock(), ThreadPoolExecutor(1)
    whole.callback(compiler.shutdown, wait=False, cancel_futures=True)
    training = _checked(config, workdir, changed, clock, compiler, whole)
    clock.switch(INIT)
    state = training.state()
    _claim(training, state, workdir, told, changed)
    say(
        f"{workdir}: {count_parameters(state['params']):,} parameters on {counted(training.mesh.size, 'device')}, "
        f"images read by {feeding.readers(config.input)}, loss weights: {_pairs(training.weights)}"
    )
    unreadable = Unreadable(lengths_of(training.sources))
    recorder = Recorder(
        clock=clock,
        skipped=Skipped(config.max_skipped, _noting_skipped(training, workdir)),
        batch_size=config.batch_size,
        log_every=config.log_every,
        also=unreadable.shares,
        checkpoint_every=config.checkpoint_every,
    )
    with contextlib.ExitStack() as stack:
        if distributed.is_first():
            before = told.settings.steps if told else None
            recorder.goodput = stack.enter_context(GoodputLog(workdir, clock, finished=before))
        start, state, best = _resumed(training, state, workdir, told, recorder, stack)
        clock.switch(DATA)
        if recorder.goodput:
            recorder.goodput.write(start)
        held_out = Validation(config, training.held_out, training.tasks, training.model, training.mesh)
        held_out.compile(compiler)
        recorder.validations = validations = _validations(config, held_out, workdir, told, best)
        if distributed.is_first():
            writer = MetricWriter(workdir, start, validates=validations.is_due(start))
            recorder.writer = stack.enter_context(writer)
        progress = Progress(f"training {workdir}", config.steps, start=start, scale=config.batch_size)
        recorder.progress = stack.enter_context(progress)
        profiled = config.profiled if distributed.is_first() else range(0)
        step = measured(training.step, clock, training.mesh, config.model.dtype)
        step = stack.enter_context(traced(step, profiled, start, workdir / PROFILE))
        read = training.batches(start, rows=local_rows(training.mesh, config.batch_size), on_bad=unreadable.add)
        batches: Iterator[Batch] = unreadable.guard(read)
        if training.mesh.is_multi_process:
            batches = _with_stop(batches)
        state = fit(step, state, batches, training.schedule, range(start, config.steps), training.mesh, recorder)
        clock.switch(SAVE)
    if distributed.is_first():
        _tell_strange(workdir, held_out.kept_remarks)
    _describe(training, state, workdir, validations, clock, unreadable.found | held_out.unreadable)
    distributed.wait("described")


def _checked(
    config: TrainConfig,
    workdir: Path,
    changed: Collection[str],
    clock: Clock,
    compiler: Executor,
    whole: contextlib.ExitStack,
) -> Training:
    """Everything, on every host, before anything is written; from then on they stop together."""
    facts: dict[str, str] = {}
    with distributed.together(facts, config.ready_within_s):
        check(workdir, config, changed)
        mesh = mesh_of(config)
        clock.switch(DATA)
        # Several processes first have to agree on what they compile.
        training = prepare(config, mesh, None if mesh.is_multi_process else compiler)
        facts |= self_test.facts(config, training.sources, workdir, mesh)
        whole.enter_context(preemption.deferred())
    return training


def _claim(
    training: Training, state: State, workdir: Path, told: description.Description | None, changed: Collection[str]
) -> None:
    """The workdir is this run's from here on, if its checkpoints are, and the disk can hold those to come."""
    config, folder = training.config, workdir / trained.CHECKPOINTS
    with distributed.together({}, config.ready_within_s):
        check_same(folder, training.fingerprint(), state)
        if distributed.is_first():
            check_space(folder, state, 2 * bool(config.best) + bool(told))
            claim(workdir, config, changed=changed)
            (workdir / RESULT_FILE).unlink(missing_ok=True)
    with distributed.together({}, config.ready_within_s):
        self_test.check_shared(workdir)


def _resumed(
    training: Training,
    state: State,
    workdir: Path,
    told: description.Description | None,
    recorder: Recorder,
    stack: contextlib.ExitStack,
) -> tuple[int, State, Best]:
    """The updates done, the state after them and the best model so far: of the newest checkpoint, if there is one."""
    config, folder = training.config, workdir / trained.CHECKPOINTS
    # The model of the finished run can be loaded until the longer one is.
    kept = [told.checkpoint] if told else []
    recorder.checkpoints = checkpoints = stack.enter_context(Checkpoints(folder, training.fingerprint(), chosen=kept))
    start = distributed.agreed(f"the newest checkpoint in {folder}", checkpoints.latest_step())
    if start is None:
        return 0, state, Best()
    recorder.clock.switch(RESTORE)
    state, meta = checkpoints.restore(start, state)
    recorder.clock.resume(meta["clock"])
    if told and start == told.settings.steps:
        say(f"{workdir} {going_on.schedule(config, told)}")
    else:
        say(f"{workdir}: resumes after step {start} of {config.steps}")
    return start, state, Best(**meta.get("best", {}))


def _validations(
    config: TrainConfig, held_out: Validation, workdir: Path, told: description.Description | None, best: Best
) -> Validations:
    """When the models are measured on what is held out, and which one is kept."""

    def measure(done: int, state: State) -> dict[str, float]:
        metrics = held_out.measure(everywhere(held_out.mesh, trained_variables(state)))
        if done < config.steps:
            say(f"{workdir}: step {done}, {_pairs(metrics)}")
        return metrics

    return Validations(
        measure,
        config.validate_every if config.validation else 0,
        config.steps,
        metric=config.best,
        patience=config.patience,
        keep=lambda done: held_out.keep(workdir),
        best=best,
        ended=told.settings.steps if told else 0,
    )


def _describe(
    training: Training,
    state: State,
    workdir: Path,
    validations: Validations,
    clock: Clock,
    unreadable: Mapping[str, str],
) -> None:
    """Writes model.json, of the model to keep."""
    config, done, kept = training.config, validations.done, validations.kept
    variables = everywhere(training.mesh, trained_variables(state))
    if not distributed.is_first():
        return
    trained.describe(
        workdir,
        config.model_copy(update={"model": training.network}),
        training.tasks,
        validations.kept_metrics,
        variables=variables if kept == done else restore_variables(workdir / trained.CHECKPOINTS, kept),
        training={
            "steps": done,
            "seconds": clock.seconds,
            **clock.rates(config.batch_size),
            "parameters": count_parameters(state["params"]),
            "loss_weights": training.weights,
            "planned_steps": config.steps,
            "labelled": training.labelled,
            "untrained": training.untrained,
            "licences": _licences(config, training),
            **({"best": validations.best.record(config.best)} if config.best else {}),
            "unreadable": unreadable,
        },
        validation=going_on.asked(config, workdir),
        steps=done,
        step=kept,
    )


def _licences(config: TrainConfig, training: Training) -> dict[str, str]:
    """Of all that the model has been trained on, by this run and the one that it started from."""
    before = description.read(config.init).training.licences if config.init else {}
    return {**before, **training.licences, **licences_of(training.sources)}


def _measure_again(
    config: TrainConfig, workdir: Path, told: description.Description, whole: contextlib.ExitStack
) -> None:
    """Measures a finished model on the validation of `config`, and nothing else; it stays as it is until then."""
    with distributed.together({}, config.ready_within_s):
        mesh = mesh_of(config)
        model = trained.load(workdir, mesh, to_train=True)
        alone = without_labels(config.tasks)
        held_out = validation.opened(config.validation, config.data_dir, model.tasks, alone)
        columns = [column for held in held_out for column in held.source.columns]
        check_unchanged(columns, config.ready_within_s)
        for held in (held_out := validation.to_measure(held_out, model.tasks)):
            supervision.check_held_out(held.source, model.tasks, config.input_hw, held.where)
        check_measured(config, validation.names_of(held_out, model.tasks))
        whole.enter_context(preemption.deferred())
    with distributed.together({}, config.ready_within_s):
        if distributed.is_first():
            claim(workdir, config)
            (workdir / RESULT_FILE).unlink(missing_ok=True)
    say(f"{workdir}: finished, but validated otherwise; measuring it on config.validation")
    again = Validation(config, held_out, model.tasks, model.model, mesh)
    metrics = again.measure(put_replicated(mesh, model.variables))
    if distributed.is_first():
        # Otherwise the rows are about models of which it was the best, or of other validations.
        if told.checkpoint == told.settings.steps and not any(
            len(steps) > 1 for steps, _ in curves.validations(workdir).values()
        ):
            with MetricWriter(workdir, told.settings.steps, validates=True) as writer:
                writer.write(told.settings.steps, {f"{VALIDATION}{name}": value for name, value in metrics.items()})
        _tell_strange(workdir, again.remarks())
        again.keep(workdir)
        description.change(workdir, metrics=metrics, validation=going_on.asked(config, workdir))
    distributed.wait("described")


def _tell_strange(workdir: Path, remarks: Sequence[str]) -> None:
    for remark in remarks:
        say(f"look at {workdir}: {remark}")


def _with_stop(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Adds to the batches whether this process is to stop, which the devices pass on to the other processes."""
    for batch in batches:
        yield {**batch, STOP: np.full(len(batch["index"]), preemption.requested(), np.float32)}


def _noting_skipped(training: Training, workdir: Path) -> Callable[[int], None]:
    """A function that records which update was skipped, and the images of its batch."""
    path = workdir / SKIPPED_FILE
    if distributed.is_first() and path.exists():  # a kill can leave a truncated line
        os.truncate(path, read_bytes(path, "move it away").rfind(b"\n") + 1)

    def note(update: int) -> None:
        say(f"update {update} is skipped, its loss or gradient is not finite; see {path}")
        images = training.examples(update)
        if distributed.is_first():
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"update": update, "images": images}) + "\n")

    return note


def _check_minimum(config: TrainConfig, workdir: Path, metrics: Mapping[str, float]) -> None:
    check_measured(config, metrics)
    for name, least in config.minimum.items():
        if metrics[name] < least:
            raise UserError(
                f"{workdir} reached {name} = {metrics[name]:.4g}, below config.minimum = {least:g}; "
                "raise config.steps, and the training goes on from here, or lower the minimum"
            )


def _pairs(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items()) or "not validated"
