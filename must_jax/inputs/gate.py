"""Training refuses label columns from which nothing can be learnt."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence

from must_jax.data.batching import Source
from must_jax.engine.measuring import CHANCE
from must_jax.errors import UserError
from must_jax.inputs import sampling
from must_jax.labels import judging
from must_jax.labels.columns import LabelColumn
from must_jax.labels.judging import Finding, Score
from must_jax.labels.manifest import Manifest
from must_jax.labels.summary import Summary, summarize
from must_jax.progress import say
from must_jax.tasks.base import Task


def check(sources: Sequence[Source], tasks: Mapping[str, Task], accepted: Collection[str]) -> None:
    """Checks every column against its manifest and, if there is one, the verdict of its audit.

    For a column that is read in part, or with a threshold other than its own, a sample of labels replaces the manifest;
    it grows as long as it has few labels, or none to learn from. Findings that only deserve a look are printed, as are
    failures of `accepted` tasks.

    Raises:
      UserError: names all columns that failed.
    """
    refused: dict[str, list[str]] = {}  # task -> what is wrong with its columns
    columns = [column for source in sources for column in source.columns if isinstance(column, LabelColumn)]
    for column in columns:
        task, findings = tasks[column.task], found(column, tasks[column.task])
        failed = [finding.reason for finding in findings if finding.level == "failed"]
        if failed and task.name not in accepted:
            sentence = f"the {task.name} labels in {column.folder} failed: {'; '.join(failed)}"
            refused.setdefault(task.name, []).append(sentence)
            continue
        for finding in findings:
            overridden = " (failed; accepted by config.accept_failed)" if finding.level == "failed" else ""
            say(f"look at {column.folder}: {finding.reason}{overridden}")
    if refused:
        wrong = "; ".join(itertools.chain(*refused.values()))
        raise UserError(
            f"{wrong}; re-create them, drop them, or train on them anyway with config.accept_failed={','.join(refused)}"
        )


def found(column: LabelColumn, task: Task) -> list[Finding]:
    """Findings from the labels that are read, and those of an audit of the column in its present state."""
    description, teacher = column.manifest, score_of_teacher(column.manifest, task)
    known = as_made = list(judging.known_from_manifest(description, teacher))
    if not column.is_as_made and not description.summary().not_finite:  # a sample may miss those
        known = [*_known_from_sample(column), *judging.known_from_teacher(description, teacher)]
    audited = judging.read(column.folder, description)
    return [*known, *(finding for finding in (audited.findings if audited else ()) if finding not in as_made)]


def score_of_teacher(column: Manifest, task: Task) -> Score:
    return score(task, column.teacher.metrics if column.teacher else {})


def score(task: Task, metrics: Mapping[str, float]) -> Score:
    """The task's score from metrics as returned by `measuring.evaluate`."""
    value, chance = (metrics.get(f"{task.name}/{name}") for name in (task.metric, CHANCE))
    return Score(task.metric, value, chance)


def _known_from_sample(column: LabelColumn) -> Iterator[Finding]:
    look = functools.partial(_summary, column)
    for total in sampling.sums(f"checking a sample of {column.folder.name}", len(column), look, Summary.add, Summary()):
        in_part = total.images < len(column)
        findings = list(judging.known_from_summary(column.manifest, total, in_part))
        # The few labels may lie elsewhere: a column only fails on everything that is read of it.
        if total.images - total.absent - total.empty >= sampling.LEAST and judging.verdict(findings) != "failed":
            break
    which = f"a sample of {total.images:,} of " if in_part else ""
    where = f"in {which}the {len(column):,} images that are read"
    if column.min_confidence != column.manifest.threshold:
        where += f", with min_confidence {column.min_confidence}"
    for finding in findings:
        yield finding.model_copy(update={"reason": f"{finding.reason} ({where})"})


def _summary(column: LabelColumn, position: int) -> Summary:
    try:
        return summarize(column.kind, column[position])
    except Exception:  # broken in any way; training skips it and names it
        return Summary(images=1, absent=1)
