"""The forecast of a dry run against the real run: bytes on disk and time; and how soon a finished run says so.

python benchmarks/dry_run.py --teachers=runs/teacher_depth,... [--images=scenes/unlabelled:train] [--data_dir=data]

Both run as the stage does, each in a process of its own, one after the other, into a temporary folder. The real run
should have 5,000 images or more. Time is that of labelling; opening the images and compilation are told apart, by both.
The command is then typed again, RERUNS times.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from must_jax.config import LabelConfig
from must_jax.labelling import forecasting
from must_jax.runs.workdir import RESULT_FILE
from must_jax.stages import label

BYTES_GOAL, TIME_GOAL = 0.10, 0.25  # how far the forecast may be off
RERUNS, RERUN_GOAL_S = 3, 2.0
ROOT = Path(__file__).parents[1]


def forecast(config: LabelConfig, workdir: Path) -> dict[str, Any]:
    found = forecasting.forecast(config, workdir)
    return dataclasses.asdict(found) | {"seconds": found.seconds(found.devices)}


def real(config: LabelConfig, workdir: Path) -> dict[str, Any]:
    label.run(config, workdir)
    return json.loads((workdir / RESULT_FILE).read_text(encoding="utf-8"))


def rerun_seconds(args: argparse.Namespace, workdir: Path) -> float:
    """Of `python -m must_jax.main` on a finished run, from start to end, in the median."""
    values = {name: getattr(args, name) for name in ("images", "teachers", "data_dir", "batch_size")}
    overrides = [f"--config.{name}={value}" for name, value in values.items()]
    config = f"--config={ROOT / 'configs/label.py'}"
    command = [sys.executable, "-m", "must_jax.main", config, *overrides, f"--workdir={workdir}"]
    seconds = []
    for _ in range(RERUNS):
        began = time.perf_counter()
        told = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True).stderr
        seconds.append(time.perf_counter() - began)
        assert "is finished" in told, told
    return statistics.median(seconds)


MEASUREMENTS = {"forecast": forecast, "real": real}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", required=True, help="folders of finished trainings, with commas between")
    parser.add_argument("--images", default="scenes/unlabelled:train")
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--only", choices=MEASUREMENTS, help=argparse.SUPPRESS)  # how this script calls itself
    parser.add_argument("--workdir", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        config = LabelConfig(
            images=args.images, teachers=args.teachers, data_dir=args.data_dir, batch_size=args.batch_size
        )
        print(json.dumps(MEASUREMENTS[args.only](config, args.workdir)))
        return

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in MEASUREMENTS:
            command = [sys.executable, __file__, *sys.argv[1:], f"--only={name}", f"--workdir={folder}/run"]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[name] = json.loads(output.splitlines()[-1])
        again_s = rerun_seconds(args, Path(folder) / "run")
    told, done = found["forecast"], found["real"]
    sizes = {name: (told["column_bytes"][name], column["bytes"]) for name, column in done["columns"].items()}
    total = tuple(map(sum, zip(*sizes.values(), strict=True)))
    print(f"{done['images']:,} images of {args.images}, {len(sizes)} columns")
    for name, (guess, real_bytes) in (*sizes.items(), ("all columns", total)):
        print(f"{name:40}{guess:14,} bytes forecast {real_bytes:14,} real  {guess / real_bytes - 1:+6.1%}")
    print(f"{'labelling':40}{told['seconds']:14.1f} s     forecast {done['seconds']:14.1f} real  ", end="")
    print(f"{told['seconds'] / done['seconds'] - 1:+6.1%}")
    print(f"{'compilation':40}{told['compile_seconds']:14.1f} s     forecast {done['compile_seconds']:14.1f} real")
    for what, off, goal in (
        ("bytes", total[0] / total[1] - 1, BYTES_GOAL),
        ("time", told["seconds"] / done["seconds"] - 1, TIME_GOAL),
    ):
        print(f"{what}: {off:+.1%} (goal: within {goal:.0%}: {'met' if abs(off) <= goal else 'missed'})")
    verdict = "met" if again_s < RERUN_GOAL_S else "missed"
    print(f"finished, and said so in {again_s:.2f} s by the command (goal: under {RERUN_GOAL_S:.0f} s: {verdict})")


if __name__ == "__main__":
    main()
