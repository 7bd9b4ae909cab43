"""The findings of an audit: one pass over a column's labels, and near-duplicates of evaluation images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from must_jax.cores import ahead, cores
from must_jax.data.duplicates import Pair, hash_images, near
from must_jax.data.image_sets import Column, ImageSet, in_unit_of
from must_jax.data.kinds import Label
from must_jax.data.kinds.statistics import Statistics
from must_jax.engine.measuring import CHANCE
from must_jax.inputs.gate import score_of_teacher
from must_jax.labels import judging
from must_jax.labels.columns import LabelColumn
from must_jax.labels.judging import Audited, Finding, Score
from must_jax.progress import Progress
from must_jax.tasks.base import Task

LEAST_SCORED = 20  # labels; with fewer, a score is mostly chance
_TOGETHER = 64  # labels that a thread processes at a time
_AHEAD = 64  # pairs of labels read ahead of scoring


@dataclass(frozen=True)
class Result:
    """The findings for one column. `scores` are metrics against true labels, empty if there are none."""

    column: LabelColumn
    task: Task
    statistics: Statistics
    scores: Mapping[str, float]
    audited: Audited


@dataclass(frozen=True)
class Duplicate:
    """An image that nearly equals one of the evaluation set `others`."""

    others: ImageSet
    pair: Pair


def audit_column(column: LabelColumn, task: Task, truths: Sequence[Column], positions: Sequence[int]) -> Result:
    """One pass over a column's labels, another if they can be scored; writes the verdict to the column folder.

    Args:
      task: with the options by which the labels were made.
      truths: columns of true labels of the same images.
      positions: of the images whose labels are read.
    """
    statistics = _read(column, positions)
    findings = [
        *judging.known_from_manifest(column.manifest, score_of_teacher(column.manifest, task)),
        *judging.known_from_labels(column.manifest, statistics),
    ]
    scores: dict[str, float] = {}
    of_task = [each for each in truths if each.task == task.name]
    truth = next((each for each in of_task if each.classes == column.classes), next(iter(of_task), None))
    if truth is not None and column.teacher is not None:
        truth = in_unit_of(truth, column.kind)
        if truth.kind.unit != column.kind.unit:
            reason = f"its labels were not scored, because the true labels have the unit '{truth.kind.unit}'"
            findings.append(Finding(level="look", reason=reason))
        elif truth.classes == column.classes:
            scores, scored = _score(column, truth, task, positions)
            if scored >= LEAST_SCORED:
                findings += judging.known_from_truth(Score(task.metric, scores[task.metric], scores[CHANCE]))
            else:
                reason = f"only {scored} of its labels could be scored against true ones, which is too few to judge"
                findings.append(Finding(level="look", reason=reason))
        else:
            reason = "its labels were not scored, because the true labels have other classes"
            findings.append(Finding(level="look", reason=reason))
    audited = judging.write(column.folder, column.manifest, findings, len(positions))
    return Result(column, task, statistics, scores, audited)


def find_duplicates(images: ImageSet, evaluation: Sequence[ImageSet], most: int) -> list[Duplicate]:
    """Per image and evaluation set, the nearest pair if their hashes differ in at most `most` bits; nearest first.

    Evaluation images are also compared mirrored, since training mirrors images.
    """
    found = []
    with Progress("looking for near-duplicates", len(images) + sum(map(len, evaluation))) as progress:
        ours = hash_images(images, progress.advance)
        for others in evaluation:
            theirs = hash_images(others, progress.advance, mirror=True)
            found += [Duplicate(others, pair) for pair in near(ours, theirs, most)]
    return sorted(found, key=lambda duplicate: duplicate.pair.distance)


def _read(column: LabelColumn, positions: Sequence[int]) -> Statistics:
    def part(chunk: Sequence[int]) -> Statistics:
        statistics = Statistics(len(column.classes))
        for position in chunk:
            try:
                label = column[position]
            except Exception:  # broken in any way; the verdict says so
                statistics.images += 1
                statistics.unreadable += 1
            else:
                column.kind.count(label, position, statistics)
        return statistics

    chunks = [positions[start : start + _TOGETHER] for start in range(0, len(positions), _TOGETHER)]
    total = Statistics(len(column.classes))
    with Progress(f"reading {column.folder.name}", len(positions)) as progress, ThreadPoolExecutor(cores()) as pool:
        for statistics in pool.map(part, chunks):
            total.merge(statistics)
            progress.advance(statistics.images)
    return total


def _score(column: LabelColumn, truth: Column, task: Task, positions: Sequence[int]) -> tuple[dict[str, float], int]:
    """The task's metrics of the column's labels, over the images that both label, and the number of these."""
    metrics, scored = task.metrics(), 0
    with Progress(f"scoring {column.folder.name}", len(positions)) as progress:
        for pair in _pairs(column, truth, positions):
            if pair:
                label, true = pair
                label, true = column.kind.compared(label, true)
                metrics.update(task.as_prediction(label), true)
                scored += 1
            progress.advance()
    return ({**metrics.result(), CHANCE: metrics.chance()} if scored else {}), scored


def _pairs(column: LabelColumn, truth: Column, positions: Sequence[int]) -> Iterator[tuple[Label, ...]]:
    """(label, true label) of each image, read ahead by threads; () where either is missing."""

    def read(position: int) -> tuple[Label, ...]:
        try:
            label, true = column[position], truth[position]
        except Exception:  # failures of the column are counted with its statistics
            return ()
        return (label, true) if label["present"] and true["present"] else ()

    with ThreadPoolExecutor(cores()) as pool:
        yield from ahead(positions, lambda position: pool.submit(read, position).result, _AHEAD)
