"""Model FLOPs utilisation: the time an update would take at the devices' peak, as a share of the time it takes."""

from __future__ import annotations

from typing import Any

from jax.sharding import Mesh

from must_jax.chips import Dtype, peak_flops
from must_jax.engine.clock import Clock
from must_jax.engine.step import TrainStep


def measured(step: Any, clock: Clock, mesh: Mesh, dtype: Dtype, accumulate: int = 1) -> TrainStep:
    """The jitted step; its first call tells the clock what an update takes at the devices' peak, if that is known.

    Operations are counted in the program before it is compiled: those of all devices together, and without what the
    compiler adds. It has to be lowered for the call anyway, so counting costs nothing. The body of the loop over
    `accumulate` parts of a batch is nearly all of it, but counted only once. What `remat` recomputes is part of the
    program: with it, the share is that of the operations done, not of those needed.
    """
    peak = peak_flops(mesh.devices.flat[0].device_kind, dtype)
    if peak is None:
        return step

    def counted(*args: Any) -> Any:
        if clock.least_update_s is None:
            clock.least_update_s = accumulate * step.lower(*args).cost_analysis()["flops"] / (peak * mesh.size)
        return step(*args)

    return counted
