"""The scorecard: one row per fine-tuned model, and what can honestly be said about many of them."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from must_jax import files
from must_jax.reading import read_json
from must_jax.report.details import Details

JSON_FILE, CSV_FILE = "scorecard.json", "scorecard.csv"


@dataclass(frozen=True)
class Row:
    """One starting point on one downstream set with one seed.

    Attributes:
      value: on the test split, higher is better; None: the training diverged.
      steps, image_steps: of the transfer; image-steps are steps times batch size, 0 = not known (earlier versions).
      details: what lies behind the value; for the first seed only.
    """

    init: str
    task: str
    dataset: str
    mode: str
    metric: str
    value: float | None
    seed: int
    learning_rate: float
    steps: int
    image_steps: int = 0
    details: Details | None = None


@dataclass(frozen=True)
class Start:
    """What a starting point was trained with: its tasks (none = random initialisation) and image-steps seen.

    `is_baseline`: others started from it, or are to be better than it, and so each is compared with it.
    """

    tasks: tuple[str, ...] = ()
    image_steps: int = 0
    is_baseline: bool = False


@dataclass(frozen=True)
class Cell:
    """One starting point on one set.

    Attributes:
      by_seed: seed -> value; None: that training diverged.
      mean: over the seeds that did not diverge; None if there are none.
      sd: sample standard deviation over the same seeds; None if there are fewer than two.
    """

    by_seed: Mapping[int, float | None]
    learning_rate: float

    @property
    def values(self) -> list[float]:
        return [value for value in self.by_seed.values() if value is not None]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def diverged(self) -> str:
        """Such as "2 of 3 diverged"; "" if none did."""
        count = len(self.by_seed) - len(self.values)
        return f"{count} of {len(self.by_seed)} diverged" if count else ""

    @property
    def spread(self) -> str:
        """What is written beside the mean; nothing for a single seed, which has no spread."""
        return ", ".join(filter(None, ("" if self.sd is None else f"± {self.sd:.1f}", self.diverged)))

    def __str__(self) -> str:
        if self.mean is None:
            return self.diverged
        if self.sd is None and self.diverged:
            return f"{self.mean:.1f} ({self.diverged})"
        return f"{self.mean:.1f} {self.spread}".rstrip()


@dataclass(frozen=True)
class Gap:
    """How much better one side is than the other on one set, paired by seed: both sides of a pair see the same images.

    Attributes:
      mean: over the pairs in which neither side diverged.
      margin: half of the 95 % interval of the mean, by Student's t; None = fewer than two pairs, or one diverged.
    """

    mean: float
    margin: float | None

    @property
    def is_beyond_noise(self) -> bool:
        return self.margin is not None and abs(self.mean) > self.margin


@dataclass(frozen=True)
class Difference:
    """`init` against the mean over others, by dataset. Only a difference beyond noise is a win or a loss."""

    init: str
    against: str
    by_dataset: dict[str, Gap]

    @property
    def wins(self) -> int:
        return sum(gap.is_beyond_noise and gap.mean > 0 for gap in self.by_dataset.values())

    @property
    def losses(self) -> int:
        return sum(gap.is_beyond_noise and gap.mean < 0 for gap in self.by_dataset.values())

    @property
    def ties(self) -> int:
        return len(self.by_dataset) - self.wins - self.losses

    @property
    def score(self) -> str:
        """Such as "5/6", followed by what the others are."""
        others = [f"{count} {name}" for count, name in ((self.ties, "within noise"), (self.losses, "lost")) if count]
        return f"{self.wins}/{len(self.by_dataset)}" + (f" ({', '.join(others)})" if others else "")

    def __str__(self) -> str:
        return f"{self.init} beats {self.against} on {self.score}"


RULE = (
    "A win or a loss is a difference beyond noise: the mean of the differences, paired by seed, lies further from 0 "
    "than half of its 95 % interval by Student's t. With one seed, or where a run diverged, nothing is beyond noise. "
    "The seeds are those of the transfers; each starting point was itself trained once."
)


ONE_SEED = "one seed has no spread, so no difference can be told from noise"


@dataclass(frozen=True)
class Table:
    """All rows of one mode: `cells[init][dataset]`.

    Attributes:
      steps, image_steps: of every transfer; 0 = not known.
    """

    mode: str
    datasets: dict[str, tuple[str, str]]  # name -> (task, metric)
    cells: dict[str, dict[str, Cell]]
    steps: int
    image_steps: int

    def best(self, dataset: str) -> str:
        """The init with the highest mean on `dataset`; "" if all diverged."""
        means = {init: cells[dataset].mean for init, cells in self.cells.items() if dataset in cells}
        known = {init: mean for init, mean in means.items() if mean is not None}
        return max(known, key=known.__getitem__, default="")

    @property
    def has_one_seed(self) -> bool:
        return all(len(cell.by_seed) == 1 for cells in self.cells.values() for cell in cells.values())

    @property
    def cost(self) -> str:
        """How long every transfer was trained."""
        return f"{self.steps:,} steps" + (f", {self.image_steps:,} image-steps" if self.image_steps else "")


def tables(rows: Sequence[Row], starts: Mapping[str, Start]) -> list[Table]:
    """One table per mode; random initialisation comes first, then inits of one task, then those of several."""
    return [
        _table(mode, [row for row in rows if row.mode == mode], starts) for mode in _unique(row.mode for row in rows)
    ]


def differences(table: Table, starts: Mapping[str, Start]) -> list[Difference]:
    """Each multi-task init against random initialisation and against the mean over single-task inits.

    This is the comparison of the paper's main table (section 5). Then each trained init against each baseline, and
    these against random initialisation. Datasets that one side lacks are left out.
    """
    known = {name: starts[name] for name in table.cells if name in starts}
    baselines = [name for name, start in known.items() if start.is_baseline]
    tasks = {name: len(start.tasks) for name, start in known.items() if not start.is_baseline}
    scratch, singles, several = (
        [name for name, count in tasks.items() if is_one(count)]
        for is_one in (lambda count: count == 0, lambda count: count == 1, lambda count: count > 1)
    )
    groups = {"/".join(scratch): scratch, "the mean over single teachers": singles}
    pairs = [(name, against, group) for name in several for against, group in groups.items() if group]
    pairs += [(name, baseline, [baseline]) for baseline in baselines for name in (*several, *singles)]
    pairs += [(baseline, "/".join(scratch), scratch) for baseline in baselines if scratch]
    return [_difference(table, *pair) for pair in pairs]


def told(table: Table, starts: Mapping[str, Start]) -> list[str]:
    """What can be said about a table, a line each."""
    return [ONE_SEED] if table.has_one_seed else [str(each) for each in differences(table, starts)]


def write(rows: Sequence[Row], folder: Path) -> None:
    """Writes `scorecard.json` and, without details, `scorecard.csv`; a reader never sees half a file."""
    values = [dataclasses.asdict(row) for row in rows]
    for value in values:
        if value["details"] is None:
            del value["details"]
    names = [field.name for field in dataclasses.fields(Row) if field.name != "details"]
    table = io.StringIO()
    writer = csv.DictWriter(table, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(values)
    files.write_text(folder / CSV_FILE, table.getvalue())
    files.write_text(folder / JSON_FILE, json.dumps(values, indent=1) + "\n")


def read(folder: Path) -> list[Row]:
    """The rows of `scorecard.json`.

    Raises:
      UserError: it is missing or damaged.
    """
    return read_json(folder / JSON_FILE, list[Row], "remove the result.json beside it, and start the evaluation again")


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
                cells[init][dataset] = Cell({row.seed: row.value for row in runs}, runs[0].learning_rate)
    return Table(mode, datasets, cells, rows[0].steps, rows[0].image_steps)


def _difference(table: Table, init: str, against: str, others: Sequence[str]) -> Difference:
    by_dataset = {
        dataset: _gap(cell, [table.cells[other][dataset] for other in others])
        for dataset, cell in table.cells[init].items()
        if all(dataset in table.cells[other] for other in others)
    }
    return Difference(init, against, {dataset: gap for dataset, gap in by_dataset.items() if gap})


def _gap(cell: Cell, others: Sequence[Cell]) -> Gap | None:
    """None if there is no seed for which all have a value."""
    paired, whole = [], True
    for seed, value in cell.by_seed.items():
        theirs = [other.by_seed.get(seed) for other in others]
        known = [each for each in theirs if each is not None]
        if value is None or len(known) < len(theirs):
            whole = False
        else:
            paired.append(value - statistics.fmean(known))
    if not paired:
        return None
    return Gap(statistics.fmean(paired), _margin(paired) if whole else None)


def _margin(differences: Sequence[float]) -> float | None:
    """Half of the 95 % interval of their mean; None if there are fewer than two."""
    from scipy.special import stdtrit  # takes a while to load

    count = len(differences)
    if count < 2:
        return None
    return float(stdtrit(count - 1, 0.975)) * statistics.stdev(differences) / math.sqrt(count)


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
