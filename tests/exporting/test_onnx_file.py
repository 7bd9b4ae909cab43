"""ONNX files: what they say of themselves, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from jax import lax
from onnx_run import answers, check, named, session

from must_jax.config.export import OLDEST_OPSET
from must_jax.errors import UserError
from must_jax.exporting import onnx_file
from must_jax.exporting.onnx_file import INPUT, write

IMAGES = jax.ShapeDtypeStruct((2, 4, 6, 3), np.uint8)
PARAMETERS = {"block": {"kernel": np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)}}


def network(images: jax.Array) -> Any:
    """Of what opsets differ in: reductions, splits, pads, norms."""
    x = images.astype(jnp.float32) @ jnp.asarray(PARAMETERS["block"]["kernel"])
    first, second = jnp.split(jax.nn.standardize(x), [2], 2)
    return {
        "task": {"most": x.max(1), "probs": jax.nn.softmax(first)},
        "sum": jnp.pad(second, ((0, 0),) * 3 + ((1, 0),)).sum(2),
    }


@pytest.mark.parametrize("opset", [17, 18, 20, 21, 23])
def test_versions_of_operators_compute_the_same(opset: int, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    check(network, images, tmp_path / "it.onnx", 1e-5, opset=opset)
    assert [(each.domain, each.version) for each in onnx.load(tmp_path / "it.onnx").opset_import] == [("", opset)]


def test_a_file_tells_its_inputs_outputs_parameters_and_more(tmp_path: Path) -> None:
    said = {"classes": '["cup", "Tür"]', "licence": "Apache-2.0"}
    batch = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((*batch, *IMAGES.shape[1:]), np.uint8)
    write(network, images, tmp_path / "it.onnx", metadata=said, parameters=PARAMETERS)
    runtime = session(tmp_path / "it.onnx")
    assert [(put.name, put.shape, put.type) for put in runtime.get_inputs()] == [
        (INPUT, ["batch", 4, 6, 3], "tensor(uint8)")
    ]
    assert {put.name: put.shape for put in runtime.get_outputs()} == {
        "sum": ["batch", 4, 6],
        "task/most": ["batch", 6, 5],
        "task/probs": ["batch", 4, 2, 5],
    }
    assert runtime.get_modelmeta().custom_metadata_map == said
    assert "block/kernel" in [tensor.name for tensor in onnx.load(tmp_path / "it.onnx").graph.initializer]


def test_a_batch_may_be_fixed(tmp_path: Path) -> None:
    write(network, IMAGES, tmp_path / "it.onnx")
    runtime = session(tmp_path / "it.onnx")
    assert runtime.get_inputs()[0].shape == [2, 4, 6, 3]
    images = np.random.default_rng(0).integers(0, 256, IMAGES.shape, np.uint8)
    for name, array in named(network(jnp.asarray(images))).items():
        np.testing.assert_allclose(answers(runtime, images)[name], array, rtol=1e-4, atol=1e-4)


def test_large_parameters_lie_beside_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnx_file, "MOST_BYTES", 1000)
    kernel = np.random.default_rng(0).normal(size=(3, 500)).astype(np.float32)
    images = np.random.default_rng(0).normal(size=(5, 4, 6, 3)).astype(np.float32)
    for _ in range(2):  # the second file replaces the first
        check(lambda x: {"y": x @ jnp.asarray(kernel)}, images, tmp_path / "it.onnx")
    assert kernel.nbytes <= (tmp_path / "it.onnx.data").stat().st_size < 2 * kernel.nbytes
    assert (tmp_path / "it.onnx").stat().st_size < kernel.nbytes


def test_what_repeats_itself_is_stored_once(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(1, 1, 6, 3)).astype(np.float32)

    def function(x: jax.Array) -> Any:
        more = jnp.broadcast_to(jnp.asarray(table), x.shape)
        return {"a": x.astype(jnp.float32) + more, "b": jnp.exp(x.astype(jnp.float32)) + more}

    write(function, jax.ShapeDtypeStruct((50, 40, 6, 3), np.uint8), tmp_path / "it.onnx")
    graph = onnx.load(tmp_path / "it.onnx").graph
    assert sum(len(tensor.raw_data) for tensor in graph.initializer) == table.nbytes
    assert [node.op_type for node in graph.node].count("Cast") == 1


def test_a_loop_repeats_only_what_depends_on_it(tmp_path: Path) -> None:
    def function(images: jax.Array) -> Any:
        x = images.astype(jnp.float32)
        return {"y": lax.fori_loop(0, 3, lambda _, state: state + jnp.exp(x), jnp.zeros_like(x))}

    write(function, IMAGES, tmp_path / "it.onnx")
    nodes = onnx.load(tmp_path / "it.onnx").graph.node
    (loop,) = (node for node in nodes if node.op_type == "Loop")
    assert "Exp" in [node.op_type for node in nodes]
    (body,) = (attribute.g for attribute in loop.attribute if attribute.name == "body")
    assert "Exp" not in [node.op_type for node in body.node]


@pytest.mark.parametrize(
    ("function", "named_in_it"),
    [
        (lambda x: jnp.sort(x, 1), "sort"),
        (lambda x: x.astype(jnp.bfloat16), "float32"),
        (lambda x: lax.dynamic_slice_in_dim(x, x[0, 0, 0, 0].astype(jnp.int32), 1, 1), "dynamic_slice"),
        (lambda x: lax.cond(x[0, 0, 0, 0] > 0, lambda: x, lambda: x + 1), "cond"),
    ],
)
def test_what_has_no_form_in_onnx_is_named(function: Any, named_in_it: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=named_in_it):
        write(lambda x: {"y": function(x)}, IMAGES, tmp_path / "it.onnx")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("opset", [OLDEST_OPSET - 1, 1000])
def test_unknown_versions_of_operators_are_refused(opset: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(opset)):
        write(network, IMAGES, tmp_path / "it.onnx", opset=opset)
