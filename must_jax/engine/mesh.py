"""Devices: how many, how arrays are laid out over them, and where compiled programs are kept.

Two axes, "data" and "fsdp". Batches are split over both, so that under `jit` a mean over the batch is a mean over all
devices (batch norm included) and their number does not change what is computed. Large arrays of the training state are
split over "fsdp" as well, and gathered where they are used; everything else is a copy on every device.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from must_jax.cores import cores
from must_jax.engine import distributed
from must_jax.errors import UserError

DATA_AXIS, FSDP_AXIS = "data", "fsdp"
LEAST_SPLIT = 4096  # elements: gathering smaller arrays takes longer than keeping copies of them
COMPILATION_CACHE = "~/.cache/must_jax/jax"


def setup_devices(count: int = 0, within_s: float = distributed.READY_WITHIN_S) -> None:
    """Joins other processes, sets up virtual CPU devices and the cache of compiled programs; call it before using jax.

    Args:
      count: virtual devices on CPUs, over all processes; 0 = one per core that a process may use. Accelerators are not
        affected.
      within_s: how long to wait for the other processes.

    Raises:
      UserError: see `distributed.join`.
    """
    processes = distributed.join(within_s)
    with contextlib.suppress(RuntimeError):  # jax is in use already: its devices stay as they are
        jax.config.update("jax_num_cpu_devices", max(1, count // processes) if count else cores())
    keep_programs()


def keep_programs() -> None:
    """Keeps compiled programs on disk for reuse: in JAX_COMPILATION_CACHE_DIR, or COMPILATION_CACHE."""
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(Path(COMPILATION_CACHE).expanduser())
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def make_mesh(
    count: int = 0, batch_sizes: Sequence[int] = (), fsdp: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """The first `count` devices along the axes "data" and "fsdp". The only caller of `jax.make_mesh`.

    Args:
      count: 0 = as many as can share batches of all `batch_sizes` evenly. Devices of several hosts are all used.
      fsdp: number of devices that share one copy of the training state.
      devices: to choose from; None = all of this run, over all of its processes.

    Raises:
      UserError: more devices wanted than there are, or a batch that they cannot share evenly.
    """
    devices = jax.devices() if devices is None else devices
    if count > len(devices):
        raise UserError(f"config.devices is {count}, but this run has {len(devices)}; lower it, or use 0")
    if not count:
        fitting = [
            n for n in range(1, len(devices) + 1) if n % fsdp == 0 and all(size % n == 0 for size in batch_sizes)
        ]
        count = max(fitting, default=len(devices))
    hosts = {device.process_index for device in devices}
    if len(hosts) > 1:  # a host without a part of every batch could not take part
        count = len(devices)
    for size in batch_sizes:
        if size % count:
            raise UserError(
                f"a batch_size is {size}, which {count} devices cannot share evenly; "
                f"use a multiple of {count}, or set config.devices to a divisor of it, or to 0"
            )
    if count % fsdp:
        raise UserError(f"config.fsdp is {fsdp}, which does not divide {count} devices; use a divisor of {count}")
    # Explicit axes, the default of newer jax, have no gradient for convolutions.
    axis_types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((count // fsdp, fsdp), (DATA_AXIS, FSDP_AXIS), axis_types=axis_types, devices=devices[:count])


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Splits the leading axis over all devices."""
    return NamedSharding(mesh, PartitionSpec((DATA_AXIS, FSDP_AXIS)))


def state_shardings(mesh: Mesh, tree: Any) -> Any:
    """The layout of each array of the training state: split over "fsdp" along the longest axis that can be, or copied.

    Args:
      tree: its leaves are anything with a `shape`.
    """
    parts = mesh.shape[FSDP_AXIS]

    def sharding(leaf: Any) -> NamedSharding:
        axes = [axis for axis, length in enumerate(leaf.shape) if length % parts == 0]
        if parts == 1 or not axes or int(np.prod(leaf.shape)) < LEAST_SPLIT:
            return replicated(mesh)
        axis = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, FSDP_AXIS))

    return jax.tree.map(sharding, tree)


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """i64[n]: the positions in a global batch that this process's devices hold, ascending."""
    indices = split(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.concatenate(sorted((np.arange(batch_size)[index] for index in indices), key=lambda rows: rows[0]))


def put_batch(mesh: Mesh, batch: Any) -> Any:
    """Host arrays with a leading batch axis -> device arrays split over the mesh.

    In a run of several processes, `batch` holds the `local_rows` of the global one.
    """
    if split(mesh).is_fully_addressable:
        return jax.device_put(batch, split(mesh))
    devices = len(mesh.local_devices)

    def place(local: np.ndarray) -> jax.Array:
        shape = (len(local) * mesh.size // devices, *local.shape[1:])
        rows = local_rows(mesh, shape[0])

        def part(index: Any) -> np.ndarray:
            first = int(np.searchsorted(rows, index[0].start or 0))
            return local[first : first + shape[0] // mesh.size]

        return jax.make_array_from_callback(shape, split(mesh), part)

    return jax.tree.map(place, batch)


def local_view(tree: Any) -> Any:
    """What this process holds of arrays laid out by `split`, as arrays over its own devices, in the same order.

    The inverse of `put_batch`, without a copy.
    """

    def view(array: jax.Array) -> jax.Array:
        shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        own = split_locally([shard.device for shard in shards])
        shape = (sum(len(shard.data) for shard in shards), *array.shape[1:])
        return jax.make_array_from_single_device_arrays(shape, own, [shard.data for shard in shards])

    return jax.tree.map(view, tree)


def split_locally(devices: Sequence[jax.Device]) -> NamedSharding:
    """Splits the leading axis over these devices of one process, in this order, which `jax.make_mesh` may change."""
    mesh = Mesh(np.array(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def put(tree: Any, shardings: Any) -> Any:
    """Arrays laid out by `shardings`, which share no memory with `tree` and so can be donated.

    Copies by way of the host: between devices, jax reuses the source even with `may_alias=False`. In a run of
    several processes, all have the same `tree`.
    """
    tree = jax.device_get(tree)
    if all(sharding.is_fully_addressable for sharding in jax.tree.leaves(shardings)):
        return jax.device_put(tree, shardings, may_alias=False)

    def place(value: Any, sharding: Sharding) -> jax.Array:
        value = np.asarray(value)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: np.array(value[index]))

    return jax.tree.map(place, tree, shardings)


def put_replicated(mesh: Mesh, tree: Any) -> Any:
    """A copy of every array on every device; see `put`."""
    return put(tree, jax.tree.map(lambda _: replicated(mesh), tree))


def everywhere(mesh: Mesh, tree: Any) -> Any:
    """Gathers arrays that are split over devices: a copy of each on every device."""
    if all(array.is_fully_replicated for array in jax.tree.leaves(tree)):
        return tree
    return _gathering(replicated(mesh))(tree)


@functools.cache
def _gathering(sharding: Sharding) -> jax.stages.Wrapped:
    """Compiled once, for any number of validations."""
    return jax.jit(lambda tree: tree, out_shardings=sharding)
