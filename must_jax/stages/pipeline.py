"""Pipeline: stages run in sequence in one process, each in its own folder, then a report."""

from __future__ import annotations

import contextlib
import graphlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from must_jax.config import AuditConfig, LabelConfig, PipelineConfig, PrepareConfig, ReportConfig, TrainConfig
from must_jax.errors import UserError
from must_jax.files import write_json
from must_jax.progress import say
from must_jax.reading import read_json
from must_jax.stages import STAGES
from must_jax.stages.workdir import PLACE, REPORT, RESULT_FILE, check, claim

TIMES_FILE = "times.json"  # stage -> seconds over all restarts
SO_FAR_IMAGES = 24  # ranked in the reports on the way
_KEY = re.compile(r"(?<![\w/.])config\.(?!stages\.|json\b|py\b)(?=[a-z])")  # of a stage, in a message
PLAIN_WIDTH = 120  # characters per line without a terminal


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
    from must_jax.stages import renewal

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
    _tell(repeated, finished, workdir)
    claim(workdir, config)
    (workdir / RESULT_FILE).unlink(missing_ok=True)
    for number, (name, stage) in enumerate(stages.items(), start=1):
        say(f"\n[{number}/{len(stages)}] {name} ({stage.stage})")
        try:
            _run_stage(name, stage, workdir)
        except UserError as error:
            error.args = (_KEY.sub(f"config.stages.{name}.", str(error)),)  # as it is set here
            if number > 1:
                say(f"{name} has failed: {error}")  # before anything else can go wrong
                _report_so_far(config, stages, workdir)
            raise
        if name not in finished and number < len(stages):
            _report_so_far(config, stages, workdir, [name], SO_FAR_IMAGES)
        import jax  # not needed if everything is finished

        jax.clear_caches()  # other stages do not use these programs, and they take memory

    say("\nreport")
    with _timed(REPORT.parent.name, workdir):
        rows, starts = _write_report(config, stages, workdir)
    spent = times(workdir)
    total = sum(spent.values())
    write_json(workdir / RESULT_FILE, {"seconds": total, "stages": spent})

    from must_jax.report.page import duration

    _print_summary(rows, starts)
    say(f"report: {report}\ntotal time: {duration(total)}")


def _check_all(stages: Mapping[str, Any], finished: Sequence[str], config: PipelineConfig, workdir: Path) -> None:
    """Raises UserError if anything is wrong with any stage that is to run; if several things are, prints them all."""
    from must_jax.stages.foreseen import Foreseen
    from must_jax.stages.renewal import is_unchanged

    foreseen, found = Foreseen(workdir, config.data_dir), list[str]()
    for name, stage in stages.items():
        kept = name in finished and is_unchanged(stage, workdir / name)
        if not kept:  # inputs of one that is kept may be gone
            found += [f"config.stages.{name}: {mistake}" for mistake in foreseen.mistakes(stage)]
        foreseen.add(name, stage, kept)
    if len(found) == 1:
        raise UserError(found[0])
    if found:
        for each in found:
            say(f"- {each}")
        raise UserError(f"{len(found)} mistakes, listed above, in the stages of this pipeline; nothing has begun")


def _tell(repeated: Mapping[str, str], finished: Sequence[str], workdir: Path) -> None:
    if repeated:
        say("\n".join(f"{name} is repeated: {why}" for name, why in repeated.items()))
        kept = f"; kept: {', '.join(finished)}" if finished else ""
        say(f"what these stages have made stays, in {workdir}/NAME.before-N{kept}")


def ordered(config: PipelineConfig) -> list[str]:
    """The stages' names, each after those whose folders or image sets its config refers to, otherwise as written.

    Training also comes after the audits of what it reads.

    Raises:
      UserError: two stages wait for each other.
    """
    sets = {stage.name: name for name, stage in config.stages.items() if isinstance(stage, PrepareConfig)}
    reads = {}
    for name, stage in config.stages.items():
        text = stage.model_dump_json()
        reads[name] = [other for other in re.findall(r"{workdir}/([^/\"]+)", text) if other in config.stages]
        reads[name] += [sets[each] for each in re.findall(r'"([a-z][a-z0-9_]*):', text) if sets.get(each, name) != name]
    labelled = {name for name, stage in config.stages.items() if isinstance(stage, LabelConfig)}
    audits = {n: labelled & set(read) for n, read in reads.items() if isinstance(config.stages[n], AuditConfig)}
    for name, stage in config.stages.items():
        if isinstance(stage, TrainConfig):
            reads[name] += [audit for audit, read in audits.items() if read & set(reads[name])]
    try:
        return list(graphlib.TopologicalSorter(reads).static_order())
    except graphlib.CycleError as error:
        raise UserError(
            f"config.stages: {' waits for '.join(error.args[1])}; let one of them read another folder"
        ) from None


def placed(stage: Any, config: PipelineConfig, workdir: Path) -> Any:
    """The stage's config inside this pipeline: with its folder for "{workdir}", its data folder and its devices."""

    def fill(value: Any) -> Any:
        match value:
            case str():
                return value.replace(PLACE, str(workdir))
            case dict():
                return {key: fill(item) for key, item in value.items()}
            case list() | tuple():
                return [fill(item) for item in value]
        return value

    handed_on = {"data_dir": config.data_dir} | ({"devices": config.devices} if config.devices else {})
    known = {key: value for key, value in handed_on.items() if key in type(stage).model_fields}
    return type(stage).model_validate(fill(stage.model_dump()) | known)


def _run_stage(name: str, stage: Any, workdir: Path) -> None:
    from must_jax.stages import renewal

    folder = workdir / name
    if why := renewal.outdated(stage, folder):  # now that the stages before it are finished
        aside = renewal.set_aside(stage, folder)
        say(f"{name} is repeated: {why}" + (f"; what it had made is now in {aside}" if aside else ""))
        write_json(workdir / TIMES_FILE, {other: spent for other, spent in times(workdir).items() if other != name})
    renewal.record(stage, folder)
    began = time.monotonic()
    with _timed(name, workdir):
        STAGES[stage.stage](stage, folder)
        if isinstance(stage, PrepareConfig):  # which writes only to the data folder
            claim(folder, stage)
            write_json(folder / RESULT_FILE, {"seconds": time.monotonic() - began})


@contextlib.contextmanager
def _timed(name: str, workdir: Path) -> Iterator[None]:
    """Adds the time that the block takes to that of `name`."""
    began = time.monotonic()
    try:
        yield
    finally:
        before = times(workdir)
        write_json(workdir / TIMES_FILE, {**before, name: before.get(name, 0.0) + time.monotonic() - began})


def times(workdir: Path) -> dict[str, float]:
    """Stage -> seconds over all restarts; "report" for the reports."""
    path = workdir / TIMES_FILE
    return read_json(path, dict[str, float], "remove it, only timings are lost") if path.exists() else {}


def _report_so_far(
    config: PipelineConfig,
    stages: Mapping[str, Any],
    workdir: Path,
    pictured: Sequence[str] | None = None,
    ranked_images: int = 0,
) -> None:
    """As `_write_report`; whatever goes wrong with the page is told, and is no reason to end a pipeline."""
    try:
        with _timed(REPORT.parent.name, workdir):
            _write_report(config, stages, workdir, pictured, ranked_images)
    except Exception as error:
        say(f"no report: {error}" if isinstance(error, UserError) else f"no report: {type(error).__name__}: {error}")
    else:
        say(f"so far: {workdir / REPORT}")


def _write_report(
    config: PipelineConfig,
    stages: Mapping[str, Any],
    workdir: Path,
    pictured: Sequence[str] | None = None,
    ranked_images: int | None = None,
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Writes the report. Returns the rows and starting points of the scorecards in it.

    Args:
      pictured: the stages to show pictures of, which take time; None = all.
      ranked_images: at most so many, as in `ReportConfig`; None = its own number.
    """
    from must_jax.stages import overview

    seconds = times(workdir)
    entries = [overview.Entry(name, stage, workdir / name, seconds.get(name)) for name, stage in stages.items()]
    shown = entries if pictured is None else [entry for entry in entries if entry.name in pictured]
    ranked = ReportConfig().ranked_images if ranked_images is None else ranked_images
    contents = overview.write(config.title, entries, workdir, ranked, shown)
    return contents.rows, contents.starts


def _print_summary(rows: Sequence[Any], starts: Mapping[str, Any]) -> None:
    from must_jax.report import scorecard

    console = Console(stderr=True)
    if not console.is_terminal:
        console = Console(stderr=True, width=PLAIN_WIDTH)
    for card in scorecard.tables(rows, starts):
        what = "one seed" if card.has_one_seed else "mean ± sd"
        table = Table(title=f"{card.mode}, {card.cost} each: {what} of test", box=box.SIMPLE, title_justify="left")
        table.add_column("starting point")
        table.add_column("image-steps\nbefore", justify="right")
        for dataset, (_, metric) in card.datasets.items():
            table.add_column(f"{dataset}\n{metric}", justify="right")
        for init, cells in card.cells.items():
            before = starts[init].image_steps if init in starts else 0
            table.add_row(
                init,
                f"{before:,}" if before else "none",
                *(_cell(cells.get(dataset), card.best(dataset) == init) for dataset in card.datasets),
            )
        console.print(table)
        for line in scorecard.told(card, starts):
            console.print(f"{card.mode}: {line}", highlight=False)
    if rows:
        console.print(scorecard.RULE, highlight=False)


def _cell(cell: Any, best: bool) -> str:
    if cell is None:
        return ""
    return f"[bold]{cell}[/bold]" if best else str(cell)
