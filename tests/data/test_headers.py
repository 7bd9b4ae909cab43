from __future__ import annotations

import pytest
from photos import animation, bomb, encoded, picture

from must_jax.data import headers


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM"])
def test_pixels_of_every_format(format: str):
    data = encoded(picture(30, 40), format)
    assert headers.pixels(data) == 1200
    assert headers.pixels(data[:6]) == 0


def test_an_animation_has_the_pixels_of_its_canvas():
    assert headers.pixels(animation("GIF")) == headers.pixels(animation("WEBP")) == 1200


@pytest.mark.parametrize("data", [b"", b"P", b"no image", b"\xff\xd8", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_has_none(data: bytes):
    assert headers.pixels(data) == 0


def test_many_pixels_are_read_without_a_warning():
    assert headers.pixels(bomb(30_000)) == 900_000_000
