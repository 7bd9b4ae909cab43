"""Images a second that are turned into training batches: by one core, and by threads and processes; Python's share.

python benchmarks/pipeline.py [--only=decoding|python|scaling|memory] [--rounds=5]
python benchmarks/pipeline.py --only=scaling --counts=1,4,16 --rounds=3 [--grain]  # a minute and a half on 16 cores

Makes its data in a temporary folder: rendered photos with the labels of five tasks at a quarter of the size (as
teachers leave them), and 64x64 images with labels at full size.

decoding: one core against bare JPEG decoding of the same bytes by OpenCV. Rounds of the pipeline (one thread, batches
of 32, flips, scales from one bound to the other) and of decoding alternate in one process. Times are CPU seconds, so
other programs disturb little. An image that will be shown at less than half its size is decoded at half the size (or
less), which bare decoding never does; from 1.2 on every photo is decoded fully. Decoding labels counts as the
pipeline's work.

python: where the CPU time of an image of 640 pixels with five label columns goes. py-spy (pip install py-spy) looks at
the stack of a process that makes batches, native frames included, 100 times a second. What a package calls in
libraries of the system (memcpy, malloc) counts as its own; NumPy's functions in Python count as NumPy. ArrayRecord
reads files and decompresses. What is left is Python, and protobuf, which takes records apart. A second look counts how
often the process holds the lock of the interpreter (GIL), NumPy's part of that included: it bounds how many images one
process makes, however many threads and cores it has.

scaling: images of 640 pixels with five label columns, made by so many threads, and by so many worker processes with
one thread each; by wall clock, so nothing else should run. All ways and counts take turns in each round. The yardstick
is bare decoding in so many processes at the same time: what several of these cores can do more than one of them.
CPU time is that of all processes. Memory is that of all processes and of batches between them, and includes the one in
use. --grain adds the worker processes of grain (pip install grain) with the same work and the same batches, once with
batches made by a worker, once with images made by workers and joined in the main process. Each has a batch ready, as
with grain's defaults, and writes into grain's shared memory at once.

memory: how much memory batches of 96 MiB ahead take, if there were 192 cores.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping

import cv2
import numpy as np
import tensorflow_datasets as tfds
from pipeline_data import BATCH, DECODED, KINDS, LARGE, SCALES, Size, jpegs_of, opened
from pipeline_python import python
from pipeline_scaling import scaling, used_bytes

from must_jax.config import AugmentConfig, InputConfig
from must_jax.data.batching import Source, train_batches
from must_jax.data.kinds import LabelKind

GOAL = 0.8  # of the speed of bare decoding

Scales = tuple[float, float]


def pipeline_seconds(source: Source, kinds: Mapping[str, LabelKind], size: Size, scales: Scales, count: int) -> float:
    """CPU seconds an image."""
    augment = AugmentConfig(scale_min=scales[0], scale_max=scales[1])
    options = {"input_hw": (size.image_size, size.image_size), "batch_size": BATCH, "seed": 0, "threads": 1}
    began = time.process_time()
    batches = train_batches([source], kinds, augment=augment, **options)
    for _ in itertools.islice(batches, count):
        pass
    seconds = time.process_time() - began
    batches.close()
    time.sleep(0.3)  # until its thread has finished the batch it was making ahead
    return seconds / (count * BATCH)


def decoding_seconds(jpegs: list[bytes], count: int) -> float:
    """CPU seconds an image."""
    began = time.process_time()
    for jpeg in itertools.islice(itertools.cycle(jpegs), count):
        cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    return (time.process_time() - began) / count


def decoding(data_dir: str, images: int, rounds: int, batches: int) -> None:
    print(f"{'images':18}{'labels':12}{'scales':>10}{'decoding/s':>12}{'pipeline/s':>12}{'share':>8}")
    for size in DECODED:
        source = opened(size, data_dir, images)
        jpegs = jpegs_of(source)
        name = f"{size.width}x{size.height}, {statistics.mean(map(len, jpegs)) / 1000:.0f} kB"
        for labels, kinds in {"none": {}, "five tasks": KINDS}.items():
            shares = []
            for scales in SCALES:
                times = []
                for _ in range(rounds + 1):
                    bare = decoding_seconds(jpegs, batches * BATCH)
                    times.append((bare, pipeline_seconds(source, kinds, size, scales, batches)))
                bare, pipeline = (statistics.median(each) for each in zip(*times[1:], strict=True))
                shares.append(statistics.median(bare / whole for bare, whole in times[1:]))
                row = f"{name:18}{labels:12}{scales[0]:>6} - {scales[1]}{1 / bare:12.0f}{1 / pipeline:12.0f}"
                print(f"{row}{shares[-1]:8.0%}", flush=True)
            verdict = "met" if min(shares) >= GOAL else "missed"
            print(f"{name}, {labels}: {min(shares):.0%} or more of bare decoding (goal {GOAL:.0%}: {verdict})")


def memory(data_dir: str, images: int) -> None:
    """Peak of this process and its workers beyond what one batch takes."""
    source = opened(LARGE, data_dir, images)
    for workers, threads, gib in ((0, 192, 2), (0, 192, 0.5), (8, 192, 0.5)):
        config = InputConfig(workers=workers, prefetch_bytes=int(gib * 2**30))
        options = {"input_hw": (1024, 1024), "batch_size": BATCH, "seed": 0, "threads": threads}
        before = used_bytes()
        batches = train_batches([source], {}, augment=AugmentConfig(), config=config, **options)
        most = 0
        for _ in range(8):
            batch = next(batches)
            time.sleep(2)  # until all that is allowed is made
            most = max(most, used_bytes() - before - batch["image"].nbytes)
        batches.close()
        print(f"{workers:3} workers, {threads} threads, prefetch_bytes {gib} GiB: {most / 2**30:.2f} GiB", flush=True)
        del batch, batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("decoding", "python", "scaling", "memory"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=6, help="a round, of each thread")
    parser.add_argument("--images", type=int, default=32, help="different ones")
    parser.add_argument("--counts", default="1,2", help="of threads and processes")
    parser.add_argument("--grain", action="store_true", help="also grain's processes")
    parser.add_argument("--seconds", type=float, default=40, help="that py-spy looks on, twice")
    args = parser.parse_args()
    counts = [int(count) for count in args.counts.split(",")]
    tfds.disable_progress_bar()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as data_dir:
        parts: dict[str, Callable[[], None]] = {
            "decoding": lambda: decoding(data_dir, args.images, args.rounds, args.batches),
            "python": lambda: python(data_dir, args.images, args.rounds, args.batches, args.seconds),
            "scaling": lambda: scaling(
                opened(LARGE, data_dir, args.images), counts, args.rounds, args.batches, args.grain
            ),
            "memory": lambda: memory(data_dir, args.images),
        }
        for part in [parts[args.only]] if args.only else parts.values():
            part()


if __name__ == "__main__":
    main()
