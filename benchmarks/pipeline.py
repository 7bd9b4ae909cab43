"""Images a second that are turned into training batches: by one core, and by threads and processes; Python's share.

python benchmarks/pipeline.py [--only=decoding|python|scaling|memory]

Makes its data in a temporary folder: rendered photos with the labels of five tasks at a quarter of the size (as
teachers leave them), and 64x64 images with labels at full size.

decoding: one core against bare JPEG decoding of the same bytes by OpenCV. Rounds of the pipeline (one thread, batches
of 32, flips, scales from one bound to the other) and of decoding alternate in one process. Times are CPU seconds, so
other programs disturb little. An image that will be shown at less than half its size is decoded at half the size (or
less), which bare decoding never does; from 1.2 on every photo is decoded fully. Decoding labels counts as the
pipeline's work.

python: what an image costs apart from its pixels, as only one thread of a process at a time can do it: CPU time an
image of 32 pixels, with five label columns, less the time in functions of OpenCV and of the JPEG decoder. NumPy's part
is still in it. The rest of the work is done by many threads at once.

scaling: images of 640 pixels with five label columns, made by 1 and 2 threads and by 1 and 2 worker processes, in
alternating rounds; by wall clock, so nothing else should run. The yardstick is a loop of bare decoding in 1 and 2
processes: what two of these cores can do more than one of them.

memory: how much memory batches of 96 MiB ahead take, if there were 192 cores.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest import mock

import cv2
import numpy as np
import psutil
import simplejpeg
import tensorflow_datasets as tfds

from must_jax.config import AugmentConfig, InputConfig
from must_jax.data import encodings, scenes
from must_jax.data.image_sets import open_images
from must_jax.data.kinds import BoxesLabel, LabelKind, MapLabel, VectorLabel
from must_jax.data.pipeline import Source, train_batches

KINDS: dict[str, LabelKind] = {
    "classification": VectorLabel(8),
    "detection": BoxesLabel(20),
    "segmentation": MapLabel("ids", "ids"),
    "depth": MapLabel("depth", "scalar", "m"),
    "normals": MapLabel("normals", "vector"),
}
IMAGES, BATCH, ROUNDS = 128, 32, 5
SCALES = (0.7, 1.0), (0.7, 1.4), (1.2, 1.4)  # the longer side of the image as it is shown, in sides of the input
GOAL = 0.8  # of the speed of bare decoding
GRAIN = 7.0  # of 255: gives the renderings as many bytes as photographs of their size have (ImageNet: 110 kB)

Scales = tuple[float, float]


@dataclass(frozen=True)
class Size:
    name: str
    height: int
    width: int
    map_stride: int
    image_size: int  # of the network input
    batches: int  # a round


DECODED = [Size("photos", 375, 500, 4, 224, 8), Size("small", 64, 64, 1, 64, 20)]
TINY, LARGE = Size("tiny", 24, 32, 1, 32, 40), Size("large", 480, 640, 4, 640, 6)
SIZES = [*DECODED, TINY, LARGE]
OUTSIDE = {
    cv2: ("imdecode", "resize", "warpAffine", "copyMakeBorder", "flip"),
    simplejpeg: ("decode_jpeg",),
}
PYTHON_GOAL_MS, SCALING_GOAL = 0.4, 0.9


class Rendered(tfds.core.GeneratorBasedBuilder):
    """Images with labels of all tasks."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=size.name) for size in SIZES]  # noqa: RUF012 (TFDS wants a list)
    code_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        labels = {task: encodings.features(kind) for task, kind in KINDS.items()}
        tasks = {task: {"kind": encodings.kind_to_dict(kind), "classes": []} for task, kind in KINDS.items()}
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({"image": tfds.features.Image(), **labels}),
            metadata=tfds.core.MetadataDict(tasks=tasks),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        size = next(size for size in SIZES if size.name == self.builder_config.name)
        return ((index, example(index, size)) for index in range(IMAGES))

    def _log_download_bytes(self) -> None:
        """Replaces a message about downloading."""

    _log_download_done = _log_download_bytes


def example(index: int, size: Size) -> dict[str, Any]:
    rng = np.random.default_rng(index)
    scene = scenes.sample_scene(rng, scenes.TRAINING)
    image = scenes.render(scene, scene.camera, size.height, size.width, rng).image
    image = np.clip(image + rng.normal(0, GRAIN, image.shape), 0, 255).astype(np.uint8)
    maps = scenes.render(scene, scene.camera, size.height // size.map_stride, size.width // size.map_stride)
    valid = np.ones(maps.surfaces.shape)
    labels = {
        "classification": {"probs": rng.dirichlet(np.ones(8))},
        "detection": {"boxes_yxyx": maps.boxes_yxyx, "classes": maps.box_items},
        "segmentation": {"ids": maps.surfaces},
        "depth": {"depth": maps.depth_m, "valid": valid},
        "normals": {"normals": maps.normals, "valid": valid},
    }
    jpeg = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 95))[1].tobytes()
    return {"image": jpeg} | {task: encodings.encode(KINDS[task], label) for task, label in labels.items()}


def pipeline_seconds(source: Source, kinds: Mapping[str, LabelKind], size: Size, scales: Scales) -> float:
    """CPU seconds an image."""
    augment = AugmentConfig(scale_min=scales[0], scale_max=scales[1])
    options = {"image_size": size.image_size, "batch_size": BATCH, "seed": 0, "threads": 1}
    began = time.process_time()
    batches = train_batches([source], kinds, augment=augment, **options)
    for _ in itertools.islice(batches, size.batches):
        pass
    seconds = time.process_time() - began
    batches.close()
    time.sleep(0.3)  # until its thread has finished the batch it was making ahead
    return seconds / (size.batches * BATCH)


def decoding_seconds(jpegs: list[bytes], size: Size) -> float:
    """CPU seconds an image."""
    began = time.process_time()
    for jpeg in itertools.islice(itertools.cycle(jpegs), size.batches * BATCH):
        cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    return (time.process_time() - began) / (size.batches * BATCH)


def python_ms(source: Source) -> float:
    """Milliseconds an image."""
    inside = [0.0]

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*args, **options)
            finally:
                inside[0] += time.thread_time() - began

        return call

    rounds = []
    with ExitStack() as stack:
        for module, names in OUTSIDE.items():
            for name in names:
                stack.enter_context(mock.patch.object(module, name, timed(getattr(module, name))))
        for _ in range(ROUNDS + 1):
            inside[0] = 0.0
            whole = pipeline_seconds(source, KINDS, TINY, SCALES[1])
            rounds.append(1000 * (whole - inside[0] / (TINY.batches * BATCH)))
    return statistics.median(rounds[1:])


def rate(source: Source, threads: int, workers: int) -> tuple[float, float]:
    """Images a second, by wall clock, and CPU seconds an image in all processes, once the first batches are there."""
    options = {"image_size": LARGE.image_size, "batch_size": BATCH, "seed": 0}
    batches = train_batches(
        [source],
        KINDS,
        augment=AugmentConfig(scale_min=0.7, scale_max=1.4),
        config=InputConfig(workers=workers),
        threads=threads,
        **options,
    )
    for _ in range(2 * threads + 1):
        next(batches)
    images, began, used = LARGE.batches * threads * BATCH, time.perf_counter(), cpu_seconds()
    for _ in range(LARGE.batches * threads):
        next(batches)
    found = images / (time.perf_counter() - began), (cpu_seconds() - used) / images
    batches.close()
    return found


def cpu_seconds() -> float:
    """Of this process and its children."""
    me = psutil.Process()
    return sum(sum(each.cpu_times()[:2]) for each in (me, *me.children(recursive=True)))


def decoded(jpegs: list[bytes]) -> float:
    """Images a second that this process decodes."""
    began = time.perf_counter()
    for jpeg in itertools.islice(itertools.cycle(jpegs), 2 * len(jpegs)):
        cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    return 2 * len(jpegs) / (time.perf_counter() - began)


def decoding(data_dir: str) -> None:
    print(f"{'images':18}{'labels':12}{'scales':>10}{'decoding/s':>12}{'pipeline/s':>12}{'share':>8}")
    for size in DECODED:
        source = opened(size, data_dir)
        jpegs = jpegs_of(source)
        name = f"{size.width}x{size.height}, {statistics.mean(map(len, jpegs)) / 1000:.0f} kB"
        for labels, kinds in {"none": {}, "five tasks": KINDS}.items():
            shares = []
            for scales in SCALES:
                rounds = []
                for _ in range(ROUNDS + 1):
                    rounds.append((decoding_seconds(jpegs, size), pipeline_seconds(source, kinds, size, scales)))
                bare, pipeline = (statistics.median(times) for times in zip(*rounds[1:], strict=True))
                shares.append(statistics.median(bare / whole for bare, whole in rounds[1:]))
                row = f"{name:18}{labels:12}{scales[0]:>6} - {scales[1]}{1 / bare:12.0f}{1 / pipeline:12.0f}"
                print(f"{row}{shares[-1]:8.0%}", flush=True)
            verdict = "met" if min(shares) >= GOAL else "missed"
            print(f"{name}, {labels}: {min(shares):.0%} or more of bare decoding (goal {GOAL:.0%}: {verdict})")


def python(data_dir: str) -> None:
    found = python_ms(opened(TINY, data_dir))
    verdict = "met" if found <= PYTHON_GOAL_MS else "missed"
    print(f"Python, with NumPy: {found:.2f} ms an image, five columns (goal {PYTHON_GOAL_MS} without: {verdict})")


def scaling(data_dir: str) -> None:
    source = opened(LARGE, data_dir)
    jpegs = jpegs_of(source)
    found: dict[str, list[list[float]]] = {"threads": [], "processes": [], "bare decoding": []}
    cpu: dict[str, list[list[float]]] = {"threads": [], "processes": []}
    for _ in range(ROUNDS):
        for way in cpu:
            measured = [rate(source, count, count * (way == "processes")) for count in (1, 2)]
            found[way].append([images for images, _ in measured])
            cpu[way].append([seconds for _, seconds in measured])
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            found["bare decoding"].append([sum(pool.map(decoded, [jpegs] * count)) for count in (1, 2)])
    print(f"{'640 px, five columns':22}{'1':>8}{'2':>8}   images/s; times as many; CPU ms an image with 1 and 2")
    for way, rounds in found.items():
        row = f"{way:22}" + "".join(f"{statistics.median(rates):8.1f}" for rates in zip(*rounds, strict=True))
        row += f"   {gain(rounds):.2f}"
        if way in cpu:
            row += "  " + "".join(f"{1000 * statistics.median(ms):7.2f}" for ms in zip(*cpu[way], strict=True))
        print(row)
    share = gain(found["processes"]) / gain(found["bare decoding"])
    verdict = "met" if share >= SCALING_GOAL else "missed"
    print(f"processes scale {share:.2f} x what the cores do for bare decoding (goal {SCALING_GOAL}: {verdict})")


def gain(rounds: list[list[float]]) -> float:
    """How many times as many images two make as one, by the median of the rounds."""
    return statistics.median(two / one for one, two in rounds)


def memory(data_dir: str) -> None:
    """Peak of this process and its workers beyond what one batch takes."""
    source = opened(LARGE, data_dir)
    for workers, threads, gib in ((0, 192, 2), (0, 192, 0.5), (8, 192, 0.5)):
        config = InputConfig(workers=workers, prefetch_bytes=int(gib * 2**30))
        options = {"image_size": 1024, "batch_size": BATCH, "seed": 0, "threads": threads}
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


def used_bytes() -> int:
    """Memory of this process and all its children, shared memory counted once."""
    me = psutil.Process()
    return sum(each.memory_full_info().pss for each in (me, *me.children(recursive=True)))


def opened(size: Size, data_dir: str) -> Source:
    Rendered(config=size.name, data_dir=data_dir).download_and_prepare(file_format="array_record")
    images = open_images(f"rendered/{size.name}:train", data_dir)
    return Source(images, tuple(images.labels.values()))


def jpegs_of(source: Source) -> list[bytes]:
    return [source.images.record(index)["image"] for index in range(len(source.images))]


PARTS = {part.__name__: part for part in (decoding, python, scaling, memory)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS)
    only = parser.parse_args().only
    tfds.disable_progress_bar()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as data_dir:
        for part in [PARTS[only]] if only else PARTS.values():
            part(data_dir)


if __name__ == "__main__":
    main()
