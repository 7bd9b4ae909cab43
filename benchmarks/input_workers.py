"""What feeds a GPU or TPU: threads, or the worker processes that `input.workers` chooses by itself where there is one.

python benchmarks/input_workers.py [--toy] [--only=training,sets]

training   a ResNet-50-FPN learns depth and normals from JPEGs of 640x480 at 640 pixels, bfloat16, batches of 64:
           images/s, and the share of the time in which the device had no batch; first by threads, then as chosen.
           Updates count once what was made ahead during compilation is used up
sets       seconds until so many images have been read, the start of the readers included: from how many on do processes
           gain (pipeline.FEW)? Images alone, as for validations, of 640 and of 64 pixels

--toy: small enough for a CPU, where no workers are chosen; two are asked for.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from unittest import mock

from pipeline_data import LARGE, Size, opened, reopened

from must_jax.config import AugmentConfig, InputConfig, TrainConfig
from must_jax.cores import cores
from must_jax.data import batching
from must_jax.data.batching import Source
from must_jax.engine.mesh import setup_devices
from must_jax.inputs import feeding
from must_jax.stages import train

SMALL = Size("small", 64, 64, 4, 64)
COUNTS = 512, 2048, 4096, 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--only", default="training,sets")
    args = parser.parse_args()
    setup_devices()
    chosen = InputConfig(workers=2) if args.toy else InputConfig()
    large = Size("large", 96, 128, 4, 64) if args.toy else LARGE
    with tempfile.TemporaryDirectory() as folder:
        opened(large, folder, 4 if args.toy else 24)
        if "training" in args.only:
            for reading in (InputConfig(workers=0), chosen):
                print(training(large, folder, reading, args.toy), flush=True)
        if "sets" in args.only:
            opened(SMALL, folder, 24)
            print(f"{'seconds to read':20}{'threads':>9}{feeding.readers(chosen):>22}")
            for size in (large, SMALL):
                for count in COUNTS[: 1 if args.toy else None]:
                    source = reopened(size, folder)
                    threads_s, chosen_s = (read(source, size, count, each) for each in (InputConfig(workers=0), chosen))
                    print(f"{count:6,} of {size.image_size:3} px {threads_s:12.2f}{chosen_s:22.2f}", flush=True)


def training(size: Size, data_dir: str, reading: InputConfig, toy: bool) -> str:
    network = {"backbone": "resnet10", "width": 0.125, "pyramid_channels": 8, "head_channels": 8, "head_convs": 1}
    batch_size, steps, ahead = (8, 8, 4) if toy else (64, 140, 60)
    config = TrainConfig.model_validate(
        {
            "data_dir": data_dir,
            "train": [{"images": f"rendered/{size.name}:train"}],
            "tasks": {"depth": {}, "normals": {}},
            "image_size": size.image_size,
            "augment": {"scale_min": 0.7, "scale_max": 1.4},
            "input": reading,
            "model": {**(network if toy else {"backbone": "resnet50"}), "dtype": "bfloat16"},
            "optimizer": {"learning_rate": 0.01},
            "batch_size": batch_size,
            "steps": steps,
            "log_every": ahead // 3 or 1,
        }
    )
    with tempfile.TemporaryDirectory() as workdir:
        began = time.perf_counter()
        train.run(config, Path(workdir))
        rows = map(json.loads, (Path(workdir) / "metrics.jsonl").read_text().splitlines())
        late = [row for row in rows if row["step"] > ahead]
        rate, waited = (sum(row[name] for row in late) / len(late) for name in ("images_per_second", "data_wait_share"))
        return (
            f"training, read by {feeding.readers(reading)} on {cores()} cores: {rate:.1f} images/s, "
            f"{waited:.1%} of the time without a batch  [{time.perf_counter() - began:.0f} s]"
        )


def read(source: Source, size: Size, images: int, reading: InputConfig) -> float:
    """Seconds to read so many images, the set again and again."""
    with mock.patch.object(batching, "FEW", 0):
        batches = batching.train_batches(
            [source],
            {},
            input_hw=(size.image_size, size.image_size),
            augment=AugmentConfig(),
            batch_size=32,
            seed=0,
            stop_step=images // 32,
            config=feeding.reading(reading),
        )
        began = time.perf_counter()
        for _ in batches:
            pass
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
