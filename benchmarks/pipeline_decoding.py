"""Bare decoding in several processes at the same time, the yardstick of pipeline.py.

python benchmarks/pipeline_decoding.py FILE IMAGES: decodes so many images for every line of its input, and prints how
many that is a second. The file has the images to choose from. It imports little, so that many start at once.
"""

from __future__ import annotations

import contextlib
import itertools
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np


@contextlib.contextmanager
def decoders(jpegs: list[bytes], processes: int, images: int) -> Iterator[Callable[[int], float]]:
    """A function: a number of processes -> how many images a second they decode, each of them this number of images."""
    with contextlib.ExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "jpegs"
        file.write_bytes(pickle.dumps(jpegs))
        command = [sys.executable, __file__, str(file), str(images)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        started = [stack.enter_context(subprocess.Popen(command, **pipes)) for _ in range(processes)]
        for process in started:
            process.stdout.readline()

        def decode(count: int) -> float:
            for process in started[:count]:
                process.stdin.write("\n")
            return sum(float(process.stdout.readline()) for process in started[:count])

        yield decode


def main(file: str, images: str) -> None:
    cv2.setNumThreads(1)
    jpegs, count = pickle.loads(Path(file).read_bytes()), int(images)
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        for jpeg in itertools.islice(itertools.cycle(jpegs), count):
            cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
        print(count / (time.perf_counter() - began), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
