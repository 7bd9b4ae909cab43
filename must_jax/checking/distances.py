"""Depth: whether it grows with the distance or shrinks, and its unit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.stats

from must_jax.checking.exams import At, Exam, Scores
from must_jax.checking.following import Following
from must_jax.checking.heard import Heard
from must_jax.checking.scores import LEAST_IMAGES, Comparison, cells_of, coarse, comparable, compare
from must_jax.checking.truths import Truth
from must_jax.checking.verdicts import Finding, TaskVerdict, Tried
from must_jax.data import units
from must_jax.data.kinds import Label, MapLabel
from must_jax.tasks.base import NumpyArrays, Task, TaskMetrics
from must_jax.tasks.maps import MapTask

_METRES = {  # metres in a unit -> its name
    1.0: "metres",
    0.001: "millimetres",
    0.01: "centimetres",
    0.1: "decimetres",
    0.3048: "feet",
    1 / 256: "256ths of a metre",
    1 / 5000: "5000ths of a metre",
    10.0: "tens of metres",
    100.0: "hundreds of metres",
    1000.0: "kilometres",
}
_WITHIN = np.log(1.25)
_RANKED = 2000  # pixels of an image
_FLAT = 1e-6  # relative spread of a map that is constant
_TURNED, _UPSIDE_DOWN, _ORDERED = -0.1, -0.3, 0.5  # mean rank correlations


@dataclass(frozen=True)
class _Pair:
    """Maps of one image, f32[h, w]: what is said, what is true, and bool[h, w] where both are known."""

    said: np.ndarray
    true: np.ndarray
    known: np.ndarray


class Distances(Exam):
    """The check of depth.

    Args:
      metres: in a unit of its values, as declared.

    Attributes:
      maps: what it says, by position, coarse.
    """

    def __init__(self, at: At, task: Task, truth: Truth | None, metres: float = 1.0) -> None:
        super().__init__(at, task, truth)
        assert isinstance(task, MapTask)
        self.kind: MapLabel = task.label
        self.maps: dict[int, Label] = {}
        self._pairs: list[_Pair] = []
        self._metres = metres
        self._following = Following(self.kind, self._alike)

    def see(self, position: int, heard: Heard, mirrored: Heard | None) -> None:
        prediction = heard.predictions.get(self.task.name)
        if prediction is None:
            self.unread.append(heard.error)
            return
        if not self.truth:
            hw = cells_of(prediction[self.kind.field].shape[:2])
            self.positions.append(position)
            self.maps[position] = said = comparable(self.kind, prediction, heard.content, hw)
            if mirrored and (other := mirrored.predictions.get(self.task.name)) is not None:
                self._following.see(said, comparable(self.kind, other, mirrored.content, hw))
        elif pair := self._pair(heard, position):
            self.positions.append(position)
            self.maps[position] = {self.kind.field: pair.said, "valid": pair.known}
            self._pairs.append(pair)
            self.declared.values.append(self._value(pair))

    def score(self, heard: Heard, position: int) -> float | None:
        pair = self._pair(heard, position)
        return self._value(pair) if pair else None

    def verdict(self) -> TaskVerdict:
        findings = [*flat(self.maps.values(), self.kind.field)]
        if not self.truth:
            down = upside_down(self.maps.values(), self.kind)
            line = self.at({"depth_kind": "relative" if self.ascending < 0 else units.INVERSE})
            findings += self._following.findings()
            return self.told([*findings, *(Finding(level="look", reason=reason, line=line) for reason in down)])
        if self._is_measured:
            self.declared.measure = partial(self._measured, 1.0)
        if self._is_metric:
            self.rivals += self._other_units()
        tried, found = self.beaten()
        turned, order = self._turned()
        return self.told([*findings, *(turned or found or self._up_to_scale())], [tried[0], order, *tried[1:]])

    @property
    def by(self) -> str:
        return self.truth.by if self.truth else "itself, on mirrored images, and what depth can look like"

    @property
    def ascending(self) -> int:
        """1 if a larger value is farther away, -1 if it is nearer."""
        return -1 if self.kind.unit == units.INVERSE else 1

    @property
    def _is_measured(self) -> bool:
        return self.truth is not None and units.can_be_read(self.truth.unit, self.kind.unit)

    @property
    def _is_metric(self) -> bool:
        return self._is_measured and self.kind.unit == units.METRES

    def _pair(self, heard: Heard, position: int) -> _Pair | None:
        label = self.truth.label(position) if self.truth else None
        prediction = heard.predictions.get(self.task.name)
        if label is None or prediction is None:
            return None
        assert self.truth
        hw = cells_of(label[self.kind.field].shape[:2])
        said = comparable(self.kind, prediction, heard.content, hw)
        true = coarse(self.kind, label, hw)
        known = (said["valid"] > 0) & (true["valid"] > 0)
        if self.truth.unit == units.METRES:
            known &= true[self.kind.field] > 0
        return _Pair(said[self.kind.field], true[self.kind.field], known) if known.sum() > 1 else None

    def _alike(self, one: Label, other: Label) -> float:
        known = (one["valid"] > 0) & (other["valid"] > 0)
        return (1 + ranked(one[self.kind.field][known], other[self.kind.field][known])) / 2

    def _label(self, pair: _Pair) -> Label:
        assert self.truth
        label = {self.kind.field: pair.true, "valid": pair.known.astype(np.float32), "present": np.float32(1)}
        return self.kind.converted(label, self.truth.unit)

    def _measured(self, factor: float, pairs: Iterable[_Pair] | None = None) -> TaskMetrics:
        """The task's metrics, if all values were multiplied by the factor."""
        metrics = self.task.metrics()
        for pair in self._pairs if pairs is None else pairs:
            metrics.update({self.kind.field: pair.said * np.float32(factor)}, self._label(pair))
        return metrics

    def _value(self, pair: _Pair) -> float:
        """0..1: the headline metric of this image or, where it cannot be measured, how well distances are ordered."""
        if not self._is_measured:
            return (1 + self._order(pair)) / 2
        return float(self._measured(1.0, [pair]).result()[self.task.metric] / 100)

    def _order(self, pair: _Pair) -> float:
        """-1..1: whether what is farther is said to be farther."""
        assert self.truth
        true = -1 if self.truth.unit == units.INVERSE else 1
        return self.ascending * true * ranked(pair.said[pair.known], pair.true[pair.known])

    def _turned(self) -> tuple[list[Finding], Tried]:
        """Whether near and far are exchanged."""
        against, mean = turned([self._order(pair) for pair in self._pairs])
        other = units.INVERSE
        if self.ascending < 0:
            other = "metric_m" if self._would_be_metres() else "relative"
        line = self.at({"depth_kind": other})
        what = f"the {'nearest' if self.ascending > 0 else 'farthest'} have the largest values"
        tried = Tried(what=what, line=line, score=50 * (1 - mean), gain=-100 * mean, p=against.p, images=against.images)
        if not against.is_likely or mean > _TURNED:
            return [], tried
        self.winner = Scores(what, line, use=self.declared.use, task=self._of_kind(other))
        doubt = "" if against.is_sure else " (which may be chance: take more images)"
        reason = f"near and far are exchanged: the rank correlation with the truth is {mean:.2f}, so {what}{doubt}"
        return [Finding(level="failed" if against.is_sure else "look", reason=reason, line=line)], tried

    def _of_kind(self, kind: str) -> Task:
        return type(self.task)(**{**self.task.model_dump(), "name": self.task.name, "depth_kind": kind})

    def _times(self, heard: Heard, factor: float) -> NumpyArrays | None:
        prediction = heard.predictions.get(self.task.name)
        return prediction and {**prediction, self.kind.field: prediction[self.kind.field] * np.float32(factor)}

    def _would_be_metres(self) -> bool:
        """Whether most values, whatever they are declared to be, are true metres."""
        is_known = self.truth is not None and self.truth.unit == units.METRES
        return is_known and float(np.mean([_within(pair, 1.0) for pair in self._pairs])) > 0.5

    def _other_units(self) -> list[Scores]:
        others = {metres: name for metres, name in _METRES.items() if abs(metres / self._metres - 1) > 1e-3}
        found = []
        for metres, name in others.items():
            scores = Scores(f"its values are {name}", self.at({"metres_per_unit": float(f"{metres:.6g}")}))
            factor = metres / self._metres
            scores.values = [_within(pair, factor) for pair in self._pairs]
            scores.measure = partial(self._measured, factor)
            scores.use = lambda heard, factor=factor: self._times(heard, factor)  # type: ignore[misc]
            found.append(scores)
        return found

    def _up_to_scale(self) -> Iterator[Finding]:
        """Near chance as metres: they may still be in order."""
        for finding in self.near_chance():
            order = float(np.mean([self._order(pair) for pair in self._pairs]))
            if not self._is_metric or order < _ORDERED:
                yield finding
                continue
            times = np.exp(np.median([np.median(np.log(_ratio(pair))) for pair in self._pairs]))
            reason = (
                f"{finding.reason.partition(';')[0]}; its values are in order (rank correlation {order:.2f}), but no "
                f"metres, of which they are {times:.3g} times as many"
            )
            yield Finding(level=finding.level, reason=reason, line=self.at({"depth_kind": "relative"}))


def turned(orders: list[float]) -> tuple[Comparison, float]:
    """Whether correlations by image, -1..1, are below 0 beyond chance; and their mean."""
    order = np.asarray(orders, np.float64)
    against = compare((-order / 2 + 0.5).tolist(), (order / 2 + 0.5).tolist(), 2)
    return against, float(order.mean()) if len(order) else 0.0


def ranked(some: np.ndarray, others: np.ndarray) -> float:
    """-1..1: the rank correlation; 0 if either is constant."""
    step = max(1, len(some) // _RANKED)
    some, others = some[::step], others[::step]
    if len(some) < 2 or np.ptp(some) == 0 or np.ptp(others) == 0:
        return 0.0
    return float(scipy.stats.spearmanr(some, others).statistic)


def flat(maps: Iterable[Label], field: str) -> Iterator[Finding]:
    """Maps that have one value only."""
    known = [values for each in maps if (values := each[field][each["valid"] > 0]).size]
    constant = sum(float(np.ptp(values, axis=0).max()) <= _FLAT * float(np.abs(values).max()) for values in known)
    if len(known) >= LEAST_IMAGES and constant > len(known) / 2:
        every = constant == len(known)
        what = f"{'every one' if every else constant} of {len(known)} maps is constant"
        yield Finding(level="failed" if every else "look", reason=what)


def upside_down(maps: Iterable[Label], kind: MapLabel) -> Iterator[str]:
    """A hint alone: in most pictures the bottom is nearer than the top."""
    nearer = 1 if kind.unit == units.INVERSE else -1
    orders = []
    for each in maps:
        known = each["valid"] > 0
        rows = np.broadcast_to(np.arange(known.shape[0])[:, None], known.shape)
        orders.append(nearer * ranked(each[kind.field][known], rows[known]))
    against, mean = turned(orders)
    if against.is_sure and mean < _UPSIDE_DOWN:
        yield (
            f"the bottom of most images is said to be farther away than their top (rank correlation {mean:.2f}): near "
            "and far may be exchanged"
        )


def _ratio(pair: _Pair) -> np.ndarray:
    return np.maximum(pair.said[pair.known], np.float32(1e-9)) / pair.true[pair.known]


def _within(pair: _Pair, factor: float) -> float:
    """The share of pixels that are within 25 % of the truth, if values were multiplied by the factor."""
    return float(np.mean(np.abs(np.log(_ratio(pair) * np.float32(factor))) < _WITHIN))
