"""Functions as StableHLO, serialised by jax.export: any batch size, for CPUs, GPUs and TPUs."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers  # noqa: F401 (jax.export needs it, and does not install it)
import jax
import numpy as np

from must_jax.errors import UserError, told
from must_jax.exporting.base import Arrays

PLATFORMS = ("cpu", "cuda", "tpu")
# StableHLO promises to read what is up to six months old.
VALID_DAYS = 180


def expires(today: datetime.date) -> datetime.date:
    """The day until which every version of jax reads a file that is written today."""
    return today + datetime.timedelta(VALID_DAYS)


def write(
    function: Callable[[jax.Array], Arrays], hw: tuple[int, int], dtype: Any, path: Path
) -> Callable[[np.ndarray], Arrays]:
    """Writes a file of `function`, which closes over its parameters, and returns what the file computes.

    Args:
      hw: rows and columns of the images that it takes.

    Raises:
      UserError: it has more than 2 GiB.
    """
    images = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("batch"), *hw, 3), dtype)
    try:
        path.write_bytes(jax.export.export(jax.jit(function), platforms=PLATFORMS)(images).serialize())
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path.name} cannot be written as StableHLO: {told(error)}") from error
    call = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    return lambda batch: jax.device_get(call(batch))


def example(name: str, hw: tuple[int, int], dtype: str) -> str:
    """Lines that load and run the file."""
    return f"""import pathlib
import jax, numpy as np  # and: pip install flatbuffers

exported = jax.export.deserialize(bytearray(pathlib.Path("{name}").read_bytes()))
images = np.zeros((1, {hw[0]}, {hw[1]}, 3), np.{dtype})
outputs = exported.call(images)
print({{name: array.shape for name, array in outputs.items()}})"""
