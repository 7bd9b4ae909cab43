"""The page of an audit: verdicts, what is in each column, and the images at both ends, as one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import markupsafe

from must_jax.report import page, plots
from must_jax.report.gallery import Picture, caption

MOST_SAID = 3  # parts of a description
MOST_CLASSES = 24  # classes that are listed; if there are more, half as many from either end


@dataclass(frozen=True)
class Histogram:
    """`edges` has one entry more than `counts`; `logarithmic` applies to the values."""

    title: str
    edges: Sequence[float]
    counts: Sequence[int]
    logarithmic: bool = False


@dataclass(frozen=True)
class Class:
    """A class: in how many images it occurs, and its number of labels (images, boxes or pixels)."""

    name: str
    images: int
    labels: int


@dataclass(frozen=True)
class Shown:
    """One image: the pictures of it and of its label, the value that ranks it, and what `Task.describe` says."""

    name: str
    pictures: Sequence[Picture]
    value: float
    description: Mapping[str, object]


@dataclass(frozen=True)
class Column:
    """One label column.

    Attributes:
      validation, scores: metrics of the teacher on validation images, and of the labels against true ones.
      findings: (level, reason).
      facts: name -> figure, ready to read.
      counted: what the labels of a class are counted in.
      rank: what the pictures are ordered by.
      most, least: the images at both ends of that order.
    """

    name: str
    task: str
    maker: str
    verdict: str
    findings: Sequence[tuple[str, str]]
    validation: Mapping[str, float]
    scores: Mapping[str, float]
    facts: Mapping[str, str]
    histograms: Sequence[Histogram] = ()
    classes: Sequence[Class] = ()
    counted: str = ""
    rank: str = ""
    most: Sequence[Shown] = ()
    least: Sequence[Shown] = ()


@dataclass(frozen=True)
class Duplicate:
    """Two images that are nearly the same: the one that is labelled, and one of an evaluation set."""

    name: str
    other: str
    evaluation: str
    how: str
    picture: Picture
    other_picture: Picture


@dataclass(frozen=True)
class Audit:
    """Everything shown. `duplicates` may be only some of `duplicate_count`; `evaluation` says what was searched."""

    images: str
    image_count: int
    labels_read: int
    columns: Sequence[Column]
    evaluation: Sequence[str] = ()
    duplicate_count: int = 0
    duplicates: Sequence[Duplicate] = field(default_factory=tuple)


def write(audit: Audit, path: Path) -> None:
    """Writes the page; a reader never sees half of it."""
    page.write(render(audit), path)


def render(audit: Audit) -> str:
    """The page as HTML text."""
    return page.render(
        "audit.html.jinja",
        {"caption": lambda description: caption(description)[:MOST_SAID], "plot": _plot, "listed": _most_and_least},
        audit=audit,
        scored=any(column.scores for column in audit.columns),
        verdicts={level: sum(column.verdict == level for column in audit.columns) for level in VERDICTS},
    )


VERDICTS = ("failed", "look", "passed")


def _plot(histogram: Histogram) -> markupsafe.Markup:
    return markupsafe.Markup(plots.histogram(histogram.edges, histogram.counts, histogram.title, histogram.logarithmic))


def _most_and_least(classes: Sequence[Class]) -> tuple[list[Class], list[Class], int]:
    """The most and the least frequent classes, and how many between them are left out."""
    ordered = sorted(classes, key=lambda each: -each.labels)
    if len(ordered) <= MOST_CLASSES:
        return ordered, [], 0
    half = MOST_CLASSES // 2
    return ordered[:half], ordered[-half:], len(ordered) - MOST_CLASSES
