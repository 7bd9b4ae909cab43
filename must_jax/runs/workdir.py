"""Ownership of a workdir: a run is its config and its folder. The same config resumes it, another is refused."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pydantic

from must_jax.config import STAGE_CONFIGS
from must_jax.errors import UserError
from must_jax.files import is_locked, lock, make_folder, unlock, write_json
from must_jax.reading import read_json, validated

CONFIG_FILE = "config.json"
RESULT_FILE = "result.json"  # written last: the run is finished
PREEMPTED_FILE = "PREEMPTED"  # the run received SIGTERM and saved its state: start it again
REPORT = Path("report") / "index.html"
SKIPPED_FILE = "skipped.jsonl"  # non-finite updates, and the images of their batches
_DAMAGED = "remove only this file; nothing of the run is lost: starting it again with its config rewrites it"
HISTORY = "history"  # key of config.json
NOT_SET = "not set"  # a key without a value
PLACE = "{workdir}"  # in a config: the pipeline's folder
# Device and inode of the folders that this process has claimed, which may be moved -> their locks.
_HELD: dict[tuple[int, int], tuple[int, ...]] = {}


def check(workdir: Path, config: pydantic.BaseModel, changed: Collection[str] = ()) -> None:
    """Checks that the folder does not belong to another config. Writes nothing.

    Args:
      changed: keys that may differ, besides those that always may.

    Raises:
      UserError: it does; names the first key that differs.
    """
    if differs := difference(workdir, config, changed):
        raise UserError(
            f"{workdir} belongs to a run with a different config: {differs}; choose another --workdir, or delete that "
            "folder"
        )


class Difference(NamedTuple):
    """A key of a config with its value in a run's folder, and here; NOT_SET: it has none."""

    key: str
    there: Any
    here: Any

    def __str__(self) -> str:
        return f"config.{self.key} is {self.there!r} there and {self.here!r} here"


def difference(workdir: Path, config: pydantic.BaseModel, changed: Collection[str] = ()) -> str:
    """The first of `differences`, in words; "" = none. Raises the same errors."""
    return str(next(differences(workdir, config, changed), ""))


def differences(workdir: Path, config: pydantic.BaseModel, changed: Collection[str] = ()) -> Iterator[Difference]:
    """The keys in which a config differs from that of the run in the folder.

    Args:
      changed: as in `check`.

    Raises:
      UserError: the folder's config has keys of another version, or is damaged.
    """
    path = workdir / CONFIG_FILE
    if not path.exists():
        return
    stored, readable = _stored(path), True
    try:
        kind = STAGE_CONFIGS.get(str(stored.get("stage")), type(config))
        stored = kind.model_validate(stored).model_dump(mode="json")  # keys added since have defaults
    except pydantic.ValidationError:  # another version's keys, or damaged: it may still be this very run
        readable = False
    theirs = dict(_leaves(stored))
    ours, place = dict(_leaves(config.model_dump(mode="json"))), home(workdir)
    for key in dict.fromkeys((*ours, *theirs)):
        differs = Difference(key, theirs.get(key, NOT_SET), ours.get(key, NOT_SET))
        if key in changed or _is_free(key, ours) or _same(differs.there, differs.here, place):
            continue
        if not readable:
            raise UserError(
                f"{workdir} belongs to a run with a different config: {differs}; choose another --workdir, or, if the "
                f"run there has this config after all, remove only {path}"
            )
        yield differs


def differs(workdir: Path, there: Any, here: Any) -> bool:
    """Whether two plain values of a config of this workdir differ; PLACE and other spellings of a path are the same."""
    theirs, ours, place = dict(_leaves(there)), dict(_leaves(here)), home(workdir)
    return theirs.keys() != ours.keys() or not all(_same(value, ours[key], place) for key, value in theirs.items())


def told_before(workdir: Path, key: str) -> Any:
    """The value of a key of the config in the workdir; None without such a key, or a run.

    Raises:
      UserError: the file is damaged.
    """
    return _stored(workdir / CONFIG_FILE).get(key) if (workdir / CONFIG_FILE).exists() else None


def history(workdir: Path) -> list[dict[str, Any]]:
    """What `claim` has changed: former values of keys, with the time until which they were valid."""
    return [each for each in _read(workdir / CONFIG_FILE).get(HISTORY, []) if isinstance(each, dict)]


def stored(workdir: Path, stages: Collection[str]) -> dict[str, Any]:
    """The config of the run in a workdir, with defaults for keys added since.

    Args:
      stages: names of the stages that exist.

    Raises:
      UserError: it is damaged, or of a version with other keys.
    """
    path = workdir / CONFIG_FILE
    values = _stored(path)
    if (stage := str(values.get("stage"))) not in stages:
        raise UserError(f"{path} is damaged at 'stage'; {_DAMAGED}")
    if stage not in STAGE_CONFIGS:
        return values
    return validated(path, values, STAGE_CONFIGS[stage], _DAMAGED).model_dump(mode="json")


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, dict[str, Any], _DAMAGED)


def _stored(path: Path) -> dict[str, Any]:
    return _without_former({key: value for key, value in _read(path).items() if key != HISTORY})


def _without_former(values: dict[str, Any]) -> dict[str, Any]:
    """A config without keys of earlier versions that changed nothing of what was computed; also those of its stages."""
    kind = STAGE_CONFIGS.get(str(values.get("stage")))
    left = {key: value for key, value in values.items() if kind is None or key not in kind.former}
    if isinstance(stages := left.get("stages"), dict):
        parts = {name: _without_former(each) if isinstance(each, dict) else each for name, each in stages.items()}
        left["stages"] = parts
    return left


def claim(workdir: Path, config: pydantic.BaseModel, worker: str = "", changed: Collection[str] = ()) -> None:
    """Claims the folder for this config, by `config.json` in it, and for this process, until it ends or `release`s it.

    With `worker` it is shared by processes with different names. Paths inside a pipeline are written with PLACE, so it
    can resume from another directory and after a move. Former values of the keys `changed` are added to its history.

    Raises:
      UserError: as `check`, or another process is using it.
    """
    check(workdir, config, changed)
    make_folder(workdir)
    _lock(workdir, worker)
    values, past = config.model_dump(mode="json"), []
    if (workdir / CONFIG_FILE).exists():
        before = _stored(workdir / CONFIG_FILE)
        former = {key: before[key] for key in changed if key in before and before[key] != values[key]}
        past = history(workdir) + [{**former, "until": time.strftime("%Y-%m-%d %H:%M:%S")}] * bool(former)
    write_json(workdir / CONFIG_FILE, portable(workdir, values | ({HISTORY: past} if past else {})))
    (workdir / PREEMPTED_FILE).unlink(missing_ok=True)


def portable(workdir: Path, value: Any) -> Any:
    """Plain values with PLACE for the pipeline's folder in their paths."""
    place = json.dumps(f"{home(workdir)}/")[:-1]
    return json.loads(json.dumps(value).replace(place, f'"{PLACE}/'))


def _lock(workdir: Path, worker: str) -> None:
    if _id(workdir) in _HELD:
        return
    try:
        _HELD[_id(workdir)] = lock(workdir, worker)
    except BlockingIOError:
        raise UserError(f"another process is using {workdir}; wait for it, or choose another --workdir") from None


def check_unused(workdir: Path) -> None:
    """Raises UserError if another process is using a folder that is to be moved."""
    if _id(workdir) not in _HELD and is_locked(workdir):
        raise UserError(f"another process is using {workdir}, which is to be repeated; wait for it, or end it")


def release(workdir: Path) -> None:
    """Ends the claim of this process, if it has one: the run is over, but the process has other work."""
    with contextlib.suppress(FileNotFoundError):
        unlock(_HELD.pop(_id(workdir), ()))


def _id(workdir: Path) -> tuple[int, int]:
    status = workdir.stat()
    return status.st_dev, status.st_ino


def _is_free(key: str, config: Mapping[str, Any]) -> bool:
    """Whether this key of the flattened config may change between restarts."""
    stage = STAGE_CONFIGS.get(str(config.get("stage")))
    return stage is not None and key.split(".")[0] in stage.free


def home(workdir: Path) -> Path:
    """The pipeline's folder, for a pipeline and for its stages; otherwise the run's own."""
    return workdir.parent if (workdir.parent / CONFIG_FILE).exists() else workdir


def _same(there: Any, here: Any, home: Path) -> bool:
    """Whether they are equal, or two spellings of one path."""
    if isinstance(there, str) and isinstance(here, str):
        there, here = (os.path.realpath(value.replace(PLACE, str(home))) for value in (there, here))
    return there == here


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if not children:
        yield path, value
        return
    for key, child in children:
        yield from _leaves(child, f"{path}.{key}" if path else str(key))
