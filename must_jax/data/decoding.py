"""Encoded images -> u8[h, w, 3] RGB, upright. One rule for every format; see docs/images.md.

Each format goes to a decoder that gets its numbers right (`tests/data/test_decoding.py` compares them): JPEG to
libjpeg-turbo, which reports lost data; PNG, WebP, BMP and JPEG 2000 to OpenCV; TIFF to tifffile; GIF, AVIF and PPM to
Pillow, whose other formats are not opened.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
import simplejpeg
import tifffile

from must_jax.config.data import MAX_PIXELS
from must_jax.data import headers
from must_jax.errors import UserError

_LARGE_PIXELS = 2**25
_large = threading.Lock()  # larger images are checked one at a time; all at once, they would fill the memory
_UNREAD = ("xmp", "XML:com.adobe.xmp", "Raw profile type exif")  # where only Pillow looks for Exif
_PADDING = re.compile(r"(\d+) extraneous bytes before marker 0xd9")  # some cameras pad their files
_MOST_PADDING = 64
_JPEGS = (tifffile.COMPRESSION.JPEG, tifffile.COMPRESSION.ALT_JPEG, tifffile.COMPRESSION.JPEG_LOSSY)  # in TIFFs
_BY_PILLOW = ("GIF", "AVIF", "PPM")
_BY_OPENCV = (b"\x89PNG", b"RIFF", b"BM", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")  # the last two: JPEG 2000
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_SAMPLES = 8  # per pixel of a TIFF

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # unreadable images are reported by us, once
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

Size = tuple[float, float]


class Values(NamedTuple):
    """The smallest and the largest value of an image, 0..255."""

    low: int
    high: int


class ImageShape(NamedTuple):
    """Height and width as `decode_image` gives them, and the Exif code by which it turned the image; 1 = not at all."""

    height: int
    width: int
    orientation: int

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width of the upright image."""
        return self.height, self.width

    @property
    def stored_hw(self) -> tuple[int, int]:
        """Height and width of the pixels in the file."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Encoded bytes of any supported format -> u8[H, W, 3] RGB, turned upright as Exif says.

    Raises:
      UserError: the bytes are not an image; or it is truncated or damaged, as far as its decoder can tell; or its
        values have no defined range; or it has more than `max_pixels` pixels.
    """
    return decode_reduced(data, 0, max_pixels)[0]


def decode_reduced(data: bytes, longest: int, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, Size]:
    """Like `decode_image`, but a JPEG may come out at 1/2, 1/4 or 1/8 of its size, which is much faster.

    Args:
      longest: pixels that the longer side must keep; 0 = full size.

    Returns:
      The pixels, u8[h, w, 3], and the whole image's height and width in units of these pixels. Where the reduction
      does not divide a side, the fraction of a pixel left over at the bottom or right is not in the array.
    """
    header = headers.jpeg(data) if data.startswith(headers.JPEG_START) else None
    check_pixels(header.height * header.width if header else headers.pixels(data), max_pixels)
    image_hw = None
    try:
        if header:
            image, image_hw = _jpeg(header, longest)
        elif data.startswith(_TIFF_STARTS):
            image = _tiff(data, max_pixels)
        elif (picture := headers.opened(data, _BY_PILLOW)) is not None:
            image = _by_pillow(picture)
        elif data.startswith(_BY_OPENCV):
            image = _by_opencv(data)
        else:
            raise _unreadable(headers.unlike_an_image(data))
    except UserError:
        raise
    except Exception as error:  # decoders raise nearly anything on broken bytes
        raise _unreadable(error) from None
    if image_hw is None:
        height, width = image.shape[:2]
        check_pixels(height * width, max_pixels)  # in case the header did not say so
        return image, (float(height), float(width))
    return image[: int(image_hw[0]), : int(image_hw[1])], image_hw


def check_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Values:
    """Decodes an image, at a reduced size if its format allows, and returns the range of its values.

    Raises the same errors as `decode_image`.
    """
    with _alone(headers.pixels(data)):
        image, _ = decode_reduced(data, 1, max_pixels)
    return Values(int(image.min()), int(image.max()))


def check_pixels(pixels: int, max_pixels: int = MAX_PIXELS) -> None:
    """Raises UserError if there are too many."""
    if pixels > max_pixels:
        raise UserError(f"an image has {pixels:,} pixels, more than the limit of {max_pixels:,}; make it smaller")


def image_shape(data: bytes) -> ImageShape | None:
    """The shape of an image, from its header alone; None if that cannot be read."""
    try:
        if data.startswith(_TIFF_STARTS):
            with tifffile.TiffFile(io.BytesIO(data)) as file:
                page = file.pages.first
                height, width, orientation = page.imagelength, page.imagewidth, _orientation_of(page)
        else:
            with _alone(headers.pixels(data)):  # because Pillow allocates memory for a whole WebP
                picture = headers.opened(data)
                if picture is None:
                    return None
                with picture:
                    code, (width, height) = _orientation(picture, data), picture.size
            if code is None:
                return None
            orientation = code
    except Exception:  # decoders raise nearly anything on broken bytes
        return None
    return ImageShape(width, height, orientation) if orientation >= 5 else ImageShape(height, width, orientation)


class Ranges:
    """How much of the value range the images of a set use, to report sets that hardly use it."""

    NARROW = 64  # an image with only smaller values uses a quarter of its range

    def __init__(self) -> None:
        self.images = self.narrow = self.constant = 0
        self._dark = self._flat = ""

    def add(self, name: str, values: Values) -> None:
        self.images += 1
        if values.low == values.high:
            self.constant += 1
            self._flat = self._flat or f"{name} is {values.high} everywhere"
        elif values.high < self.NARROW:
            self.narrow += 1
            self._dark = self._dark or f"{name} has none above {values.high}"

    def add_all(self, name_of: Callable[[int], str], lows: np.ndarray, highs: np.ndarray) -> None:
        """The same for many images: their lowest and highest values, u8[n]."""
        told = np.flatnonzero((lows == highs) | (highs < self.NARROW)).tolist()
        for row in told:
            self.add(name_of(row), Values(int(lows[row]), int(highs[row])))
        self.images += len(lows) - len(told)

    def told(self) -> str:
        """One sentence, or "" if there is nothing to report."""
        told = []
        if 2 * self.narrow > self.images:
            told.append(
                f"{self.narrow} of {self.images} images use less than a quarter of the value range 0 to 255: "
                f"{self._dark}; if they are 10- or 12-bit images stored in 16 bits, rescale them first"
            )
        if self.constant:
            told.append(f"{self.constant} of {self.images} images are constant: {self._flat}")
        return "; ".join(told)


def _jpeg(header: headers.JpegHeader, longest: int) -> tuple[np.ndarray, Size | None]:
    data, height, width = header.data, header.height, header.width
    if not height * width:
        raise _unreadable("the header of the JPEG is damaged")
    smallest_hw, image_hw = (0, 0), None
    for factor in (2, 4, 8):
        whole = height % factor == 0 and width % factor == 0
        # Exif may turn the image, and then the remainder is elsewhere.
        enough = max(height, width) >= factor * longest and min(height, width) >= factor
        if longest and enough and (whole or not header.has_exif):
            smallest_hw = -(-height // factor), -(-width // factor)
            image_hw = None if whole else (height / factor, width / factor)
    if header.components == 4:  # CMYK
        simplejpeg.decode_jpeg(data, "CMYK", strict=True)  # Pillow does not report lost data
        return _by_pillow(headers.opened(data, ("JPEG",))), None
    smallest = {"min_height": smallest_hw[0], "min_width": smallest_hw[1], "min_factor": 1}
    try:
        image = simplejpeg.decode_jpeg(data, "RGB", False, False, **smallest, strict=True)
    except ValueError as error:
        found = _PADDING.search(str(error))
        padding = int(found[1]) if found else 0
        if 0 < padding <= _MOST_PADDING:
            return _by_pillow(headers.opened(data, ("JPEG",))), None
        damaged = _unreadable(error if headers.JPEG_END in data else "the JPEG is truncated")
        if not padding or not header.scan:  # progressive images may end anywhere
            raise damaged from None
        try:  # if it is complete before the padding, nothing is lost
            data = headers.without_padding(data, header.scan)
            image = simplejpeg.decode_jpeg(data, "RGB", False, False, **smallest, strict=True)
        except ValueError:
            raise damaged from None
    if header.has_exif:
        with headers.opened(data, ("JPEG",)) as picture:  # type: ignore[union-attr]
            image = _upright(image, _orientation(picture, data) or 1)
    return image, image_hw


def _by_opencv(data: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise _unreadable("this variant of its format is not known, or it is damaged")
    return image


def _by_pillow(picture: PIL.Image.Image | None) -> np.ndarray:
    if picture is None:
        raise _unreadable("it is damaged")
    with picture:
        for key in _UNREAD if picture.format != "AVIF" else ():
            picture.info.pop(key, None)
        if picture.mode.startswith("I"):  # a 16-bit grey PPM, which `convert` would clip at 255
            grey = (np.array(picture) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if picture.mode == "F":
            raise _of_unknown_range("floating point")
        return np.array(PIL.ImageOps.exif_transpose(picture).convert("RGB"))


def _tiff(data: bytes, max_pixels: int) -> np.ndarray:
    """Decodes the first page. Extra samples are dropped; colours premultiplied by alpha are divided by it."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        check_pixels(page.imagelength * page.imagewidth, max_pixels)
        bits, samples, kind = page.bitspersample, page.samplesperpixel, tifffile.PHOTOMETRIC(page.photometric).name
        if page.dtype is None or page.dtype.kind not in "ub" or bits > 16:
            raise _of_unknown_range(str(page.dtype) if page.dtype is not None else f"{bits} bits")
        if any(at + size > len(data) for at, size in zip(page.dataoffsets, page.databytecounts, strict=True)):
            raise _unreadable("it is truncated")
        if not all(page.databytecounts):
            raise _unreadable("parts of it were never written")
        if page.compression in _JPEGS and bits == 8:
            _check_jpegs(page, data)
        elif page.compression in (*_JPEGS, tifffile.COMPRESSION.OJPEG):  # whose decoders do not report lost data
            raise _unreadable("it is compressed as old-style JPEG, or as JPEG of more than 8 bits")
        elif kind == "YCBCR":  # likewise
            raise _unreadable("its colours are YCbCr without being JPEG")
        if kind == "YCBCR":
            return _by_pillow(headers.opened(data, ("TIFF",)))
        colours = {"MINISWHITE": 1, "MINISBLACK": 1, "PALETTE": 1, "RGB": 3, "SEPARATED": 4}.get(kind)
        alpha_alone = [int(extra) in (1, 2) for extra in page.extrasamples] in ([], [True])
        if colours is None or not colours <= samples <= _MOST_SAMPLES or (colours == 1 and not alpha_alone):
            raise _unreadable(f"it has {samples} channels of the kind {kind}; convert it to grey or RGB")
        pixels = page.asarray()
        if pixels.ndim == 3 and page.axes.startswith("S"):
            pixels = np.moveaxis(pixels, 0, -1)
        pixels = pixels.reshape(page.imagelength, page.imagewidth, samples)
        if kind == "PALETTE":
            palette = np.asarray(page.colormap)
            palette = palette >> 8 * bool(palette.max() > 255)  # some old writers store 8-bit values
            return _upright(palette.astype(np.uint8).T[pixels[..., 0]], _orientation_of(page))
        values = _to_eight_bits(pixels, bits)
        if samples > colours and page.extrasamples[0] == 1:
            alpha = np.maximum(values[..., colours : colours + 1], 1).astype(np.uint16)
            values = np.minimum(values[..., :colours] * np.uint16(255) // alpha, 255).astype(np.uint8)
        values = values[..., :colours]
        if kind == "MINISWHITE":
            values = 255 - values
        if kind == "SEPARATED":
            ink, black = 255 - values[..., :3].astype(np.uint16), 255 - values[..., 3:].astype(np.uint16)
            values = (ink * black // 255).astype(np.uint8)
        return _upright(np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3))), _orientation_of(page))


def _check_jpegs(page: Any, data: bytes) -> None:
    """Decodes the strips or tiles of a JPEG-compressed page strictly: neither tifffile nor Pillow reports lost data.

    Raises:
      UserError: data of one is lost, or may be.
    """
    components = 1 if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE else page.samplesperpixel
    tables = page.jpegtables[:-2] if page.jpegtables else b""  # without the end-of-image marker
    for at, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        segment = data[at : at + size]
        try:
            simplejpeg.decode_jpeg(
                tables + segment[2:] if tables else segment,
                {1: "GRAY", 4: "CMYK"}.get(components, "RGB"),
                min_height=1,  # reduced as far as possible: all bytes are read all the same
                min_width=1,
                min_factor=8,
                strict=True,
            )
        except ValueError as error:
            padding = _PADDING.search(str(error))
            if not padding or int(padding[1]) > _MOST_PADDING:
                raise _unreadable(error) from None


def _to_eight_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Values of more than 8 bits keep their upper 8; values of fewer are spread over 0..255."""
    if bits > 8:
        return (values >> (bits - 8)).astype(np.uint8)
    if bits == 8:
        return values.astype(np.uint8)
    return (values.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)


def _orientation_of(page: Any) -> int:
    tag = page.tags.get(274)
    return int(tag.value) if tag is not None and tag.value in range(1, 9) else 1


def _orientation(picture: PIL.Image.Image, data: bytes) -> int | None:
    """The Exif code by which the decoder turns the image; None if the code is not a number."""
    if picture.format != "AVIF":
        for key in _UNREAD:
            picture.info.pop(key, None)
    animated_webp = picture.format == "WEBP" and data[12:16] == b"VP8X" and data[20] & 2
    animated_png = picture.format == "PNG" and getattr(picture, "is_animated", False)
    # In a PNG, Pillow also looks for Exif after the pixels, and decodes them for that.
    if animated_webp or animated_png or (picture.format == "PNG" and b"eXIf" not in data):
        return 1
    code = picture.getexif().get(PIL.ExifTags.Base.Orientation, 1)
    if not isinstance(code, int):
        return None
    return code if 1 <= code <= 8 else 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an image upright by its Exif code: 5 and above swap rows and columns; then some mirror it, some flip it."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _alone(pixels: int) -> contextlib.AbstractContextManager[Any]:
    """A context for work on an image: large ones, and those of unknown size, are worked on one at a time."""
    return contextlib.nullcontext() if 0 < pixels <= _LARGE_PIXELS else _large


def _of_unknown_range(values: str) -> UserError:
    return _unreadable(f"its values are {values}, whose range is unknown; convert it to 8 or 16 bits")


def _unreadable(reason: object) -> UserError:
    return UserError(f"an image cannot be read: {reason}; replace or remove it")
