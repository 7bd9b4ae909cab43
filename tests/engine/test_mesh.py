from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from must_jax.engine.mesh import (
    everywhere,
    local_rows,
    local_view,
    make_mesh,
    put,
    put_batch,
    put_replicated,
    state_shardings,
)
from must_jax.errors import UserError


def test_all_devices_or_the_first_few_on_automatic_axes():
    assert make_mesh().size == 4
    mesh = make_mesh(2)
    assert list(mesh.devices.flat) == jax.devices()[:2]
    assert (mesh.axis_names, mesh.axis_types) == (("data", "fsdp"), (AxisType.Auto,) * 2)


def test_more_devices_than_there_are():
    with pytest.raises(UserError, match=r"config.devices is 9, but this run has 4"):
        make_mesh(9)


def test_batches_must_divide():
    assert make_mesh(4, [8, 4]).size == 4
    with pytest.raises(UserError, match=r"a batch_size is 6, which 4 devices cannot share .* multiple of 4"):
        make_mesh(4, [8, 6])


@pytest.mark.parametrize(("batch_sizes", "devices"), [([8], 4), ([6], 3), ([8, 6], 2), ([7], 1)])
def test_as_many_devices_as_can_share_the_batches(batch_sizes, devices):
    assert make_mesh(0, batch_sizes).size == devices


def test_batches_are_split_and_states_are_copied():
    mesh, x = make_mesh(4), np.arange(8, dtype=np.float32)
    assert [shard.data.shape for shard in put_batch(mesh, x).addressable_shards] == [(2,)] * 4
    assert [shard.data.shape for shard in put_replicated(mesh, x).addressable_shards] == [(8,)] * 4


def test_a_copied_state_may_be_consumed():
    mesh = make_mesh(2)
    original = jax.numpy.ones(1000)  # on the first device of the mesh
    copy = put_replicated(mesh, original)
    jax.jit(lambda x: x + 1, donate_argnums=0)(copy)
    assert copy.is_deleted()
    np.testing.assert_array_equal(original, np.ones(1000))


def test_two_axes_share_a_batch():
    mesh, x = make_mesh(4, fsdp=2), np.arange(8, dtype=np.float32)
    assert mesh.shape == {"data": 2, "fsdp": 2}
    batch = put_batch(mesh, x)
    assert [shard.data.tolist() for shard in batch.addressable_shards] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    view = local_view({"x": batch})["x"]
    assert [shard.data.tolist() for shard in view.addressable_shards] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    np.testing.assert_array_equal(view, x)
    np.testing.assert_array_equal(local_rows(mesh, 8), np.arange(8))


def test_large_arrays_are_split_along_their_longest_axis_that_can_be():
    mesh = make_mesh(4, fsdp=2)
    shapes = {"conv": (3, 3, 64, 128), "odd": (65, 129), "wide": (129, 64), "small": (64,), "count": ()}
    tree = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    placed = put(tree, state_shardings(mesh, tree))
    assert {name: value.sharding.shard_shape(value.shape) for name, value in placed.items()} == {
        "conv": (3, 3, 64, 64),
        "odd": (65, 129),
        "wide": (129, 32),
        "small": (64,),
        "count": (),
    }
    assert everywhere(mesh, placed)["conv"].sharding.is_fully_replicated
    assert state_shardings(make_mesh(4), tree)["conv"].is_fully_replicated


def test_shares_of_the_state_must_divide_the_devices():
    assert make_mesh(0, [8], fsdp=2).shape == {"data": 2, "fsdp": 2}
    assert make_mesh(0, [6], fsdp=2).shape == {"data": 1, "fsdp": 2}
    with pytest.raises(UserError, match=r"config.fsdp is 3, which does not divide 4 devices"):
        make_mesh(4, fsdp=3)
