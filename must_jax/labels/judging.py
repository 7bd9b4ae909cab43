"""The gate between labelling and training: the findings about a column, one sentence each, and the verdict.

Most findings come from the manifest alone. Those of an audit are in a file beside the manifest, and are valid as long
as the column is unchanged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pydantic

from must_jax.data.kinds import VectorLabel
from must_jax.data.kinds.statistics import Statistics
from must_jax.errors import UserError
from must_jax.files import write_text
from must_jax.labels.manifest import Manifest
from must_jax.labels.summary import Summary
from must_jax.progress import say
from must_jax.reading import read_json

FILE = "audit.json"  # in the column's folder

# Beyond these shares a column deserves a look.
MOST_EMPTY = 0.5  # of the labelled images
MOST_ABSENT = 0.1  # of the images
LEAST_COVERED = 0.5  # of the pixels
MOST_OF_ONE_CLASS = 0.95  # of the images, boxes or pixels
MOST_FLAT = 0.01  # of the maps
MOST_AWAY = 0.05  # of the vectors
MOST_OFF_UNIT = 0.01

NO_CHANCE = "may be near chance: the version that validated it did not measure the best constant prediction"

Level = Literal["passed", "look", "failed"]


class Finding(pydantic.BaseModel):
    """`failed`: nothing can be learnt from such a column; `look`: it should be inspected first."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    level: Literal["look", "failed"]
    reason: str


class Audited(pydantic.BaseModel):
    """The findings of an audit of the column whose manifest has this checksum.

    `labels_read`: how many of its labels the audit read; 0 = by an earlier version, which did not record it.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    checksum: str
    verdict: Level
    findings: tuple[Finding, ...]
    labels_read: int = 0


class Score(NamedTuple):
    """The quality of labels, or of the teacher that made them, on images with true labels.

    Attributes:
      metric: the task's headline metric.
      value: its value; None = it was not measured.
      chance: its value for the best prediction that is the same for all images; None = it was not measured, as in
        earlier versions.
    """

    metric: str
    value: float | None = None
    chance: float | None = None

    @property
    def near_chance(self) -> float:
        """The value up to which nothing was learnt.

        The margin over chance is five points; if chance is small, half of it, but at least one point; if it is large,
        half of what is missing to 100. Unknown chance counts as 0.
        """
        chance = self.chance or 0.0
        return chance + min(max(1.0, min(5.0, chance / 2)), (100 - chance) / 2)

    @property
    def is_near_chance(self) -> bool:
        return self.value is not None and not self.value > self.near_chance  # NaN counts as chance

    def __str__(self) -> str:
        constant = "" if self.chance is None else f" (the best constant prediction gets {self.chance:.1f})"
        return f"{self.metric} is {self.value:.1f}, and up to {self.near_chance:.1f} is near chance{constant}"


def verdict(findings: Iterable[Finding]) -> Level:
    levels = {finding.level for finding in findings}
    return "failed" if "failed" in levels else "look" if "look" in levels else "passed"


def known_from_manifest(column: Manifest, teacher: Score) -> Iterator[Finding]:
    """The findings from the sums made while labelling, and from the teacher's validation."""
    yield from known_from_summary(column, column.summary())
    yield from known_from_teacher(column, teacher)


def known_from_teacher(column: Manifest, teacher: Score) -> Iterator[Finding]:
    """The findings from the validation of the column's teacher. A run of must_jax without one counts as failed."""
    if not column.teacher:
        return
    if teacher.value is None and column.teacher.declared:
        yield Finding(level="look", reason="its teacher is a model of others, which has not been measured here")
    elif teacher.value is None:
        yield Finding(level="failed", reason=f"its teacher was not validated ({teacher.metric} is not known)")
    elif teacher.is_near_chance:
        yield Finding(level="failed", reason=f"on its teacher's validation images {teacher}")
    elif teacher.chance is None:
        yield Finding(level="look", reason=f"its teacher's {teacher.metric} of {teacher.value:.1f} {NO_CHANCE}")


def known_from_summary(column: Manifest, summary: Summary, in_part: bool = False) -> Iterator[Finding]:
    """The findings from sums over labels: those in the manifest, or sums of the labels as they are read.

    Args:
      in_part: the sums are of a sample, which says nothing about classes that it lacks.
    """
    labelled = summary.images - summary.absent
    if summary.not_finite:
        yield Finding(level="failed", reason=_not_finite(summary.not_finite))
    elif not labelled:
        yield Finding(level="failed", reason="no image has a label")
    elif summary.empty == labelled:
        yield Finding(level="failed", reason=f"all {labelled:,} labels are empty")
    else:
        # Unlike maps and whole images, true boxes have a background to be distinguished from.
        one_will_do = column.label_kind.one_class_teaches and column.teacher is None
        classes = _classes(column.classes, summary.images_with_class, one_will_do)
        yield from (finding for finding in classes if finding.level == "failed" or not in_part)
        if isinstance(column.label_kind, VectorLabel) and len(column.classes) > 1:
            yield from _even_odds(summary.confidence / labelled, len(column.classes))
        yield from _look(summary.empty / labelled, MOST_EMPTY, "of the labels are empty")
        if summary.covered:
            yield from _look(1 - summary.covered / labelled, 1 - LEAST_COVERED, "of the pixels have no label")
        if column.teacher:  # true labels may be few
            yield from _look(summary.absent / summary.images, MOST_ABSENT, "of the images have no label")


def known_from_labels(column: Manifest, statistics: Statistics) -> Iterator[Finding]:
    """The findings that need a pass over the labels, in addition to `known_from_manifest`."""
    if statistics.unreadable:
        yield Finding(level="failed", reason=f"{statistics.unreadable:,} labels cannot be read")
    if statistics.not_finite and not column.summary().not_finite:
        yield Finding(level="failed", reason=_not_finite(statistics.not_finite))
    amount = statistics.class_amount
    if np.count_nonzero(amount) > 1:
        top = int(amount.argmax())
        what = f"of all labels are of class '{column.classes[top]}'"
        yield from _look(amount[top] / amount.sum(), MOST_OF_ONE_CLASS, what)
    maps = statistics.images - statistics.absent - statistics.unreadable - statistics.empty
    if statistics.flat and statistics.flat == maps:
        yield Finding(level="failed", reason="every map is constant")
    elif statistics.flat:
        yield from _look(statistics.flat / maps, MOST_FLAT, "of the maps are constant")
    if statistics.known:
        away = "of the vectors point away from the camera; their frame should be x right, y down, z forward"
        yield from _look(statistics.away / statistics.known, MOST_AWAY, away)
        yield from _look(statistics.off_unit / statistics.known, MOST_OFF_UNIT, "of the vectors do not have length 1")


def known_from_truth(labels: Score) -> Iterator[Finding]:
    """The findings from comparing the column's labels with true ones."""
    if labels.is_near_chance:
        yield Finding(level="failed", reason=f"against true labels {labels}")


def write(folder: Path, column: Manifest, findings: Iterable[Finding], labels_read: int) -> Audited:
    """Stores the verdict beside the manifest. Unless it is a failure, it does not replace that on more labels."""
    found = tuple(findings)
    audited = Audited(checksum=column.checksum, verdict=verdict(found), findings=found, labels_read=labels_read)
    before = None
    with contextlib.suppress(UserError):  # damaged
        before = read(folder, column)
    if before and before.labels_read > labels_read and audited.verdict != "failed":
        kept = f"'{before.verdict}', the verdict of an audit of {before.labels_read:,} labels"
        say(f"{folder} keeps {kept}; this one has read {labels_read:,}")
    else:
        write_text(folder / FILE, audited.model_dump_json(indent=1) + "\n")
    return audited


def read(folder: Path, column: Manifest) -> Audited | None:
    """The stored audit: of the most labels, or a later one that failed; None if there is none of the present column.

    Raises:
      UserError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    audited = read_json(path, Audited, "delete it, and rerun the audit stage")
    return audited if audited.checksum == column.checksum else None


def _classes(classes: tuple[str, ...], images_with_class: list[int], one_will_do: bool) -> Iterator[Finding]:
    found = {name for name, images in zip(classes, images_with_class, strict=False) if images}
    never = [name for name in classes if name not in found]
    if len(classes) > 1 and len(found) == 1 and not one_will_do:
        yield Finding(level="failed", reason=f"of {len(classes)} classes only '{found.pop()}' occurs")
    elif never:
        names = ", ".join(never[:5]) + (", ..." if len(never) > 5 else "")
        yield Finding(level="look", reason=f"{len(never)} of {len(classes)} classes never occur: {names}")


def _even_odds(confidence: float, classes: int) -> Iterator[Finding]:
    even = 1 / classes
    if confidence < min(2 * even, (1 + even) / 2):  # half-way to certainty if there are few classes
        reason = f"the mean top probability is {confidence:.2f}, hardly above even odds for {classes} classes"
        yield Finding(level="look", reason=reason)


def _not_finite(count: int) -> str:
    return f"{count:,} values are NaN or infinite"


def _look(share: float, most: float, what: str) -> Iterator[Finding]:
    if share > most:
        percent = 100.0 if share == 1 else min(100 * share, 99.9)  # not "100 %" of what is not all
        yield Finding(level="look", reason=f"{percent:.3g} % {what}")
