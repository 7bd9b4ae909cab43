"""Which stages of a pipeline must be repeated: their config, or what they read, is not what it was when they began.

A label run is repeated by columns, each of which says who made it and how: those of other teachers stay.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from must_jax import description
from must_jax.config import AuditConfig, EvaluateConfig, LabelConfig, PipelineConfig, PrepareConfig, TrainConfig
from must_jax.data import folders
from must_jax.data.image_sets import open_images
from must_jax.data.shards import COLUMNS
from must_jax.errors import UserError
from must_jax.files import MODEL_FILE, make_folder, write_json
from must_jax.labels import manifest
from must_jax.labels.columns import beside
from must_jax.reading import read_json
from must_jax.stages import going_on
from must_jax.stages.finished import outdated_columns
from must_jax.stages.inputs import TRUTH, maker_of, run_digest
from must_jax.stages.labels import find
from must_jax.stages.workdir import CONFIG_FILE, RESULT_FILE, difference, differs, stored, told_before

INPUTS_FILE = "inputs.json"  # in the folder of a stage: what it reads -> a digest of that when it began
_ADVICE = "remove it; then it is assumed that what the stage has read is unchanged"
_TEACHERS = "teachers."  # the keys of a label run's teachers
_MEASURES = (AuditConfig, EvaluateConfig)  # repeat by themselves only what is out of date


def is_finished(config: Any, folder: Path) -> bool:
    """Whether nothing is left to do, whatever has changed since."""
    made = Path(config.data_dir).expanduser() / config.name if isinstance(config, PrepareConfig) else folder
    return (folder / RESULT_FILE).exists() and made.exists() and not _is_longer(config, folder)


def is_unchanged(config: Any, folder: Path) -> bool:
    """Whether the stage in the folder has begun with this very config, those keys included that may change."""
    try:
        there = stored(folder, [config.stage]) if (folder / CONFIG_FILE).exists() else None
    except UserError:  # of another version, or damaged
        return False
    return there is not None and not differs(folder, there, config.model_dump(mode="json"))


def is_same(config: PipelineConfig, workdir: Path) -> bool:
    """Whether the pipeline there has this very config. If not, finished stages are asked whether they have to go on."""
    try:
        return PipelineConfig.model_validate(stored(workdir, [config.stage])) == config
    except UserError:  # of another version, or another kind of run
        return False


def planned(stages: Mapping[str, Any], workdir: Path) -> dict[str, str]:
    """The stages, of these in their order, that have begun and must be repeated -> why.

    Raises:
      UserError: an unfinished training gets more steps, which it can only after it has finished.
    """
    reasons: dict[str, str] = {}
    again: dict[str, str] = {}  # folder of a run or a column that will change -> why what reads it is repeated
    for name, config in stages.items():
        folder = workdir / name
        if not _has_begun(config, folder):
            continue
        try:
            why = _other_as_a_whole(config, folder)
        except UserError as error:
            raise UserError(str(error).replace("config.steps", f"config.stages.{name}.steps")) from None
        changes = [folder]
        if not why and isinstance(config, LabelConfig):
            columns = outdated_columns(config, folder, again)
            why, changes = _told(columns), list(columns)
        elif not why:
            why = _affected(config, again)
        if why:
            reasons[name] = why
            again |= {str(each): f"it reads {name}" for each in changes}
        elif _is_longer(config, folder):
            again[str(folder)] = f"it reads {name}, which is trained further"
    return reasons


def outdated(config: Any, folder: Path) -> str:
    """Why what a stage has made, or begun, must not be used, or a part of it; "" if it may be, or there is nothing."""
    if not _has_begun(config, folder):
        return ""
    why = _other_as_a_whole(config, folder)
    if not why and isinstance(config, LabelConfig):
        return _told(outdated_columns(config, folder, {}))
    return why


def set_aside(config: Any, folder: Path) -> Path | None:
    """Makes room for a stage that is outdated. Returns where what it has made is now.

    What measures only what is new goes on in its folder, and would overwrite its tables and pages: these are copied.
    So are those of a label run of which only some columns are outdated: these are moved, the others stay where they
    are. If it is killed meanwhile, the rest is still outdated the next time.
    """
    number = 1
    while (aside := folder.with_name(f"{folder.name}.before-{number}")).exists():
        number += 1
    if isinstance(config, LabelConfig) and not _other_as_a_whole(config, folder):
        columns = outdated_columns(config, folder, {})
        shutil.copytree(folder, aside, ignore=lambda where, _: [COLUMNS] * (where == str(folder)))
        (folder / RESULT_FILE).unlink(missing_ok=True)
        make_folder(aside / COLUMNS)
        for column in columns:
            column.rename(aside / COLUMNS / column.name)
        return aside
    if not isinstance(config, _MEASURES) or difference(folder, config):
        return folder.rename(aside)
    if not (folder / RESULT_FILE).exists():  # nothing is finished that could be lost
        return None
    shutil.copytree(folder, aside)
    (folder / RESULT_FILE).unlink()
    (folder / INPUTS_FILE).unlink(missing_ok=True)
    return aside


def record(config: Any, folder: Path) -> None:
    """Records what a stage reads, where it is not recorded yet."""
    made = {key: digest for key, digest in digests(config).items() if digest is not None}
    # A stage that was refused before it began has read nothing.
    before = _recorded(folder) if (folder / CONFIG_FILE).exists() else {}
    made |= before
    if made != before:
        make_folder(folder)
        write_json(folder / INPUTS_FILE, made)


def digests(config: Any) -> dict[str, str | None]:
    """What a stage reads -> a digest of its present state; None if it is not there.

    Without the teachers of a label run: each column says itself which one made it.
    """
    read = {key: what for key, what in _reads(config).items() if not key.startswith(_TEACHERS)}
    return {key: _digest(key, what, config) for key, what in read.items()}


def _has_begun(config: Any, folder: Path) -> bool:
    """Whether there is something that could be outdated: preparing compares what is there itself, and adds labels."""
    return not isinstance(config, PrepareConfig) and (folder / CONFIG_FILE).exists()


def _other_as_a_whole(config: Any, folder: Path) -> str:
    """Why nothing that a stage has made may be used; "" if that may be, or parts of it."""
    if why := difference(folder, config, _raised(config, folder)):
        return why
    before = _recorded(folder)
    for key, digest in digests(config).items():
        if digest is not None and before.get(key, digest) != digest:
            return f"config.{key} ({_reads(config)[key]}) has changed since"
    return ""


def _affected(config: Any, again: Mapping[str, str]) -> str:
    """Why a stage is repeated that reads one of the folders that will change; "" if it reads none."""
    for key, path in _reads(config).items():
        for folder, why in again.items():
            if path == folder or path.startswith(f"{folder}/"):
                return why
            column = Path(folder)
            maker, _, task = column.name.rpartition("-")
            is_there = column.parent.name == COLUMNS and path in (str(column.parent), str(column.parent.parent))
            if is_there and _reads_labels(key, config, task, maker):
                return why
    return ""


def _told(columns: Mapping[Path, str]) -> str:
    """Why columns of a label run are outdated, and which ones; "" without any."""
    names = ", ".join(column.name for column in columns)
    return f"{'; '.join(dict.fromkeys(columns.values()))} (only {names})" if columns else ""


def _is_longer(config: Any, folder: Path) -> bool:
    """Whether a finished training will go on in its folder."""
    if not isinstance(config, TrainConfig) or not (folder / MODEL_FILE).exists():
        return False
    same = not difference(folder, config, _raised(config, folder))
    return same and not going_on.is_complete(config, description.read(folder))


def _raised(config: Any, folder: Path) -> tuple[str, ...]:
    """The key in which a finished training may differ, since it goes on in its folder; () = none.

    Raises:
      UserError: nothing but more steps, for an unfinished training: its updates would be lost.
    """
    if not isinstance(config, TrainConfig):
        return ()
    try:
        return going_on.changed(config, folder, description.read(folder) if (folder / MODEL_FILE).exists() else None)
    except UserError:
        before = told_before(folder, "steps")
        if isinstance(before, int) and before < config.steps and not difference(folder, config, ("steps",)):
            raise
        return ()  # another training


def _recorded(folder: Path) -> dict[str, str]:
    path = folder / INPUTS_FILE
    return read_json(path, dict[str, str], _ADVICE) if path.exists() else {}


def _reads(config: Any) -> dict[str, str]:
    """The keys of a config that name what a stage reads -> image set or folder."""
    read: dict[str, str] = {}

    def source(key: str, images: str, labels: tuple[str, ...]) -> None:
        read[f"{key}images"] = images
        for number, label in enumerate(labels):
            read[f"{key}labels.{number}"] = images if label == TRUTH else label

    match config:
        case TrainConfig():
            for number, each in enumerate(config.train):
                source(f"train.{number}.", each.images, each.labels)
            read |= {"init": config.init} if config.init else {}
        case LabelConfig():
            source("", config.images, ())
            read |= {f"{_TEACHERS}{Path(teacher).name}": teacher for teacher in config.teachers}
        case AuditConfig():
            source("", config.images, ())
            read |= {f"columns.{number}": each for number, each in enumerate(config.columns)}
            read |= {f"evaluation.{number}.images": each for number, each in enumerate(config.evaluation)}
        case EvaluateConfig():
            for name, downstream in config.downstream.items():
                for split in ("train", "validation", "test"):
                    part = getattr(downstream, split)
                    source(f"downstream.{name}.{split}.", part.images, part.labels)
            read |= {f"inits.{name}": folder for name, folder in config.inits.items() if folder}
    return read


def _digest(key: str, what: str, config: Any) -> str | None:
    kind = key.rpartition(".")[2]
    try:
        if kind == "images":
            return _images(what, config.data_dir)
        if ".labels." in f".{key}" and ":" in what:  # those stored beside the images
            stored = beside(open_images(what, config.data_dir))
            read = [manifest.read(folder) for folder in stored if _reads_labels(key, config, folder.name, TRUTH)]
            return " ".join(column.checksum for column in read)
        if key.startswith("columns.") or ".labels." in f".{key}":
            found = map(manifest.read, find(Path(what)))
            read = [column for column in found if _reads_labels(key, config, column.task, maker_of(column))]
            return " ".join(column.checksum for column in read)
        return run_digest(what)
    except (UserError, OSError):
        return None


def _reads_labels(key: str, config: Any, task: str, maker: str) -> bool:
    """Whether a key of the config also stands for the labels of a task by a maker: those of others may change."""
    match config:
        case EvaluateConfig():
            names = [name for name, each in config.downstream.items() if each.task == task]
            return any(key.startswith(f"downstream.{name}.") for name in names)
        case TrainConfig():
            return task in config.tasks and config.columns.reads(task, maker)
    return True  # an audit


def _images(spec: str, data_dir: str) -> str | None:
    if spec.startswith("scenes/"):
        return "rendered"  # by this version
    if spec.startswith("folder:"):
        path = Path(spec.removeprefix("folder:")).expanduser()
        return folders.digest(folders.list_folder(path).images) if path.is_dir() else None
    return open_images(spec, data_dir).digest
