"""What lies behind the metrics of one task on one image set: values by class, confusions, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

MOST_CLASSES = 1000  # in a table; the worst of more
MOST_CONFUSIONS = 12


@dataclass(frozen=True)
class Table:
    """Columns of figures by class; None where there is none. The first column is the one that matters most."""

    classes: list[str]
    columns: dict[str, list[int | float | None]]

    @property
    def rows(self) -> list[tuple[str, list[int | float | None]]]:
        """(class, its figures), the lowest of the first column first; those without a figure are last."""
        columns = list(self.columns.values())
        rows = [(name, [column[i] for column in columns]) for i, name in enumerate(self.classes)]
        return sorted(rows, key=lambda row: _last_if_none(row[1][0]) if columns else (False, 0))[:MOST_CLASSES]

    @property
    def places(self) -> list[list[int]]:
        """For each of `rows`, its place in the ascending order of each column."""
        shown = self.rows
        places = np.zeros((len(shown), len(self.columns)), int)
        for column in range(len(self.columns)):
            order = sorted(range(len(shown)), key=lambda row: _last_if_none(shown[row][1][column]))
            places[order, column] = range(len(shown))
        return places.tolist()


@dataclass(frozen=True)
class Confusion:
    """`counts[t][p]`: how much of true class t was predicted as class p; a last column may be "none"."""

    classes: list[str]
    counts: list[list[int]]

    @property
    def predicted(self) -> list[str]:
        """The names of the columns."""
        columns = len(self.counts[0]) if self.counts else 0
        return [*self.classes, "none"][:columns]

    @property
    def shares(self) -> np.ndarray:
        """f64[t, p]: the share of each true class; 0 for a class that does not occur."""
        counts = np.array(self.counts, float).reshape(len(self.classes), len(self.predicted))
        return counts / np.maximum(counts.sum(1, keepdims=True), 1)

    @property
    def largest(self) -> list[tuple[str, str, int, float]]:
        """(true class, predicted class, count, share of the true class) of the most frequent mistakes."""
        counts, shares = np.array(self.counts, int).reshape(len(self.classes), len(self.predicted)), self.shares
        wrong = counts * ~np.eye(*counts.shape, dtype=bool)
        order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSIONS]
        found = [divmod(int(i), counts.shape[1]) for i in order if wrong.flat[i]]
        return [(self.classes[t], self.predicted[p], int(counts[t, p]), float(shares[t, p])) for t, p in found]


@dataclass(frozen=True)
class Lines:
    """Lines over one axis: name -> (x values, y values)."""

    title: str
    x: str
    y: str
    series: Mapping[str, tuple[list[float], list[float]]]


@dataclass(frozen=True)
class Details:
    """Every part is optional."""

    per_class: Table | None = None
    confusion: Confusion | None = None
    curves: Sequence[Lines] = field(default_factory=tuple)
    remark: str = ""


def compared(details: Mapping[str, Details]) -> tuple[str, Details]:
    """Several models on one image set, by name: the figure by class that matters most, and curves.

    Of a curve of two lines, one is drawn over the other: a line for each model.

    Returns:
      The name of that figure ("" if there are none), and a column and a line for each model.
    """
    tables = {name: each.per_class for name, each in details.items() if each.per_class and each.per_class.columns}
    figures = {name: next(iter(table.columns.values())) for name, table in tables.items()}
    first = next(iter(tables.values()), None)
    lines: dict[tuple[str, str, str], dict[str, tuple[list[float], list[float]]]] = {}
    for name, each in details.items():
        for curve in each.curves:
            match list(curve.series.items()):
                case [(_, line)]:
                    lines.setdefault((curve.title, curve.x, curve.y), {})[name] = line
                case [(y, (_, ys)), (x, (_, xs))]:
                    axes = [f"{axis}, {curve.y}" if curve.y else axis for axis in (x, y)]
                    lines.setdefault((curve.title, axes[0], axes[1]), {})[name] = (xs, ys)
    table = Table(first.classes, figures) if first else None
    remark = "; ".join(f"{name}: {each.remark}" for name, each in details.items() if each.remark)
    of_all = Details(table, None, tuple(Lines(*about, series) for about, series in lines.items()), remark)
    return next(iter(first.columns)) if first else "", of_all


def _last_if_none(value: float | None) -> tuple[bool, float]:
    return value is None, value or 0.0
