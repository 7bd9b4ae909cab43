"""Normals: where their axes point. All 48 frames whose axes lie along ours are compared at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np

from must_jax.checking.distances import flat
from must_jax.checking.exams import At, Exam, Scores
from must_jax.checking.heard import Heard
from must_jax.checking.scores import LEAST_IMAGES, cells_of, coarse, comparable, sign_rank
from must_jax.checking.truths import Truth
from must_jax.checking.verdicts import Finding, TaskVerdict
from must_jax.data.axes import Axes, every
from must_jax.data.kinds import Label, MapLabel
from must_jax.tasks.base import NumpyArrays, Task, TaskMetrics
from must_jax.tasks.maps import MapTask

AS_IS = Axes((0, 1, 2), (1, 1, 1))
AWAY = 0.5  # z of a vector that points away from the camera, however wide its angle
_AWAY_LOOK, _AWAY_MIXED, _AWAY_FAILED = 0.05, 0.25, 0.5  # share of vectors that point away from the camera
_MIXED, _ONE_SIDED = 0.6, 0.95  # how much more often a component has one sign: hardly z, surely z
_ENERGY = 0.02  # mean square of a component that says anything
_SYMMETRIC = 0.3  # correlation of a component with that of the mirrored image
_SURE = 1e-3


class Directions(Exam):
    """The check of normals.

    Args:
      axes: as declared; None if nothing is.

    Attributes:
      maps: what it says, by position, coarse, in our frame as declared.
    """

    tells_slight = True  # scenes of floors and of walls seen from the front hardly tell a sign

    def __init__(self, at: At, task: Task, truth: Truth | None, axes: Axes | None = None) -> None:
        super().__init__(at, task, truth)
        assert isinstance(task, MapTask)
        self.kind: MapLabel = task.label
        self.maps: dict[int, Label] = {}
        self.axes = axes
        self._products: list[np.ndarray] = []  # f64[3, 3] by image: mean of theirs by ours
        self._labels: list[tuple[Label, Label]] = []
        self._mirrored: list[np.ndarray] = []  # f64[3] by image: of each component, with the mirrored one

    def see(self, position: int, heard: Heard, mirrored: Heard | None) -> None:
        prediction = heard.predictions.get(self.task.name)
        if prediction is None:
            self.unread.append(heard.error)
            return
        if self.truth:
            pair = self._pair(heard, position)
            if not pair:
                return
            said, true = pair
            self._labels.append(pair)
            self._products.append(_products(said[self.kind.field], true[self.kind.field], true["valid"] > 0))
            self.declared.values.append(float(np.trace(self._products[-1])))
        else:
            said = comparable(self.kind, prediction, heard.content, cells_of(prediction[self.kind.field].shape[:2]))
            if mirrored and (other := mirrored.predictions.get(self.task.name)) is not None:
                back = comparable(self.kind, other, mirrored.content, said["valid"].shape)
                self._mirrored.append(_alike(said[self.kind.field], back[self.kind.field][:, ::-1]))
        self.positions.append(position)
        self.maps[position] = said

    def score(self, heard: Heard, position: int) -> float | None:
        pair = self._pair(heard, position)
        if not pair:
            return None
        said, true = pair
        return float(np.trace(_products(said[self.kind.field], true[self.kind.field], true["valid"] > 0)))

    def verdict(self) -> TaskVerdict:
        findings = [*flat(self.maps.values(), self.kind.field)]
        if not self.truth:
            return self.told([*findings, *self._by_itself()])
        self.declared.measure = partial(self._measured, AS_IS)
        for axes in every():
            if axes == AS_IS:
                continue
            scores = Scores(f"their axes are {self._in_theirs(axes).written}", self.changed(axes))
            scores.values = [_turned(products, axes) for products in self._products]
            scores.measure = partial(self._measured, axes)
            scores.use = lambda heard, axes=axes: self._by(heard, axes)  # type: ignore[misc]
            self.rivals.append(scores)
        tried, beaten = self.beaten()
        return self.told([*findings, *(beaten or self.near_chance())], tried)

    @property
    def by(self) -> str:
        return self.truth.by if self.truth else "itself, on mirrored images, and what normals can look like"

    def changed(self, axes: Axes) -> str:
        """The line by which what is read as declared is turned further, by these axes."""
        return self.at({"axes": self._in_theirs(axes).written}) if self.axes else ""

    def _in_theirs(self, axes: Axes) -> Axes:
        """First as declared, then by these."""
        first = self.axes or AS_IS
        a, b, c = axes.index
        index = first.index[a], first.index[b], first.index[c]
        x, y, z = (sign * first.sign[i] for i, sign in zip(axes.index, axes.sign, strict=True))
        return Axes(index, (x, y, z))

    def _pair(self, heard: Heard, position: int) -> tuple[Label, Label] | None:
        label = self.truth.label(position) if self.truth else None
        prediction = heard.predictions.get(self.task.name)
        if label is None or prediction is None:
            return None
        hw = cells_of(label[self.kind.field].shape[:2])
        said, true = comparable(self.kind, prediction, heard.content, hw), coarse(self.kind, label, hw)
        valid = (said["valid"] > 0) & (true["valid"] > 0)
        return (said, {**true, "valid": valid.astype(np.float32)}) if valid.any() else None

    def _by(self, heard: Heard, axes: Axes) -> NumpyArrays | None:
        prediction = heard.predictions.get(self.task.name)
        return prediction and {**prediction, self.kind.field: axes.to_ours(prediction[self.kind.field])}

    def _measured(self, axes: Axes) -> TaskMetrics:
        metrics = self.task.metrics()
        for said, true in self._labels:
            metrics.update({self.kind.field: axes.to_ours(said[self.kind.field])}, true)
        return metrics

    def _by_itself(self) -> Iterator[Finding]:
        """Visible surfaces face the camera, and in a mirrored image only x changes its sign."""
        if len(self.maps) < LEAST_IMAGES:
            return
        away = away_of(self.maps.values(), self.kind)
        sided = np.abs([_sided(each, self.kind) for each in self.maps.values()]).mean(0)
        alike = np.array(self._mirrored).reshape(-1, 3)
        turning = [axis for axis in range(3) if _is_sure(-alike[:, axis], _SYMMETRIC)]
        x = turning[0] if len(turning) == 1 and _is_sure(alike[:, 0], _SYMMETRIC) else 0
        z = 2 if x != 2 and sided[2] > _MIXED else max({0, 1, 2} - {x}, key=lambda axis: sided[axis])
        if x != 0:
            said = "in mirrored images what is read as x stays as it is, and "
            said += f"what is read as {'xyz'[x]} changes its sign, as x should"
        elif away > _AWAY_FAILED or (away > _AWAY_MIXED and z != 2 and sided[z] > _ONE_SIDED):
            said = f"{100 * away:.0f} % of the vectors point away from the camera, which no visible surface does"
        elif away > _AWAY_LOOK:
            yield Finding(level="look", reason=f"{100 * away:.0f} % of the vectors point away from the camera")
            return
        else:
            return
        axes = self._facing(x, z)
        guess = f"their axes may be {self._in_theirs(axes).written}, up to the signs of x and y"
        yield Finding(level="failed", reason=f"{said}; {guess}", line=self.changed(axes))

    def _facing(self, x: int, z: int) -> Axes:
        """With these components as x and z: z so that surfaces face the camera, y so that the ground looks up."""
        y = ({0, 1, 2} - {x, z}).pop()
        means = [_means(each, self.kind) for each in self.maps.values()]
        whole, lower = (np.mean([pair[i] for pair in means], 0) for i in (0, 1))
        return Axes((x, y, z), (1, -1 if lower[y] > 0 else 1, -1 if whole[z] > 0 else 1))


def _products(said: np.ndarray, true: np.ndarray, known: np.ndarray) -> np.ndarray:
    """f64[3, 3]: the mean of each component that is said, by each true one; its trace is the mean cosine."""
    a, b = (each[known].astype(np.float64) for each in (said, true))
    return a.T @ b / max(len(a), 1)


def _turned(products: np.ndarray, axes: Axes) -> float:
    """The mean cosine, if what is said was turned by these axes."""
    return float(sum(sign * products[i, k] for k, (i, sign) in enumerate(zip(axes.index, axes.sign, strict=True))))


def _alike(said: np.ndarray, back: np.ndarray) -> np.ndarray:
    """f64[3]: -1..1, whether each component equals that of the mirrored image; NaN where it is hardly there."""
    a, b = said.reshape(-1, 3).astype(np.float64), back.reshape(-1, 3).astype(np.float64)
    energy = np.sqrt((a * a).mean(0) * (b * b).mean(0))
    return np.where(energy > _ENERGY, (a * b).mean(0) / np.maximum(energy, 1e-12), np.nan)


def _is_sure(values: np.ndarray, least: float) -> bool:
    known = values[~np.isnan(values)]
    return len(known) >= LEAST_IMAGES and known.mean() > least and sign_rank(known) < _SURE


def _means(label: Label, kind: MapLabel) -> tuple[np.ndarray, np.ndarray]:
    """f64[3]: the mean vector, and that of the lower half of the image."""
    lower = len(label["valid"]) // 2
    both = [(label[kind.field][rows], label["valid"][rows] > 0) for rows in (slice(None), slice(lower, None))]
    whole, below = (values[valid].mean(0) if valid.any() else np.zeros(3) for values, valid in both)
    return whole, below


def _sided(label: Label, kind: MapLabel) -> np.ndarray:
    """f64[3]: -1..1, how much more often each component is above 0 than below."""
    known = label[kind.field][label["valid"] > 0]
    return np.sign(known).mean(0) if len(known) else np.zeros(3)


def away_of(maps: Iterable[Label], kind: MapLabel) -> float:
    """The share of vectors that point away from the camera."""
    away, known = 0, 0
    for each in maps:
        valid = each["valid"] > 0
        away += int(np.count_nonzero(each[kind.field][..., 2][valid] > AWAY))
        known += int(np.count_nonzero(valid))
    return away / max(known, 1)
