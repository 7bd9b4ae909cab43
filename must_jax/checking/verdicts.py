"""What a check has found, as check.json keeps it, for people and for the label stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pydantic

from must_jax.errors import UserError
from must_jax.files import write_text
from must_jax.labels import judging
from must_jax.labels.judging import Level
from must_jax.reading import read_json

FILE = "check.json"


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Finding(judging.Finding):
    """`failed`: it is read wrongly; `look`: it may be.

    Attributes:
      line: of the config, to be changed so, as on the command line; "" if none is known.
    """

    line: str = ""


class Tried(_Record):
    """A reading, and how well what it makes of the teacher's outputs fits.

    Attributes:
      what: it reads otherwise than declared; "" = as declared.
      line: of the config that it needs.
      score: of its images, in percent: a finer measure than the task's metric, which is paired by image.
      metric: the task's headline metric, in percent; None if it was not measured.
      gain, p: of the score, against the declared reading; the probability of that by chance.
    """

    what: str = ""
    line: str = ""
    score: float
    metric: float | None = None
    gain: float = 0.0
    p: float = 1.0
    images: int


class TaskVerdict(_Record):
    """One task of a teacher, or the truth of one.

    Attributes:
      by: what it was compared with, in words.
      metrics: of the declared reading, on true labels; with `chance`.
      tried: the declared reading first, then the others, the best one first.
    """

    verdict: Level
    by: str
    images: int
    findings: tuple[Finding, ...] = ()
    metrics: dict[str, float] = {}
    tried: tuple[Tried, ...] = ()

    @property
    def failures(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "failed"]


class TeacherVerdict(_Record):
    """Its digest, as its columns have it, and its tasks."""

    digest: str
    tasks: dict[str, TaskVerdict]


class Checked(_Record):
    """A whole check. `truth`: the true labels themselves, by task."""

    images: str
    seconds: float = 0.0
    teachers: dict[str, TeacherVerdict] = {}
    truth: dict[str, TaskVerdict] = {}

    def of(self, digest: str) -> Mapping[str, TaskVerdict]:
        """The verdicts on the teacher with this digest; none if it was not checked, or was read otherwise."""
        return next((each.tasks for each in self.teachers.values() if each.digest == digest), {})


def write(folder: Path, checked: Checked) -> None:
    write_text(folder / FILE, checked.model_dump_json(indent=1) + "\n")


def read(folder: Path) -> Checked:
    """The check in a workdir.

    Raises:
      UserError: there is none, or it is damaged.
    """
    path = folder / FILE
    if not path.exists():
        raise UserError(f"{folder} has no {FILE}; name the workdir of a finished check")
    return read_json(path, Checked, "remove it, and run the check again")
