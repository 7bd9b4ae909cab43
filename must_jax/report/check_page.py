"""The page of a check: verdicts, every reading that was tried, and what it makes of some images, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from must_jax.report import page
from must_jax.report.gallery import Picture


@dataclass(frozen=True)
class Finding:
    """`line`: of the config, to be changed so; "" if none is known."""

    level: str
    reason: str
    line: str


@dataclass(frozen=True)
class Reading:
    """A reading that was tried, as `checking.verdicts.Tried` describes it; `wins`: it is the better one."""

    what: str
    line: str
    score: float
    metric: float | None
    gain: float
    p: float
    images: int
    wins: bool


@dataclass(frozen=True)
class Shown:
    """An image and what is made of it: (heading, picture, what `Task.describe` says)."""

    name: str
    image: Picture
    pictures: Sequence[tuple[str, Picture, Sequence[str]]]


@dataclass(frozen=True)
class Task:
    """One task of a teacher, or true labels.

    Attributes:
      teacher: its name; "" = true labels.
      by: what it was compared with, in words.
      metric: the task's headline metric.
    """

    teacher: str
    name: str
    verdict: str
    by: str
    images: int
    metric: str
    findings: Sequence[Finding]
    readings: Sequence[Reading]
    shown: Sequence[Shown]


@dataclass(frozen=True)
class Check:
    """Everything shown."""

    images: str
    image_count: int
    seconds: float
    tasks: Sequence[Task]


VERDICTS = ("failed", "look", "passed")


def render(check: Check) -> str:
    """The page as HTML text."""
    return page.render(
        "check.html.jinja",
        {"chance": _chance},
        check=check,
        verdicts={level: sum(task.verdict == level for task in check.tasks) for level in VERDICTS},
    )


def write(check: Check, path: Path) -> None:
    """Writes the page; a reader never sees half of it."""
    page.write(render(check), path)


def _chance(p: float) -> str:
    return "" if p >= 1 else "below 0.001" if p < 0.001 else f"{p:.3f}"
