from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from must_jax.engine.mesh import make_mesh, put_batch, put_replicated
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
