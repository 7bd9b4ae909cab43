"""Data as a new user has it on disk, for docs/own_data.md: rooms with four kinds of labels, places, a pile of photos.

python tests/own_data.py my_data [--rooms=400 --places=300 --pile=1500]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

PLACES = {"beach": (90, 200, 230), "forest": (40, 130, 50), "street": (120, 120, 125)}  # blue, green, red
COLOURS = {"chair": (40, 40, 210), "table": (60, 190, 240), "lamp": (220, 90, 60)}
CAMERA_HEIGHT_M, FOCAL = 1.4, 1.1  # the latter in image widths
WALL, FLOOR, FURNITURE, UNLABELLED = 0, 1, 2, 255


def room(
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[tuple[str, list[int]]]]:
    """A wall, a floor, and furniture that stands on it.

    Returns:
      u8[h, w, 3] BGR; u8[h, w] ids; u16[h, w] depth in millimetres; u8[h, w, 3] normals, as RGB with y up and z towards
      the camera; the furniture: name and box as x, y, width, height.
    """
    width, height = (int(side) for side in rng.integers(120, 220, 2))
    horizon, far_m = int(height * rng.uniform(0.35, 0.5)), rng.uniform(3, 7)
    rows, _ = np.mgrid[:height, :width]
    floor_m = FOCAL * width * CAMERA_HEIGHT_M / np.maximum(rows - horizon, 1)
    floor = (floor_m < far_m) & (rows > horizon)
    depth_m = np.where(floor, floor_m, far_m)
    ids = np.where(floor, FLOOR, WALL).astype(np.uint8)
    image = (
        np.where(floor[..., None], rng.uniform(60, 120, 3), rng.uniform(140, 220, 3)) * (1.15 - depth_m / 20)[..., None]
    )
    normals = np.where(floor[..., None], (0, 1, 0), (0, 0, 1)).astype(np.float64)
    furniture = []
    for distance_m in sorted(
        rng.uniform(1.8, far_m - 0.3, rng.integers(1, 4)), reverse=True
    ):  # the nearest is drawn last
        name = list(COLOURS)[rng.integers(len(COLOURS))]
        scale = FOCAL * width / distance_m
        across, up = {"chair": (0.5, 0.9), "table": (1.2, 0.7), "lamp": (0.3, 1.3)}[name]
        bottom = horizon + int(scale * CAMERA_HEIGHT_M)
        box_w, box_h = int(scale * across), int(scale * up)
        x, y = int(rng.integers(0, max(1, width - box_w))), max(0, bottom - box_h)
        box_w, box_h = min(box_w, width - x), min(bottom, height) - y
        if box_w < 4 or box_h < 4:
            continue
        there = np.s_[y : y + box_h, x : x + box_w]
        image[there] = np.array(COLOURS[name]) * (1.15 - distance_m / 20)
        depth_m[there], ids[there], normals[there] = distance_m, FURNITURE, (0, 0, 1)
        furniture.append((name, [x, y, box_w, box_h]))
    image = (image + rng.normal(0, 6, image.shape)).clip(0, 255).astype(np.uint8)
    ids[cv2.morphologyEx(ids, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0] = UNLABELLED
    depth_mm = np.where(rng.random(depth_m.shape) < 0.1, 0, depth_m * 1000).astype(np.uint16)  # gaps, as sensors have
    return image, ids, depth_mm, np.round((normals + 1) / 2 * 255).astype(np.uint8), furniture


def place(rng: np.random.Generator, name: str) -> np.ndarray:
    """u8[h, w, 3] BGR: sky above the colour of the place, with stripes."""
    width, height = (int(side) for side in rng.integers(120, 220, 2))
    image = np.full((height, width, 3), (230, 190, 150), float) * rng.uniform(0.7, 1)
    horizon = int(height * rng.uniform(0.2, 0.6))
    image[horizon:] = np.array(PLACES[name]) * rng.uniform(0.7, 1.1)
    image[horizon :: int(rng.integers(6, 14))] *= 0.85
    return (image + rng.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8)


def write(folder: Path, rooms: int, places: int, pile: int, seed: int = 0) -> Path:
    """The folder as docs/own_data.md shows it."""
    rng = np.random.default_rng(seed)
    categories = [{"id": number, "name": name} for number, name in enumerate(COLOURS, start=1)]
    coco: dict[str, list] = {"images": [], "annotations": [], "categories": categories}
    for number in range(rooms):
        image, ids, depth_mm, normals, furniture = room(rng)
        stem = f"house{number % 5}/{number:04d}"
        _save(folder / f"rooms/{stem}.jpg", image)
        _save(folder / f"masks/{stem}.png", ids)
        _save(folder / f"depth_mm/{stem}.png", depth_mm)
        _save(folder / f"normals/{stem}.png", normals[..., ::-1])
        coco["images"].append(
            {"id": number, "file_name": f"{stem}.jpg", "height": image.shape[0], "width": image.shape[1]}
        )
        for name, box in furniture:
            coco["annotations"].append(
                {
                    "id": len(coco["annotations"]),
                    "image_id": number,
                    "category_id": list(COLOURS).index(name) + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    for number in range(places):
        name = list(PLACES)[number % len(PLACES)]
        _save(folder / f"places/{name}/{number:04d}.jpg", place(rng, name))
    for number in range(pile):
        photo = room(rng)[0] if number % 2 else place(rng, list(PLACES)[int(rng.integers(len(PLACES)))])
        _save(folder / f"pile/{number // 100:03d}/{number:05d}.jpg", photo)
    (folder / "instances.json").write_text(json.dumps(coco))
    return folder


def _save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for name, count in (("rooms", 400), ("places", 300), ("pile", 1500)):
        parser.add_argument(f"--{name}", type=int, default=count)
    arguments = parser.parse_args()
    write(arguments.folder, arguments.rooms, arguments.places, arguments.pile)
