"""TPUs that are not attached, as jax devices that programs can be compiled for."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import re
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache

from must_jax.chips import CHIPS, Chip
from must_jax.errors import UserError, nearest

EXAMPLES = "v5e:4x8, v4:2x2x4, v5p:4x4x4 or v6e:16x16"
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # for metadata that only a TPU machine has
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any; without these two the library complains that it finds no TPU
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no process owns a TPU, so several may compile at a time
}


def slice_devices(topology: str) -> tuple[Chip, list[jax.Device]]:
    """The chips of a slice, to compile for; nothing can run on them.

    Args:
      topology: "v5e:4x8": chip and shape, as the TPU documentation names them.

    Raises:
      UserError: there is no such chip or slice, or the TPU compiler is not installed.
    """
    name, _, shape = topology.partition(":")
    if name not in CHIPS:
        raise UserError(
            f"config.compile.topology is '{topology}', but the chip '{name}' is unknown (a topology is written like "
            f"{EXAMPLES}); {nearest(name, CHIPS)}"
        )
    chip = CHIPS[name]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape) or len(sides := shape.split("x")) != chip.dimensions:
        raise UserError(
            f"config.compile.topology is '{topology}', but the shape of a {name} slice has {chip.dimensions} sides; "
            f"write it like {EXAMPLES}"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("compiling for a TPU needs its compiler, which is not installed; pip install -e '.[aot]'")
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    options: dict[str, Any] = {}
    if name == "v4":
        options["chip_config_name"] = "megacore"  # both cores of a chip are one device, as where jax runs on it
    if math.prod(map(int, sides)) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return chip, topologies.get_topology_desc(topology, "tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"config.compile.topology is '{topology}', which is not a slice of {name} ({_reason(error)}); "
            f"write it like {EXAMPLES}"
        ) from None


@contextlib.contextmanager
def without_cache() -> Iterator[None]:
    """Turns off jax's cache: programs for devices that are not attached can be written to it, but not read back."""
    before = jax.config.values["jax_enable_compilation_cache"]
    _use_cache(False)
    try:
        yield
    finally:
        _use_cache(before)


def _use_cache(wanted: bool) -> None:
    jax.config.update("jax_enable_compilation_cache", wanted)
    compilation_cache.reset_cache()  # jax checks only once per process whether there is one


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0].partition(": ")[2].replace('"', "'")
