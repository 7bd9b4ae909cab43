"""Model FLOPs utilisation: the time an update would take at the devices' peak, as a share of the time it takes."""

from __future__ import annotations

from typing import Any

from jax.sharding import Mesh

from must_jax.chips import Dtype, peak_flops
from must_jax.engine.clock import Clock
from must_jax.engine.operations import operations
from must_jax.engine.step import TrainStep


def measured(step: Any, clock: Clock, mesh: Mesh, dtype: Dtype) -> TrainStep:
    """The jitted step; its first call tells the clock what an update takes at the devices' peak, if that is known.

    Operations are counted in the program before it is compiled (`operations`). It has to be traced for the call anyway,
    so counting costs nothing. What `remat` recomputes is part of the program: with it, the share is that of the
    operations done, not of those needed.
    """
    peak = peak_flops(mesh.devices.flat[0].device_kind, dtype)
    if peak is None:
        return step

    def counted(*args: Any) -> Any:
        if clock.least_update_s is None:
            clock.least_update_s = operations(step.trace(*args).jaxpr.jaxpr) / (peak * mesh.size)
        return step(*args)

    return counted
