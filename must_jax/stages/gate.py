"""What a training does not start on: label columns from which nothing can be learnt."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from must_jax.data.pipeline import Source
from must_jax.errors import UserError
from must_jax.labels import gate
from must_jax.labels.columns import LabelColumn
from must_jax.labels.gate import Finding, Headline
from must_jax.labels.manifest import Manifest
from must_jax.progress import say
from must_jax.tasks.base import Task


def check(sources: Sequence[Source], tasks: Mapping[str, Task], accepted: Collection[str]) -> None:
    """Holds every column against its manifest and, where there is one, the verdict of its last audit.

    What only deserves a look is said, and so is what is `accepted` (tasks) all the same.

    Raises:
      UserError: a column failed.
    """
    columns = [column for source in sources for column in source.columns if isinstance(column, LabelColumn)]
    for column in columns:
        task, findings = tasks[column.task], found(column.folder, column.manifest, tasks[column.task])
        failed = [finding.reason for finding in findings if finding.level == "failed"]
        if failed and task.name not in accepted:
            raise UserError(
                f"the {task.name} labels in {column.folder} failed: {'; '.join(failed)}; make them anew, leave them "
                f"out, or train on them all the same with config.accept_failed={task.name}"
            )
        for finding in findings:
            overridden = " (failed; accepted by config.accept_failed)" if finding.level == "failed" else ""
            say(f"look at {column.folder}: {finding.reason}{overridden}")


def found(folder: Path, column: Manifest, task: Task) -> list[Finding]:
    """What the manifest tells by itself, and what an audit of the column as it is has found besides."""
    audited = gate.read(folder, column)
    known = gate.known_from_manifest(column, headline(task))
    return list(dict.fromkeys([*known, *(audited.findings if audited else ())]))


def headline(task: Task) -> Headline:
    return Headline(task.metric, task.near_chance)
