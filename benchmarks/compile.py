"""Larger students, compiled for TPU slices that need not be here: do they fit, how fast are they at best, what is sent?

python benchmarks/compile.py [--topologies=v5e:2x2,v5e:4x4,v5e:8x8,v5e:16x16] [--images=16] [--remat=heads,stage1]
    [--backbone=resnet50] [--image_size=512] [--workdir=FOLDER]

The student of configs/student.py with a ResNet-FPN of the usual width, five heads, bfloat16, and as many classes as
ImageNet, Objects365 and COCO's panoptic segmentation have. Its train step alone, `images` a chip, as the stage
`compile` compiles it. One topology after the other, each in a process of its own; a line of the table appears when it
is done. The programs as text, for benchmarks/program_parts.py, stay in `workdir`.
Needs the extra: pip install -e '.[aot]'
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLASSES = {"classification": 1000, "detection": 365, "segmentation": 133}
MODEL = {"width": 1, "pyramid_channels": 256, "head_channels": 256, "head_convs": 3, "dtype": "bfloat16"}
GIB = 2**30
HEADER = (
    "| slice | chips | images a chip | memory of a chip | of these temporaries | TFLOP an image | GiB moved a step "
    "| step at best | images/s a chip, at most | all, at most | all-reduce | links at best | compiled in |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topologies", default="v5e:2x2,v5e:4x4,v5e:8x8,v5e:16x16")
    parser.add_argument("--images", type=int, default=16, help="a chip")
    parser.add_argument("--remat", default="")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--image_size", type=int, default=512)
    parser.add_argument("--workdir", default="", help="keep results and programs in this folder")
    args = parser.parse_args()
    print(HEADER + "\n" + "|---" * (HEADER.count("|") - 1) + "|", flush=True)
    for topology in args.topologies.split(","):
        print(row(topology, args), flush=True)


def row(topology: str, args: argparse.Namespace) -> str:
    chips = 1
    for side in topology.partition(":")[2].split("x"):
        chips *= int(side)
    values = {
        "stage": "compile",
        "compile.topology": topology,
        "compile.programs": "train",
        "image_size": args.image_size,
        "batch_size": args.images * chips,
        "model.backbone": args.backbone,
    }
    values |= {f"model.{key}": value for key, value in MODEL.items()}
    values |= {f"compile.classes.{task}": count for task, count in CLASSES.items()}
    if args.remat:
        values["remat"] = args.remat
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.workdir or temporary).resolve()
        command = [sys.executable, "-m", "must_jax.main", "--config=configs/student.py", f"--workdir={folder}"]
        command += [f"--config.{key}={value}" for key, value in values.items()]
        ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if ended.returncode:
            return f"| {topology} | {chips} | {args.images} | {ended.stderr.splitlines()[-1]} |"
        file = folder / "compile" / topology.replace(":", "-") / "result.json"
        told = json.loads(file.read_text())["programs"]["train"]
    rate, reduced = told["images_per_second_and_chip"], told["collectives"]["all-reduce"]
    temporaries = told["memory"].get("activations and other temporaries", 0)
    cells = (
        topology,
        chips,
        f"{told['images']:g}",
        f"{told['memory_bytes'] / GIB:.2f} GiB",
        f"{temporaries / GIB:.2f} GiB",
        f"{told['flops'] / told['images'] / 1e12:.3f}",
        f"{told['memory_traffic'] / GIB:.1f}",
        f"{1000 * told['bound_seconds']:.1f} ms",
        f"{rate:,.0f}",
        f"{rate * chips:,.0f}",
        f"{reduced['times']} times, {reduced['bytes'] / 2**20:.0f} MiB",
        f"{1000 * told['collective_seconds']:.2f} ms",
        f"{told['compile_seconds']:.0f} s",
    )
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
