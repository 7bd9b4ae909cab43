"""The command that predicts on photographs: python -m must_jax.predict --model=runs/student photo.jpg [more photos]

For each photo it writes a picture with the predictions of all tasks side by side, and the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from must_jax import cli
from must_jax.errors import UserError, printable
from must_jax.files import check_folder, fitting_name, make_folder
from must_jax.progress import say

_TITLE_PX, _GAP_PX = 28, 8
_PAPER, _INK = 255, (32, 32, 32)


def run(photos: Sequence[Path], model: Path, out: Path) -> None:
    """Writes out/NAME.png and out/NAME.json for each NAME.jpg.

    Raises:
      UserError: an unreadable photo, outputs that would overwrite a photo or collide, no finished run in `model`.
    """
    check_folder(out, f"--out={out}")
    targets = [out / fitting_name(photo.stem, ".json") for photo in photos]
    for photo, target in zip(photos, targets, strict=True):
        if photo.is_dir():
            raise UserError(f"{photo} is a folder; name its photos, or label all of it with configs/label.py")
        if not os.path.lexists(photo):
            raise UserError(f"there is no photo {photo}; check its path")
        if not photo.is_file():
            raise UserError(f"{photo} is not a readable file; name a photo")
        if photo.resolve() in (target.resolve(), _picture(target).resolve()):
            raise UserError(f"the result would overwrite {photo}; choose another folder with --out")
    if len(set(targets)) < len(targets):
        raise UserError(
            f"two photos would both become {_picture(_twice(targets))}; rename one, or predict them one at a time"
        )

    from must_jax import trained
    from must_jax.data.decoding import decode_image, decode_reduced
    from must_jax.tasks.drawing import canvas

    for photo in photos:  # check all before any work; do not keep them, photos are large
        try:
            decode_reduced(photo.read_bytes(), 1)
        except UserError as error:
            raise UserError(f"{photo}: {error}") from None
    loaded = trained.load(model)
    make_folder(out)
    for photo, target in zip(photos, targets, strict=True):
        image = decode_image(photo.read_bytes())
        labels = loaded.predict(image)
        panels = {photo.name: canvas(image)} | {
            name: loaded.tasks[name].draw(image, label) for name, label in labels.items()
        }
        Image.fromarray(side_by_side(panels)).save(picture := _picture(target), "PNG")  # "..png" has no suffix
        described = {name: loaded.tasks[name].describe(label) for name, label in labels.items()}
        answer = {
            "photo": printable(str(photo)),
            "model": printable(str(model)),
            "image_hw": image.shape[:2],
            "predictions": described,
        }
        target.write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
        say(printable(f"{photo} -> {picture}"))


def side_by_side(panels: Mapping[str, np.ndarray]) -> np.ndarray:
    """Titled u8[h, w, 3] pictures of about one size, in rows of three -> one picture u8[H, W, 3]."""
    from must_jax.tasks.drawing import write

    height = max(panel.shape[0] for panel in panels.values()) + _TITLE_PX + _GAP_PX
    width = max(panel.shape[1] for panel in panels.values()) + _GAP_PX
    columns = min(3, len(panels))
    sheet = np.full((-(-len(panels) // columns) * height, columns * width, 3), _PAPER, np.uint8)
    for place, (title, panel) in enumerate(panels.items()):
        y, x = place // columns * height, place % columns * width
        write(sheet[:, : x + width], title, (x + 4, y + 20), 0.6, _INK)
        sheet[y + _TITLE_PX : y + _TITLE_PX + panel.shape[0], x : x + panel.shape[1]] = panel
    return sheet


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m must_jax.predict", description=__doc__)
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    parser.add_argument("--model", required=True, type=Path, help="folder of a finished run, such as runs/student")
    parser.add_argument("--out", default=Path("predictions"), type=Path, help="folder to write to (%(default)s)")
    arguments = parser.parse_args(argv[1:])
    return cli.exit_code(lambda: run(arguments.photos, arguments.model, arguments.out))


def _picture(target: Path) -> Path:
    return target.with_name(target.name.removesuffix(".json") + ".png")


def _twice(paths: Sequence[Path]) -> Path:
    return next(path for path in paths if paths.count(path) > 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
