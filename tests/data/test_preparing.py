from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from photos import bad_files, encoded, good_files, jpeg, picture, write_files, write_tar

from must_jax import files
from must_jax.config import PrepareConfig
from must_jax.data import preparing
from must_jax.data.decoding import Values, decode_image
from must_jax.data.image_sets import ImageSet, open_images
from must_jax.errors import UserError

ROOT = Path(__file__).parents[2]


def config_of(images: str | Path, data_dir: Path, **changes: Any) -> PrepareConfig:
    spec = f"folder:{images}" if isinstance(images, Path) else images
    return PrepareConfig(**{"name": "photos", "images": spec, "data_dir": str(data_dir), "shard_images": 4} | changes)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def images_of(images: ImageSet) -> dict[str, bytes]:
    records = [images.record(index) for index in range(len(images))]
    return {record["name"]: record["image"] for record in records}


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nasty")
    write_files(folder, good_files() | bad_files() | {"notes.txt": b"no image"})
    (folder / "loop").symlink_to(folder)
    return folder


@pytest.fixture(scope="module")
def data_dir(nasty: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With `nasty` prepared."""
    data_dir = tmp_path_factory.mktemp("data")
    preparing.prepare(config_of(nasty, data_dir))
    return data_dir


def test_what_can_be_read_keeps_its_bytes(nasty: Path, data_dir: Path):
    images = open_images("photos:train", data_dir)
    assert images_of(images) == good_files()
    assert list(images_of(images)) == sorted(good_files())
    for index in range(len(images)):
        assert decode_image(images.record(index)["image"]).shape[2] == 3


def test_what_cannot_is_listed_with_the_reason(data_dir: Path):
    skipped = json.loads((data_dir / "photos/1.0.0/skipped.json").read_text(encoding="utf-8"))
    assert {each["name"] for each in skipped} == set(bad_files())
    reasons = {each["name"]: each["reason"] for each in skipped}
    assert "the JPEG is truncated" in reasons["cut off.jpg"]
    assert "the file is empty" in reasons["empty.jpg"]
    assert "is not known" in reasons["text.jpg"]
    assert reasons["phone.HEIC"] == "format not read"
    assert "400,000,000 pixels, more than the limit of 200,000,000" in reasons["bomb.png"]


def test_moving_images_show_their_first_frame(data_dir: Path):
    images = images_of(open_images("photos:train", data_dir))
    np.testing.assert_array_equal(decode_image(images["moving.webp"]), picture(seed=1))
    gif = decode_image(images["moving.gif"]).astype(int)
    assert np.abs(gif - picture(seed=1)).mean() < 12 < np.abs(gif - picture(seed=2)).mean()


def test_shards_hold_what_can_be_read_of_equal_parts_of_the_source(data_dir: Path):
    """In a source of 16 in order: bomb, cut off, empty are 3 of the first 7, text is the last but one."""
    info = tfds.builder_from_directory(data_dir / "photos/1.0.0").info
    everything = sorted({*good_files(), *bad_files()} - {"phone.HEIC"}, key=lambda name: name.split("/"))
    parts = [everything[start : start + 4] for start in range(0, 16, 4)]
    assert info.splits["train"].shard_lengths == [sum(name in good_files() for name in part) for part in parts]


def test_plain_tfds_reads_it(data_dir: Path):
    """In a process that knows nothing of this package."""
    read = """
import sys, tensorflow_datasets as tfds
source = tfds.builder_from_directory(sys.argv[1]).as_data_source("train")
for record in source:
    print(record["name"].decode().replace("\\n", " "), record["image"].shape[:2], record["image"].dtype, sep="|")
assert not [name for name in sys.modules if name.startswith(("must_jax", "tensorflow.", "jax"))]
"""
    command = [sys.executable, "-c", read, str(data_dir / "photos/1.0.0")]
    done = subprocess.run(command, cwd=data_dir, capture_output=True, text=True, check=True)
    shapes = {name: (30, 40) for name in good_files()} | {"pixel.png": (1, 1), "deep.png": (20, 20)}
    expected = [f"{name}|{shape}|uint8".replace("\n", " ") for name, shape in shapes.items()]
    assert done.stdout.splitlines() == expected


@pytest.mark.parametrize("kind", ["tar", "parquet", "tfds"])
def test_every_kind_of_source_is_prepared(kind: str, data_dir: Path, tmp_path: Path):
    good, names = good_files(), list(good_files())
    if kind == "tar":
        spec = f"tar:{write_tar(tmp_path / 'photos.tar', (good | bad_files()).items())}"
    elif kind == "parquet":
        rows = [{"bytes": data, "path": name} for name, data in (good | bad_files()).items()]
        pq.write_table(pa.table({"image": rows}), tmp_path / "t.parquet")
        spec = f"parquet:{tmp_path}/t.parquet"
    else:
        (tmp_path / "photos").symlink_to(data_dir / "photos")
        spec, names = "tfds:photos:train", [f"{row:08d}/{name}" for row, name in enumerate(names)]
    images = preparing.prepare(config_of(spec, tmp_path, name="again"))
    assert images.name == "again:train"
    assert images_of(images) == dict(zip(names, good.values(), strict=True))
    skipped = json.loads((tmp_path / "again/1.0.0/skipped.json").read_text(encoding="utf-8"))
    assert len(skipped) == (0 if kind == "tfds" else len(bad_files()))


def test_a_set_that_was_begun_with_other_names_is_not_gone_on_with(tmp_path: Path):
    """Parquet files' images were named by row, whatever paths were beside them. A finished set stays as it is."""
    rows = [{"bytes": jpeg(number), "path": f"{number}.jpg"} for number in range(6)]
    pq.write_table(pa.table({"image": rows}), tmp_path / "t.parquet")
    config = config_of(f"parquet:{tmp_path}/t.parquet", tmp_path / "data")
    assert list(images_of(preparing.prepare(config))) == [row["path"] for row in rows]
    folder = tmp_path / "data/photos/1.0.0"
    there = json.loads((folder / "prepare.json").read_text())
    assert there.pop("named_by") == "path"
    (folder / "prepare.json").write_text(json.dumps(there))  # as it was written before
    assert len(preparing.prepare(config)) == 6
    (folder / "photos-train.array_record-00001-of-00002").unlink()
    refused(
        config, r"photos/1.0.0 is prepared with images named by FILE/ROW, but what is missing .* named by path; choose"
    )


def test_a_shard_may_be_empty(tmp_path: Path):
    sources = {f"{number}.jpg": jpeg(number) if number > 3 else b"" for number in range(9)}
    images = preparing.prepare(config_of(write_files(tmp_path / "in", sources), tmp_path))
    info = tfds.builder_from_directory(tmp_path / "photos/1.0.0").info
    assert info.splits["train"].shard_lengths == [0, 4, 1]
    assert list(images_of(images)) == ["4.jpg", "5.jpg", "6.jpg", "7.jpg", "8.jpg"]


def test_the_limit_of_pixels_can_be_set(tmp_path: Path):
    source = {"small.png": encoded(picture(9, 10), "PNG"), "large.jpg": encoded(picture(10, 10))}
    images = preparing.prepare(config_of(write_files(tmp_path / "in", source), tmp_path, max_pixels=90))
    assert list(images_of(images)) == ["small.png"]


def test_a_finished_set_is_left_alone(
    nasty: Path, data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(preparing, "check_image", lambda *_: pytest.fail("an image is decoded"))
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} is read"))
    before = {path: path.stat().st_mtime_ns for path in (data_dir / "photos").rglob("*")}
    images = preparing.prepare(config_of(nasty, data_dir))
    assert len(images) == len(good_files())
    assert "photos/1.0.0 is finished; nothing to do, read it as photos:train" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (data_dir / "photos").rglob("*")} == before


def test_a_finished_set_outlives_its_source(tmp_path: Path):
    source = write_files(tmp_path / "in", {"1.jpg": jpeg()})
    preparing.prepare(config_of(source, tmp_path))
    source.rename(tmp_path / "moved")
    assert len(preparing.prepare(config_of(source, tmp_path))) == 1
    assert len(preparing.prepare(config_of(tmp_path / "moved", tmp_path))) == 1
    with pytest.raises(UserError, match=r"there is no folder .*elsewhere"):
        preparing.prepare(config_of(tmp_path / "elsewhere", tmp_path))


def test_a_lost_shard_is_made_again(tmp_path: Path):
    """Half of the images cannot be read; those of the lost shard count once."""
    source = write_files(tmp_path / "in", {f"{number}.jpg": jpeg(number) if number % 2 else b"" for number in range(6)})
    preparing.prepare(config_of(source, tmp_path))
    before = contents(tmp_path / "photos/1.0.0")
    (tmp_path / "photos/1.0.0/photos-train.array_record-00001-of-00002").unlink()
    preparing.prepare(config_of(source, tmp_path))
    assert contents(tmp_path / "photos/1.0.0") == before


KILLED = """
import os, signal, sys
from pathlib import Path
from must_jax.config import PrepareConfig
from must_jax.data.preparing import prepare

images, data_dir = sys.argv[1:]
config = PrepareConfig(name="photos", images=images, data_dir=data_dir, shard_images=4)
folder = Path(data_dir, "photos/1.0.0")
replace = os.replace
for commits in (0, 1, 2, 0, 3):  # files that are committed before it is killed with the next one written
    child = os.fork()
    if not child:
        left = iter(range(commits))
        def dies(source, target):
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)
        os.replace = dies
        prepare(config)
        os._exit(0)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]), (folder / "dataset_info.json").exists())
prepare(config)
"""


def test_killed_at_any_moment_the_set_ends_up_the_same(tmp_path: Path):
    """kill -9 in real processes, which have another hash seed than this one."""
    source = {f"{number}.png": encoded(picture(300, 400, number), "PNG") for number in range(14)}
    write_files(tmp_path / "in", source | {"5.png": b"broken"})
    command = [sys.executable, "-c", KILLED, f"folder:{tmp_path}/in", str(tmp_path / "killed")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["9 False"] * 5
    preparing.prepare(config_of(tmp_path / "in", tmp_path / "undisturbed"))
    assert contents(tmp_path / "killed/photos/1.0.0") == contents(tmp_path / "undisturbed/photos/1.0.0")


def test_files_that_may_not_be_read_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By what the system answers: the one who runs the tests may be root, who may read everything."""
    source = write_files(tmp_path / "in", {"1.jpg": jpeg(), "secret.jpg": jpeg()})
    read = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == "secret.jpg":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert list(images_of(preparing.prepare(config_of(source, tmp_path)))) == ["1.jpg"]
    skipped = json.loads((tmp_path / "photos/1.0.0/skipped.json").read_text())
    assert skipped == [{"name": "secret.jpg", "reason": "Permission denied"}]


def test_few_images_are_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a set with many: those loaded and not yet written."""
    source = write_files(tmp_path / "in", {f"{number:03d}.jpg": jpeg(number) for number in range(60)})
    loaded, written, most = 0, 0, 0
    check, writer = preparing.check_image, preparing.shards.ArrayRecordWriter

    def counted(data: bytes, max_pixels: int) -> Values:
        nonlocal loaded, most
        loaded += 1
        most = max(most, loaded - written)
        return check(data, max_pixels)

    class Counting:
        def __init__(self, path: str, options: str) -> None:
            self._writer = writer(path, options)
            self.close = self._writer.close

        def write(self, record: bytes) -> None:
            nonlocal written
            time.sleep(0.002)  # slower than what is read
            self._writer.write(record)
            written += 1

    monkeypatch.setattr(preparing, "check_image", counted)
    monkeypatch.setattr(preparing, "cores", lambda: 3)
    monkeypatch.setattr(preparing.shards, "ArrayRecordWriter", Counting)
    assert len(preparing.prepare(config_of(source, tmp_path))) == 60
    assert most <= 6


class FullDisk:
    """Writes nothing but the first shard."""

    def __init__(self, path: str, options: str) -> None:
        self._writer = ArrayRecordWriter(path, options)
        self._full = "00000-of" not in path

    def write(self, record: bytes) -> None:
        if self._full:
            raise RuntimeError("No space left on device")
        self._writer.write(record)

    def close(self) -> None:
        self._writer.close()


def test_a_full_disk_leaves_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = write_files(tmp_path / "in", {f"{number}.jpg": jpeg(number) for number in range(6)})
    folder = tmp_path / "photos/1.0.0"
    first = "photos-train.array_record-00000-of-00002"
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="No space left"):
        patch.setattr(preparing.shards, "ArrayRecordWriter", FullDisk)
        preparing.prepare(config_of(source, tmp_path))
    assert sorted(contents(folder)) == [".lock", first, "prepare.json"]
    written = (folder / first).stat().st_mtime_ns
    assert len(preparing.prepare(config_of(source, tmp_path))) == 6
    assert (folder / first).stat().st_mtime_ns == written


def refused(config: PrepareConfig, sentence: str) -> None:
    folder = Path(config.data_dir)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(UserError, match=sentence) as raised:
        preparing.prepare(config)
    assert "\n" not in str(raised.value)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_set_of_something_else_is_not_touched(nasty: Path, data_dir: Path, tmp_path: Path):
    refused(config_of(nasty, data_dir, shard_images=5), r"config.shard_images 4, not with 5; choose another")
    refused(config_of(nasty, data_dir, max_pixels=9), r"config.max_pixels 200000000, not with 9")
    other = write_files(tmp_path / "other", {"1.jpg": jpeg()})
    refused(config_of(other, data_dir), f"photos/1.0.0 is prepared from folder:{nasty}, not from folder:{other}")


@pytest.mark.parametrize("finished", [True, False])
def test_a_source_that_has_changed_is_refused(tmp_path: Path, finished: bool):
    source = write_files(tmp_path / "in", {"1.jpg": jpeg(), "2.jpg": jpeg(1)})
    data_dir = tmp_path / "data"
    preparing.prepare(config_of(source, data_dir))
    if not finished:
        (data_dir / "photos/1.0.0/dataset_info.json").unlink()
    write_files(source, {"1.jpg": jpeg() + b" "})
    refused(config_of(source, data_dir), "folder:.*in has changed since .*photos/1.0.0 was prepared from it")


def test_tar_files_with_other_images_in_the_same_bytes_are_refused(tmp_path: Path):
    """Their digest is of names and sizes alone; a run that goes on has listed what is in them."""
    tar = write_tar(tmp_path / "in.tar", [("1.jpg", jpeg()), ("2.jpg", jpeg())])
    preparing.prepare(config_of(f"tar:{tar}", tmp_path / "data"))
    (tmp_path / "data/photos/1.0.0/dataset_info.json").unlink()
    size = tar.stat().st_size
    assert write_tar(tar, [("1.jpg", jpeg())]).stat().st_size == size
    before = contents(tmp_path / "data/photos/1.0.0")
    with pytest.raises(UserError, match="has changed since"):
        preparing.prepare(config_of(f"tar:{tar}", tmp_path / "data"))
    assert contents(tmp_path / "data/photos/1.0.0") == before


def test_what_is_no_prepared_set_is_not_touched(tmp_path: Path):
    source = write_files(tmp_path / "in", {"1.jpg": jpeg()})
    write_files(tmp_path / "data", {"coco/2017/1.1.0/dataset_info.json": b"{}", "file": b""})
    refused(config_of(source, tmp_path / "data", name="coco"), "coco holds a dataset that was not prepared here")
    refused(config_of(source, tmp_path / "data", name="file"), "file/1.0.0 leads through .*/file, which is a file")
    refused(config_of(source, tmp_path / "data/file"), "file/photos/1.0.0 leads through .*/file, which is a file")
    write_files(tmp_path / "data", {"torn/1.0.0/prepare.json": b"{"})
    refused(config_of(source, tmp_path / "data", name="torn"), "prepare.json is damaged")


def test_at_work_in_one_folder_is_one_process(tmp_path: Path):
    source, folder = write_files(tmp_path / "in", {"1.jpg": jpeg()}), tmp_path / "data/photos/1.0.0"
    folder.mkdir(parents=True)
    files.lock(folder)  # two descriptors of one process exclude each other as well
    refused(config_of(source, tmp_path / "data"), "another process is using .*photos/1.0.0; .* config.name")


def test_what_is_left_out_is_not_the_most(tmp_path: Path):
    write_files(tmp_path / "phone", {f"{number}.heic": b"" for number in range(3)} | {"1.jpg": jpeg()})
    refused(
        config_of(tmp_path / "phone", tmp_path / "data"), r"3 of the 4 images .* 0.heic for instance .format not re"
    )
    write_files(tmp_path / "torn", {f"{number}.jpg": b"" for number in range(3)} | {"4.jpg": jpeg(), "5.jpg": jpeg()})
    with pytest.raises(UserError, match=r"3 of the 5 images of .* cannot be read, 2.jpg for instance .*empty"):
        preparing.prepare(config_of(tmp_path / "torn", tmp_path / "data"))
    assert not list((tmp_path / "data").rglob("*array_record*"))
    listed = json.loads((tmp_path / "data/photos/1.0.0/skipped.json").read_text())
    assert [each["name"] for each in listed] == ["0.jpg", "1.jpg", "2.jpg"] and "empty" in listed[0]["reason"]
    for number in range(3):
        (tmp_path / f"torn/{number}.jpg").write_bytes(jpeg(number))
    assert len(preparing.prepare(config_of(tmp_path / "torn", tmp_path / "data"))) == 5  # as if nothing had been begun
    write_files(tmp_path / "half", {"1.jpg": b"", "2.jpg": jpeg()})
    assert len(preparing.prepare(config_of(tmp_path / "half", tmp_path / "data", name="half"))) == 1


def test_a_source_without_images(tmp_path: Path):
    write_files(tmp_path / "in", {"notes.txt": b""})
    refused(config_of(tmp_path / "in", tmp_path / "data"), r"there are no images .other files: 1.; .* end in .jpg")


def test_too_little_disk(nasty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: type("", (), {"free": 10})())
    refused(config_of(nasty, tmp_path), "the images of folder:.* need about 0 MiB, .* has 0 MiB free; free some")


def test_prepared_sets_of_other_images_have_other_digests(tmp_path: Path):
    """The first and the last image are the same; only the source tells them apart."""
    for name, middle in (("a", jpeg(2)), ("b", jpeg(3))):
        source = write_files(tmp_path / name, {"1.jpg": jpeg(0), "2.jpg": middle, "3.jpg": jpeg(1)})
        preparing.prepare(config_of(source, tmp_path / f"data_{name}"))
    assert len(jpeg(2)) != len(jpeg(3))
    one, other = (open_images("photos:train", tmp_path / f"data_{name}") for name in "ab")
    assert one.digest != other.digest


def test_shuffled_parts_are_samples_and_a_lost_shard_comes_back_the_same(tmp_path: Path):
    source = write_files(
        tmp_path / "in", {f"{c}/{i}.jpg": jpeg(10 * i + len(c)) for c in ("a", "bb") for i in range(8)}
    )
    in_order = preparing.prepare(config_of(source, tmp_path / "data", name="sorted"))
    images = preparing.prepare(config_of(source, tmp_path / "data", shuffle=True))
    assert images_of(images) == images_of(in_order)
    assert images.digest != in_order.digest
    half = open_images("photos:train[:50%]", tmp_path / "data")
    assert {half.name_of(index)[0] for index in range(8)} == {"a", "b"}
    folder = tmp_path / "data/photos/1.0.0"
    before = contents(folder)
    min(folder.glob("*.array_record*")).unlink()
    preparing.prepare(config_of(source, tmp_path / "data", shuffle=True))
    assert contents(folder) == before
    with pytest.raises(UserError, match="shuffle"):
        preparing.prepare(config_of(source, tmp_path / "data", shuffle=False))
