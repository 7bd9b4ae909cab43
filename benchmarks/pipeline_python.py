"""Which part of the work on an image is Python's; a part of pipeline.py, which says how it is measured.

python benchmarks/pipeline_python.py DATA_DIR SECONDS: makes batches, for a profiler to look at.
"""

from __future__ import annotations

import collections
import math
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from pipeline_data import BATCH, LARGE, opened, reopened
from pipeline_scaling import maker

from must_jax.data.batching import Source
from must_jax.data.layout import Layout

GOAL_MS = 0.4
SAMPLES_S = 100  # more often, and the profiler, which stops the process to look at it, does not follow
PACKAGES = {
    "numpy": "NumPy",
    "cv2": "OpenCV",
    "opencv_python_headless": "OpenCV",
    "simplejpeg": "the JPEG decoder",
    "array_record": "ArrayRecord",
}
PYTHON = "Python, with protobuf"
FILE = re.compile(r" \((.*?)(?::\d+)?\)$")  # of a frame "function (file:line)", or "function (library)"


def python(data_dir: str, images: int, rounds: int, batches: int, seconds: float) -> None:
    source = opened(LARGE, data_dir, images)
    whole_ms = statistics.median(image_ms(source, batches) for _ in range(rounds))
    if not (py_spy := shutil.which("py-spy")):
        print(f"an image of 640 px takes {whole_ms:.2f} ms of CPU; py-spy (pip install py-spy) would say where")
        return
    stacks, worked_s = sampled(py_spy, data_dir, seconds)
    counts: collections.Counter[str] = collections.Counter()
    for stack, count in stacks.items():
        counts[owner(stack)] += count
    total = counts.total()

    def row(name: str, count: int, looks: int) -> str:
        error = math.sqrt(count * (looks - count) / looks**3)  # standard error of their ratio
        return f"{name:32}{whole_ms * count / looks:9.2f}{whole_ms * error:6.2f}"

    print(f"{'640 px, five columns':32}{'ms/image':>9}{'+-':>6}   of {whole_ms:.2f} ms of CPU, by {total} samples")
    for name in (*dict.fromkeys(PACKAGES.values()), PYTHON):
        print(row(name, counts[name], total))
    stacks, again_s = sampled(py_spy, data_dir, seconds, "--gil")
    held, looks = sum(stacks.values()), round(total * again_s / worked_s)
    print(f"{row('with the GIL', held, looks)}   {1000 * looks / (whole_ms * held):.0f} images/s at most")
    verdict = "met" if whole_ms * counts[PYTHON] / total <= GOAL_MS else "missed"
    print(f"goal for Python {GOAL_MS} ms: {verdict}")


def image_ms(source: Source, batches: int) -> float:
    """CPU time of an image, made by this thread."""
    began = time.thread_time()
    work(source, batches)
    return 1000 * (time.thread_time() - began) / (batches * BATCH)


def work(source: Source, batches: float = math.inf, seconds: float = math.inf) -> None:
    make, like = maker(source, BATCH)
    batch, step, began = Layout(like).empty(), 0, time.perf_counter()
    while step < batches and time.perf_counter() - began < seconds:
        make(step, range(BATCH), batch)
        step += 1


def sampled(py_spy: str, data_dir: str, seconds: float, *options: str) -> tuple[Mapping[str, int], float]:
    """Stacks of a process that makes batches, innermost frame last, and how often; and how long it worked, in s."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "stacks"
        command = [py_spy, "record", "--native", *options, f"--rate={SAMPLES_S}", "--format=raw", f"--output={out}"]
        child = [sys.executable, __file__, data_dir, str(seconds)]
        done = subprocess.run([*command, "--", *child], capture_output=True, text=True)
        if done.returncode:  # it may not trace processes, for example
            sys.exit(f"py-spy failed: {done.stderr}")
        lines = (line.rpartition(" ") for line in out.read_text().splitlines())
        stacks = {stack: int(count) for stack, _, count in lines if "work (pipeline_python.py" in stack}
    return stacks, float(re.findall(r"worked ([\d.]+) s", done.stdout)[0])


def owner(stack: str) -> str:
    """Whose code was at work: a package's, with what it calls in libraries of the system, or else Python's."""
    for frame in reversed(stack.split(";")):
        file = found[1] if (found := FILE.search(frame)) else ""
        package = re.split(r"[/.]", file)[0]
        if package in PACKAGES and not (package == "array_record" and file.endswith(".py")):
            return PACKAGES[package]
        if file.endswith(".py") or "/" in file:
            break
    return PYTHON


if __name__ == "__main__":
    source, began = reopened(LARGE, sys.argv[1]), time.perf_counter()
    work(source, seconds=float(sys.argv[2]))
    print(f"worked {time.perf_counter() - began} s")
