"""What the guard against numbers that are not finite costs an update: the real step with it and without it.

python benchmarks/finite.py [--preset=quickstart|resnet50-224] [--rounds=12] [--steps=6]

Without: traced while `isfinite` is constantly true, so that XLA removes everything that depends on it. Both steps take
turns in one process; the median ratio of CPU time counts, which other programs disturb less than the time that passes.
Without clipping, the norm of the gradient is computed for the guard alone.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax.numpy as jnp
from train_step import PRESETS, train_step, wait

SETS = {
    "five tasks": ("classification", "detection", "segmentation", "depth", "normals"),
    "depth alone": ("depth",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="quickstart")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=6, help="a round")
    args = parser.parse_args()
    config, image_size, batch_size = PRESETS[args.preset]
    for (name, tasks), clip_norm in itertools.product(SETS.items(), (1.0, 0.0)):
        guarded, _ = train_step(tasks, config, image_size, batch_size, clip_norm)
        with mock.patch.object(jnp, "isfinite", lambda x: jnp.ones_like(x, bool)):
            bare, _ = train_step(tasks, config, image_size, batch_size, clip_norm)
        cpu_time(guarded, 2), cpu_time(bare, 2)
        pairs = [(cpu_time(guarded, args.steps), cpu_time(bare, args.steps)) for _ in range(args.rounds)]
        ratio = statistics.median(a / b for a, b in pairs)
        best = min(a for a, _ in pairs) / min(b for _, b in pairs)
        milliseconds = 1000 * statistics.median(b for _, b in pairs)
        name += ", gradients clipped" * (clip_norm > 0)
        print(f"{name}: {milliseconds:.1f} ms of CPU without the guard, {100 * (ratio - 1):+.1f} % with it ", end="")
        print(f"(of the fastest rounds {100 * (best - 1):+.1f} %; goal: at most 2 %)")


def cpu_time(step: Callable[[], Any], steps: int) -> float:
    start = time.process_time()
    for _ in range(steps):
        wait(step())
    return (time.process_time() - start) / steps


if __name__ == "__main__":
    main()
