from __future__ import annotations

import pytest
from photos import animation, bomb, encoded, picture

from must_jax.data import headers
from must_jax.errors import UserError


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM"])
def test_pixels_of_every_format(format: str):
    data = encoded(picture(30, 40), format)
    assert headers.pixels(data) == 1200
    assert headers.pixels(data[:6]) == 0


def test_an_animation_has_the_pixels_of_its_canvas():
    assert headers.pixels(animation("GIF")) == headers.pixels(animation("WEBP")) == 1200


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif"}])
def test_pixels_of_every_kind_of_webp(options: dict):
    assert headers.pixels(encoded(picture(31, 47), "WEBP", **options)) == 31 * 47


@pytest.mark.parametrize("data", [b"", b"P", b"no image", b"\xff\xd8", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_has_none(data: bytes):
    assert headers.pixels(data) == 0


def test_a_gif_whose_frame_is_larger_than_the_image_is_refused():
    """By a limit of Pillow's; its header alone says one pixel."""
    data = bytearray(encoded(picture(1, 1), "GIF"))
    frame = data.index(b"," + bytes(4)) + 5
    data[frame : frame + 4] = (65535).to_bytes(2, "little") * 2
    with pytest.raises(UserError, match=r"cannot be read: Image size .4294836225 pixels. exceeds limit"):
        headers.pixels(bytes(data))


def test_many_pixels_are_read_without_a_warning():
    assert headers.pixels(bomb(30_000)) == 900_000_000
