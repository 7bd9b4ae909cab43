"""Encoded images as pixels: every format against the pixels that were put into it."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
import pytest
from photos import bomb
from PIL.PngImagePlugin import PngInfo
from smooth import encoded, jpeg, picture

from must_jax.data import decoding
from must_jax.data.decoding import check_image, decode_image, decode_reduced, image_shape
from must_jax.errors import UserError


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM"])
def test_formats(format: str):
    image = picture(40, 60)
    out = decode_image(encoded(image, format))
    assert out.dtype == np.uint8
    assert np.abs(out.astype(int) - image).mean() < (12 if format == "GIF" else 4)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM"])
@pytest.mark.parametrize("orientation", [*range(10), 256])
def test_size_from_the_header_is_that_of_the_decoded_image(format: str, orientation: int):
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = orientation
    options = {} if format in ("BMP", "GIF", "JPEG2000", "PPM") else {"exif": exif}
    data = encoded(picture(40, 60), format, **options)
    shape = image_shape(data)
    assert shape is not None
    assert shape.hw == decode_image(data).shape[:2]
    assert shape.stored_hw == (40, 60)
    assert shape.orientation == (orientation if options and orientation in range(1, 9) else 1)


def raw_profile(orientation: int, zip: bool) -> bytes:
    """A PNG with Exif in a text, as ImageMagick wrote it before there was a chunk for it."""
    exif, text = PIL.Image.Exif(), PngInfo()
    exif[PIL.ExifTags.Base.Orientation] = orientation
    text.add_text("Raw profile type exif", f"\nexif\n{len(exif.tobytes()):8}\n{exif.tobytes().hex()}\n", zip=zip)
    text.add_text("Comment", "no eXIf")
    return encoded(picture(40, 60), "PNG", pnginfo=text)


def animated(orientation: int, format: str) -> bytes:
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = orientation
    second = PIL.Image.fromarray(255 - picture(40, 60))
    return encoded(picture(40, 60), format, exif=exif, save_all=True, append_images=[second])


def animated_webp_of_one_frame(orientation: int) -> bytes:
    data = animated(orientation, "WEBP")
    chunks = data[12 : data.rfind(b"ANMF")] + data[data.find(b"EXIF") :]
    return b"RIFF" + (len(chunks) + 4).to_bytes(4, "little") + b"WEBP" + chunks


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize(
    "made",
    [
        lambda orientation: raw_profile(orientation, zip=False),
        lambda orientation: raw_profile(orientation, zip=True),
        lambda orientation: animated(orientation, "WEBP"),
        lambda orientation: animated(orientation, "PNG"),
        animated_webp_of_one_frame,
    ],
)
def test_exif_that_the_decoder_does_not_apply(made: Callable[[int], bytes], orientation: int):
    data = made(orientation)
    with PIL.Image.open(io.BytesIO(data)) as opened:
        assert opened.getexif()[PIL.ExifTags.Base.Orientation] == orientation
    np.testing.assert_allclose(decode_image(data).astype(int), picture(40, 60), atol=60)
    assert image_shape(data) == (40, 60, 1)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_the_first_of_several_pages_and_exif_behind_the_pixels(format: str):
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    if format == "TIFF":
        data = animated(6, "TIFF")
    else:
        data = encoded(picture(40, 60), "PNG", exif=exif)
        begin, pixels, end = data.find(b"eXIf") - 4, data.find(b"IDAT") - 4, data.find(b"IEND") - 4
        data = data[:begin] + data[pixels:end] + data[begin:pixels] + data[end:]
    assert image_shape(data) == (60, 40, 6)
    assert decode_image(data).shape[:2] == (60, 40)


def test_an_orientation_that_is_no_number_is_not_known():
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    short = exif.tobytes()
    as_byte = short.replace(bytes([1, 0x12, 0, 3]), bytes([1, 0x12, 0, 1]))
    assert short != as_byte and image_shape(encoded(picture(40, 60), "JPEG", exif=as_byte)) is None


def test_only_exif_turns_an_image():
    """Pillow would turn it by its XMP as well."""
    xmp = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
        <rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>"""
    data = encoded(picture(40, 60), "JPEG", xmp=xmp)
    assert PIL.Image.open(io.BytesIO(data)).getexif().get(PIL.ExifTags.Base.Orientation) == 6
    assert decode_image(data).shape[:2] == (40, 60)
    assert image_shape(data) == (40, 60, 1)


def test_a_huge_image_has_a_shape():
    """Without a warning, of which Pillow has one for so many pixels."""
    assert image_shape(bomb(12_000)) == (12_000, 12_000, 1)


def test_no_pixel_is_decoded_for_a_shape():
    data = encoded(picture(40, 60), "PNG")
    assert image_shape(data[: len(data) // 2]) == (40, 60, 1)


def test_no_size_without_a_header():
    assert image_shape(b"\xff\xd8 broken") is None
    assert image_shape(b"no image") is None


@pytest.mark.parametrize(
    "format, mode",
    [("PNG", "L"), ("PNG", "LA"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1"), ("JPEG", "CMYK")],
)
def test_modes(format: str, mode: str):
    out = decode_image(encoded(picture(40, 60), format, mode))
    assert out.shape == (40, 60, 3)
    if mode == "CMYK":
        assert np.abs(out.astype(int) - picture(40, 60)).mean() < 4
    if mode == "L":
        np.testing.assert_array_equal(out[..., 0], out[..., 2])


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_become_eight(suffix: str):
    grey = picture(20, 30)[..., 0]
    _, data = cv2.imencode(suffix, grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(decode_image(data.tobytes())[..., 1], grey)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("longest", [0, 20])
def test_exif_orientation(orientation: int, longest: int):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(40, 60), "JPEG", quality=95, exif=exif)
    upright = np.array(PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data))))
    out, _ = decode_reduced(data, longest)
    assert max(out.shape) == (30 if longest else 60)
    expected = cv2.resize(upright, out.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(out.astype(int) - expected).mean() < 3


def test_an_avif_is_turned_upright():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    out = decode_image(encoded(picture(40, 60), "AVIF", exif=exif))
    assert np.abs(out.astype(int) - np.rot90(picture(40, 60), -1)).mean() < 4


@pytest.mark.parametrize("height, width", [(96, 128), (75, 101), (103, 64)])
@pytest.mark.parametrize("longest", [1, 20, 40, 90])
def test_reduced_decoding_keeps_the_geometry(height: int, width: int, longest: int):
    """A pixel's value belongs to the place that `image_hw` gives it: on ramps both are the same number."""
    pixels, (rows, columns) = decode_reduced(jpeg(height, width), longest)
    assert max(pixels.shape) >= min(longest, max(height, width)) - 1
    assert (rows - 1, columns - 1) < pixels.shape[:2] <= (rows, columns)
    assert rows / columns == pytest.approx(height / width)
    x = (np.arange(pixels.shape[1]) + 0.5) / columns * 255
    y = (np.arange(pixels.shape[0]) + 0.5) / rows * 255
    inner = slice(1, -1)
    assert np.abs(pixels[..., 0].mean(axis=0) - x + 0.5 * 255 / width)[inner].max() < 1.5
    assert np.abs(pixels[..., 1].mean(axis=1) - y + 0.5 * 255 / height)[inner].max() < 1.5


@pytest.mark.parametrize("height, width", [(3, 400), (400, 3), (1, 400)])
def test_reduced_decoding_leaves_something_of_a_thin_image(height: int, width: int):
    pixels, image_hw = decode_reduced(jpeg(height, width), longest=20)
    factor = min(height, width, 2)
    assert image_hw == (height / factor, width / factor) and pixels.shape == (*map(int, image_hw), 3)


def test_a_large_jpeg_is_read_at_an_eighth():
    pixels, image_hw = decode_reduced(jpeg(400, 640), longest=80)
    assert pixels.shape == (50, 80, 3)
    assert image_hw == (50, 80)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM"])
def test_cut_off_files_are_unreadable(format: str):
    data = encoded(picture(100, 100), format)
    with pytest.raises(UserError, match="cannot be read"):
        decode_image(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x10", b"\x89PNG\r\n\x1a\n"])
def test_other_bytes_are_unreadable(data: bytes):
    with pytest.raises(UserError, match="cannot be read"):
        decode_image(data)


def test_images_are_checked_together_and_large_ones_one_at_a_time(monkeypatch: pytest.MonkeyPatch):
    together, alone = threading.Barrier(3, timeout=10), threading.Lock()

    def decode(*_: Any) -> tuple[np.ndarray, tuple[float, float]]:
        if decoding._LARGE_PIXELS > 100:
            together.wait()
        else:
            assert alone.acquire(blocking=False)
            time.sleep(0.01)  # gives the others the time to come
            alone.release()
        return np.zeros((1, 1, 3), np.uint8), (1, 1)

    monkeypatch.setattr(decoding, "decode_reduced", decode)
    for limit in (2**25, 100):
        monkeypatch.setattr(decoding, "_LARGE_PIXELS", limit)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(check_image, [jpeg(30, 20)] * 3))


def test_a_large_image_or_one_of_unknown_size_has_its_header_read_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decoding, "_LARGE_PIXELS", 600)
    opened, locked = decoding.headers.opened, []
    monkeypatch.setattr(
        decoding.headers, "opened", lambda *args: locked.append(decoding._large.locked()) or opened(*args)
    )
    for width in (20, 21):
        image_shape(jpeg(30, width))
    monkeypatch.setattr(decoding.headers, "pixels", lambda data: 0)
    image_shape(jpeg(30, 20))
    assert locked == [False, True, True]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM"])
def test_an_image_of_too_many_pixels_is_not_decoded(format: str, monkeypatch: pytest.MonkeyPatch):
    data = encoded(picture(30, 20), format)
    check_image(data, max_pixels=600)
    for module, name in (
        (decoding.simplejpeg, "decode_jpeg"),
        (decoding.cv2, "imdecode"),
        (decoding.tifffile.TiffPage, "asarray"),
        (PIL.Image.Image, "convert"),
    ):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("it is decoded"))
    for read in (decode_image, check_image, lambda data, limit: decode_reduced(data, 8, limit)):
        with pytest.raises(UserError, match="an image has 600 pixels, more than the limit of 599; make it smaller"):
            read(data, 599)


def test_a_bomb_takes_no_memory():
    """A PNG of 24,000 x 24,000 pixels in a few bytes."""
    with pytest.raises(UserError, match="an image has 576,000,000 pixels"):
        decode_image(bomb(24_000))


def test_the_pixels_of_an_image_with_an_odd_header_are_counted_when_it_is_decoded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decoding.headers, "pixels", lambda data: 0)
    check_image(encoded(picture(30, 20), "PNG"), max_pixels=600)
    with pytest.raises(UserError, match="an image has 600 pixels"):
        check_image(encoded(picture(30, 20), "PNG"), max_pixels=599)
