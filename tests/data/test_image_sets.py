"""Opening image sets, and decoding whatever a folder of photos may hold."""

from __future__ import annotations

import io
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from photos import bomb
from PIL.PngImagePlugin import PngInfo
from tensorflow_datasets.proto import tf_example_pb2

from must_jax.data import image_sets
from must_jax.data.image_sets import _check, check_image, decode_image, decode_reduced, image_shape, open_images
from must_jax.data.kinds import BoxesLabel, VectorLabel
from must_jax.errors import UserError


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def picture(height: int, width: int) -> np.ndarray:
    """Smooth, and different in every corner and channel."""
    y, x = np.mgrid[:height, :width]
    return (
        np.dstack([255 * x / width, 255 * y / height, 255 * (1 - x / width) * (1 - y / height)])
        .round()
        .astype(np.uint8)
    )


def encoded(image: np.ndarray, format: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


def jpeg(height: int, width: int) -> bytes:
    return encoded(picture(height, width), "JPEG", quality=95, subsampling=0)


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
    [("PNG", "L"), ("PNG", "LA"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1"), ("JPEG", "CMYK"), ("TIFF", "F")],
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

    def decode(data: bytes, longest: int) -> tuple[np.ndarray, tuple[float, float]]:
        if image_sets._LARGE_PIXELS > 100:
            together.wait()
        else:
            assert alone.acquire(blocking=False)
            time.sleep(0.01)  # gives the others the time to come
            alone.release()
        return np.zeros((1, 1, 3), np.uint8), (1, 1)

    monkeypatch.setattr(image_sets, "decode_reduced", decode)
    for limit in (2**25, 100):
        monkeypatch.setattr(image_sets, "_LARGE_PIXELS", limit)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(check_image, [jpeg(30, 20)] * 3))


def test_a_large_image_or_one_of_unknown_size_has_its_header_read_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(image_sets, "_LARGE_PIXELS", 600)
    opened, locked = image_sets.headers.opened, []
    monkeypatch.setattr(
        image_sets.headers, "opened", lambda *args: locked.append(image_sets._large.locked()) or opened(*args)
    )
    for width in (20, 21):
        image_shape(jpeg(30, width))
    monkeypatch.setattr(image_sets.headers, "pixels", lambda data: 0)
    image_shape(jpeg(30, 20))
    assert locked == [False, True, True]


def test_an_image_of_too_many_pixels_is_not_decoded(monkeypatch: pytest.MonkeyPatch):
    check_image(jpeg(30, 20), max_pixels=600)
    monkeypatch.setattr(image_sets, "decode_reduced", lambda *_: 1 / 0)
    with pytest.raises(UserError, match="an image has 600 pixels, more than the limit of 599; make it smaller"):
        check_image(jpeg(30, 20), max_pixels=599)


def test_the_pixels_of_an_image_with_an_odd_header_are_counted_when_it_is_decoded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(image_sets.headers, "pixels", lambda data: 0)
    check_image(encoded(picture(30, 20), "PNG"), max_pixels=600)
    with pytest.raises(UserError, match="an image has 600 pixels"):
        check_image(encoded(picture(30, 20), "PNG"), max_pixels=599)


def test_folder(tmp_path: Path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.JPG").write_bytes(jpeg(30, 20))
    (tmp_path / "a.png").write_bytes(encoded(picture(5, 4), "PNG"))
    (tmp_path / "c.jpeg").write_bytes(jpeg(30, 20)[:300])
    (tmp_path / "notes.txt").write_text("no image")
    images = open_images(f"folder:{tmp_path}", "unused")
    assert [images.record(i)["name"] for i in range(len(images))] == ["a.png", "b/2.JPG"]
    assert decode_image(images.record(1)["image"]).shape == (30, 20, 3)
    assert [Path(path).name for path, _ in images.skipped] == ["c.jpeg"]
    assert "cut off" in images.skipped[0][1]
    assert images.labels == {}

    first = open_images(f"folder:{tmp_path}", "unused", take=1)
    assert len(first) == 1
    assert first.digest == images.digest
    with pytest.raises(IndexError):
        first.record(1)
    (tmp_path / "d.bmp").write_bytes(encoded(picture(5, 4), "BMP"))
    assert open_images(f"folder:{tmp_path}", "unused").digest != images.digest


def test_images_of_other_formats_are_named(tmp_path: Path):
    for name in ("a.HEIC", "b.nef", "c.svg", "d.txt", "e.json", "f.csv", "README"):
        (tmp_path / name).write_text("")
    for format in ("GIF", "AVIF", "PPM"):
        (tmp_path / f"z.{format}").write_bytes(encoded(picture(5, 4), format))
    (tmp_path / "z.jp2").write_bytes(encoded(picture(5, 4), "JPEG2000"))
    images = open_images(f"folder:{tmp_path}", "unused")
    assert sorted(images.record(i)["name"] for i in range(len(images))) == ["z.AVIF", "z.GIF", "z.PPM", "z.jp2"]
    assert [(Path(path).name, why) for path, why in images.skipped] == [
        (name, "format not read") for name in ("a.HEIC", "b.nef", "c.svg")
    ]


def test_no_more_files_are_decoded_than_take_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    good, bad = jpeg(30, 20), jpeg(30, 20)[:300]
    for i in range(20):
        (tmp_path / f"{i:02d}.jpg").write_bytes(bad if i in (0, 3) else good)
    checked: list[str] = []

    def check(path: Path) -> tuple[Path, str]:
        checked.append(threading.current_thread().name)
        return _check(path)

    monkeypatch.setattr(image_sets, "_check", check)
    monkeypatch.setattr(image_sets, "_CHECKED_TOGETHER", 4)
    images = open_images(f"folder:{tmp_path}", "unused", take=3)
    assert [images.record(i)["name"] for i in range(len(images))] == ["01.jpg", "02.jpg", "04.jpg"]
    assert [Path(path).name for path, _ in images.skipped] == ["00.jpg", "03.jpg"]
    assert 5 <= len(checked) <= 8  # what is left of the second four may be cancelled
    assert threading.current_thread().name not in checked
    assert len(open_images(f"folder:{tmp_path}", "unused")) == 18


def test_files_are_checked_by_as_many_threads_as_there_are_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(30, 20))
    together = threading.Barrier(3, timeout=10)

    def check(path: Path) -> tuple[Path, str]:
        together.wait()
        return _check(path)

    monkeypatch.setattr(image_sets, "_check", check)
    monkeypatch.setattr(image_sets, "cores", lambda: 3)
    assert len(open_images(f"folder:{tmp_path}", "unused")) == 3


def test_scenes_hold_their_truth(data_dir: Path):
    images = open_images("scenes/teacher_depth_tiny:validation", data_dir)
    depth = images.labels["depth"]
    assert len(depth) == len(images) == 16
    label = depth[3]
    assert label["depth"].shape == decode_image(images.record(3)["image"]).shape[:2]
    assert label["valid"].all()
    assert 0.1 < label["depth"].min() < label["depth"].max() < 20
    other = open_images("scenes/teacher_depth_tiny:train", data_dir)
    assert other.digest != images.digest
    assert open_images("scenes/teacher_depth_tiny:train", data_dir, take=4).digest == other.digest


def test_the_digest_is_that_of_images_rendered_again(data_dir: Path, tmp_path: Path):
    """In another process, which TFDS lets write the fields of a record in another order."""
    images = open_images("scenes/teacher_depth_tiny:validation", data_dir)
    shutil.copytree(data_dir / "scenes/teacher_depth_tiny", tmp_path / "scenes/teacher_depth_tiny")
    (shard,) = tmp_path.rglob("scenes-validation.array_record*")
    reader = ArrayRecordReader(str(shard))
    before = reader.read_all()
    reader.close()
    writer = ArrayRecordWriter(str(shard), "group_size:1")
    for record in before:
        fields = tf_example_pb2.Example.FromString(record).features.feature
        parts = [tf_example_pb2.Example(features={"feature": {name: fields[name]}}) for name in sorted(fields)[::-1]]
        after = b"".join(part.SerializeToString() for part in parts)  # which are merged when they are read
        assert after != tf_example_pb2.Example.FromString(record).SerializeToString(deterministic=True)
        writer.write(after)
    writer.close()
    again = open_images("scenes/teacher_depth_tiny:validation", tmp_path)
    assert again.record(0)["image"] == images.record(0)["image"]
    assert again.digest == images.digest


def test_slices(data_dir: Path):
    whole = open_images("scenes/teacher_depth_tiny:train", data_dir)
    assert whole.place is not None
    np.testing.assert_array_equal(whole.place.positions, np.arange(len(whole)))
    for part, first, count in (("[:10]", 0, 10), ("[5:7]", 5, 2), ("[-4:]", len(whole) - 4, 4)):
        images = open_images(f"scenes/teacher_depth_tiny:train{part}", data_dir)
        assert len(images) == count
        assert images.record(0)["name"] == images.name_of(0) == whole.record(first)["name"]
        assert images.digest != whole.digest
        assert images.place is not None
        np.testing.assert_array_equal(images.place.positions, np.arange(first, first + count))
        assert images.place.folder == data_dir / "scenes/teacher_depth_tiny"
        again = images.place.whole()
        assert (again.name, again.digest, len(again)) == (whole.name, whole.digest, len(whole))
    assert open_images("scenes/teacher_depth_tiny:train[:2]+validation", data_dir).place is None


class Pets(tfds.core.GeneratorBasedBuilder):
    """A dataset of someone else, with TFDS's usual names."""

    VERSION = tfds.core.Version("2.10.0")
    code_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(),
            "file_name": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            "objects": tfds.features.Sequence(
                {
                    "bbox": tfds.features.BBoxFeature(),
                    "label": tfds.features.ClassLabel(names=["head", "tail", "paw"]),
                    "is_crowd": np.bool_,
                    "is_group_of": np.int8,
                }
            ),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Any:
        for i in range(3):
            box = tfds.features.BBox(ymin=0.1, xmin=0.2, ymax=0.3, xmax=0.4)
            flat = tfds.features.BBox(ymin=0.1, xmin=0.2, ymax=0.1, xmax=0.4)
            objects = [{"bbox": box, "label": 2, "is_crowd": False, "is_group_of": -1}] * i
            if i:
                objects.append({"bbox": box, "label": 1, "is_crowd": i == 1, "is_group_of": int(i == 2)})
                objects.append({"bbox": flat, "label": 0, "is_crowd": False, "is_group_of": 0})
            image = io.BytesIO(encoded(picture(8, 9), "PNG"))
            yield i, {"image": image, "file_name": f"{i}.png", "label": i - 1, "objects": objects}

    def _log_download_bytes(self) -> None:
        pass

    _log_download_done = _log_download_bytes


def test_tfds_datasets_of_others(data_dir: Path):
    tfds.disable_progress_bar()
    Pets(data_dir=data_dir).download_and_prepare(file_format="array_record")
    images = open_images("pets:train", data_dir)
    assert images.record(2)["name"] == "2.png"
    assert decode_image(images.record(0)["image"]).shape == (8, 9, 3)
    classes, boxes = images.labels["classification"], images.labels["detection"]
    assert (classes.kind, classes.classes) == (VectorLabel(2), ("cat", "dog"))
    assert isinstance(boxes.kind, BoxesLabel)
    assert boxes.classes == ("head", "tail", "paw")
    assert [classes[i]["present"] for i in range(3)] == [0, 1, 1]  # -1 is TFDS's "not known"
    np.testing.assert_array_equal(classes[2]["probs"], [0, 1])
    assert boxes[0]["boxes_yxyx"].shape == (0, 4)
    np.testing.assert_allclose(boxes[2]["boxes_yxyx"], [[0.1, 0.2, 0.3, 0.4]] * 3)  # one has no area
    np.testing.assert_array_equal(boxes[2]["classes"], [2, 2, 1])
    assert [boxes[i]["ignore"].tolist() for i in range(3)] == [[], [0, 1], [0, 0, 1]]  # -1 is "not known" again


@pytest.mark.parametrize(
    "spec, message",
    [
        ("folder:/does/not/exist", "/does/not/exist"),
        ("coco", "NAME/CONFIG:SPLIT"),
        ("coco:train", "coco; prepare it there"),
        ("scenes:train", "VERSION"),
        ("scenes/teacher_depht_tiny:train", "did you mean 'teacher_depth_tiny'"),
        ("scenes/teacher_depth_tiny:trian", "did you mean 'train'"),
        ("scenes/teacher_depth_tiny:train[abc]", r"'train\[abc\]' selects no images"),
        ("scenes/teacher_depth_tiny:train[:99999]", "selects no images"),
        ("scenes/teacher_depth_tiny:train[3:3]", "selects no images"),
    ],
)
def test_mistakes_get_one_sentence(data_dir: Path, spec: str, message: str):
    open_images("scenes/teacher_depth_tiny:train", data_dir)
    with pytest.raises(UserError, match=message):
        open_images(spec, data_dir)


def test_a_folder_without_images_is_a_mistake(tmp_path: Path):
    with pytest.raises(UserError, match=r"no readable image in .* \(unreadable: 0\)"):
        open_images(f"folder:{tmp_path}", "unused")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(UserError, match=r"unreadable: 1, the first is .*empty.jpg: .*the file is empty"):
        open_images(f"folder:{tmp_path}", "unused")
