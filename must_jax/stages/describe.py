"""Describe: contents of a workdir, progress of its run, and where the time went. Read-only, and does not load jax."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic
from rich.console import Console, RenderableType
from rich.table import Table

from must_jax.config import DescribeConfig, PipelineConfig
from must_jax.description import BestRecord
from must_jax.engine import goodput
from must_jax.engine.clock import SPANS
from must_jax.engine.metric_log import read_rows
from must_jax.errors import UserError
from must_jax.planning.sequence import ordered
from must_jax.reading import read_json_lines
from must_jax.report import scorecard
from must_jax.report.page import duration
from must_jax.report.terminal import beside, curve
from must_jax.runs import results
from must_jax.runs.briefs import brief, labelled_columns, state, validated
from must_jax.runs.curves import headlines, losses, validations
from must_jax.runs.pipelines import failures, times
from must_jax.runs.workdir import CONFIG_FILE, RESULT_FILE, SKIPPED_FILE, history, stored
from must_jax.stages import STAGES

PLAIN_WIDTH = 80  # characters per line without a terminal
CURVE_HEIGHT, CURVE_WIDTH, GAP, BAR_WIDTH = 5, 38, 3, 30  # in characters
_DAY_S = 86400
SHOWN = 5  # entries of a long list
ACROSS = 3  # sets of a scorecard side by side


class _Skipped(pydantic.BaseModel):
    update: int


def run(config: DescribeConfig, workdir: Path) -> None:
    """Prints to stdout.

    Raises:
      UserError: the run does not exist.
    """
    if not (workdir / CONFIG_FILE).exists():
        raise UserError(f"there is no run in {workdir}; start it first, or name its folder with --workdir")
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    for part in describe(workdir, ascii=not console.encoding.startswith("utf")):
        console.print(part, markup=False, soft_wrap=isinstance(part, str))


def describe(workdir: Path, *, ascii: bool = False) -> Iterator[RenderableType]:
    """The description of a run, from top to bottom; `ascii`: use only ASCII characters."""
    config = stored(workdir, STAGES)
    yield ", ".join(filter(None, [f"{workdir}: {config['stage']}", state(workdir), brief(config, workdir).progress]))
    if details := _DETAILS.get(config["stage"]):
        yield from details(config, workdir, ascii)


def _training(config: Mapping[str, Any], workdir: Path, ascii: bool) -> Iterator[RenderableType]:
    if lines := goodput.read(workdir):
        yield from _time_spent(goodput.total(lines), ascii)
    finished = results.read(workdir, results.TrainResult)
    yield from _speeds(read_rows(workdir), finished)
    series = losses(workdir, config["tasks"])
    series |= {name: points for name, points in headlines(validations(workdir)).items() if len(points[0]) > 1}
    if series:
        yield ""
        yield "\n".join(beside([_panel(name, *points, ascii) for name, points in series.items()], 2, GAP))
    if measured := validated(workdir):
        least = config.get("minimum", {})
        rows = [(name, f"{value:.4g}", f"{least[name]:g}" if name in least else "") for name, value in measured.items()]
        yield ""
        yield _table(("validation", "value", "at least"), rows)
    yield from _going_on(config, workdir, finished)
    yield from _first_few("unreadable images", finished.unreadable if finished else {})
    if skipped := read_json_lines(workdir / SKIPPED_FILE, _Skipped):
        latest = ", ".join(str(row.update) for row in skipped[-SHOWN:])
        yield f"\nskipped updates: {len(skipped)}, the last ones {latest} ({SKIPPED_FILE} has all)"


def _going_on(
    config: Mapping[str, Any], workdir: Path, finished: results.TrainResult | None
) -> Iterator[RenderableType]:
    """Which model is kept, and what was changed after the run was finished."""
    best = finished.best if finished else _best_so_far(config["best"], workdir)
    if best and best.step is not None:
        after = _count(best.since, "validation")
        yield f"\nbest {best.metric}: {best.value:.4g} at step {best.step:,}, {after} after it"
    for former in history(workdir):
        changes = ", ".join(f"{key} {value:,}" for key, value in former.items() if isinstance(value, int))
        yield f"\nuntil {former.get('until')}: {changes}"
    if finished and finished.licences:
        yield ""
        yield _table(
            ("trained on", "licence"),
            [(name, licence or "not known") for name, licence in finished.licences.items()],
            left=("licence",),
        )
    if finished and finished.untrained:
        yield f"\nnever trained, and cannot label: {', '.join(finished.untrained)}"


def _best_so_far(metric: str, workdir: Path) -> BestRecord | None:
    steps, values = validations(workdir).get(metric, ([], []))
    known = [(value, -step) for step, value in zip(steps, values, strict=True) if not math.isnan(value)]
    if not known:
        return None
    value, step = max(known)
    return BestRecord(metric=metric, value=value, step=-step, since=sum(each > -step for each in steps))


def _time_spent(spent: goodput.Goodput, ascii: bool) -> Iterator[RenderableType]:
    whole = max(sum(spent.seconds.values()), 1e-9)
    rows = []
    for name in (*SPANS, goodput.LOST, goodput.DOWN):
        if (seconds := spent.seconds.get(name, 0.0)) > 0:
            bar = ("#" if ascii else "█") * round(BAR_WIDTH * seconds / whole)
            rows.append((name.replace("_", " "), _duration(seconds), f"{100 * seconds / whole:.1f} %", bar))
    yield ""
    yield _table(("time spent on", "time", "share", ""), [*rows, ("all", _duration(whole))], left=("",))
    last = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(spent.last))
    ago = max(0.0, time.time() - spent.last)
    again = f"{_count(spent.processes - 1, 'restart')}, {_count(spent.lost_steps, 'update')} done again"
    yield f"\n{again}; last line {last}, {_since(ago)} ago"


def _speeds(rows: list[dict[str, Any]], finished: results.TrainResult | None) -> Iterator[str]:
    logged: dict[str, Any] = next((row for row in reversed(rows) if row.get("images_per_second") is not None), {})
    said = []
    for when, values in (("all steps:", finished.model_dump() if finished else {}), ("last logged:", logged)):
        speed, waited, mfu = (values.get(name) for name in ("images_per_second", "data_wait_share", "mfu"))
        if speed is not None and waited is not None:
            told = f"{when} {speed:,.4g} images/s, {100 * waited:.1f} % waiting for data"
            said.append(told + (f", mfu {100 * mfu:.1f} %" if mfu is not None else ""))
    if said:
        yield "\n" + "\n".join(said)


def _panel(name: str, steps: list[int], values: list[float], ascii: bool) -> list[str]:
    arrow, until = "->" if ascii else "→", f"step {steps[-1]:,}"
    title = f"{name} {values[0]:.4g} {arrow} {values[-1]:.4g}"[: CURVE_WIDTH - len(until) - 1]
    head = f"{title:<{CURVE_WIDTH - len(until)}}{until}"
    return [head, *curve(steps, values, CURVE_WIDTH, CURVE_HEIGHT, ascii=ascii)]


def _labelling(config: Mapping[str, Any], workdir: Path, ascii: bool) -> Iterator[RenderableType]:
    rows = [
        (
            column.name,
            f"{column.done:,} of {column.shards:,}",
            f"{column.images:,}",
            f"{column.absent:,}",
            f"{column.bytes / 2**20:.1f}",
        )
        for column in labelled_columns(workdir)
    ]
    yield ""
    yield _table(("column", "shards", "images", "no label", "MiB"), rows)
    if finished := results.read(workdir, results.LabelResult):
        speed = f"{finished.images_per_second:,.4g} images/s"
        yield f"\n{speed}, and {_duration(finished.compile_seconds)} of compilation"
        yield from _first_few("images without a label", {image.name: image.reason for image in finished.bad})


def _evaluation(config: Mapping[str, Any], workdir: Path, ascii: bool) -> Iterator[RenderableType]:
    if not (finished := results.read(workdir, results.EvaluateResult)):
        return
    starts = {name: start.told for name, start in finished.starts.items()}
    for card in scorecard.tables(scorecard.read(workdir), starts):
        sets = list(card.datasets.items())
        for start in range(0, len(sets), ACROSS):
            some = sets[start : start + ACROSS]
            rows = [
                (init, *(str(cells[name]) if name in cells else "" for name, _ in some))
                for init, cells in card.cells.items()
            ]
            yield ""
            yield _table((f"{card.mode}\n{card.cost}", *(f"{name}\n{metric}" for name, (_, metric) in some)), rows)
        yield from (f"{card.mode}: {line}" for line in scorecard.told(card, starts))


def _audit(config: Mapping[str, Any], workdir: Path, ascii: bool) -> Iterator[RenderableType]:
    finished = results.read(workdir, results.AuditResult)
    if finished and finished.columns:
        rows = [(Path(folder).name, told.verdict) for folder, told in finished.columns.items()]
        yield ""
        yield _table(("column", "verdict"), rows)


def _pipeline(config: Mapping[str, Any], workdir: Path, ascii: bool) -> Iterator[RenderableType]:
    seconds_of, failed, rows = times(workdir), failures(workdir), []
    names = ordered(PipelineConfig.model_validate(config))
    for name in names:
        found = brief(config["stages"][name], workdir / name)
        seconds = seconds_of.get(name, found.seconds)
        took = "" if seconds is None else _duration(seconds)
        now = "failed" if name in failed else state(workdir / name)
        rows.append((name, now, found.progress, took, found.note))
    heads = "stage", "state", "progress", "time", "result"
    yield ""
    yield _table(heads, rows, left=("state", "progress", "result"), whole=4)
    yield from (f"\n{name} has failed: {failed[name]}" for name in names if name in failed)


_DETAILS: dict[str, Callable[[Mapping[str, Any], Path, bool], Iterator[RenderableType]]] = {
    "train": _training,
    "label": _labelling,
    "evaluate": _evaluation,
    "audit": _audit,
    "pipeline": _pipeline,
}


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[str] = (), whole: int = 1) -> Table:
    """A table of names, then figures; columns in `left` are text. The first `whole` columns are never shortened."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, head in enumerate(heads):
        justify: Literal["left", "right"] = "right" if number and head not in left else "left"
        table.add_column(head, justify=justify, no_wrap=number < whole, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _first_few(what: str, found: Mapping[str, str]) -> Iterator[str]:
    """The first few, one line each."""
    if found:
        yield f"\n{what}: {len(found)}"
        yield from (f"  {name}, {reason}" for name, reason in list(found.items())[:SHOWN])
        if len(found) > SHOWN:
            yield f"  ... ({RESULT_FILE} has all)"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def _since(seconds: float) -> str:
    return duration(seconds) if seconds < 2 * _DAY_S else f"{seconds // _DAY_S:,.0f} days"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
