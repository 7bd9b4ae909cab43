"""Which stages of a pipeline must be repeated: their config, or what they read, is not what it was when they began.

A label run is repeated by columns, each of which says who made it and how: those of other teachers stay. Labels are
known by their contents, so that the same ones, imported or made again, repeat nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from must_jax import description
from must_jax.config import AuditConfig, EvaluateConfig, LabelConfig, PipelineConfig, PrepareConfig, TrainConfig
from must_jax.data import folders
from must_jax.data.image_sets import open_images
from must_jax.data.shards import COLUMNS
from must_jax.errors import UserError
from must_jax.files import MODEL_FILE, make_folder, write_json
from must_jax.inputs.sources import TRUTH, maker_of, run_digest
from must_jax.labelling.finished import outdated_columns
from must_jax.labels import manifest
from must_jax.labels.columns import beside, find_columns
from must_jax.reading import read_json
from must_jax.runs.workdir import CONFIG_FILE, RESULT_FILE, difference, differs, stored, told_before
from must_jax.training import going_on

INPUTS_FILE = "inputs.json"  # in the folder of a stage: what it reads -> a digest of that when it began
_ADVICE = "remove it; then it is assumed that what the stage has read is unchanged"
_TEACHERS = "teachers."  # the keys of a label run's teachers

State = str | dict[str, str]  # a digest; of labels by column, as "teacher-task"


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


def planned(
    stages: Mapping[str, Any], workdir: Path, settled: Callable[[str, Any], object] | None = None
) -> dict[str, str]:
    """The stages, of these in their order, that have begun and must be repeated -> why.

    Args:
      settled: is called with each stage that reads nothing which will change, before it is judged.

    Raises:
      UserError: an unfinished training gets more steps, which it can only after it has finished.
    """
    reasons: dict[str, str] = {}
    # Folder of a run, or of a column, that will change or be made -> why what reads it is repeated.
    again: dict[str, str] = {}
    for name, config in stages.items():
        folder = workdir / name
        if settled and not _affected(config, folder, again):
            settled(name, config)
        again |= {str(each): f"it reads {name}, which adds {each.name}" for each in _added(config, folder, stages)}
        if not _has_begun(config, folder):
            continue
        try:
            why = other_as_a_whole(config, folder, again)
        except UserError as error:
            raise UserError(str(error).replace("config.steps", f"config.stages.{name}.steps")) from None
        changes = [folder]
        if not why and isinstance(config, LabelConfig):
            columns = outdated_columns(config, folder, again)
            why, changes = _why_outdated(columns), list(columns)
        elif not why:
            why = _affected(config, folder, again)
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
    why = other_as_a_whole(config, folder)
    if not why and isinstance(config, LabelConfig):
        return _why_outdated(outdated_columns(config, folder, {}))
    return why


def record(config: Any, folder: Path) -> None:
    """Records what a stage reads, where it is not recorded yet, or in the way of an earlier version."""
    # A stage that was refused before it began has read nothing.
    before = _recorded(folder) if (folder / CONFIG_FILE).exists() else {}
    now = _states(config)
    made = before | {key: each[0] for key, each in now.items() if each and before.get(key, each[0]) in each}
    if made != before:
        make_folder(folder)
        write_json(folder / INPUTS_FILE, made)


def is_as_asked(config: Any, folder: Path) -> bool:
    """Whether a folder holds what this very config makes of what is there now, or a part of it."""
    try:
        if not _has_begun(config, folder) or difference(folder, config) or outdated(config, folder):
            return False
    except UserError:  # damaged, or of another version
        return False
    before = _recorded(folder)
    return all(key in before and states for key, states in _states(config).items())


def _has_begun(config: Any, folder: Path) -> bool:
    """Whether there is something that could be outdated: preparing compares what is there itself, and adds labels."""
    return not isinstance(config, PrepareConfig) and (folder / CONFIG_FILE).exists()


def other_as_a_whole(config: Any, folder: Path, coming: Collection[str] = ()) -> str:
    """Why nothing that a stage has made may be used; "" if that may be, or parts of it.

    Args:
      coming: folders, also of columns that are gone, and will be made again as they were.
    """
    if why := difference(folder, config, _raised(config, folder)):
        return why
    before = _recorded(folder)
    for key, states in _states(config).items():
        there = before.get(key)
        if isinstance(there, dict):
            gone = [Path(each) for each in coming if not Path(each).exists()]
            names = {_read_column(key, _reads(config)[key], config, each) for each in gone}
            there = {name: digest for name, digest in there.items() if name not in names}
        if states and there is not None and there not in states:
            return f"config.{key} ({_reads(config)[key]}) has changed since{_which(there, states[0])}"
    return ""


def _which(there: State, here: State) -> str:
    """The columns in which two states of labels differ, if there are others."""
    if not isinstance(there, dict) or not isinstance(here, dict):
        return ""
    differ = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    return f": {', '.join(differ)}" if len(differ) < len({**there, **here}) else ""


def _affected(config: Any, folder: Path, again: Mapping[str, str]) -> str:
    """Why a stage is repeated that reads one of the folders that will change; "" if it reads none."""
    before = _recorded(folder)
    for key, what in _reads(config).items():
        there = before.get(key)
        for changed, why in ((Path(each), why) for each, why in again.items()):
            if name := _read_column(key, what, config, changed):
                # What is gone comes as it was; and without a record nothing is known to have changed.
                if changed.exists() or (there is not None and (isinstance(there, str) or name not in there)):
                    return why
            elif changed.parent.name != COLUMNS and changed in (Path(what), *Path(what).parents):
                return why
    return ""


def _added(config: Any, folder: Path, stages: Mapping[str, Any]) -> Iterator[Path]:
    """The columns that a stage will add to those that are there."""
    columns: list[Path] = []
    match config:
        case PrepareConfig():
            there = Path(config.data_dir).expanduser() / config.name
            columns = [there / COLUMNS / task for task in config.labels] if there.exists() else []
        case LabelConfig() if _has_begun(config, folder):
            for teacher in config.teachers:
                tasks: Iterable[str] = teacher.tasks
                if (run := teacher.run) and (run / MODEL_FILE).exists():
                    model = description.read(run)
                    tasks = [task for task in model.tasks if task not in model.training.untrained]
                elif run and isinstance(coming := stages.get(run.name), TrainConfig):
                    tasks = coming.tasks if run == folder.parent / run.name else {}
                columns += [folder / COLUMNS / f"{teacher.called}-{teacher.names.get(task, task)}" for task in tasks]
    yield from (column for column in columns if not (column / manifest.FILE).exists())


def _why_outdated(columns: Mapping[Path, str]) -> str:
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


def _recorded(folder: Path) -> dict[str, State]:
    path = folder / INPUTS_FILE
    return read_json(path, dict[str, State], _ADVICE) if path.exists() else {}


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
            read |= {f"{_TEACHERS}{teacher.called}": str(teacher.run) for teacher in config.teachers if teacher.run}
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


def _states(config: Any) -> dict[str, list[State]]:
    """What a stage reads -> its present state, then how earlier versions recorded that; [] if it is not there.

    Without the teachers of a label run: each column says itself which one made it.
    """
    found: dict[str, list[State]] = {}
    for key, what in _reads(config).items():
        if key.startswith(_TEACHERS):
            continue
        try:
            if key.rpartition(".")[2] == "images":
                state = _images(what, config.data_dir)
            elif key.startswith("columns.") or ".labels." in f".{key}":
                found[key] = _of_labels(key, what, config)
                continue
            else:
                state = run_digest(what)
        except (UserError, OSError):
            state = None
        found[key] = [] if state is None else [state]
    return found


def _of_labels(key: str, what: str, config: Any) -> list[State]:
    folders = beside(open_images(what, config.data_dir)) if _are_stored(key, what) else find_columns(Path(what))
    columns = [manifest.read(folder) for folder in folders]
    read = [each for each in columns if _reads_labels(key, config, each.task, maker_of(each))]
    of_tasks = [each for each in columns if not isinstance(config, TrainConfig) or each.task in config.tasks]
    earlier = [" ".join(each.checksum for each in some) for some in (read, of_tasks, columns)]
    return [{_name(each.task, maker_of(each)): each.labels for each in read}, *earlier]


def _read_column(key: str, what: str, config: Any, column: Path) -> str:
    """The name of a column, which need not exist, if a key of the config reads it; otherwise ""."""
    read = _columns_of(what, config.data_dir) if _are_stored(key, what) else Path(what)
    if column.parent.name != COLUMNS or read not in (column, column.parent, column.parent.parent):
        return ""
    maker, _, task = column.name.rpartition("-")
    return _name(task, maker or TRUTH) if _reads_labels(key, config, task, maker or TRUTH) else ""


def _name(task: str, maker: str) -> str:
    return f"{maker}-{task}"


def _are_stored(key: str, what: str) -> bool:
    """Whether what a key names are the labels stored with an image set."""
    return ".labels." in f".{key}" and ":" in what


def _columns_of(images: str, data_dir: str) -> Path:
    return Path(data_dir).expanduser() / images.partition(":")[0] / COLUMNS


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
