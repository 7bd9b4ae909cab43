"""Prepare: imports images and their labels as an image set, which the other stages read by its name."""

from __future__ import annotations

from pathlib import Path

from must_jax.config import PrepareConfig
from must_jax.data.preparing import prepare


def run(config: PrepareConfig, workdir: Path) -> None:
    """Writes `data_dir/NAME`, and nothing to the workdir; raises the same errors as `prepare` and `truth.write`."""
    if not config.labels:
        prepare(config)
        return
    from must_jax.inputs import truth  # loads jax, which images alone do not need

    folders = truth.folders_of(config)
    truth.check(config.labels, folders)
    images = prepare(config)
    for task, labels in config.labels.items():
        truth.write(images, task, labels, folders[task])
