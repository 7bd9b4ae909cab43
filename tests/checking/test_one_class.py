"""True labels for which one answer is always right cannot tell whether a teacher is read rightly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import pytest

from must_jax.checking.answers import Answers
from must_jax.checking.heard import Heard
from must_jax.checking.truths import Truth, index_of
from must_jax.checking.verdicts import TaskVerdict
from must_jax.data.fitting import Placed
from must_jax.data.kinds import Label, LabelKind
from must_jax.tasks import build_task
from must_jax.teachers.base import Teacher

NAMES = ("cat", "dog", "bird")


@dataclass
class Cats:
    """True labels of images that show the first class, but for the first few."""

    kind: LabelKind
    others: int

    def __getitem__(self, position: int) -> Label:
        return vector(int(position < self.others))


def vector(index: int) -> Label:
    return {"probs": np.eye(len(NAMES), dtype=np.float32)[index], "present": np.float32(1)}


def verdict(answers: list[int], others: int = 0) -> TaskVerdict:
    task = build_task("classification", NAMES, {})
    truth = Truth(Cats(task.label, others), task, index_of(NAMES, NAMES))
    exam = Answers(lambda changes: "", cast(Teacher, None), task, truth)
    for position, index in enumerate(answers):
        exam.see(position, Heard({"classification": vector(index)}, (1.0, 1.0), Placed(0, 0, 1, 1)), None)
    return exam.verdict()


@pytest.mark.parametrize("wrong", [0, 1, 3])
def test_what_is_right_is_not_accused(wrong: int) -> None:
    assert verdict([1] * wrong + [0] * (32 - wrong)).verdict == "look"


def test_a_few_of_another_class_cannot_tell_either_but_many_can() -> None:
    assert verdict([0] + [0] * 31, others=1).verdict == "look"  # as good as a constant answer, which is right 31 times
    assert verdict([0] * 32, others=4).verdict == "look"
    assert verdict([0] * 32, others=8).verdict == "failed"
    assert verdict([1] * 8 + [0] * 24, others=8).verdict == "passed"


def test_a_list_that_is_shifted_is_still_found() -> None:
    assert verdict([1] * 32).verdict == "failed"
