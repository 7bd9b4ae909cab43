"""The cost of preparing photographs of 12 megapixels: `python benchmarks/prepare.py [images]`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from must_jax.config import PrepareConfig
from must_jax.cores import cores
from must_jax.data.preparing import prepare

IMAGE_HW = 3000, 4000
DISTINCT = 8  # the rest are copies


def photo(seed: int) -> bytes:
    """A JPEG about as large as a camera's: smooth parts, and noise."""
    rng = np.random.default_rng(seed)
    smooth = cv2.resize(rng.integers(0, 255, (150, 200, 3), np.uint8), IMAGE_HW[::-1], interpolation=cv2.INTER_CUBIC)
    noisy = np.clip(smooth + rng.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def main() -> None:
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder, "photos")
        photos.mkdir()
        encoded = [photo(seed) for seed in range(DISTINCT)]
        for number in range(images):
            (photos / f"{number:06d}.jpg").write_bytes(encoded[number % DISTINCT])
        config = PrepareConfig(name="photos", images=f"folder:{photos}", data_dir=f"{folder}/data")
        began, cpu = time.monotonic(), time.process_time()
        prepare(config)
        seconds, cpu_seconds = time.monotonic() - began, time.process_time() - cpu
        print(f"JPEGs of 12 megapixels and {sum(map(len, encoded)) / DISTINCT / 1e6:.1f} MB on {cores()} cores")
        print(f"{images / seconds:.0f} images/s, {1000 * cpu_seconds / images:.0f} ms of CPU time each")
        began = time.monotonic()
        prepare(config)
        print(f"finished, and recognised in {1000 * (time.monotonic() - began):.0f} ms")


if __name__ == "__main__":
    main()
