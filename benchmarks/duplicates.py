"""How far apart perceptual hashes are, of copies and of other scenes, and how fast they are made and compared.

    python benchmarks/duplicates.py [--data_dir=data] [--images=2000] [--side=16]

Of `scenes`: rooms that all look alike, the hardest case. `--side=8` are the usual 64 bits.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import cv2
import imagehash
import numpy as np
import PIL.Image

from must_jax.data import duplicates
from must_jax.data.decoding import decode_image
from must_jax.data.image_sets import ImageSet, open_images

OTHERS = ("downstream_depth", "downstream_segmentation", "downstream_classification")
COPIES = 300  # of each kind


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)


def cropped(image: np.ndarray, share: float) -> np.ndarray:
    """Half of the share from each side, by whole pixels."""
    y, x = (round(side * share / 2) for side in image.shape[:2])
    return image[y : image.shape[0] - y, x : image.shape[1] - x]


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "JPEG, quality 50": lambda image: jpeg(image, 50),
    "JPEG, quality 30": lambda image: jpeg(image, 30),
    "three times the size": lambda image: cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC),
    "half the size": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "half again as wide": lambda image: cv2.resize(image, None, fx=1.5, fy=1),
    "brighter": lambda image: cv2.convertScaleAbs(image, alpha=1.2, beta=10),
    "noise of 8 levels": lambda image: cv2.add(
        image, np.random.default_rng(0).normal(0, 8, image.shape), dtype=cv2.CV_8U
    ),
    "cropped by 3 %": lambda image: cropped(image, 0.03),
    "cropped by 6 %": lambda image: cropped(image, 0.0626),
    "cropped by 10 %": lambda image: cropped(image, 0.1),
}


def bits(image: np.ndarray, side: int) -> np.ndarray:
    return imagehash.phash(PIL.Image.fromarray(np.ascontiguousarray(image)), hash_size=side).hash.ravel()


def images_of(images: ImageSet, count: int) -> list[np.ndarray]:
    return [decode_image(images.record(index)["image"]) for index in range(min(count, len(images)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=duplicates.HASH_SIDE)
    options = parser.parse_args()

    unlabelled = open_images("scenes/unlabelled:train", options.data_dir, options.images)
    ours = images_of(unlabelled, options.images)
    others = [
        image for name in OTHERS for image in images_of(open_images(f"scenes/{name}:test", options.data_dir), 400)
    ]
    a, b = (np.array([bits(image, options.side) for image in images], np.float32) for images in (ours, others))
    distance = (a @ (1 - b).T + (1 - a) @ b.T).min(1)
    print(f"{options.side**2} bits, {len(ours)} images against {len(others)}: bits that differ (median, 99 %, most)")
    low, middle = distance.min(), np.median(distance)
    print(f"  nearest of the other sets: {low:.0f} at least, {middle:.0f} in the middle")
    for name, change in CHANGES.items():
        differ = [
            np.sum(bits(change(image), options.side) != known) for image, known in zip(ours[:COPIES], a, strict=False)
        ]
        print(f"  {name:21} {np.median(differ):4.0f} {np.percentile(differ, 99):4.0f} {max(differ):4.0f}")

    began = time.perf_counter()
    hashes = duplicates.hash_images(unlabelled, lambda count: None)
    print(f"hashed: {len(unlabelled) / (time.perf_counter() - began):,.0f} images/s")
    many = duplicates.Hashes(*(np.tile(values, (20, *[1] * (values.ndim - 1))) for values in hashes))
    began = time.perf_counter()
    duplicates.near(many, hashes, 48)
    print(f"compared: {len(many.bits) * len(hashes.bits) / (time.perf_counter() - began) / 1e6:,.0f} million pairs/s")


if __name__ == "__main__":
    main()
