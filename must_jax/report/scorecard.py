"""The scorecard: one row a fine-tuned model, and what can honestly be said about many of them."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from must_jax import files

JSON_FILE, CSV_FILE = "scorecard.json", "scorecard.csv"


@dataclass(frozen=True)
class Row:
    """One starting point on one downstream set with one seed; `value` is of the test split, higher is better."""

    init: str
    task: str
    dataset: str
    mode: str
    metric: str
    value: float
    seed: int
    learning_rate: float
    steps: int


@dataclass(frozen=True)
class Start:
    """What a starting point was trained with: its tasks (none = random initialisation) and image-steps seen."""

    tasks: tuple[str, ...] = ()
    image_steps: int = 0


@dataclass(frozen=True)
class Cell:
    """Mean and sample standard deviation over seeds; `sd` is 0 for a single seed."""

    mean: float
    sd: float
    seeds: int
    learning_rate: float


@dataclass(frozen=True)
class Difference:
    """Mean of `init` minus the mean over `others`, by dataset; `wins` counts those above zero."""

    init: str
    against: str
    by_dataset: dict[str, float]

    @property
    def wins(self) -> int:
        return sum(value > 0 for value in self.by_dataset.values())

    def __str__(self) -> str:
        return f"{self.init} beats {self.against} on {self.wins}/{len(self.by_dataset)}"


@dataclass(frozen=True)
class Table:
    """All rows of one mode: `cells[init][dataset]`."""

    mode: str
    datasets: dict[str, tuple[str, str]]  # name -> (task, metric)
    cells: dict[str, dict[str, Cell]]

    def best(self, dataset: str) -> str:
        """The init with the highest mean on `dataset`."""
        return max((i for i in self.cells if dataset in self.cells[i]), key=lambda i: self.cells[i][dataset].mean)


def tables(rows: Sequence[Row], starts: Mapping[str, Start]) -> list[Table]:
    """One table a mode; random initialisation comes first, then inits of one task, then those of several."""
    return [
        _table(mode, [row for row in rows if row.mode == mode], starts) for mode in _unique(row.mode for row in rows)
    ]


def differences(table: Table, starts: Mapping[str, Start]) -> list[Difference]:
    """Each multi-task init against random initialisation and against the mean over single-task inits.

    The comparison of the paper's main table (section 5). Datasets that one side lacks are left out.
    """
    scratch = [name for name in table.cells if name in starts and not starts[name].tasks]
    singles = [name for name in table.cells if name in starts and len(starts[name].tasks) == 1]
    several = [name for name in table.cells if name in starts and len(starts[name].tasks) > 1]
    groups = {"/".join(scratch): scratch, "the mean over single teachers": singles}
    return [_difference(table, name, against, group) for name in several for against, group in groups.items() if group]


def write(rows: Sequence[Row], folder: Path) -> None:
    """Writes `scorecard.json` and `scorecard.csv`; a reader never sees half a file."""
    values = [dataclasses.asdict(row) for row in rows]
    names = [field.name for field in dataclasses.fields(Row)]
    table = io.StringIO()
    writer = csv.DictWriter(table, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(values)
    files.write_text(folder / CSV_FILE, table.getvalue())
    files.write_text(folder / JSON_FILE, json.dumps(values, indent=1) + "\n")


def read(folder: Path) -> list[Row]:
    """The rows of `scorecard.json`."""
    return [Row(**values) for values in json.loads((folder / JSON_FILE).read_text())]


def _table(mode: str, rows: Sequence[Row], starts: Mapping[str, Start]) -> Table:
    datasets = {row.dataset: (row.task, row.metric) for row in rows}
    cells: dict[str, dict[str, Cell]] = {}
    for init in sorted(
        _unique(row.init for row in rows), key=lambda init: min(len(starts.get(init, Start()).tasks), 2)
    ):
        cells[init] = {}
        for dataset in datasets:
            runs = [row for row in rows if (row.init, row.dataset) == (init, dataset)]
            if runs:
                values = [row.value for row in runs]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                cells[init][dataset] = Cell(statistics.fmean(values), spread, len(values), runs[0].learning_rate)
    return Table(mode, datasets, cells)


def _difference(table: Table, init: str, against: str, others: Sequence[str]) -> Difference:
    by_dataset = {
        dataset: cell.mean - statistics.fmean(table.cells[other][dataset].mean for other in others)
        for dataset, cell in table.cells[init].items()
        if all(dataset in table.cells[other] for other in others)
    }
    return Difference(init, against, by_dataset)


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
