"""Peak memory and time of opening COCO JSON: boxes of many images, with outlines.

python benchmarks/coco_memory.py [--boxes=1000000,10000000]

Each file (10 boxes an image, 230 bytes a box) is written to a temporary folder and opened by a process of its own, as
`prepare` does. The peak is that of the resident set (Linux), from opening the file to the labels of all images,
compared with that before; the time is that of the process. The list of the images' names, which `prepare` has anyway,
is made before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from label_memory import peak_bytes, start_peak

BOXES_OF_IMAGE = 10
SIDE = 640


def name_of(image: int) -> str:
    return f"train/{image:012d}.jpg"


def write(file: Path, boxes: int) -> None:
    rng = np.random.default_rng(0)
    images = -(-boxes // BOXES_OF_IMAGE)
    with file.open("w") as out:
        out.write('{"info": {}, "images": [')
        for image in range(images):
            about = {"id": image, "file_name": name_of(image), "width": SIDE, "height": SIDE}
            out.write(", " * (image > 0) + json.dumps(about))
        out.write('], "annotations": [')
        for number in range(boxes):
            if number % 1000 == 0:
                numbers = np.round(rng.uniform(0, SIDE / 2, (1000, 4)), 2).tolist()
            x, y, width, height = numbers[number % 1000]
            about = {
                "segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]],
                "area": width * height,
                "iscrowd": 0,
                "image_id": number // BOXES_OF_IMAGE,
                "bbox": [x, y, width, height],
                "category_id": number % 80 + 1,
                "id": number,
            }
            out.write(", " * (number > 0) + json.dumps(about))
        categories = [{"id": number + 1, "name": f"class {number}"} for number in range(80)]
        out.write(f'], "categories": {json.dumps(categories)}}}')


def opened(file: Path, boxes: int) -> dict[str, float]:
    from must_jax.data.kinds import BoxesLabel
    from must_jax.labels.formats.base import Photo
    from must_jax.labels.formats.coco import Coco

    names = [name_of(image) for image in range(-(-boxes // BOXES_OF_IMAGE))]
    before = resident_bytes()
    start_peak()
    began = time.process_time()
    annotations = Coco().open(file, names, BoxesLabel(100))
    seconds = time.process_time() - began
    found = 0
    for name in names[:1000]:
        label = annotations.label(Photo(name, None))
        found += 0 if label is None else len(label["classes"])
    assert found == min(boxes, 1000 * BOXES_OF_IMAGE)
    return {"peak": peak_bytes() - before, "rest": resident_bytes() - before, "seconds": seconds}


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", default="1000000,10000000")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)  # how this script calls itself
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(opened(args.file, args.only)))
        return
    for boxes in map(int, args.boxes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "instances.json"
            write(file, boxes)
            command = [sys.executable, __file__, f"--only={boxes}", f"--file={file}"]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found = json.loads(output.splitlines()[-1])
            peak, rest, us = found["peak"] / boxes, found["rest"] / boxes, 1e6 * found["seconds"] / boxes
            print(
                f"{boxes:12,} boxes, {file.stat().st_size / 1e9:.2f} GB: peak {peak:,.0f} bytes a box, "
                f"{rest:,.0f} when open, {us:.1f} us of CPU time a box",
                flush=True,
            )


if __name__ == "__main__":
    main()
