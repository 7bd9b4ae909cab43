"""Two teachers that know the same classes: whether one finds what the other one finds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from must_jax.checking.answers import Answers
from must_jax.checking.heard import Heard, label_of
from must_jax.checking.truths import NONE, Truth, index_of
from must_jax.checking.verdicts import Finding
from must_jax.data.kinds import Label, LabelKind


@dataclass
class Said:
    """What a teacher says about images, in place of a column of labels."""

    kind: LabelKind
    classes: tuple[str, ...]
    labels: dict[int, Label] = field(default_factory=dict)

    def __getitem__(self, position: int) -> Label:
        return self.labels.get(position) or self.kind.absent((1, 1))


class Agreement:
    """A task of a teacher, compared with one of another teacher as if that was the truth.

    Args:
      name, other: of the teachers.
      known: the other one's task, and its truth if there is some.
    """

    def __init__(self, name: str, exam: Answers, other: str, known: Answers) -> None:
        self.name, self.task, self.other, self.known = name, exam.task.name, other, known
        self._said = Said(known.task.label, known.task.classes)
        index = index_of(known.task.classes, exam.task.classes)
        truth = Truth(self._said, exam.task, index, by=f"the {known.task.name} of {other}")
        self._exam = Answers(exam.at, exam.teacher, exam.task, truth)

    def see(self, position: int, heard: Mapping[str, Heard]) -> None:
        """What all teachers say about one image, by their names."""
        witness = heard[self.other]
        prediction = witness.predictions.get(self.known.task.name)
        if prediction is not None:
            self._said.labels[position] = label_of(self.known.task, prediction, witness)
            self._exam.see(position, heard[self.name], None)

    def findings(self, is_trusted: bool) -> Iterator[Finding]:
        """Only what agrees with the truth can say that another one is wrong. Otherwise both are to be looked at."""
        _, beaten = self._exam.beaten()
        for finding in beaten:
            reason = f"against {self._exam.by} {finding.reason}"
            if is_trusted:
                yield finding.model_copy(update={"reason": reason})
            else:
                yield finding.model_copy(update={"reason": f"{reason}; either may be read wrongly", "level": "look"})
        for finding in () if beaten else self._exam.near_chance():
            yield finding.model_copy(update={"level": "look"})


def agreements(exams: Sequence[tuple[str, Answers]]) -> list[Agreement]:
    """Each task without truth with one of another teacher: one with truth if there is, or that of most classes."""
    found = []
    for name, exam in exams:
        others = [(other, known) for other, known in exams if other != name and _shared(exam, known)]
        if exam.truth is None and others:
            other, known = max(others, key=lambda pair: (pair[1].truth is not None, _shared(exam, pair[1])))
            found.append(Agreement(name, exam, other, known))
    return found


def _shared(exam: Answers, known: Answers) -> int:
    """The number of classes that both know."""
    if type(exam.task.label) is not type(known.task.label):
        return 0
    return int(np.count_nonzero(index_of(known.task.classes, exam.task.classes) != NONE))
