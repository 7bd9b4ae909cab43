"""Which stages of a pipeline must be repeated: their config, or what they read, is not what it was when they began."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from must_jax import description
from must_jax.config import AuditConfig, EvaluateConfig, LabelConfig, PipelineConfig, PrepareConfig, TrainConfig
from must_jax.data import folders
from must_jax.data.image_sets import open_images
from must_jax.errors import UserError
from must_jax.files import MODEL_FILE, make_folder, write_json
from must_jax.labels import manifest
from must_jax.labels.columns import beside
from must_jax.reading import read_json
from must_jax.stages import going_on
from must_jax.stages.inputs import TRUTH, run_digest
from must_jax.stages.labels import find
from must_jax.stages.workdir import CONFIG_FILE, RESULT_FILE, difference, stored

INPUTS_FILE = "inputs.json"  # in the folder of a stage: what it reads -> a digest of that when it began
_ADVICE = "remove it; then it is assumed that what the stage has read is unchanged"
_MEASURES = (AuditConfig, EvaluateConfig)  # repeat by themselves only what is out of date


def is_finished(config: Any, folder: Path) -> bool:
    """Whether nothing is left to do, whatever has changed since."""
    made = Path(config.data_dir).expanduser() / config.name if isinstance(config, PrepareConfig) else folder
    return (folder / RESULT_FILE).exists() and made.exists() and not _longer(config, folder)


def is_same(config: PipelineConfig, workdir: Path) -> bool:
    """Whether the pipeline there has this very config. If not, finished stages are asked whether they have to go on."""
    try:
        return PipelineConfig.model_validate(stored(workdir, [config.stage])) == config
    except UserError:  # of another version, or another kind of run
        return False


def planned(stages: Mapping[str, Any], workdir: Path) -> dict[str, str]:
    """The stages, of these in their order, that have begun and must be repeated -> why."""
    reasons: dict[str, str] = {}
    longer = {name for name, config in stages.items() if _longer(config, workdir / name)}
    for name, config in stages.items():
        repeated = {str(workdir / other): other for other in (*reasons, *longer)}
        if why := outdated(config, workdir / name):
            reasons[name] = why
        elif (workdir / name / CONFIG_FILE).exists():
            for path in _reads(config).values():
                other = next((repeated[each] for each in repeated if path == each or path.startswith(f"{each}/")), "")
                if other:
                    reasons[name] = f"it reads {other}" + ", which is trained further" * (other in longer)
                    break
    return reasons


def outdated(config: Any, folder: Path) -> str:
    """Why what a stage has made, or begun, must not be used; "" if it may be, or there is nothing."""
    if isinstance(config, PrepareConfig) or not (folder / CONFIG_FILE).exists():
        return ""  # preparing compares what is there itself, and adds labels
    if differs := difference(folder, config, _longer(config, folder)):
        return differs
    before = _recorded(folder)
    for key, digest in digests(config).items():
        if digest is not None and before.get(key, digest) != digest:
            return f"config.{key} ({_reads(config)[key]}) has changed since"
    return ""


def set_aside(config: Any, folder: Path) -> Path | None:
    """Makes room for a stage that is outdated. Returns where its folder is now; None if it can go on in it."""
    if isinstance(config, _MEASURES) and not difference(folder, config):
        (folder / RESULT_FILE).unlink(missing_ok=True)
        (folder / INPUTS_FILE).unlink(missing_ok=True)
        return None
    number = 1
    while (aside := folder.with_name(f"{folder.name}.before-{number}")).exists():
        number += 1
    return folder.rename(aside)


def record(config: Any, folder: Path) -> None:
    """Records what a stage reads, where it is not recorded yet."""
    made = {key: digest for key, digest in digests(config).items() if digest is not None}
    if before := _recorded(folder):
        made |= before
    if made != before:
        make_folder(folder)
        write_json(folder / INPUTS_FILE, made)


def digests(config: Any) -> dict[str, str | None]:
    """What a stage reads -> a digest of its present state; None if it is not there."""
    return {key: _digest(key, what, config) for key, what in _reads(config).items()}


def _longer(config: Any, folder: Path) -> tuple[str, ...]:
    """The key that makes a finished training longer, which then goes on in its folder; () = none does."""
    if not isinstance(config, TrainConfig) or not (folder / MODEL_FILE).exists():
        return ()
    try:
        return going_on.changed(config, folder, description.read(folder))
    except UserError:  # fewer steps are another training
        return ()


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
            read |= {f"teachers.{Path(teacher).name}": teacher for teacher in config.teachers}
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
            columns = beside(open_images(what, config.data_dir))
            return " ".join(manifest.read(each).checksum for each in columns if each.name in _tasks(key, config))
        if key.startswith("columns.") or ".labels." in f".{key}":
            return " ".join(manifest.read(folder).checksum for folder in find(Path(what)))
        return run_digest(what)
    except (UserError, OSError):
        return None


def _tasks(key: str, config: Any) -> Collection[str]:
    """The tasks whose labels are read by a key: those of others may come later."""
    if isinstance(config, EvaluateConfig):
        return [each.task for name, each in config.downstream.items() if key.startswith(f"downstream.{name}.")]
    return config.tasks


def _images(spec: str, data_dir: str) -> str | None:
    if spec.startswith("scenes/"):
        return "rendered"  # by this version
    if spec.startswith("folder:"):
        path = Path(spec.removeprefix("folder:")).expanduser()
        return folders.digest(folders.list_folder(path).images) if path.is_dir() else None
    return open_images(spec, data_dir).digest
