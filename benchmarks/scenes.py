"""Images/s of the scene renderer on one core, image and labels encoded: `python benchmarks/scenes.py [images]`."""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported

import sys
import time

from must_jax.data.scenes.configs import CONFIGS, SPLITS, encode_examples


def main() -> None:
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    rates = {}
    for name in (name for name in CONFIGS if not name.endswith("_tiny")):
        encode_examples(name, SPLITS[0], range(20))
        began = time.process_time()
        encode_examples(name, SPLITS[0], range(images))
        rates[name] = images / (time.process_time() - began)
        print(f"{name:28s} {rates[name]:6.0f} images/s of CPU time")
    print(f"{'slowest':28s} {min(rates.values()):6.0f} images/s")


if __name__ == "__main__":
    main()
