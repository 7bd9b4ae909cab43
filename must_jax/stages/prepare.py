"""Prepare: imports images and their labels as an image set, which the other stages read by its name."""

from __future__ import annotations

from pathlib import Path

from must_jax.config import PrepareConfig
from must_jax.data.prepare import check, prepare
from must_jax.errors import UserError


def run(config: PrepareConfig, workdir: Path) -> None:
    """Writes `data_dir/NAME`, and nothing to the workdir; raises the same errors as `prepare` and `truth.write`."""
    if not config.labels:
        prepare(config)
        return
    from must_jax.stages import truth  # loads jax, which images alone do not need

    folders = truth.folders_of(config)
    truth.check(config.labels, folders)
    images = prepare(config)
    for task, labels in config.labels.items():
        truth.write(images, task, labels, folders[task])


def mistakes(config: PrepareConfig) -> list[str]:
    """Everything wrong with it that can be found without opening an image or a label."""
    from must_jax.stages import truth

    found = []
    for task, labels in config.labels.items():
        try:
            truth.check({task: labels}, truth.folders_of(config))
        except UserError as error:
            found.append(str(error))
    try:
        check(config)
    except UserError as error:
        found.append(str(error))
    return found
