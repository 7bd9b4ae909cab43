"""LLVM's optimization level on a CPU: what programs take to compile, and what the compiled ones take to run.

python benchmarks/optimization_level.py [--preset=quickstart|resnet50-224] [--levels=3,1] [--steps=20] [--rounds=2]

The real update of all five tasks, as in benchmarks/train_step.py. Every measurement is a process of its own, one after
the other, in alternating rounds; the median counts. XLA's own level is 3.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

from train_step import PRESETS, measure, train_step, wait

from must_jax.engine import step
from must_jax.tasks import TASKS


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
    levels = [int(level) for level in args.levels.split(",")]
    found: dict[int, list[dict[str, float]]] = {level: [] for level in levels}
    for _ in range(args.rounds):
        for level in levels:
            command = [sys.executable, __file__, f"--only={level}", f"--preset={args.preset}", f"--steps={args.steps}"]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[level].append(json.loads(output.splitlines()[-1]))
    for level, rounds in found.items():
        median = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
        print(
            f"{args.preset}, level {level}: compilation {median['compile_s']:.1f} s, CPU time of it "
            f"{median['compile_cpu_s']:.1f} s, {median['images_per_second']:.1f} images/s"
        )


def measured(preset: str, level: int, steps: int) -> dict[str, float]:
    step.CPU_OPTIONS["xla_backend_optimization_level"] = level
    config, image_size, batch_size = PRESETS[preset]
    began = time.process_time()
    update, figures = train_step(tuple(TASKS), config, image_size, batch_size)
    cpu_s = time.process_time() - began  # with the initialisation, which is the same for all levels
    return {
        "images_per_second": measure(update, wait, batch_size, steps),
        "compile_s": figures["compile_s"],
        "compile_cpu_s": cpu_s,
    }


if __name__ == "__main__":
    main()
