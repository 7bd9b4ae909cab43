"""Normals of scenes that face the camera: a sign that is wrong hardly shows in the score, but surely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import pytest

from must_jax.checking import rivals
from must_jax.checking.directions import Directions
from must_jax.checking.heard import Heard
from must_jax.checking.truths import Truth
from must_jax.checking.verdicts import TaskVerdict
from must_jax.data.axes import parse
from must_jax.data.fitting import Placed
from must_jax.data.kinds import Label, LabelKind
from must_jax.tasks import build_task

IMAGES = 40


@dataclass
class Walls:
    """True normals of walls that are seen from the front, with a few things that lean to the side."""

    kind: LabelKind

    def __getitem__(self, position: int) -> Label:
        vectors = np.zeros((16, 16, 3), np.float32)
        vectors[..., 2] = -1
        vectors[:5, :4] = (0.6 * (-1) ** position, 0, -0.8)
        return {"normals": vectors, "valid": np.ones((16, 16), np.float32), "present": np.float32(1)}


def verdict(x: int) -> TaskVerdict:
    """Of a teacher whose x has this sign, and which is read as ours; a little noisy."""
    task, rng = build_task("normals", (), {}), np.random.default_rng(0)
    walls = Walls(task.label)

    def at(changes: object) -> str:
        return rivals.line("teachers.0.tasks.normals", cast(dict, changes))

    exam = Directions(at, task, Truth(walls, task, None), parse("x,y,z"))
    for position in range(IMAGES):
        said = walls[position]["normals"] * np.array([x, 1, 1], np.float32)
        said += 0.05 * rng.standard_normal(said.shape).astype(np.float32)
        said /= np.linalg.norm(said, axis=-1, keepdims=True)
        heard = Heard(
            {"normals": {"normals": said, "valid": np.ones((16, 16), np.float32)}}, (1, 1), Placed(0, 0, 1, 1)
        )
        exam.see(position, heard, None)
    return exam.verdict()


def test_a_wrong_sign_is_one_to_look_at_with_the_line() -> None:
    found = verdict(-1)
    [finding] = found.findings
    assert found.verdict == "look" and finding.line.endswith("tasks.normals.axes=-x,y,z")
    assert found.tried[0].score == pytest.approx(94, abs=1)


def test_the_right_one_passes() -> None:
    assert (verdict(1).verdict, verdict(1).findings) == ("passed", ())
