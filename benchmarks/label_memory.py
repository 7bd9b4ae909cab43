"""Peak memory of labelling 1,000 and 20,000 small images; and of what is read ahead or waits to be written.

python benchmarks/label_memory.py [--images=1000,20000]
python benchmarks/label_memory.py --prefetch=1,536870912,2147483648

One teacher of all five tasks with random weights, at 32 pixels, labels a folder of 32x32 JPEGs through the code of the
label stage, each number of images in a process of its own. The peak is that of the resident set from opening the
images to the last shard, as the system (Linux) counts it; loading and compiling come before. With --trace, also where
Python's own memory has grown by the end, line by line (slower).

With --prefetch, one teacher of all five tasks at 640 pixels, which answers at once, labels 1,280 images in batches of
64, once for each value of `input.prefetch_bytes`: then most batches wait to be written.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import cv2
import numpy as np

DIFFERENT = 64  # images; the others are copies
SMALL, LARGE = 32, 640  # pixels
AHEAD_IMAGES = 1280


def start_peak() -> None:
    """Forgets the peak so far (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    return _of_status("VmHWM")


def resident_bytes() -> int:
    return _of_status("VmRSS")


def _of_status(field: str) -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[field].split()[0]) * 1024


def label_all(
    folder: Path, workdir: Path, count: int, trace: bool, image_size: int = 32, prefetch_bytes: int = 0
) -> dict[str, object]:
    import jax
    import labelling

    from must_jax.config import InputConfig, LabelConfig, ModelConfig
    from must_jax.data.image_sets import open_images
    from must_jax.engine.mesh import make_mesh, setup_devices
    from must_jax.labelling.one_pass import label
    from must_jax.labelling.teachers import begin_columns
    from must_jax.models.api import build_model
    from must_jax.tasks import TASKS, build_task
    from must_jax.teachers.own import Own
    from must_jax.trained import Trained

    setup_devices()
    model_config = ModelConfig(backbone="resnet10", width=0.125, pyramid_channels=8, head_channels=8, head_convs=1)
    kinds = {name: kind for name, kind in TASKS.items() if not kind.self_supervised}
    tasks = {name: build_task(name, ("a", "b") if kind.has_classes else ()) for name, kind in kinds.items()}
    model = build_model(model_config, {name: task.head(model_config) for name, task in tasks.items()})
    settings = {"learning_rate": 0.1, "batch_size": 32, "steps": 1}
    variables = model.init(jax.random.key(0), (image_size, image_size))
    teacher = Trained(
        Path("t"), model, variables, model_config, tasks, image_size, settings, {}, "0" * 64, make_mesh(0, [64])
    )
    if prefetch_bytes:
        teacher = labelling.instant(teacher, Own(teacher, "t").blank(64))
    jax.device_get(teacher.dispatch(Own(teacher, "t").blank(64)))
    start_peak()
    held = resident_bytes()
    if trace:
        tracemalloc.start(8)
    before = tracemalloc.take_snapshot() if trace else None
    config = LabelConfig(images=f"folder:{folder}", teachers=("t",), take=count)
    images = open_images(config.images, "", count)
    teachers = begin_columns(workdir, [Own(teacher, "t")], images, config)
    reading = InputConfig(prefetch_bytes=prefetch_bytes) if prefetch_bytes else InputConfig()
    assert label(images, teachers, config.batch_size, reading).images == count
    for column in teachers[0].columns:
        column.writer.finish()
    found: dict[str, object] = {"peak": peak_bytes(), "more": peak_bytes() - held}
    if before:
        lines = tracemalloc.take_snapshot().compare_to(before, "lineno")[:12]
        found["held"] = [(str(line.traceback), line.size_diff) for line in lines]
    return found


def measure_ahead(sizes: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        image = np.random.default_rng(0).integers(0, 256, (LARGE // 8, LARGE // 8, 3), np.uint8)
        for i in range(AHEAD_IMAGES):
            cv2.imwrite(f"{folder}/{i:08d}.jpg", cv2.resize(image, (LARGE, LARGE)))
        for size in sizes:
            command = [sys.executable, __file__, f"--prefetch={size}", f"--only={AHEAD_IMAGES}", f"--folder={folder}"]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            more = json.loads(output.splitlines()[-1])["more"]
            print(f"prefetch_bytes {size / 2**30:6.3f} GiB: {more / 2**30:.2f} GiB more than before", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="1000,20000")
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--prefetch", default="", help="bytes, with commas between")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)  # how this script calls itself
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        with tempfile.TemporaryDirectory() as workdir:
            size, ahead = (LARGE, int(args.prefetch)) if args.prefetch else (SMALL, 0)
            print(json.dumps(label_all(args.folder, Path(workdir), args.only, args.trace, size, ahead)))
        return
    if args.prefetch:
        measure_ahead([int(each) for each in args.prefetch.split(",")])
        return

    counts = [int(count) for count in args.images.split(",")]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        jpegs = [
            cv2.imencode(".jpg", rng.integers(0, 256, (32, 32, 3), np.uint8))[1].tobytes() for _ in range(DIFFERENT)
        ]
        for i in range(max(counts)):
            (Path(folder) / f"{i:08d}.jpg").write_bytes(jpegs[i % DIFFERENT])
        for count in (min(counts), *counts):  # the first one compiles, which takes memory of its own
            command = [sys.executable, __file__, *sys.argv[1:], f"--only={count}", f"--folder={folder}"]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[count] = json.loads(output.splitlines()[-1])
    for count in counts:
        print(f"{count:8,} images: peak {found[count]['peak'] / 2**20:8.1f} MiB", flush=True)
        for line, size in found[count].get("held", ()):
            print(f"    {size / 2**10:10.1f} KiB  {line}")
    few, many = min(counts), max(counts)
    growth = found[many]["peak"] - found[few]["peak"]
    print(f"growth: {growth / 2**20:.1f} MiB, {growth / max(many - few, 1):,.0f} bytes an image")


if __name__ == "__main__":
    main()
