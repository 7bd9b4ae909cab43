"""How long it takes to open image sets and label columns of a million images, for the first time and again.

python benchmarks/starts.py [--images=1000000] [--folder=/tmp/starts]

A folder of photos, a prepared set and a label column with depth, all of few different files under many names (hard
links), each opened in a process of its own. What the system has read stays in its cache, so disks do not count. Columns
are also verified, as before a training. "memory" is what the resident set has grown by once all is open (Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from coco_memory import resident_bytes

IN_A_FOLDER, IN_A_SHARD = 1000, 1000
MOST_LINKS = 30_000  # ext4 allows 65,000
SETTLED_S = 3.0  # files that were just written are not remembered
WHAT = ("folder", "prepared set", "column", "column verified")


def photo(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.resize(pixels, (64, 64)))[1].tobytes()


def make_photos(folder: Path, images: int) -> None:
    for number in range(images):
        path = folder / f"{number // IN_A_FOLDER:05d}" / f"{number:012d}.jpg"
        if number % IN_A_FOLDER == 0:
            path.parent.mkdir(parents=True)
        if number % MOST_LINKS == 0:
            first = path
            path.write_bytes(photo(number))
        else:
            os.link(first, path)


def make_set(data_dir: Path, images: int) -> None:
    import tensorflow_datasets as tfds

    from must_jax.data import shards

    folder, count = data_dir / "many/1.0.0", images // IN_A_SHARD
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "name": tfds.features.Text()})
    serialize, first = shards.serializer(features), folder / shards.shard_file("many", 0, count)
    with shards.committed(first) as write:
        for number in range(IN_A_SHARD):
            write(serialize({"image": photo(number), "name": f"{number:012d}.jpg"}))
    for index in range(1, count):
        os.link(first, folder / shards.shard_file("many", index, count))
    shards.describe(folder, "many", features, "", [IN_A_SHARD] * count, count * first.stat().st_size)


def make_column(folder: Path, data_dir: Path) -> None:
    from must_jax import files
    from must_jax.data.image_sets import open_images
    from must_jax.data.kinds import ScalarsLabel
    from must_jax.labels import manifest
    from must_jax.labels.manifest import ImagesRecord, Manifest, TeacherRecord
    from must_jax.labels.writer import ColumnWriter, dataset_files

    images = open_images("many:train", data_dir)
    teacher = TeacherRecord(
        name="t", digest="0" * 64, learning_rate=1, batch_size=1, steps=1, image_size=64, metrics={}
    )
    description = Manifest.describe(
        ScalarsLabel("depth", "m"),
        task="depth",
        classes=(),
        rule={},
        preprocessing="",
        images=ImagesRecord.of(images),
        teacher=teacher,
        shard_images=IN_A_SHARD,
        must_jax="",
    )
    writer, rng = ColumnWriter(folder, description), np.random.default_rng(0)
    with writer.shard(0) as shard:
        for index in range(IN_A_SHARD):
            depth_m = 1 + rng.random((16, 16), np.float32)
            shard.add(images.name_of(index), {"depth": depth_m, "valid": np.ones((16, 16), np.float32), "present": 1})
    record = writer.written()[0]
    records = [record.model_copy(update={"file": description.shard_file(index)}) for index in description.indices]
    for other in records[1:]:
        os.link(folder / record.file, folder / other.file)
    whole = description.model_copy(update={"shards": tuple(records), "complete": True}).sealed()
    for name, text in dataset_files(whole, folder).items():
        files.write_text(folder / name, text)
    files.write_text(folder / manifest.FILE, whole.to_json())
    for file in manifest.unfinished_files(folder):
        file.unlink()


def opened(what: str, home: Path) -> dict[str, float]:
    from must_jax.data.image_sets import open_images
    from must_jax.labels import verify
    from must_jax.labels.columns import open_column

    data_dir, folder = home / "data", home / "columns/t-depth"
    images = open_images("many:train", data_dir) if what.startswith("column") else None
    before, began, cpu = resident_bytes(), time.monotonic(), time.process_time()
    kept: Any = None
    if what == "folder":
        kept = open_images(f"folder:{home / 'photos'}", data_dir)
    elif images is None:
        kept = open_images("many:train", data_dir)
    else:
        kept = open_column(folder, images)
        if what == "column verified":
            verify.check_unchanged((folder, shard) for shard in kept.manifest.shards)
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    return {"images": len(kept), "seconds": seconds, "cpu": cpu, "memory": resident_bytes() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where to make the files, and to leave them; none = for this call")
    parser.add_argument("--only", choices=WHAT, help=argparse.SUPPRESS)  # how this script calls itself
    args = parser.parse_args()
    if args.only:
        print(json.dumps(opened(args.only, args.folder)))
        return
    home = args.folder or Path(tempfile.mkdtemp())
    if not (home / "columns").exists():
        make_photos(home / "photos", args.images)
        make_set(home / "data", args.images)
        make_column(home / "columns/t-depth", home / "data")
        time.sleep(SETTLED_S)
    shutil.rmtree(home / "cache", ignore_errors=True)
    environment = os.environ | {"MUST_JAX_CACHE_DIR": str(home / "cache")}
    for what in WHAT:
        for which in ("first", "again"):
            command = [sys.executable, __file__, f"--folder={home}", f"--only={what}"]
            run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            found = json.loads(run.stdout.splitlines()[-1])
            print(
                f"{what:16} {which:6} {found['images']:12,} images {found['seconds']:8.1f} s, {found['cpu']:7.1f} s of "
                f"CPU time, memory {found['memory'] / 1e6:6.0f} MB",
                flush=True,
            )
    if not args.folder:
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
