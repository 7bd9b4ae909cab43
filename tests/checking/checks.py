"""Runs the stage as its users do, and changes a config as its findings say."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from made_models import ALL, Function, rendered

from must_jax.checking import verdicts
from must_jax.checking.verdicts import Checked, TaskVerdict
from must_jax.parsing import override, parse
from must_jax.stages import check


def config(function: Function, set_: str, data_dir: Path, tasks: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The check of a function on 50 images of a config of scenes, whose truth it knows."""
    function.rendered = rendered(set_, data_dir)
    return {
        "stage": "check",
        "data_dir": str(data_dir),
        "images": f"scenes/{set_}:{ALL}",
        "take": 50,
        "page_images": 0,
        "teachers": [{"model": function.model, "tasks": dict(tasks)}],
        **more,
    }


def checked(values: Mapping[str, Any], workdir: Path) -> Checked:
    check.run(parse(values), workdir)
    return verdicts.read(workdir)


def of(values: Mapping[str, Any], workdir: Path) -> TaskVerdict:
    """The verdict on the only task of the only teacher."""
    [teacher] = checked(values, workdir).teachers.values()
    [verdict] = teacher.tasks.values()
    return verdict


def corrected(values: Mapping[str, Any], line: str) -> dict[str, Any]:
    """The config, changed by overrides as on the command line."""
    changed = dict(values)
    for each in shlex.split(line):
        path, _, text = each.removeprefix("--config.").partition("=")
        changed = override(changed, path, text)
    return changed
