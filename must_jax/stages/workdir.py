"""Who a workdir belongs to: a run is its config and its folder. The same config continues it, another is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic

from must_jax.engine.writer import write_json
from must_jax.errors import UserError

CONFIG_FILE = "config.json"
RESULT_FILE = "result.json"  # written last: the run is finished
# Keys that may change between restarts, since they do not change what is computed.
FREE = frozenset({"data_dir", "devices", "log_every", "checkpoint_every", "minimum"})


def check(workdir: Path, config: pydantic.BaseModel) -> None:
    """Writes nothing.

    Raises:
      UserError: the folder belongs to another config; names the first key that differs.
    """
    path = workdir / CONFIG_FILE
    if not path.exists():
        return
    theirs = dict(_leaves(json.loads(path.read_text(encoding="utf-8"))))
    ours = dict(_leaves(config.model_dump(mode="json")))
    for key in (*ours, *theirs):
        there, here = theirs.get(key, "not set"), ours.get(key, "not set")
        if key.split(".")[0] not in FREE and there != here:
            raise UserError(
                f"{workdir} belongs to a run with another config: config.{key} is {there!r} there and {here!r} here; "
                "choose another --workdir, or delete that folder"
            )


def claim(workdir: Path, config: pydantic.BaseModel) -> None:
    """Makes the folder this config's own, by `config.json` in it; errors as of `check`."""
    check(workdir, config)
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / CONFIG_FILE, config.model_dump(mode="json"))


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if not children:
        yield path, value
        return
    for key, child in children:
        yield from _leaves(child, f"{path}.{key}" if path else str(key))
