"""Seconds from the command to the end of the first update, without and with compiled programs on disk.

python benchmarks/first_step.py [--rounds=3]

Real processes of `python -m must_jax.main`: a teacher of the quick start on images that are rendered already, in a new
workdir each, first with an empty cache of compiled programs, then with what that has left. Where the time goes is
what the run itself writes down (`goodput.jsonl`); "python" is the rest, from the start of the process until the stage's
code is loaded. The median of the rounds counts. Files are in the operating system's cache from the first run on.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from must_jax.cores import cores
from must_jax.engine import goodput
from must_jax.engine.clock import COMPILE, DATA, DATA_WAIT, IMPORTS, INIT, SAVE, STEP

ROOT = Path(__file__).parents[1]
PYTHON, WHOLE = "python", "all"
SHOWN = (PYTHON, IMPORTS, INIT, DATA, COMPILE, STEP, WHOLE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    found: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        first_update(home, "rendering", "rendering")
        for number in range(rounds):
            for kind, measured in found.items():
                measured.append(first_update(home, f"cache-{number}", f"{kind}-{number}"))
                print(f"{kind}: {measured[-1]}", file=sys.stderr)
    print(f"first update of configs/teacher_depth.py, {cores()} cores, median of {rounds} rounds, in seconds")
    print(f"{'':10s}{'cold':>8s}{'warm':>8s}")
    for span in SHOWN:
        medians = (statistics.median(each[span] for each in measured) for measured in found.values())
        print(f"{span:10s}" + "".join(f"{median:8.2f}" for median in medians))


def first_update(home: Path, cache: str, name: str) -> dict[str, float]:
    """Trains for two updates. Returns seconds by SHOWN, until the first is done."""
    arguments = [
        f"--config={ROOT / 'configs/teacher_depth.py'}",
        f"--workdir={home / name}",
        f"--config.data_dir={home / 'data'}",
        "--config.train.0.images=scenes/teacher_depth_tiny:train",
        "--config.validation=None",
        "--config.minimum={}",
        "--config.steps=2",
        "--config.optimizer.warmup_steps=1",
        "--config.checkpoint_every=1",  # so that there is a line of the first update
    ]
    command = [sys.executable, "-m", "must_jax.main", *arguments]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(home / cache), "PYTHONPATH": str(ROOT)}
    began = time.time()
    subprocess.run(command, check=True, cwd=home, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    lines = goodput.read(home / name)
    until = [line for line in lines if (line.step or 0) <= 1]
    spent = goodput.total(until).seconds
    seconds = {span: spent[span] for span in (IMPORTS, INIT, DATA, COMPILE)}
    seconds |= {
        PYTHON: until[0].began - began,
        STEP: spent[STEP] + spent[DATA_WAIT],
        WHOLE: until[-1].time - spent[SAVE] - began,
    }
    return seconds


if __name__ == "__main__":
    main()
