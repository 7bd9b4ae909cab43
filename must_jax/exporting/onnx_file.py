"""Functions as ONNX files: any batch size, in float32, for onnxruntime and others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from must_jax.config.export import OLDEST_OPSET
from must_jax.errors import UserError
from must_jax.exporting.onnx_equations import run
from must_jax.exporting.onnx_graph import Graph, Known

INPUT = "images"
_PAGE = 4096  # bytes
MOST_BYTES = 2**31 - 2**20  # of a file: protobuf's limit, less what is not an initializer


def check(opset: int) -> None:
    """Raises UserError if the installed onnx does not know it."""
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise UserError(f"config.opset {opset} is not known; set one from {OLDEST_OPSET} to {newest}")


def write(
    function: Callable[[jax.Array], Any],
    images: jax.ShapeDtypeStruct,
    path: Path,
    *,
    opset: int = OLDEST_OPSET,
    metadata: Mapping[str, str] | None = None,
    parameters: Any = None,
) -> None:
    """Writes a file that computes `function`.

    Parameters of more than 2 GiB go to a second file, named as the first and `.data`.

    Args:
      function: images -> nested dicts of arrays; jit-able, and closes over its parameters. The outputs' names are the
        keys on the way to them, separated by "/".
      images: shape and type of the one input, called `INPUT`; sizes from `jax.export.symbolic_shape` are left open.
      opset: version of ONNX's operators.
      metadata: what the file says of itself.
      parameters: nested dicts of arrays that the function closes over, of which initializers have their names.

    Raises:
      UserError: an opset that is not known; the function computes something that has no form here.
    """
    check(opset)
    traced = jax.jit(function).trace(images)
    program, graph = traced.jaxpr, Graph(opset)
    names = {_key(leaf): _path(path) for path, leaf in jax.tree_util.tree_leaves_with_path(parameters)}
    consts = [Known(np.asarray(x), names.get(_key(x), "")) for x in program.consts]
    taken = graph.takes(INPUT, images.shape, np.dtype(images.dtype))
    results = run(graph, program.jaxpr, consts, [taken])
    outputs = {}
    for (keys, _), value, aval in zip(
        jax.tree_util.tree_leaves_with_path(traced.out_info), results, program.out_avals, strict=True
    ):
        outputs[_path(keys)] = (graph.plain(value, aval.shape), aval.shape, aval.dtype)
    opsets = [helper.make_opsetid("", opset)]
    form, arrays = graph.written({INPUT: (images.shape, images.dtype)}, outputs)
    form.initializer.extend(_stored(arrays, path))
    model = helper.make_model(
        form, producer_name="must_jax", opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets)
    )
    helper.set_model_props(model, dict(metadata or {}))
    onnx.save_model(model, path)
    onnx.checker.check_model(path, full_check=True)


def _stored(arrays: Mapping[str, np.ndarray], path: Path) -> list[TensorProto]:
    """As parts of the file at `path` or, if they are too large, of one beside it."""
    if sum(array.nbytes for array in arrays.values()) <= MOST_BYTES:
        return [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    tensors = []
    with path.with_name(f"{path.name}.data").open("wb") as data:
        for name, array in arrays.items():
            if array.nbytes < _PAGE:  # shapes and axes must be in the file itself
                tensors.append(numpy_helper.from_array(array, name))
                continue
            data.write(bytes(-data.tell() % _PAGE))  # so that runtimes can map it
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            tensor = TensorProto(name=name, dims=array.shape, data_type=kind, data_location=TensorProto.EXTERNAL)
            for key, value in (("location", Path(data.name).name), ("offset", data.tell()), ("length", array.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            data.write(array.tobytes())
            tensors.append(tensor)
    return tensors


def _key(array: Any) -> tuple[Any, bytes]:
    """Of what an array holds: functions reshape parameters before they are traced."""
    array = np.asarray(array)
    return array.size, hashlib.sha1(np.ascontiguousarray(array).tobytes()).digest()


def _path(keys: Any) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")
