"""The command that looks at photographs: python -m must_jax.predict --model=runs/student photo.jpg [more photos]

Of each photo it writes a picture with the predictions of all tasks drawn side by side, and the same as JSON beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from must_jax import cli
from must_jax.errors import UserError
from must_jax.progress import say

_TITLE_PX, _GAP_PX = 28, 8
_PAPER, _INK = 255, (32, 32, 32)


def run(photos: Sequence[Path], model: Path, out: Path) -> None:
    """Writes out/NAME.png and out/NAME.json for each NAME.jpg.

    Raises:
      UserError: a photo that cannot be read, files that would be overwritten or collide, no finished run in `model`.
    """
    targets = [out / f"{photo.stem}.png" for photo in photos]
    for photo, target in zip(photos, targets, strict=True):
        if photo.is_dir():
            raise UserError(f"{photo} is a folder; name its photos, or label it all with configs/label.py")
        if not photo.is_file():
            raise UserError(f"there is no photo {photo}; check its path")
        if target.resolve() == photo.resolve():
            raise UserError(f"the result would overwrite {photo}; choose another folder with --out")
    if len(set(targets)) < len(targets):
        raise UserError(f"two photos would both become {_twice(targets)}; rename one or give them one by one")

    from must_jax import trained
    from must_jax.data.image_sets import decode_image, decode_reduced
    from must_jax.tasks.drawing import canvas

    for photo in photos:  # all of them before any work; not kept, photos are large
        try:
            decode_reduced(photo.read_bytes(), 1)
        except UserError as error:
            raise UserError(f"{photo}: {error}") from None
    loaded = trained.load(model)
    out.mkdir(parents=True, exist_ok=True)
    for photo, target in zip(photos, targets, strict=True):
        image = decode_image(photo.read_bytes())
        labels = loaded.predict(image)
        panels = {photo.name: canvas(image)} | {
            name: loaded.tasks[name].draw(image, label) for name, label in labels.items()
        }
        Image.fromarray(side_by_side(panels)).save(target)
        described = {name: loaded.tasks[name].describe(label) for name, label in labels.items()}
        answer = {"photo": str(photo), "model": str(model), "image_hw": image.shape[:2], "predictions": described}
        target.with_suffix(".json").write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
        say(f"{photo} -> {target}")


def side_by_side(panels: Mapping[str, np.ndarray]) -> np.ndarray:
    """Titled u8[h, w, 3] pictures of about one size, in rows of three -> one picture u8[H, W, 3]."""
    height = max(panel.shape[0] for panel in panels.values()) + _TITLE_PX + _GAP_PX
    width = max(panel.shape[1] for panel in panels.values()) + _GAP_PX
    columns = min(3, len(panels))
    sheet = np.full((-(-len(panels) // columns) * height, columns * width, 3), _PAPER, np.uint8)
    for place, (title, panel) in enumerate(panels.items()):
        y, x = place // columns * height, place % columns * width
        cv2.putText(sheet, title, (x + 4, y + 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6, _INK, 1, cv2.LINE_AA)
        sheet[y + _TITLE_PX : y + _TITLE_PX + panel.shape[0], x : x + panel.shape[1]] = panel
    return sheet


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m must_jax.predict", description=__doc__)
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    parser.add_argument("--model", required=True, type=Path, help="folder of a finished run, such as runs/student")
    parser.add_argument("--out", default=Path("predictions"), type=Path, help="folder to write to (%(default)s)")
    arguments = parser.parse_args(argv[1:])
    return cli.exit_code(lambda: run(arguments.photos, arguments.model, arguments.out))


def _twice(paths: Sequence[Path]) -> Path:
    return next(path for path in paths if paths.count(path) > 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
