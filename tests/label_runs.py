"""What label runs are made of: two small teachers, photographs, and configs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
from made_teacher import HEADLINES, make_teacher

from must_jax.config import LabelConfig


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """One of all five tasks at 64 pixels, one of depth alone at 32."""
    folder = tmp_path_factory.mktemp("teachers")
    everything = make_teacher(folder / "everything", tuple(key.split("/")[0] for key in HEADLINES), 64, HEADLINES)
    return str(everything), str(make_teacher(folder / "small", ("depth",), 32, HEADLINES))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs as people have them; the last three cannot be read."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    colour = cv2.resize(rng.integers(0, 255, (8, 12, 3), np.uint8), (150, 100), interpolation=cv2.INTER_CUBIC)
    picture = PIL.Image.fromarray(colour)
    picture.save(folder / "a wide.jpg")
    picture.rotate(90, expand=True).save(folder / "b tall.png")
    picture.convert("L").save(folder / "c grey.jpg")
    picture.convert("RGBA").save(folder / "d alpha.png")
    picture.convert("CMYK").save(folder / "e cmyk.jpg")
    picture.resize((301, 7)).save(folder / "f thin.webp")
    PIL.Image.fromarray(rng.integers(0, 65535, (40, 40), np.uint16)).save(folder / "g sixteen bits.tif")
    (folder / "ünter").mkdir()
    picture.resize((3, 2)).save(folder / "ünter" / "größe.png")
    (folder / "x text.jpg").write_text("no image")
    (folder / "y empty.png").touch()
    (folder / "z cut off.jpg").write_bytes((folder / "a wide.jpg").read_bytes()[:900])
    return folder


def config_of(images: str, teachers: tuple[str, ...], **changes: object) -> LabelConfig:
    values = {"batch_size": 4, "shard_images": 6, "gallery_images": 2, "data_dir": "/nowhere"}
    return LabelConfig(images=images, teachers=teachers, **{**values, **changes})


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}
