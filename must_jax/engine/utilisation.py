"""Model FLOPs utilisation: what an update would take at the devices' peak, as a share of what it takes."""

from __future__ import annotations

from typing import Any

from jax.sharding import Mesh

from must_jax.chips import Dtype, peak_flops
from must_jax.engine.clock import Clock
from must_jax.engine.step import TrainStep


def measured(step: Any, clock: Clock, mesh: Mesh, dtype: Dtype, accumulate: int = 1) -> TrainStep:
    """The jitted step; its first call tells the clock the operations of an update, if the devices' peak is known.

    They are counted in the program as it was written, before it is compiled: that of all devices together, and without
    what a compiler adds. It has to be lowered for the call anyway, so that counting costs nothing. The body of a loop
    over `accumulate` parts of a batch is counted once there, and is nearly all. What `remat` computes again is written
    in the program: with it, the share is that of operations that are done, not of those that are needed.
    """
    peak = peak_flops(mesh.devices.flat[0].device_kind, dtype)
    if peak is None:
        return step

    def counted(*args: Any) -> Any:
        if clock.least_update_s is None:
            clock.least_update_s = accumulate * step.lower(*args).cost_analysis()["flops"] / (peak * mesh.size)
        return step(*args)

    return counted
