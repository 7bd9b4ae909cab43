"""Devices: how many, how arrays lie on them, and where compiled programs are kept.

One axis, "data": batches are split over it, everything else is a copy on every device. Under `jit` a mean over the
batch is then a mean over all devices (batch norm included), so the device count does not change what is computed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from must_jax.cores import cores
from must_jax.errors import UserError

DATA_AXIS = "data"
COMPILATION_CACHE = "~/.cache/must_jax/jax"


def setup_devices(count: int = 0) -> None:
    """Virtual CPU devices and the cache of compiled programs; call it before jax is used.

    Args:
      count: virtual devices on a CPU; 0 = one per core that this process may use. Accelerators are not affected.
    """
    with contextlib.suppress(RuntimeError):  # jax is in use already: its devices stay as they are
        jax.config.update("jax_num_cpu_devices", count or cores())
    keep_programs()


def keep_programs() -> None:
    """Compiled programs are kept on disk and found again: in JAX_COMPILATION_CACHE_DIR, or COMPILATION_CACHE."""
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(Path(COMPILATION_CACHE).expanduser())
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def make_mesh(count: int = 0, batch_sizes: Sequence[int] = (), *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The first `count` devices along the axis "data". The only caller of `jax.make_mesh`.

    Args:
      count: 0 = as many as can share batches of all `batch_sizes` evenly.
      devices: those to choose from; None = this machine's.

    Raises:
      UserError: more devices wanted than there are, or a batch that they cannot share evenly.
    """
    devices = jax.devices() if devices is None else devices
    if count > len(devices):
        raise UserError(f"config.devices is {count}, but this machine has {len(devices)}; lower it, or use 0")
    if not count:
        count = max(n for n in range(1, len(devices) + 1) if all(size % n == 0 for size in batch_sizes))
    for size in batch_sizes:
        if size % count:
            raise UserError(
                f"a batch_size is {size}, which {count} devices cannot share evenly; "
                f"use a multiple of {count}, or set config.devices to a divisor of it, or to 0"
            )
    # Explicit axes, the default of newer jax, have no gradient for convolutions.
    return jax.make_mesh((count,), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=devices[:count])


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def put_batch(mesh: Mesh, batch: Any) -> Any:
    """Host arrays with a leading batch axis -> device arrays split over the mesh."""
    return jax.device_put(batch, split(mesh))


def put_replicated(mesh: Mesh, tree: Any) -> Any:
    """A copy of every array on every device, which shares no memory with `tree` and so can be donated.

    By way of the host: from device to devices, jax reuses the source even with `may_alias=False`.
    """
    return jax.device_put(jax.device_get(tree), replicated(mesh), may_alias=False)
