"""What decoders give, against the values that were stored, and what is lost, without a range, or no image at all."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import imagecodecs
import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
import pytest
import tifffile
from smooth import encoded, picture

from must_jax.data.decoding import Ranges, Values, check_image, decode_image, decode_reduced, image_shape
from must_jax.errors import UserError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (9, 13, 3), np.uint8)
GREY, ALPHA = RGB[..., 0], RGB[..., 1]
DEEP = RNG.integers(0, 65536, (9, 13, 3), np.uint16)
PALETTE = RNG.integers(0, 256, (256, 3), np.uint8)
BITS = RNG.integers(0, 2, (9, 13), np.uint8)


def grey3(values: np.ndarray) -> np.ndarray:
    return values[..., None].repeat(3, 2)


def png(values: np.ndarray, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """`colour` as PNG numbers it: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 8 * values.itemsize, colour, 0, 0, 0)
    body = [chunk(b"IHDR", header), *(chunk(*each) for each in chunks), chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body) + chunk(b"IEND", b"")


def tiff(values: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, values, **options)
    return out.getvalue()


def ppm(magic: str, largest: int, values: np.ndarray) -> bytes:
    stored = values.astype(">u2" if largest > 255 else np.uint8).tobytes()
    return f"{magic}\n{values.shape[1]} {values.shape[0]}\n{largest}\n".encode() + stored


def scaled(values: np.ndarray, largest: int) -> np.ndarray:
    return np.rint(values / largest * 255).astype(np.uint8)


def lossless(values: np.ndarray, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    PIL.Image.fromarray(values).save(out, format, **options)
    return out.getvalue()


TENTH = (RGB.astype(int) * 100 // 255).astype(np.uint8)
TEN_BITS = (DEEP >> 6).astype(np.uint16)
PREMULTIPLIED = np.dstack([(RGB.astype(int) * 128 // 255).astype(np.uint8), np.full((9, 13), 128, np.uint8)])
INK = RNG.integers(0, 256, (9, 13, 4), np.uint8)
EXACT: dict[str, tuple[bytes, np.ndarray]] = {
    "png rgb": (png(RGB, 2), RGB),
    "png grey": (png(GREY, 0), grey3(GREY)),
    "png rgba": (png(np.dstack([RGB, ALPHA]), 6), RGB),
    "png grey alpha": (png(np.dstack([GREY, ALPHA]), 4), grey3(GREY)),
    "png 16 bits": (png(DEEP, 2), (DEEP >> 8).astype(np.uint8)),
    "png 16 bits grey": (png(DEEP[..., 0], 0), grey3((DEEP[..., 0] >> 8).astype(np.uint8))),
    "png 16 bits alpha": (png(np.dstack([DEEP, DEEP[..., 0]]), 6), (DEEP >> 8).astype(np.uint8)),
    "png transparent colour": (png(RGB, 2, (b"tRNS", struct.pack(">3H", *RGB[0, 0].tolist()))), RGB),
    "png palette": (png(GREY, 3, (b"PLTE", PALETTE.tobytes())), PALETTE[GREY]),
    "png transparent palette": (
        png(GREY, 3, (b"PLTE", PALETTE.tobytes()), (b"tRNS", bytes(range(200)))),
        PALETTE[GREY],
    ),
    "webp": (lossless(RGB, "WEBP", lossless=True), RGB),
    "webp alpha": (lossless(np.dstack([RGB, ALPHA]), "WEBP", lossless=True, exact=True), RGB),
    "bmp": (lossless(RGB, "BMP"), RGB),
    "bmp alpha": (lossless(np.dstack([RGB, ALPHA]), "BMP"), RGB),
    "gif": (lossless(GREY, "GIF"), grey3(GREY)),
    "jpeg 2000": (lossless(RGB, "JPEG2000"), RGB),
    "jpeg 2000 alpha": (lossless(np.dstack([RGB, ALPHA]), "JPEG2000"), RGB),
    "jpeg 2000 16 bits": (imagecodecs.jpeg2k_encode(DEEP, level=0, reversible=True), (DEEP >> 8).astype(np.uint8)),
    "jpeg 2000 12 bits": (
        imagecodecs.jpeg2k_encode(DEEP[..., 0] >> 4, level=0, bitspersample=12, reversible=True),
        grey3((DEEP[..., 0] >> 8).astype(np.uint8)),
    ),
    "ppm": (ppm("P6", 255, RGB), RGB),
    "ppm up to 100": (ppm("P6", 100, TENTH), scaled(TENTH, 100)),
    "ppm up to 1023": (ppm("P6", 1023, TEN_BITS), scaled(TEN_BITS, 1023)),
    "pgm up to 100": (ppm("P5", 100, TENTH[..., 0]), grey3(scaled(TENTH[..., 0], 100))),
    "pgm up to 65535": (ppm("P5", 65535, DEEP[..., 0]), grey3((DEEP[..., 0] >> 8).astype(np.uint8))),
    "pbm": (b"P4\n13 9\n" + np.packbits(BITS, axis=1).tobytes(), grey3((1 - BITS) * np.uint8(255))),
    "ppm in text": (b"P3\n13 9\n255\n" + b" ".join(b"%d" % value for value in RGB.ravel().tolist()), RGB),
    "tiff": (tiff(RGB, photometric="rgb"), RGB),
    "tiff planes": (tiff(np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate"), RGB),
    "tiff 16 bits": (tiff(DEEP, photometric="rgb"), (DEEP >> 8).astype(np.uint8)),
    "tiff big-endian": (tiff(DEEP, photometric="rgb", byteorder=">"), (DEEP >> 8).astype(np.uint8)),
    "tiff lzw": (tiff(RGB, photometric="rgb", compression="lzw", predictor=True), RGB),
    "tiff alpha": (tiff(np.dstack([RGB, ALPHA]), photometric="rgb", extrasamples=["unassalpha"]), RGB),
    "tiff white is 0": (tiff(GREY, photometric="miniswhite"), grey3(255 - GREY)),
    "tiff bits": (tiff(BITS.astype(bool), photometric="minisblack"), grey3(BITS * np.uint8(255))),
    "tiff palette": (
        tiff(GREY, photometric="palette", colormap=PALETTE.T.astype(np.uint16) * 257),
        PALETTE[GREY],
    ),
    "tiff palette of 8 bits": (tiff(GREY, photometric="palette", colormap=PALETTE.T.astype(np.uint16)), PALETTE[GREY]),
    "tiff ink": (
        tiff(INK, photometric="separated"),
        ((255 - INK[..., :3].astype(int)) * (255 - INK[..., 3:].astype(int)) // 255).astype(np.uint8),
    ),
    "tiff grey alpha": (
        tiff(np.dstack([GREY, ALPHA]), photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"]),
        grey3(GREY),
    ),
    "tiff with infrared": (tiff(np.dstack([RGB, ALPHA]), photometric="rgb", extrasamples=["unspecified"]), RGB),
    "bigtiff": (tiff(RGB, photometric="rgb", bigtiff=True), RGB),
}


@pytest.mark.parametrize("name", EXACT)
def test_values_are_those_that_were_stored(name: str):
    """Alpha is dropped, and nothing multiplied by it; of more than 8 bits the upper ones stay."""
    data, wanted = EXACT[name]
    np.testing.assert_allclose(decode_image(data).astype(int), wanted, atol=1 if "up to 1023" in name else 0)
    shape = image_shape(data)
    assert shape is None or shape.hw == wanted.shape[:2]


def test_colours_that_were_multiplied_by_their_alpha_are_divided_by_it():
    data = tiff(PREMULTIPLIED, photometric="rgb", extrasamples=["assocalpha"])
    assert np.abs(decode_image(data).astype(int) - RGB).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiffs_are_turned_upright(orientation: int):
    image = picture(40, 60)
    data = tiff(image, photometric="rgb", extratags=[(274, "H", 1, orientation, False)])
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    wanted = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(encoded(image, "PNG", exif=exif))))
    np.testing.assert_array_equal(decode_image(data), np.array(wanted))
    shape = image_shape(data)
    assert shape is not None and shape.hw == np.array(wanted).shape[:2] and shape.stored_hw == (40, 60)


@pytest.mark.parametrize("side", [256, 300, 512])
def test_tiles_hold_what_strips_hold(side: int):
    """GeoTIFFs are tiled, and their width is no multiple of the tile's."""
    grey = picture(side, side)[..., 1].astype(np.uint16) * 257
    tiled = decode_image(tiff(grey, tile=(256, 256), compression="zlib"))
    np.testing.assert_array_equal(tiled, decode_image(tiff(grey)))
    np.testing.assert_array_equal(tiled, grey3(picture(side, side)[..., 1]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint32, np.int16, np.int8])
def test_values_without_a_defined_range_are_refused_by_name(dtype: type):
    with pytest.raises(UserError, match=f"values are {np.dtype(dtype)}, whose range is unknown; convert it to 8 or"):
        decode_image(tiff(np.ones((8, 8), dtype)))


@pytest.mark.parametrize("shape", [(9, 13, 2), (9, 13, 5), (9, 13, 12)])
def test_channels_that_are_no_colours_are_refused(shape: tuple[int, ...]):
    with pytest.raises(UserError, match=r"it has \d+ channels of the kind MINISBLACK; convert it to grey or RGB"):
        decode_image(tiff(np.zeros(shape, np.uint8), photometric="minisblack", planarconfig="contig"))


def noisy() -> bytes:
    image = picture(240, 320).astype(int) + RNG.integers(-20, 20, (240, 320, 1))
    return encoded(np.clip(image, 0, 255).astype(np.uint8), "JPEG", quality=90)


@pytest.mark.parametrize("longest", [0, 1, 100])
def test_a_jpeg_of_which_half_is_lost_is_unreadable(longest: int, capfd: pytest.CaptureFixture[str]):
    """Also where it ends as one should."""
    data = noisy()
    middle = len(data) // 2
    for lost in (data[:middle] + b"\xff\xd9", data[:middle] + bytes(8192) + data[middle + 8192 :]):
        with pytest.raises(UserError, match=r"an image cannot be read: Corrupt JPEG data: .*; replace or remove it"):
            decode_reduced(lost, longest)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["strips", "tiles", "cmyk", "grey"])
def test_lost_data_of_a_tiff_of_jpegs_is_noticed(kind: str, capfd: pytest.CaptureFixture[str]):
    """Strips by libtiff, which share their tables; tiles by tifffile, YCbCr and each a whole JPEG."""
    image = decode_image(noisy())
    if kind == "tiles":
        data = tiff(image, photometric="rgb", compression="jpeg", tile=(64, 64))
    else:
        mode = {"strips": "RGB", "cmyk": "CMYK", "grey": "L"}[kind]
        data = encoded(image, "TIFF", mode, compression="jpeg", quality=90)
    assert decode_image(data).shape == image.shape
    page = tifffile.TiffFile(io.BytesIO(data)).pages.first
    assert (page.photometric.name, bool(page.jpegtables)) == {
        "strips": ("RGB", True),
        "tiles": ("YCBCR", False),
        "cmyk": ("SEPARATED", True),
        "grey": ("MINISBLACK", True),
    }[kind]
    at, size = page.dataoffsets[-1], page.databytecounts[-1]
    lost = bytes(size - size // 3 - 2)
    with pytest.raises(UserError, match=r"an image cannot be read: (Corrupt|Premature)"):
        decode_image(data[: at + size // 3] + lost + data[at + size // 3 + len(lost) :])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["grey and alpha", "planar CMYK"])
def test_jpegs_of_other_kinds_in_a_tiff_are_not_trusted(kind: str, capfd: pytest.CaptureFixture[str]):
    image = decode_image(noisy())
    if kind == "grey and alpha":  # which libjpeg-turbo does not decode
        data = tiff(image[..., :2], photometric="minisblack", compression="jpeg", extrasamples=[2])
        with pytest.raises(UserError, match="an image cannot be read: "):
            decode_image(data)
        return
    planes = np.moveaxis(np.concatenate([image, image[..., :1]], 2), 2, 0)
    data = tiff(planes, photometric="separated", compression="jpeg", planarconfig="separate")
    assert decode_image(data).shape == image.shape
    page = tifffile.TiffFile(io.BytesIO(data)).pages.first
    at, size = page.dataoffsets[0], page.databytecounts[0]
    with pytest.raises(UserError, match=r"an image cannot be read: (Corrupt|Premature)"):
        decode_image(data[: at + size // 2] + bytes(size - size // 2) + data[at + size :])
    assert capfd.readouterr().err == ""


def test_jpegs_of_more_bits_in_a_tiff_are_refused():
    grey = decode_image(noisy())[..., 0].astype(np.uint16) * 16
    with pytest.raises(
        UserError, match="an image cannot be read: it is compressed as old-style JPEG, or as JPEG of more"
    ):
        decode_image(tiff(grey, compression="jpeg", bitspersample=12))


@pytest.mark.parametrize("code", [33007, 34892])
def test_jpegs_by_other_codes_in_a_tiff_are_decoded_strictly(code: int):
    """Alternative and lossy JPEG, as old scanners and DNG call them."""
    grey = decode_image(noisy())[..., 0]
    data = bytearray(tiff(grey, compression="jpeg"))
    page = tifffile.TiffFile(io.BytesIO(bytes(data))).pages.first
    at = page.tags["Compression"].valueoffset
    data[at : at + 2] = code.to_bytes(2, "little")
    assert decode_image(bytes(data)).shape == (*grey.shape, 3)
    at, size = page.dataoffsets[0], page.databytecounts[0]
    data[at + size // 2 : at + size] = bytes(size - size // 2)
    with pytest.raises(UserError, match=r"an image cannot be read: (Corrupt|Premature)"):
        decode_image(bytes(data))


def test_ycbcr_without_jpeg_is_refused():
    """libtiff, which decodes it, does not report lost data to Pillow."""
    data = io.BytesIO()
    PIL.Image.fromarray(decode_image(noisy())).convert("YCbCr").save(data, "TIFF", compression="tiff_lzw")
    with pytest.raises(UserError, match="an image cannot be read: its colours are YCbCr without being JPEG"):
        decode_image(data.getvalue())


@pytest.mark.parametrize("compression", ["lzw", "jpeg"])
def test_strips_that_were_never_written_are_not_black(compression: str):
    data = bytearray(tiff(decode_image(noisy()), photometric="rgb", compression=compression, rowsperstrip=16))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        tag = file.pages.first.tags["StripByteCounts"]
        width = {3: 2, 4: 4, 16: 8}[tag.dtype]
        end = tag.valueoffset + width * tag.count
    data[end - width : end] = bytes(width)
    with pytest.raises(UserError, match="an image cannot be read: parts of it were never written"):
        decode_image(bytes(data))


def test_a_jpeg_with_a_little_padding_is_whole(capfd: pytest.CaptureFixture[str]):
    data = noisy()
    padded = decode_image(data[:-2] + bytes(6) + data[-2:])
    np.testing.assert_array_equal(padded, decode_image(data))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("padding", [bytes(200), bytes(2**20), b" " * 200, b"\xff" * 200])
def test_padding_of_any_length_loses_nothing(padding: bytes, capfd: pytest.CaptureFixture[str]):
    """Before the end of the image or after it; but it does not stand in for the image."""
    data = noisy()
    for whole in (data[:-2] + padding + data[-2:], data + padding):
        np.testing.assert_array_equal(decode_image(whole), decode_image(data))
    for share in (0.5, 0.9, 0.99):
        with pytest.raises(UserError, match="an image cannot be read"):
            decode_image(data[: int(share * len(data))] + padding + data[-2:])
    with pytest.raises(UserError, match=r"(200|19\d) extraneous bytes"):
        decode_image(data[:-2] + bytes(range(1, 201)) + data[-2:])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("parameters", [(0, 0, 0), (0, 64, 0), (1, 63, 0)])
def test_a_camera_that_calls_its_scan_progressive_loses_nothing(parameters: tuple[int, int, int]):
    data = noisy()
    at = data.index(b"\xff\xda") + 11
    assert data[at : at + 3] == bytes((0, 63, 0))
    odd = data[:at] + bytes(parameters) + data[at + 3 :]
    np.testing.assert_array_equal(decode_image(odd), decode_image(data))
    with pytest.raises(UserError, match="premature end"):
        decode_image(odd[: len(odd) // 2] + b"\xff\xd9")


@pytest.mark.parametrize("marker", [b"\xff\xdb", b"\xff\xc0", b"\xff\xda"])
def test_stray_bytes_in_the_header_of_a_jpeg_lose_nothing(marker: bytes):
    data = noisy()
    at = data.index(marker)
    np.testing.assert_array_equal(decode_image(data[:at] + bytes(5) + data[at:]), decode_image(data))
    frame = data.index(b"\xff\xc0") + 5
    large = data[:frame] + bytes((120, 0, 120, 0)) + data[frame + 4 :]
    with pytest.raises(UserError, match="943,718,400 pixels, more than the limit"):
        decode_image(large[:at] + bytes(5) + large[at:])


def test_lost_data_of_a_cmyk_jpeg_is_noticed():
    buffer = io.BytesIO()
    PIL.Image.fromarray(decode_image(noisy())).convert("CMYK").save(buffer, "JPEG", restart_marker_blocks=2)
    data = buffer.getvalue()
    assert decode_image(data).ndim == 3
    middle = len(data) // 2
    with pytest.raises(UserError, match="Corrupt JPEG data"):
        decode_image(data[:middle] + data[middle + 200 :])


def test_no_format_is_opened_that_is_not_read(monkeypatch: pytest.MonkeyPatch):
    """Of an EPS Pillow would have Ghostscript make a picture."""
    import PIL.EpsImagePlugin

    monkeypatch.setattr(PIL.EpsImagePlugin, "EpsImageFile", lambda *_: pytest.fail("it is opened"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    for data in (eps, b"GIMP xcf", b"8BPS" + bytes(40), b"\0\0\1\0\1\0" + bytes(60), b"SIMPLE  =" + bytes(80)):
        with pytest.raises(UserError, match="this format is not known"):
            decode_image(data)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "the file is empty"),
        (bytes(5000), "the file is all zeros"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a pointer of Git LFS; run git lfs pull"),
        (b"\n<!DOCTYPE html><html>404</html>", "it is a web page"),
        (b"<HTML>moved</HTML>", "it is a web page"),
    ],
)
def test_what_is_no_image_is_called_what_it_is(data: bytes, what: str):
    with pytest.raises(UserError, match=what):
        decode_image(data)


@pytest.mark.parametrize("suffix", [".hdr", ".pfm", ".ras", ".pam"])
def test_formats_that_only_opencv_knows_are_not_opened(suffix: str):
    """The first two hold floating-point numbers, which OpenCV would cut off at 255."""
    data = cv2.imencode(suffix, picture(9, 12).astype(np.float32 if suffix in (".hdr", ".pfm") else np.uint8))[1]
    with pytest.raises(UserError, match="this format is not known"):
        decode_image(data.tobytes())


def test_sets_that_hardly_use_their_range_are_told():
    ranges = Ranges()
    for i in range(4):
        ranges.add(f"{i}.png", check_image(png((TEN_BITS[..., 0] << 2) + np.uint16(i), 0)))
    assert ranges.told() == (
        "4 of 4 images use less than a quarter of the value range 0 to 255: 0.png has none above 15; "
        "if they are 10- or 12-bit images stored in 16 bits, rescale them first"
    )
    for _ in range(5):
        ranges.add("day.png", Values(0, 255))
    assert ranges.told() == ""  # some photos are taken at night
    ranges.add("flat.png", check_image(png(np.full((9, 13), 7, np.uint8), 0)))
    assert ranges.told() == "1 of 10 images are constant: flat.png is 7 everywhere"
