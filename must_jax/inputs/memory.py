"""Refuses what cannot fit into this machine's memory before the run starts, instead of being killed halfway."""

from __future__ import annotations

import math
from pathlib import Path

import jax
import numpy as np

from must_jax import files
from must_jax.cores import memory_bytes
from must_jax.errors import UserError
from must_jax.models.api import Model

_GIB = 2**30


def check_batch(rows: int, input_hw: tuple[int, int], lower: str = "batch_size or image_size") -> None:
    """Checks the pixels of this process's part of a batch: the minimum that a stage holds at a time."""
    _check(f"{rows:,} images of {' x '.join(map(str, input_hw))}", rows * math.prod(input_hw) * 3, lower)


def check_model(model: Model, input_hw: tuple[int, int]) -> None:
    """Checks the parameters, which exist twice: drawn on the host, and as copies on their way to the devices."""
    shapes = jax.tree.leaves(model.shapes(input_hw))
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in shapes)
    _check("the parameters of this network", 2 * size, "the width or the channels of config.model")


def check_features(
    what: str, model: Model, input_hw: tuple[int, int], examples: int, room_bytes: int, workdir: Path
) -> None:
    """Checks what `Model.features` returns for the examples that frozen transfer keeps at a time.

    Args:
      room_bytes: of memory; what goes beyond is written to the disk of `workdir`.
    """
    image = jax.ShapeDtypeStruct((1, *input_hw, 3), np.uint8)
    leaves = jax.tree.leaves(jax.eval_shape(model.features, model.shapes(input_hw), image))
    size = examples * sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    features = (
        f"the features of {examples:,} examples of {' x '.join(map(str, input_hw))}, for frozen transfer to {what}"
    )
    _check(f"{features},", min(size, room_bytes), "config.feature_bytes, and what is beyond goes to disk")
    files.check_space(workdir, size - room_bytes, features)


def _check(what: str, needed: int, lower: str) -> None:
    there = memory_bytes()
    if there is not None and needed > there:
        raise UserError(
            f"{what} need at least {needed / _GIB:,.1f} GiB of memory, this machine has {there / _GIB:,.1f} GiB; "
            f"lower {lower}"
        )
