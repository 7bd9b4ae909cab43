"""A picture to look at: `python -m must_jax.data.scenes --out=grid.png [--config=NAME]`.

For each config, a caption and four rows with one column per image: the image with boxes, z-depth, normals, and class
ids (of surfaces if the config has no segmentation).
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np

from must_jax.data.scenes.configs import CONFIGS, SPLITS, render_image
from must_jax.errors import UserError, nearest

_COLOURS = np.array(
    [
        (140, 140, 140),
        (210, 210, 200),
        (90, 90, 110),
        (230, 60, 60),
        (60, 180, 75),
        (70, 110, 230),
        (250, 180, 40),
        (200, 70, 210),
    ],
    np.uint8,
)


def column(name: str, split: str, index: int) -> np.ndarray:
    """Image and ground truth of one scene, one above the other, u8[4 * size, size, 3] RGB."""
    scene, rendering = render_image(name, split, index)
    size = rendering.image.shape[0]
    image = rendering.image.copy()
    for box in rendering.boxes_yxyx:
        top, left, bottom, right = np.rint(box * size).astype(int).tolist()
        cv2.rectangle(image, (left, top), (right - 1, bottom - 1), (255, 255, 255))
    depth = np.clip(255 - 28 * rendering.depth_m, 0, 255).astype(np.uint8)
    normals = ((1 + rendering.normals * (1, -1, -1)) * 127.5).astype(np.uint8)
    truth = CONFIGS[name].truths.get("segmentation")
    ids = truth.make(scene, rendering)["ids"] if truth else rendering.surfaces
    return np.concatenate([image, np.repeat(depth[..., None], 3, axis=2), normals, _COLOURS[ids % len(_COLOURS)]])


def grid(name: str, images: int, split: str = SPLITS[0]) -> np.ndarray:
    """Caption and columns of a config, u8[h, w, 3] RGB."""
    columns = np.concatenate([column(name, split, index) for index in range(images)], axis=1)
    caption = np.full((16, columns.shape[1], 3), 255, np.uint8)
    classes = [f"{task}: {' '.join(truth.classes)}" for task, truth in CONFIGS[name].truths.items()]
    cv2.putText(
        caption, "  ".join([name, *classes]), (2, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.34, (0, 0, 0), 1, cv2.LINE_AA
    )
    return np.concatenate([caption, columns])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="picture to write, .png or .jpg")
    parser.add_argument("--config", help="one config; default: all but the tiny ones")
    parser.add_argument("--images", type=int, default=12, help="columns")
    arguments = parser.parse_args()
    if arguments.config and arguments.config not in CONFIGS:
        raise UserError(f"--config={arguments.config} is not a config of scenes; {nearest(arguments.config, CONFIGS)}")
    names = [arguments.config] if arguments.config else [name for name in CONFIGS if not name.endswith("_tiny")]
    picture = np.concatenate([grid(name, arguments.images) for name in names])
    if not cv2.imwrite(arguments.out, picture[..., ::-1]):
        raise UserError(
            f"--out={arguments.out} cannot be written; its folder must exist and its name end in .png or .jpg"
        )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
