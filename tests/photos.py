"""Encoded images for tests, good and bad."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image


def picture(height: int = 30, width: int = 40, seed: int = 0) -> np.ndarray:
    """u8[height, width, 3], coloured blotches."""
    blotches = np.random.default_rng(seed).integers(0, 255, (3, 4, 3), np.uint8)
    return cv2.resize(blotches, (width, height), interpolation=cv2.INTER_LINEAR)


def encoded(image: np.ndarray, format: str = "JPEG", mode: str = "RGB", **options: Any) -> bytes:
    """By Pillow, with its names for formats and modes."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


def jpeg(seed: int = 0) -> bytes:
    return encoded(picture(seed=seed))


def bomb(side: int) -> bytes:
    """A PNG of side x side grey pixels in a few bytes: its header is right, its pixels are not there."""
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0),
        b"IDAT": zlib.compress(bytes(100)),
        b"IEND": b"",
    }
    body = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def animation(format: str) -> bytes:
    """Two frames, the first one is `picture(seed=1)`."""
    first, second = (PIL.Image.fromarray(picture(seed=seed)) for seed in (1, 2))
    buffer = io.BytesIO()
    options = {"lossless": True} if format == "WEBP" else {}
    first.save(buffer, format, save_all=True, append_images=[second], duration=100, **options)
    return buffer.getvalue()


def good_files() -> dict[str, bytes]:
    """By name: what people have and can be read."""
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    deep = np.random.default_rng(0).integers(0, 65535, (20, 20), np.uint16)
    image = picture()
    return {
        "alpha.png": encoded(image, "PNG", "RGBA"),
        "cmyk.jpg": encoded(image, "JPEG", "CMYK"),
        "deep.png": encoded(deep, "PNG", "I;16"),
        "exif.jpg": encoded(image, exif=turned),
        "grey.jpg": encoded(image, "JPEG", "L"),
        "moving.gif": animation("GIF"),
        "moving.webp": animation("WEBP"),
        "new\nline and spaces .png": encoded(image, "PNG"),
        "palette.png": encoded(image, "PNG", "P"),
        "pixel.png": encoded(image[:1, :1], "PNG"),
        "still.webp": encoded(image, "WEBP"),
        "straße/größe.JPG": encoded(image),
    }


def bad_files() -> dict[str, bytes]:
    """By name: what is among them and cannot be read."""
    return {
        "bomb.png": bomb(20_000),
        "cut off.jpg": jpeg()[:400],
        "empty.jpg": b"",
        "phone.HEIC": b"ftypheic",
        "text.jpg": b"no image",
    }


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_tar(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path
