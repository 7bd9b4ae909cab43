"""LLVM's optimization level on a CPU: what programs take to compile, and what the compiled ones take to run.

python benchmarks/optimization_level.py [--preset=quickstart|resnet50-224] [--levels=3,1] [--steps=20] [--rounds=2]

The real update of all five tasks, as in benchmarks/train_step.py. Every measurement is a process of its own, one after
the other, in alternating rounds; the median counts. XLA's own level is 3.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from train_step import FIVE, PRESETS, alternated, measure, train_step, wait

from must_jax.engine import step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="quickstart")
    parser.add_argument("--levels", default="3,1")
    parser.add_argument("--steps", type=int, default=20, help="timed steps a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)  # how this script calls itself
    args = parser.parse_args()
    if args.only is not None:
        print(json.dumps(measured(args.preset, args.only, args.steps)))
        return
    for level, rounds in alternated(__file__, args.levels.split(","), args).items():
        median = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
        print(
            f"{args.preset}, level {level}: compilation {median['compile_s']:.1f} s, with the initialisation "
            f"{median['cpu_s']:.1f} s of CPU time, {median['images_per_second']:.1f} images/s"
        )


def measured(preset: str, level: int, steps: int) -> dict[str, float]:
    step.CPU_OPTIONS["xla_backend_optimization_level"] = level
    config, image_size, batch_size = PRESETS[preset]
    began = time.process_time()
    update, figures = train_step(FIVE, config, image_size, batch_size)
    cpu_s = time.process_time() - began
    rate = measure(update, wait, batch_size, steps)
    return {"compile_s": figures["compile_s"], "cpu_s": cpu_s, "images_per_second": rate}


if __name__ == "__main__":
    main()
