"""Functions, as ONNX files in onnxruntime, against themselves in jax."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnxruntime

from must_jax.exporting.onnx_file import INPUT, write

BATCHES = (1, 2, 5)


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def answers(session: onnxruntime.InferenceSession, images: np.ndarray) -> dict[str, np.ndarray]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {INPUT: images}), strict=True))


def named(tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {jax.tree_util.keystr(keys, simple=True, separator="/"): leaf for keys, leaf in leaves}


def check(
    function: Callable[[jax.Array], Any], images: np.ndarray, path: Path, limit: float = 1e-5, **options: Any
) -> dict[str, np.ndarray]:
    """Writes `path` with an open batch, and asserts that it says the same of 1, 2 and 5 images as the function of all.

    Returns:
      what the function says.
    """
    batch = jax.export.symbolic_shape("batch")
    write(function, jax.ShapeDtypeStruct((*batch, *images.shape[1:]), images.dtype), path, **options)
    expected, runtime = named(jax.jit(function)(images)), session(path)
    for count in BATCHES:
        found = answers(runtime, images[:count])
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert (found[name].shape, found[name].dtype) == ((count, *array.shape[1:]), array.dtype), name
            largest = np.abs(array.astype(np.float64)).max() if array.size else 0
            np.testing.assert_allclose(
                found[name].astype(np.float64),
                array[:count].astype(np.float64),
                rtol=0,
                atol=limit * largest,
                err_msg=name,
            )
    return expected
