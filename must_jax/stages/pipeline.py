"""Pipeline: stages run in sequence in one process, each in its own folder, then a report."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from must_jax.config import LabelConfig, PipelineConfig, PrepareConfig, ReportConfig, TrainConfig
from must_jax.errors import UserError, told
from must_jax.files import write_json
from must_jax.planning.sequence import ordered, placed, stage_entries
from must_jax.progress import say
from must_jax.report.page import duration
from must_jax.runs import results
from must_jax.runs.pipelines import TIMES_FILE, note_failure, timed, times
from must_jax.runs.workdir import (
    NOT_SET,
    REPORT,
    RESULT_FILE,
    Difference,
    check,
    check_unused,
    claim,
    differences,
    release,
)
from must_jax.stages import STAGES

_NAMED = 3  # keys in which a stage differs, at most
SO_FAR_IMAGES = 24  # ranked in the reports on the way
_KEY = re.compile(r"(?<![\w/.])config\.(?!stages\.|json\b|py\b)(?=[a-z])")  # of a stage, in a message
_ACCEPTED = re.compile(r"\baccept_failed=([\w,]+)")
PLAIN_WIDTH = 120  # characters per line without a terminal
TABLE_WIDTH = 1000  # at most, likewise: what a file shortens cannot be seen by making a window wider


def run(config: PipelineConfig, workdir: Path) -> None:
    """Runs each stage in workdir/NAME, writes `report/index.html` after each and, last, `result.json`.

    An interrupted pipeline resumes where it was: every stage resumes or says that it is finished. A stage whose config
    or inputs have changed since is repeated, with those that read it; what it had made is moved to NAME.before-N.

    Raises:
      UserError: all errors that the stages' configs reveal, before any work; what a stage raises, after the report of
        the finished ones; a workdir of another kind of run.
    """
    check(workdir, config)
    report = workdir / REPORT
    from must_jax.engine import distributed
    from must_jax.planning import renewal

    stages = {name: placed(config.stages[name], config, workdir) for name in ordered(config)}
    repeated = renewal.planned(stages, workdir)
    finished = [name for name in stages if renewal.is_finished(stages[name], workdir / name) and name not in repeated]
    if (workdir / RESULT_FILE).exists() and len(finished) == len(stages) and renewal.is_same(config, workdir):
        say(f"{workdir} is finished; nothing to do, see {report}")
        return
    if distributed.processes() > 1:
        raise UserError(
            "a pipeline runs in one process; to use several, start its stages one by one with their own configs"
        )
    _check_all(stages, finished, config, workdir)
    (workdir / RESULT_FILE).unlink(missing_ok=True)  # before the config there is this one
    claim(workdir, config)
    repeated = renewal.planned(stages, workdir, lambda name, stage: _take_back(name, stage, workdir))
    for name in repeated:
        check_unused(workdir / name)
    finished = [name for name in stages if renewal.is_finished(stages[name], workdir / name) and name not in repeated]
    _tell(repeated, finished, stages, workdir)
    with _rendering_ahead([stage for name, stage in stages.items() if name not in finished], config.data_dir):
        _run_all(stages, finished, config, workdir)

    say("\nreport")
    contents = _write_report(config, workdir)
    spent = {name: seconds for name, seconds in times(workdir).items() if name in (*stages, REPORT.parent.name)}
    write_json(workdir / RESULT_FILE, {"seconds": contents.seconds, "stages": spent})
    _print_summary(contents.rows, contents.starts)
    say(f"report: {report}\ntotal time: {duration(contents.seconds)}")


def _run_all(stages: Mapping[str, Any], finished: Collection[str], config: PipelineConfig, workdir: Path) -> None:
    for number, (name, stage) in enumerate(stages.items(), start=1):
        say(f"\n[{number}/{len(stages)}] {name} ({stage.stage})")
        try:
            _run_stage(name, stage, workdir)
        except UserError as error:
            error.args = (_as_set_here(str(error), name, stages, workdir),)
            note_failure(workdir, name, str(error))  # before anything else can go wrong
            if number > 1:
                say(f"{name} has failed; first the report of what is finished, then why")
                _report_so_far(config, workdir)
            raise
        except Exception as error:
            note_failure(workdir, name, told(error))
            raise
        if name not in finished and number < len(stages):
            _report_so_far(config, workdir, [name])
        import jax  # not needed if everything is finished

        jax.clear_caches()  # other stages do not use these programs, and they take memory


def _rendering_ahead(stages: Sequence[Any], data_dir: str) -> contextlib.AbstractContextManager[None]:
    """While these stages run, the `scenes` of those after the first are rendered at the lowest priority."""
    from must_jax.data import scenes

    first, *later = [re.findall(r'"scenes/(\w+):', stage.model_dump_json()) for stage in stages] or [[]]
    return scenes.rendering_ahead((name for names in later for name in names if name not in first), data_dir)


def _check_all(stages: Mapping[str, Any], finished: Sequence[str], config: PipelineConfig, workdir: Path) -> None:
    """Raises UserError if anything is wrong with any stage that is to run; if several things are, prints them all."""
    from must_jax.planning.foreseen import Foreseen
    from must_jax.planning.renewal import is_unchanged

    foreseen, found = Foreseen(workdir, config.data_dir), list[str]()
    for name, stage in stages.items():
        kept = name in finished and is_unchanged(stage, workdir / name)
        if not kept:  # inputs of one that is kept may be gone
            found += [f"config.stages.{name}: {mistake}" for mistake in foreseen.mistakes(stage)]
        foreseen.add(name, stage, kept)
    if not found:
        for line in foreseen.told():
            say(line)
    if len(found) == 1:
        raise UserError(found[0])
    if found:
        for each in found:
            say(f"- {each}")
        raise UserError(f"{len(found)} mistakes, listed above, in the stages of this pipeline; nothing has begun")


def _tell(repeated: Mapping[str, str], finished: Sequence[str], stages: Mapping[str, Any], workdir: Path) -> None:
    """What is repeated and why, how to keep what is there, and where that will be if it is not kept."""
    for name, why in repeated.items():
        changed = list(differences(workdir / name, stages[name]))
        if why in map(str, changed):  # otherwise its own values would not keep it
            say(f"{name} is repeated: {_what_differs(name, changed)}")
        else:
            say(f"{name} is repeated: {_KEY.sub(f'config.stages.{name}.', why)}")
    if repeated:
        kept = f"; kept: {', '.join(finished)}" if finished else ""
        say(f"what these have made stays, in {workdir}/NAME.before-N, to be taken back with the old values{kept}")


def _what_differs(name: str, changed: Sequence[Difference]) -> str:
    """In which keys a stage differs from the run in its folder, and how that one is kept."""
    whose = f"config.stages.{name}."
    told = [f"{whose}{key} was {there!r} and is {here!r}" for key, there, here in changed[:_NAMED]]
    if len(changed) > _NAMED:
        return f"{', '.join(told)}, and {len(changed) - _NAMED} more keys differ"
    if any(NOT_SET in (there, here) for _, there, here in changed):  # which is more than a value
        return f"{', '.join(told)}; to keep what it has made, set this in the config file as it was"
    as_it_was = " ".join(f"--{whose}{key}={shlex.quote(_written(there))}" for key, there, _ in changed)
    old = "values" if len(changed) > 1 else "value"
    return f"{', '.join(told)}; to keep what it has made, set the old {old} in the config file, or add {as_it_was}"


def _written(value: Any) -> str:
    """A value without keys as `parsing.override` reads it."""
    return (value or "none") if isinstance(value, str) else json.dumps(value) if value not in (None, [], {}) else "none"


def _as_set_here(message: str, name: str, stages: Mapping[str, Any], workdir: Path) -> str:
    """A stage's message with the pipeline's keys; labels that one stage accepts must be accepted by their readers."""
    message = _KEY.sub(f"config.stages.{name}.", message)
    if isinstance(stages[name], LabelConfig) and (accepted := _ACCEPTED.search(message)):
        folder = str(workdir / name)
        for reader, config in stages.items():
            if isinstance(config, TrainConfig) and any(folder in each.labels for each in config.train):
                message += f", and let {reader} learn from these labels with config.stages.{reader}.{accepted[0]}"
    return message


def _run_stage(name: str, stage: Any, workdir: Path) -> None:
    from must_jax.planning import asides, renewal

    folder = workdir / name
    _take_back(name, stage, workdir)
    if why := renewal.outdated(stage, folder):  # now that the stages before it are finished
        aside = asides.set_aside(stage, folder)
        why = _KEY.sub(f"config.stages.{name}.", why)
        say(f"{name} is repeated: {why}" + (f"; what it had made is now in {aside}" if aside else ""))
        spent = times(workdir)
        before = spent.pop(name, None)
        write_json(workdir / TIMES_FILE, spent | ({aside.name: before} if aside and before is not None else {}))
    note_failure(workdir, name, "")
    try:
        with timed(name, workdir):
            renewal.record(stage, folder)  # which renders `scenes`
            STAGES[stage.stage](stage, folder)
            if isinstance(stage, PrepareConfig):  # which writes only to the data folder
                claim(folder, stage)
        if isinstance(stage, PrepareConfig):
            write_json(folder / RESULT_FILE, {"seconds": times(workdir)[name]})
    finally:
        release(folder)


def _take_back(name: str, stage: Any, workdir: Path) -> None:
    """Brings back what the stage has made before, if its config and what it reads are those again."""
    from must_jax.planning import asides

    taken = asides.take_back(stage, workdir / name)
    if not taken:
        return
    say(f"{name} is what it was before, taken back from {', '.join(map(str, taken))}")
    result, spent = results.read(workdir / name, results.Result), times(workdir)
    seconds = spent.pop(taken[0].name, result.seconds if result else None)
    if taken[0].parent == workdir and seconds is not None:  # all of it
        write_json(workdir / TIMES_FILE, {**spent, name: seconds})


def _report_so_far(config: PipelineConfig, workdir: Path, pictured: Sequence[str] | None = None) -> None:
    """As `_write_report`; whatever goes wrong with the page is told, and is no reason to end a pipeline."""
    try:
        _write_report(config, workdir, pictured, SO_FAR_IMAGES)
    except Exception as error:
        say(f"no report: {error}" if isinstance(error, UserError) else f"no report: {type(error).__name__}: {error}")
    else:
        say(f"so far: {workdir / REPORT}")


def _write_report(
    config: PipelineConfig,
    workdir: Path,
    pictured: Sequence[str] | None = None,
    ranked_images: int | None = None,
) -> Any:
    """Writes the report, with the time that all of it took up to then. Returns its contents, a `html.Report`.

    Args:
      pictured: the stages to show pictures of, which take time; None = all.
      ranked_images: at most so many, as in `ReportConfig`; None = its own number.
    """
    from must_jax.report import html
    from must_jax.reporting import overview

    own, found = REPORT.parent.name, stage_entries(config, workdir)
    shown = found if pictured is None else [entry for entry in found if entry.name in pictured]
    ranked = ReportConfig().ranked_images if ranked_images is None else ranked_images
    with timed(own, workdir):
        contents = overview.collect(config.title, found, ranked, shown)
    contents = replace(contents, report_seconds=times(workdir)[own])
    html.write(contents, workdir / REPORT)
    return contents


def _print_summary(rows: Sequence[Any], starts: Mapping[str, Any]) -> None:
    from must_jax.report import scorecard

    console = of_tables = Console(stderr=True)
    if not console.is_terminal:
        console, of_tables = (Console(stderr=True, width=width) for width in (PLAIN_WIDTH, TABLE_WIDTH))
    for card in scorecard.tables(rows, starts):
        what = "one seed" if card.has_one_seed else "mean ± sd"
        table = Table(title=f"{card.mode}, {card.cost} each: {what} of test", box=box.SIMPLE, title_justify="left")
        table.add_column("starting point", no_wrap=True)
        table.add_column("image-steps\nbefore", justify="right", overflow="fold")
        for dataset, (_, metric) in card.datasets.items():
            head = "\n".join([*dataset.replace("_", "_ ").split(), metric])  # rooms_depth breaks where a person would
            table.add_column(head, justify="right", overflow="fold")
        for init, cells in card.cells.items():
            before = starts[init].image_steps if init in starts else 0
            table.add_row(
                init,
                f"{before:,}" if before else "none",
                *(_cell(cells.get(dataset), card.best(dataset) == init) for dataset in card.datasets),
            )
        of_tables.print(table)
        for line in scorecard.told(card, starts):
            console.print(f"{card.mode}: {line}", highlight=False)
    if rows:
        console.print(scorecard.RULE, highlight=False)


def _cell(cell: Any, best: bool) -> str:
    if cell is None:
        return ""
    return f"[bold]{cell}[/bold]" if best else str(cell)
