"""Prepare: images as people have them become an image set that every other stage reads by its name."""

from __future__ import annotations

from pathlib import Path

from must_jax.config import PrepareConfig
from must_jax.data.prepare import prepare


def run(config: PrepareConfig, workdir: Path) -> None:
    """Writes `data_dir/NAME`, and nothing into the workdir; errors as of `prepare`."""
    prepare(config)
