"""What stages of a pipeline have made before, in NAME.before-N: moved there, and taken back when asked for again."""

from __future__ import annotations

import contextlib
import glob
import shutil
from pathlib import Path
from typing import Any

from must_jax import description
from must_jax.config import AuditConfig, EvaluateConfig, LabelConfig, PrepareConfig, TrainConfig
from must_jax.data.shards import COLUMNS
from must_jax.errors import UserError
from must_jax.files import LOCK_FILE, MODEL_FILE, make_folder
from must_jax.labelling.finished import outdated_columns
from must_jax.labels import manifest
from must_jax.planning.renewal import INPUTS_FILE, is_as_asked, other_as_a_whole, outdated
from must_jax.runs.workdir import CONFIG_FILE, RESULT_FILE, check_unused, difference
from must_jax.trained import CHECKPOINTS

_BEFORE, _COMING = ".before-", ".coming"  # endings of the folder's name


def set_aside(config: Any, folder: Path) -> Path | None:
    """Makes room for a stage that is outdated. Returns where what it has made is now.

    What measures only what is new goes on in its folder, and would overwrite its tables and pages: these are copied.
    So are those of a label run of which only some columns are outdated: these are moved, the others stay where they
    are. If it is killed meanwhile, the rest is still outdated the next time.

    Raises:
      UserError: another process is using the folder.
    """
    check_unused(folder)
    aside = _next(folder)
    if not _goes_on(config, folder):
        folder.rename(aside)
        make_folder(folder)  # unlike one that was deleted
        return aside
    if isinstance(config, LabelConfig):
        columns = outdated_columns(config, folder, {})
        shutil.copytree(folder, aside, ignore=lambda where, _: [COLUMNS] * (where == str(folder)))
        (folder / RESULT_FILE).unlink(missing_ok=True)
        make_folder(aside / COLUMNS)
        for column in columns:
            column.rename(aside / COLUMNS / column.name)
        return aside
    finished = (folder / RESULT_FILE).exists()  # otherwise nothing could be lost
    if finished:
        shutil.copytree(folder, aside)
        (folder / RESULT_FILE).unlink()
    (folder / INPUTS_FILE).unlink(missing_ok=True)
    return aside if finished else None


def take_back(config: Any, folder: Path) -> list[Path]:
    """Replaces what is outdated by what was made before, if the stage would make that again. Returns where it was.

    What is replaced is set aside. Of a label run, columns are taken back that are to be added, or made again. Whoever
    has deleted a folder wants it to be made anew: nothing takes its place.
    """
    taken: list[Path] = []
    if isinstance(config, PrepareConfig):
        return taken
    coming = folder.with_name(folder.name + _COMING)
    if coming.exists():  # it was killed before
        coming.rename(_next(folder) if folder.exists() else folder)
    empty = folder.exists() and _is_empty(folder)
    if not (empty or (folder / CONFIG_FILE).exists()) or not _asides(folder):
        return taken
    goes_on = not empty and _goes_on(config, folder)
    if empty or (not goes_on and outdated(config, folder)):
        for aside in (each for each in _asides(folder) if is_as_asked(config, each) and _is_there(config, each)):
            check_unused(folder)
            aside.rename(coming)
            if empty:
                shutil.rmtree(folder)
            else:
                set_aside(config, folder)
            coming.rename(folder)
            taken.append(aside)
            break
    if isinstance(config, LabelConfig) and (taken or goes_on):
        taken += _take_back_columns(config, folder)
    return taken


def _is_empty(folder: Path) -> bool:
    """Whether a stage has made nothing there since what was there was set aside."""
    return all(each.name == INPUTS_FILE or each.name.startswith(LOCK_FILE) for each in folder.iterdir())


def _goes_on(config: Any, folder: Path) -> bool:
    """Whether a stage that is repeated goes on in its folder, and makes only parts of what is there again."""
    if isinstance(config, LabelConfig):
        return not other_as_a_whole(config, folder)
    return isinstance(config, AuditConfig | EvaluateConfig) and not difference(folder, config)


def _take_back_columns(config: LabelConfig, folder: Path) -> list[Path]:
    replaced, found = outdated_columns(config, folder, {}), dict[Path, Path]()
    for aside in _asides(folder):
        with contextlib.suppress(UserError):  # of another version
            if other_as_a_whole(config, aside):
                continue
            outdated_there = outdated_columns(config, aside, {})
            for column in _columns(aside):
                there = folder / COLUMNS / column.name
                wanted = there in replaced or not there.exists()
                if wanted and column not in outdated_there and _is_whole(column):
                    found.setdefault(there, column)
    if found.keys() & replaced.keys():
        set_aside(config, folder)
    for there, column in found.items():
        make_folder(there.parent)
        column.rename(there)
    return [*found.values()]


def _is_there(config: Any, aside: Path) -> bool:
    """Whether what is large has not been deleted since: all columns, or the weights of a finished training."""
    if isinstance(config, LabelConfig):
        return bool(_columns(aside))
    if isinstance(config, TrainConfig) and (aside / MODEL_FILE).exists():
        with contextlib.suppress(UserError):  # damaged
            return (aside / CHECKPOINTS / str(description.read(aside).checkpoint)).is_dir()
        return False
    return True


def _columns(folder: Path) -> list[Path]:
    return sorted(file.parent for file in (folder / COLUMNS).glob(f"*/{manifest.FILE}"))


def _is_whole(column: Path) -> bool:
    try:
        return manifest.is_whole(column)
    except UserError:  # damaged
        return False


def _asides(folder: Path) -> list[Path]:
    """NAME.before-N, the last one first."""
    found = folder.parent.glob(f"{glob.escape(folder.name + _BEFORE)}*")
    return sorted((each for each in found if _number(each)), key=_number, reverse=True)


def _number(aside: Path) -> int:
    number = aside.name.rpartition(_BEFORE)[2]
    return int(number) if number.isdecimal() else 0


def _next(folder: Path) -> Path:
    last = next(map(_number, _asides(folder)), 0)
    return folder.with_name(f"{folder.name}{_BEFORE}{last + 1}")
