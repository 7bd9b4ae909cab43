"""Small labelled sets in the formats that people have, written from known labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image

from must_jax.config import TruthConfig
from must_jax.data.image_sets import ImageSet, open_images
from must_jax.inputs import truth
from must_jax.labels.columns import LabelColumn, open_column

SIDE, BLOCK = 32, 4  # images are square; maps are constant in blocks, so that a map of stride 4 loses nothing
NAMES = ("train/cat/0.png", "train/cat/1.png", "train/dog/2.png", "train/dog/3.png", "train/dog/4.png")
CATEGORIES = {3: "person", 7: "car", 90: "dog"}  # ids are not contiguous, as COCO's are not
BOXES_XYWH = {  # image -> (category, box); image 3 is listed and empty, image 4 is not listed
    0: [(7, [0.0, 0.0, 16.0, 8.0]), (3, [4.25, 8.5, 20.0, 23.5])],
    1: [(90, [1.0, 2.0, 30.0, 30.0])],
    2: [(3, [10.0, 12.0, 3.5, 20.0])],
    3: [],
}


def write_images(folder: Path, names: tuple[str, ...] = NAMES, side: int = SIDE) -> ImageSet:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.full((side, side, 3), 20 * i, np.uint8)).save(folder / name)  # of any name
    return open_images(f"folder:{folder}", "unused")


def blocks(values: np.ndarray) -> np.ndarray:
    """[8, 8, ...] -> [32, 32, ...]."""
    return values.repeat(BLOCK, 0).repeat(BLOCK, 1)


def write_coco(file: Path, **changes: Any) -> Path:
    annotations = [
        {"id": 10 * i + k, "image_id": 100 + i, "category_id": category, "bbox": box, "area": 1.0, "iscrowd": 0}
        | {"segmentation": [[0, 0, 1, 1, 2, 0]]}
        for i, boxes in BOXES_XYWH.items()
        for k, (category, box) in enumerate(boxes)
    ]
    crowd = {"id": 99, "image_id": 103, "category_id": 3, "bbox": [0, 0, 9, 9], "area": 1.0, "iscrowd": 1}
    content = {
        "info": {"year": 2026},
        "images": [{"id": 100 + i, "file_name": NAMES[i], "width": SIDE, "height": SIDE} for i in BOXES_XYWH],
        "annotations": [*annotations, crowd],
        "categories": [{"id": id_, "name": name} for id_, name in reversed(CATEGORIES.items())],
    }
    file.write_text(json.dumps(content | changes))
    return file


def voc_xml(objects: list[tuple[str, tuple[float, float, float, float]]], *, side: int = SIDE, head: str = "") -> str:
    """Boxes are xmin, ymin, xmax, ymax, from 1 and inclusive."""
    texts = [
        f"<object><name>{name}</name><difficult>{int(name == 'bus')}</difficult>"
        f"<bndbox><xmax>{x1}</xmax><xmin>{x0}</xmin><ymax>{y1}</ymax><ymin>{y0}</ymin></bndbox>"
        "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
        for name, (x0, y0, x1, y1) in objects
    ]
    size = f"<size><width>{side}</width><height>{side}</height><depth>3</depth></size>"
    return f"{head}<annotation><filename>x.jpg</filename>{size}{''.join(texts)}</annotation>"


def write_palette_png(file: Path, indices: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = PIL.Image.fromarray(indices.astype(np.uint8), "P")
    picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    picture.save(file)


def write_png(file: Path, codes: np.ndarray) -> None:
    """u8 or u16, grey or RGB."""
    file.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(".png", codes[..., ::-1] if codes.ndim == 3 else codes)
    assert ok
    file.write_bytes(data.tobytes())  # imwrite does not take any name


def imported(images: ImageSet, task: str, folder: Path, **config: Any) -> LabelColumn:
    """In shards of two images."""
    truth.write(images, task, TruthConfig(**config), folder, shard_images=2)
    return open_column(folder, images)
