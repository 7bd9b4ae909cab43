"""What strict decoding of JPEGs costs: simplejpeg, which says when data is lost, against OpenCV, which does not.

python benchmarks/jpeg.py [--rounds=5]
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable

import cv2
import numpy as np
import PIL.Image
import simplejpeg

SIZES = ((480, 640), (1200, 1600))
REPEATED = 20


def photo(height: int, width: int) -> bytes:
    """Smooth colours with noise, about as hard to compress as a photograph."""
    rng = np.random.default_rng(0)
    small = rng.integers(60, 190, (6, 8, 3)).astype(np.uint8)
    smooth = np.array(PIL.Image.fromarray(small).resize((width, height), PIL.Image.Resampling.BICUBIC)).astype(int)
    out = io.BytesIO()
    noisy = np.clip(smooth + rng.integers(-20, 20, (height, width, 1)), 0, 255).astype(np.uint8)
    PIL.Image.fromarray(noisy).save(out, "JPEG", quality=90)
    return out.getvalue()


def strict(data: bytes) -> np.ndarray:
    return simplejpeg.decode_jpeg(data, "RGB", False, False, strict=True)


def by_opencv(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def seconds(decode: Callable[[bytes], np.ndarray], data: bytes) -> float:
    began = time.process_time()
    for _ in range(REPEATED):
        decode(data)
    return (time.process_time() - began) / REPEATED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    cv2.setNumThreads(1)
    for height, width in SIZES:
        data = photo(height, width)
        same = np.array_equal(strict(data), by_opencv(data))
        times = np.array([[seconds(decode, data) for decode in (strict, by_opencv)] for _ in range(rounds)]).min(0)
        print(
            f"{width} x {height}: strict {1e3 * times[0]:.2f} ms, OpenCV {1e3 * times[1]:.2f} ms of CPU time, "
            f"ratio {times[0] / times[1]:.2f}; {'the same pixels' if same else 'other pixels'}"
        )


if __name__ == "__main__":
    main()
