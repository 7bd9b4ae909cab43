"""What the header of an encoded image says, before any pixel is decoded."""

from __future__ import annotations

import io
import math
from typing import NamedTuple

import PIL.Image

JPEG_START = b"\xff\xd8"
_BY_PILLOW = ("PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM")


class JpegHeader(NamedTuple):
    """Height and width as stored, whether there is Exif, and where the compressed image starts."""

    height: int
    width: int
    has_exif: bool
    scan_at: int


def jpeg(data: bytes) -> JpegHeader:
    """Of bytes that begin with JPEG_START (ITU-T T.81, annex B); height and width 0 where they are missing."""
    height = width = 0
    at = 2
    while data[at : at + 1] == b"\xff" and (marker := data[at + 1 : at + 2]) != b"\xda":  # start of scan
        if b"\xc0" <= marker <= b"\xcf" and marker not in (b"\xc4", b"\xc8", b"\xcc"):  # start of frame
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
        at += 1 if marker == b"\xff" else 2 + int.from_bytes(data[at + 2 : at + 4])
    return JpegHeader(height, width, b"Exif" in data[:at], at)


def pixels(data: bytes) -> int:
    """Height times width of an image of any format that is read; 0 where its header is not understood."""
    if data.startswith(JPEG_START):
        header = jpeg(data)
        return header.height * header.width
    PIL.Image.init()
    for name in _BY_PILLOW:
        # Not by PIL.Image.open, which warns of images, or refuses them, by a limit that is the whole process's.
        plugin, accepts = PIL.Image.OPEN.get(name, (None, None))
        try:
            if plugin and accepts and accepts(data[:16]) is True:
                with plugin(io.BytesIO(data), "") as picture:
                    return math.prod(picture.size)
        except Exception:  # plugins raise nearly anything on broken bytes
            return 0
    return 0
