"""What rectangular inputs save: the padding of photos by aspect ratio, and updates of five tasks in images a second.

python benchmarks/rectangles.py [--batch=4] [--steps=3] [--rounds=3]

The update is the real one of all five tasks with the network of the quick start; both sizes take turns in one process.
"""

from __future__ import annotations

import argparse
import math
import statistics

from train_step import FIVE, PRESETS, measure, train_step, wait

from must_jax.config.base import size_told
from must_jax.data.augment import letterbox_geometry

INPUTS = ((640, 640), (384, 640))
PHOTOS = {"16:9": (1080, 1920), "3:2": (2000, 3000), "4:3": (1500, 2000), "1:1": (1000, 1000), "3:4": (2000, 1500)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3, help="timed steps a round")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    for input_hw in INPUTS:
        shares = ", ".join(f"{name} {100 * padding(image_hw, input_hw):.0f} %" for name, image_hw in PHOTOS.items())
        print(f"{size_told(input_hw):>9}: padding of photos of {shares}")
    config = PRESETS["quickstart"][0]
    updates = {input_hw: train_step(FIVE, config, input_hw, args.batch)[0] for input_hw in INPUTS}
    rounds = [
        [measure(update, wait, args.batch, args.steps) for update in updates.values()] for _ in range(args.rounds)
    ]
    rates = [statistics.median(each) for each in zip(*rounds, strict=True)]
    square = INPUTS[0]
    for input_hw, rate in zip(INPUTS, rates, strict=True):
        print(
            f"{size_told(input_hw):>9}: {rate:.2f} images/s, {math.prod(input_hw) / math.prod(square):.2f} x the pixels"
        )
    print(f"{rates[1] / rates[0]:.2f} x the images a second")


def padding(image_hw: tuple[int, int], input_hw: tuple[int, int]) -> float:
    """The share of the input that the image leaves free."""
    geometry = letterbox_geometry(image_hw, input_hw)
    return 1 - geometry.y.out_length * geometry.x.out_length / math.prod(input_hw)


if __name__ == "__main__":
    main()
