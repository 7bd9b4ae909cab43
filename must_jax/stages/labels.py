"""Labels: contents and provenance of label columns, and whether they are intact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from must_jax.config import LabelsConfig
from must_jax.data.image_sets import evenly_spread, open_images
from must_jax.data.kinds.statistics import Statistics
from must_jax.data.shards import COLUMNS
from must_jax.errors import UserError
from must_jax.labels import manifest, verify
from must_jax.labels.columns import LabelColumn, _holds, find_columns
from must_jax.labels.manifest import Manifest
from must_jax.labels.told import told
from must_jax.labels.verify import Described
from must_jax.progress import counted, readable_bytes, say

SAMPLED = 200  # labels of a column without classes


def run(config: LabelsConfig, workdir: Path) -> None:
    """Only prints; needs no workdir.

    Raises:
      UserError: a folder without columns, or columns that are damaged, belong to other images or contradict each other;
        the problems have been printed by then.
    """
    lost = [folder for path in config.columns for folder in without_manifest(Path(path))]
    folders = [
        folder for path in config.columns if not lost or _holds(Path(path)) for folder in find_columns(Path(path))
    ]
    if config.action == "verify":
        described = _verified(config, folders, lost)
    else:
        described = [(folder, manifest.read(folder)) for folder in folders]
    console = Console(width=max(160, Console().width))
    console.print(table(described))
    for folder, column in described:
        if line := contents(folder, column):
            console.print(f"{folder.name}: {line}", markup=False, highlight=False, soft_wrap=True)


def contents(folder: Path, column: Manifest) -> str:
    """What a column holds: its classes; of maps of values their range, by a sample; "" = it is not finished."""
    if column.classes:
        return column.summary().told_classes(column.label_kind, column.classes)
    if not column.complete:
        return ""
    statistics = Statistics(0)
    try:
        labels = LabelColumn(folder)
        for position in (positions := evenly_spread(len(labels), SAMPLED)):
            labels.kind.count(labels[position], position, statistics)
    except UserError as error:
        return str(error)
    of = f", in a sample of {len(positions)} labels" if len(positions) < len(labels) else ""
    labelled = len(labels) - column.summary().absent
    return f"{labelled:,} of {counted(len(labels), 'image')}; {told(labels.kind, (), statistics)}{of}"


def without_manifest(path: Path) -> list[Path]:
    """The folders, among those that `find` searches, that hold shards of a column but no manifest."""
    near = (path, *path.glob("*/"), *(path / COLUMNS).glob("*/"))
    return sorted(
        folder
        for folder in dict.fromkeys(near)
        if any(folder.glob(manifest.SHARD_FILES)) and not (folder / manifest.FILE).exists()
    )


def table(columns: Sequence[Described]) -> Table:
    """One row per column."""
    made = Table(box=None, header_style="bold", title_justify="left")
    for name in ("column", "made by", "task", "rule", "unit", "images", "size", "empty", "made"):
        numeric = name in ("images", "size", "empty")
        made.add_column(name, no_wrap=numeric or name == "column", justify="right" if numeric else "left")
    for folder, column in columns:
        size, summary = sum(shard.bytes for shard in column.shards), column.summary().readable(column.classes)
        state = f"{column.images.length:,}" if column.complete else "not finished"
        made.add_row(
            folder.name,
            f"{column.maker} {column.teacher.digest[:8]}" if column.teacher else f"{column.maker} (truth)",
            f"{column.task}, {len(column.classes)} classes" if column.classes else column.task,
            ", ".join(f"{key} {value}" for key, value in column.rule.items()) or "-",
            column.unit or "-",
            state,
            f"{readable_bytes(size)}, {readable_bytes(size / max(1, column.images.length))} per image",
            f"{summary['empty_share']:.1f} %",
            f"{column.created[:16].replace('T', ' ')} must_jax {column.must_jax}",
        )
    return made


def _verified(config: LabelsConfig, folders: Sequence[Path], lost: Sequence[Path]) -> list[Described]:
    """The columns, if none has a problem."""
    found = [
        f"{folder} has shards of labels, but no {manifest.FILE}; "
        "restore it, or delete the folder and rerun the stage that wrote it"
        for folder in lost
    ]
    whole: list[Described] = []
    for folder in folders:
        try:
            column = manifest.read(folder)
        except UserError as error:
            found.append(str(error))
            continue
        problems = verify.damage(folder, column)
        found += problems
        whole += [] if problems else [(folder, column)]
    found += verify.disagreements(whole)
    if config.images:
        images = open_images(config.images, config.data_dir, config.take)
        found += [problem for each in whole for problem in verify.other_images(*each, images)]
    for problem in found:
        say(f"damaged: {problem}")
    if found:
        summed = f"{counted(len(found), 'problem')} in {counted(len(folders) + len(lost), 'column')}"
        raise UserError(f"{summed}, listed above; do not train on them until they are repaired")
    say(f"intact: {counted(len(folders), 'column')}")
    return whole
