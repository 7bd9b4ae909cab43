"""What the header of an encoded image says, before any pixel is decoded."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import NamedTuple

import PIL.Image

from must_jax.errors import UserError

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
_SEQUENTIAL_FRAMES = (b"\xc0", b"\xc1")
_SEQUENTIAL = bytes((0, 63, 0))  # first and last coefficient, and bits, of a scan with all coefficients
_MOST_STRAY = 64  # bytes between segments
_PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_TEXT = 256  # bytes
_BY_PILLOW = ("PNG", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM")


class JpegHeader(NamedTuple):
    """Height and width as stored, number of colour components, and whether there is Exif.

    Attributes:
      scan: where the first scan begins in `data`; 0 if the image is progressive.
      data: the file, without what decoders warn about in its header although the pixels are intact: stray bytes between
        segments, and the progressive parameters of a scan that is not progressive, which some cameras write wrongly.
    """

    height: int
    width: int
    components: int
    has_exif: bool
    scan: int
    data: bytes


def jpeg(data: bytes) -> JpegHeader:
    """The header of bytes that begin with JPEG_START (ITU-T T.81, annex B); missing numbers are 0."""
    height = width = components = 0
    at, frame, segments = 2, b"", [JPEG_START]
    while (start := data.find(b"\xff", at, at + _MOST_STRAY + 1)) >= 0:
        marker = data[start + 1 : start + 2]
        if marker == b"\xff":
            at = start + 1
            continue
        at = start
        if marker == b"\xda":  # start of scan
            break
        if b"\xc0" <= marker <= b"\xcf" and marker not in (b"\xc4", b"\xc8", b"\xcc"):  # start of frame
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            frame, components = marker, int.from_bytes(data[at + 9 : at + 10])
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        segments.append(data[at:end])
        at = end
    has_exif = b"Exif" in data[:at]
    parameters = at + 5 + 2 * int.from_bytes(data[at + 4 : at + 5])
    if frame in _SEQUENTIAL_FRAMES and data[parameters : parameters + 3] != _SEQUENTIAL:
        data = b"".join((*segments, data[at:parameters], _SEQUENTIAL, data[parameters + 3 :]))
    elif sum(map(len, segments)) < at:
        data = b"".join((*segments, data[at:]))
    scan = sum(map(len, segments)) if frame in _SEQUENTIAL_FRAMES else 0
    return JpegHeader(height, width, components, has_exif, scan, data)


def without_padding(data: bytes, scan: int) -> bytes:
    """A JPEG without the run of equal bytes before its end that some cameras write.

    Args:
      scan: where its first scan begins.
    """
    end = data.find(JPEG_END, scan)
    if end < 0:
        return data
    kept = data[:end].rstrip(data[end - 1 : end])
    return kept + data[len(kept) : len(kept) + kept.endswith(b"\xff")] + data[end:]  # FF is always followed by a byte


def pixels(data: bytes) -> int:
    """Height times width of an image of any supported format; 0 if its header is not understood.

    Raises:
      UserError: parts of it are far larger than any image.
    """
    if data.startswith(JPEG_START):
        header = jpeg(data)
        return header.height * header.width
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data.startswith(_PNG_START):
        return int.from_bytes(data[16:20]) * int.from_bytes(data[20:24])
    try:
        picture = opened(data, _BY_PILLOW)
        if picture is None:
            return 0
        with picture:
            return math.prod(picture.size)
    except PIL.Image.DecompressionBombError as error:  # about parts larger than the image, as tiles can be
        raise UserError(f"an image cannot be read: {error}") from None
    except Exception:  # plugins raise nearly anything on broken bytes
        return 0


def unlike_an_image(data: bytes) -> str:
    """Says what bytes are that no decoder accepts, as far as their beginning shows."""
    start = data[:_TEXT].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not data.strip(b"\0"):
        return "the file is all zeros" if data else "the file is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS; run git lfs pull"
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is a web page"
    return "this format is not known"


def opened(data: bytes, formats: Iterable[str] = ("JPEG", "WEBP", *_BY_PILLOW)) -> PIL.Image.Image | None:
    """Opens an image with the Pillow plugin that accepts it, before any pixel is decoded; None if there is none.

    Plugins raise nearly anything. PIL.Image.open is not used, as it warns about images, or refuses them, by a limit
    that holds for the whole process.
    """
    PIL.Image.init()
    for name in formats:
        plugin, accepts = PIL.Image.OPEN.get(name, (None, None))
        if plugin and accepts and accepts(data[:16]) is True:
            return plugin(io.BytesIO(data), "")
    return None


def _webp(data: bytes) -> int:
    """Pixels of a WebP (RFC 9649, sections 2.5 to 2.7). Pillow's plugin allocates the whole image, or refuses it."""
    if len(data) < 30:
        return 0
    match data[12:16]:
        case b"VP8 ":
            width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X":
            width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        case _:
            return 0
    return height * width
