"""What two answers about the same images say of each other: depth and normals, two teachers of one task."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from must_jax.checking.directions import Directions
from must_jax.checking.distances import Distances, ranked, turned
from must_jax.checking.verdicts import Finding
from must_jax.data.axes import Axes
from must_jax.data.kinds import Label

_EDGES = 0.9  # quantile of the steps in depth, above which they are edges of things
_TURNED = -0.1  # mean correlation


def depth_and_normals(
    depth: Distances, normals: Directions, name: str, other: str
) -> tuple[list[Finding], list[Finding]]:
    """Where depth grows to the right, a surface that faces the camera looks to the right: findings on both.

    Args:
      name, other: of the depth and of the normals, in words.
    """
    slopes = np.array(
        [
            _slopes(depth.maps[position], normals.maps[position], depth, normals)
            for position in depth.maps.keys() & normals.maps.keys()
        ]
    ).reshape(-1, 2)
    against, means = zip(*(turned(slopes[:, axis].tolist()) for axis in (0, 1)), strict=True)
    wrong = [bool(a.is_sure and mean < _TURNED) for a, mean in zip(against, means, strict=True)]
    if not any(wrong):
        return [], []
    said = f"{name} and {other} contradict each other"
    signs = tuple(-1 if each else 1 for each in wrong)
    of_normals = Finding(
        level="failed",
        reason=f"{said} in {' and '.join(axis for axis, each in zip('xy', wrong, strict=True) if each)}",
        line=normals.changed(Axes((0, 1, 2), (signs[0], signs[1], 1))),
    )
    if not all(wrong):  # near and far, exchanged, would turn both
        return [], [of_normals]
    other_kind = "relative" if depth.ascending < 0 else "inverse_relative"
    of_depth = Finding(
        level="failed",
        reason=f"{said} in x and y: either near and far are exchanged, or both axes of the normals",
        line=depth.at({"depth_kind": other_kind}),
    )
    return [of_depth], [of_normals]


def of_one_task(exams: Sequence[tuple[str, Distances]]) -> Iterator[tuple[Distances, Finding]]:
    """Depths of several teachers that contradict each other: it cannot be seen which of them is wrong."""
    for (name, one), (other, two) in itertools.combinations(exams, 2):
        sign = one.ascending * two.ascending
        both = one.maps.keys() & two.maps.keys()
        against, mean = turned([sign * _order(one.maps[each], two.maps[each], one.kind.field) for each in both])
        if against.is_sure and mean < _TURNED:
            what = f"what is near to {name} is far to {other} (rank correlation {mean:.2f}): one is read wrongly"
            for exam in (one, two):
                kind = "relative" if exam.ascending < 0 else "inverse_relative"
                yield exam, Finding(level="look", reason=what, line=exam.at({"depth_kind": kind}))


def _order(one: Label, two: Label, field: str) -> float:
    hw = one[field].shape[:2]
    other, valid = (_resized(two[key], hw, cv2.INTER_NEAREST) for key in (field, "valid"))
    known = (one["valid"] > 0) & (valid > 0)
    return ranked(one[field][known], other[known])


def _resized(map_: np.ndarray, hw: tuple[int, int], interpolation: int) -> np.ndarray:
    return cv2.resize(np.asarray(map_, np.float32), hw[::-1], interpolation=interpolation)


def _slopes(depth: Label, normals: Label, distances: Distances, directions: Directions) -> tuple[float, float]:
    """-1..1 for x and y: whether normals lean to where depth grows. Edges, where depth jumps, do not count."""
    vectors = normals[directions.kind.field]
    hw = vectors.shape[:2]
    values, valid = (_resized(depth[key], hw, cv2.INTER_LINEAR) for key in (distances.kind.field, "valid"))
    known = (valid > 0.999) & (normals["valid"] > 0)
    values = distances.ascending * values
    found = []
    for axis, component in ((1, 0), (0, 1)):
        step = np.gradient(values, axis=axis) if hw[axis] > 1 else np.zeros_like(values)
        size = np.abs(step)[known]
        inner = known & (np.abs(step) <= (np.quantile(size, _EDGES) if size.size else 0))
        a, b = step[inner].astype(np.float64), vectors[..., component][inner].astype(np.float64)
        found.append(float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-12)) if a.size else 0.0)
    return found[0], found[1]
