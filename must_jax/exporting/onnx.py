"""Functions as ONNX files, and as onnxruntime computes them on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnxruntime

from must_jax.cores import cores
from must_jax.exporting import onnx_file
from must_jax.exporting.base import Arrays


def check(opset: int) -> None:
    """Raises UserError if it is not known."""
    onnx_file.check(opset)


def write(
    function: Callable[[jax.Array], Arrays],
    hw: tuple[int, int],
    dtype: Any,
    path: Path,
    *,
    opset: int,
    metadata: Mapping[str, str],
    parameters: Any,
) -> Callable[[np.ndarray], Arrays]:
    """Writes a file of `function`, and returns what the file computes.

    Args:
      hw: rows and columns of the images that it takes, any number at a time.
      metadata, parameters: see `onnx_file.write`.

    Raises:
      UserError: an opset that is not known.
    """
    images = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("batch"), *hw, 3), dtype)
    onnx_file.write(function, images, path, opset=opset, metadata=metadata, parameters=parameters)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()  # it does not see how many a process may use
    options.log_severity_level = 3  # it warns of optimisations that it leaves out
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return lambda batch: dict(zip(names, session.run(names, {onnx_file.INPUT: batch}), strict=True))


def example(name: str, hw: tuple[int, int], dtype: str) -> str:
    """Lines that load and run the file."""
    return f"""import numpy as np, onnxruntime

session = onnxruntime.InferenceSession("{name}", providers=["CPUExecutionProvider"])
images = np.zeros((1, {hw[0]}, {hw[1]}, 3), np.{dtype})
names = [each.name for each in session.get_outputs()]
outputs = dict(zip(names, session.run(names, {{"{onnx_file.INPUT}": images}})))
print({{name: array.shape for name, array in outputs.items()}})"""
