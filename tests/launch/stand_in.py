"""Stands in for a training of several processes, as far as launchers see one: steps, a save and a code upon SIGTERM.

python stand_in.py --workdir=FOLDER [--steps=N] [--hold=STEP] [--deaf] [--fail=CODE] [--children]

Every process counts its own steps in `step-I`, written after each. In its first life (no step file yet) it waits at
step `hold` until it is stopped; `deaf`: SIGTERM does not stop it there. A line of `lives-I` is a life: its first step,
the process id, the coordinator.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

STOPPED = []


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--hold", type=int)
    parser.add_argument("--fail", type=int)
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--children", action="store_true")
    options = parser.parse_args()
    number = int(os.environ.get("JAX_PROCESS_ID", "0"))
    signal.signal(signal.SIGTERM, lambda *_: None if options.deaf else STOPPED.append(True))
    workdir: Path = options.workdir
    workdir.mkdir(parents=True, exist_ok=True)
    if options.children:
        child = subprocess.Popen(["sleep", "1000"])
        (workdir / f"child-{number}").write_text(str(child.pid))

    state = workdir / f"step-{number}"
    first = not state.exists()
    start = step = 0 if first else int(state.read_text())
    with (workdir / f"lives-{number}").open("a") as lives:
        lives.write(f"{start} {os.getpid()} {os.environ.get('JAX_COORDINATOR_ADDRESS')}\n")
    if number == 0:
        (workdir / "PREEMPTED").unlink(missing_ok=True)
    if options.fail is not None:
        print(f"process {number} fails", file=sys.stderr)
        return options.fail

    while step < options.steps:
        while first and step == options.hold and not STOPPED:
            time.sleep(0.01)
        if STOPPED:
            if number == 0:
                (workdir / "PREEMPTED").write_text("stopped")
            print(f"process {number}: preempted at step {step}; the same command continues", flush=True)
            return int(os.environ.get("MUST_JAX_PREEMPTED_CODE", "0"))
        step += 1
        temporary = state.with_suffix(".tmp")
        temporary.write_text(str(step))
        temporary.rename(state)
    (workdir / "PREEMPTED").unlink(missing_ok=True)  # as `main` does, whoever is through first
    print(f"process {number}: through, steps {start} to {step}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
