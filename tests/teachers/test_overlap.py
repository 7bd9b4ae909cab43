"""Batches of a model of others: one is made ready and others are read while the network is at work."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from must_jax.config import TeacherConfig
from must_jax.data.fitting import Input, Placed
from must_jax.teachers import foreign
from must_jax.teachers.base import Images
from must_jax.teachers.foreign import Answers, Foreign

WITHIN_S = 60.0


class Counting(Foreign):
    """Reads the first batch only after the network has begun with the second one, and the third is made ready."""

    at_once = 2

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.began, self.ready = ([threading.Event() for _ in range(3)] for _ in range(2))

    def inputs_of(self, pixels: np.ndarray, placed: Sequence[Placed]) -> int:
        number = int(pixels[0, 0, 0, 0])
        self.ready[number].set()
        return number

    def answers_to(self, number: int, placed: Sequence[Placed]) -> Iterator[tuple[int, Answers]]:
        with self.turn:
            self.began[number].set()
        if number == 0:
            assert self.began[1].wait(WITHIN_S) and self.ready[2].wait(WITHIN_S)
        [reading] = self.readings.values()
        for i in range(len(placed)):
            yield i, {"kinds": reading.vector(np.eye(3, dtype=np.float32)[number])}


@pytest.fixture
def teacher(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Counting:
    (tmp_path / "of_mine.py").write_text("def kinds(images): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    tasks: Mapping[str, Any] = {
        "kinds": {"kind": "classification", "classes": ["a", "b", "c"], "scores": "probabilities"}
    }
    declared = TeacherConfig(model="python:of_mine:kinds", tasks=tasks)
    return Counting(declared, foreign.readings(declared, {}, {}), Input(8, 8, "stretch"))


def test_batches_are_read_while_the_network_is_at_work_on_the_next(teacher: Counting):
    begun = [teacher.begin(Images(np.full((2, 8, 8, 3), number, np.uint8), [teacher.whole] * 2)) for number in range(3)]
    for number, answers in enumerate(begun):
        assert answers()["kinds"]["probs"].argmax(-1).tolist() == [number] * 2
    assert teacher.in_flight > len(begun)
