"""Images a second by how many threads or processes make them; a part of pipeline.py, which says what is measured."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import psutil
from pipeline_data import BATCH, KINDS, LARGE, SCALES, jpegs_of
from pipeline_decoding import decoders

from must_jax.config import AugmentConfig, InputConfig
from must_jax.data import batching
from must_jax.data.batching import Source
from must_jax.data.layout import Layout
from must_jax.data.prefetch import Batch, Maker

GOAL = 0.9  # of what the same cores do for bare decoding
DECODED = 80  # images that are decoded in the time of a batch, about
ENDLESS = 2**40
SHARED = 2**16  # bytes; smaller arrays are sent through a pipe

Start = Callable[[], Iterator[Batch]]


class Figures(NamedTuple):
    """Of one round."""

    images_s: float
    cpu_ms: float = 0.0  # an image, of all processes
    first_s: float = 0.0  # until the first batch
    gib: float = 0.0  # of all processes and shared memory, beyond what was used before


def scaling(source: Source, counts: Sequence[int], rounds: int, batches: int, with_grain: bool) -> None:
    ways: dict[str, Callable[[int], Start]] = {
        "threads": lambda count: functools.partial(own, source, count, 0),
        "processes": lambda count: functools.partial(own, source, count, count),
    }
    if with_grain and importlib.util.find_spec("grain"):
        ways["grain, batches"] = lambda count: functools.partial(by_grain, source, count, BATCH)
        ways["grain, images"] = lambda count: functools.partial(by_grain, source, count, 1)
        same_batches([ways[name](1) for name in ways])
    elif with_grain:
        print("grain is not installed (pip install grain)")
    found: dict[tuple[str, int], list[Figures]] = {}
    with decoders(jpegs_of(source), max(counts), DECODED * batches) as decode:
        for _, count in itertools.product(range(rounds), counts):
            for name, way in ways.items():
                found.setdefault((name, count), []).append(measured(way(count), count, batches))
            found.setdefault(("bare decoding", count), []).append(Figures(decode(count)))
    show(found, counts)


def show(found: dict[tuple[str, int], list[Figures]], counts: Sequence[int]) -> None:
    def gain(name: str, count: int) -> float:
        """How many times as many images as with the first count, by the median of the rounds."""
        pairs = zip(found[name, count], found[name, counts[0]], strict=True)
        return statistics.median(many.images_s / few.images_s for many, few in pairs)

    print(f"{'640 px, five columns':22}{'count':>5}{'images/s':>10}{'times':>8}{'of decoding':>13}", end="")
    print(f"{'CPU ms/image':>14}{'first s':>9}{'GiB':>7}")
    names = dict.fromkeys(name for name, _ in found)
    for name, count in itertools.product(names, counts):
        median = Figures(*map(statistics.median, zip(*found[name, count], strict=True)))
        row = f"{name:22}{count:5}{median.images_s:10.1f}{gain(name, count):8.2f}"
        if median.cpu_ms:
            row += f"{gain(name, count) / gain('bare decoding', count):13.2f}"
            row += f"{median.cpu_ms:14.2f}{median.first_s:9.2f}{median.gib:7.2f}"
        print(row)
    few, most = (found["processes", count] for count in (counts[0], counts[-1]))
    share = gain("processes", counts[-1]) / gain("bare decoding", counts[-1])
    cpu = statistics.median(many.cpu_ms / one.cpu_ms for many, one in zip(most, few, strict=True))
    print(
        f"{counts[-1]} processes make {gain('processes', counts[-1]):.2f} x what {counts[0]} makes, {share:.2f} x what "
        f"the cores do for bare decoding (goal {GOAL}: {'met' if share >= GOAL else 'missed'}); an image takes "
        f"{cpu:.2f} x the CPU time"
    )


def measured(start: Start, count: int, batches: int) -> Figures:
    """A round of so many batches of each thread or process, from a start on; the first ones are not counted."""
    before, began = used_bytes(), time.perf_counter()
    stream = start()
    held = [next(stream)]
    first_s = time.perf_counter() - began
    for _ in range(2 * count):
        held = [next(stream)]
    images, began, used = batches * count * BATCH, time.perf_counter(), cpu_seconds()
    for _ in range(batches * count):
        held = [next(stream)]
    images_s, cpu_ms = images / (time.perf_counter() - began), 1000 * (cpu_seconds() - used) / images
    time.sleep(0.5)  # until as much is made ahead as may be
    gib = (used_bytes() - before) / 2**30
    held.clear()
    stream.close()
    return Figures(images_s, cpu_ms, first_s, gib)


def own(source: Source, threads: int, workers: int, batch_size: int = BATCH) -> Iterator[Batch]:
    return batching.train_batches(
        [source],
        KINDS,
        input_hw=(LARGE.image_size, LARGE.image_size),
        augment=AugmentConfig(scale_min=SCALES[1][0], scale_max=SCALES[1][1]),
        batch_size=batch_size,
        seed=0,
        config=InputConfig(workers=workers),
        threads=threads,
    )


def maker(source: Source, batch_size: int) -> tuple[Maker, Batch]:
    """What makes the batches of `own`, and what they are like."""
    with mock.patch.object(batching, "prefetched") as prefetched:
        own(source, 1, 0, batch_size)
    make, _, like = prefetched.call_args.args[:3]
    return make, like


class Part(NamedTuple):
    """A map of grain: number -> so many examples, in shared memory where they are large."""

    make: Maker
    layout: Layout

    def __call__(self, step: int) -> Batch:
        from grain.multiprocessing import SharedMemoryArray

        def shared(node: Any) -> Any:
            if isinstance(node, dict):
                return {name: shared(each) for name, each in node.items()}
            return SharedMemoryArray(node.shape, node.dtype) if node.nbytes >= SHARED else node

        batch = shared(self.layout.empty())
        self.make(step, range(self.layout.rows), mapped(np.asarray, batch))
        return batch


def by_grain(source: Source, workers: int, rows: int) -> Iterator[Batch]:
    """The same batches; grain's workers make so many rows of them at a time, each with one thread, a batch ahead."""
    import grain
    from absl import flags

    flags.FLAGS(["pipeline"])  # grain reads some
    make, like = maker(source, rows)
    ahead = BATCH // rows
    parts = grain.MapDataset.range(ENDLESS).map(Part(make, Layout(like)))
    parts = parts.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    options = grain.experimental.DatasetOptions(min_shm_size=SHARED)
    parts = grain.experimental.WithOptionsIterDataset(parts, options)
    parts = parts.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=ahead))
    return iter(parts.batch(ahead, batch_fn=joined) if ahead > 1 else parts)


def joined(parts: Sequence[Batch]) -> Batch:
    first = parts[0]
    return {
        name: joined([part[name] for part in parts])
        if isinstance(first[name], dict)
        else np.concatenate([np.asarray(part[name]) for part in parts])
        for name in first
    }


def mapped(change: Callable[[np.ndarray], Any], node: Any) -> Any:
    return {name: mapped(change, each) for name, each in node.items()} if isinstance(node, dict) else change(node)


def same_batches(starts: Sequence[Start]) -> None:
    """Raises AssertionError unless all make the same first two batches."""
    streams = [start() for start in starts]
    for _ in range(2):
        first, *others = (mapped(np.asarray, next(stream)) for stream in streams)
        for other in others:
            np.testing.assert_equal(other, first)
    for stream in streams:
        stream.close()


def cpu_seconds() -> float:
    """Of this process and its children."""
    me = psutil.Process()
    return sum(sum(each.cpu_times()[:2]) for each in (me, *me.children(recursive=True)))


def used_bytes() -> int:
    """Memory of this process, its children, and files in memory, whether or not a process has mapped them."""
    me = psutil.Process()
    files = [*Path("/dev/shm").iterdir(), *(Path(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd"))]
    shared = {}
    for file in files:
        with contextlib.suppress(OSError):  # the listing's own, and those that grain removes
            if file.parent.name == "shm" or os.readlink(file).startswith("/memfd:"):
                status = file.stat()
                shared[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(shared.values()) + sum(_own_bytes(each.pid) for each in (me, *me.children(recursive=True)))


def _own_bytes(pid: int) -> int:
    """Memory of a process, without that in files of memory; what it shares with others by its share."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return 0
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return 1024 * (sizes["Pss"] - sizes["Pss_Shmem"])
