"""What all kinds of source have in common, and a folder and a TFDS dataset as such."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from photos import jpeg, write_files, write_tar

from must_jax.data.image_sets import open_images
from must_jax.data.raw import RawImages, open_raw
from must_jax.errors import UserError

IMAGES = {f"{number}.jpg": jpeg(number) for number in range(7)}


def contents(raw: RawImages, positions: range | None = None) -> dict[str, bytes]:
    items = list(raw.items(range(len(raw)) if positions is None else positions))
    assert len({item.name for item in items}) == len(items)
    assert all(item.size_bytes == len(item.load()) for item in items)
    return {item.name: item.load() for item in items}


def source(kind: str, folder: Path) -> tuple[str, list[str]]:
    """IMAGES as a source of this kind -> how it is named, and the names of its images."""
    if kind == "folder":
        return f"folder:{write_files(folder, IMAGES)}", list(IMAGES)
    if kind == "tar":
        return f"tar:{write_tar(folder / 'photos.tar', IMAGES.items())}", list(IMAGES)
    images = [{"bytes": data, "path": name} for name, data in IMAGES.items()]
    pq.write_table(pa.table({"image": images}), folder / "photos.parquet", row_group_size=2)
    return f"parquet:{folder}", list(IMAGES)


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet"])
def test_every_part_of_a_source_is_read_as_it_is(kind: str, tmp_path: Path):
    spec, names = source(kind, tmp_path)
    raw = open_raw(spec, tmp_path, "")
    expected = list(zip(names, IMAGES.values(), strict=True))
    assert len(raw) == len(IMAGES)
    assert raw.size_bytes >= sum(map(len, IMAGES.values()))
    for start in range(len(IMAGES)):
        for stop in range(start, len(IMAGES) + 1):
            assert list(contents(raw, range(start, stop)).items()) == expected[start:stop]


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet"])
def test_the_digest_is_of_what_is_there_and_not_of_where(kind: str, tmp_path: Path):
    (tmp_path / "a").mkdir()
    spec, _ = source(kind, tmp_path / "a")
    before = open_raw(spec, tmp_path, "").digest
    (tmp_path / "a").rename(tmp_path / "b")
    moved = spec.replace(str(tmp_path / "a"), str(tmp_path / "b"))
    assert open_raw(moved, tmp_path, "").digest == before
    file = next(path for path in (tmp_path / "b").iterdir())
    file.write_bytes(file.read_bytes() + b"more")
    assert open_raw(moved, tmp_path, "").digest != before


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_linked_folders_are_looked_into(kind: str, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in").mkdir()
    source(kind, tmp_path / "elsewhere")
    (tmp_path / "in/train").symlink_to(tmp_path / "elsewhere")
    assert len(open_raw(f"{kind}:{tmp_path / 'in'}", tmp_path, "")) == len(IMAGES)


def test_a_folder_names_what_it_leaves_out(tmp_path: Path):
    write_files(tmp_path, IMAGES | {"a.heic": b"", "notes.txt": b""})
    raw = open_raw(f"folder:{tmp_path}", tmp_path, "")
    assert (list(raw.skipped), raw.others) == ([("a.heic", "format not read")], 1)


def test_names_that_are_no_text_are_spelt_out(tmp_path: Path):
    for name in (b"gr\xf6\xdfe.jpg", "größe.jpg".encode(), rb"gr\xf6\xdfe.jpg"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(jpeg())
    raw = open_raw(f"folder:{tmp_path}", tmp_path, "")
    assert sorted(contents(raw)) == [r"gr\xf6\xdfe.jpg", "größe.jpg"]
    assert raw.skipped == [(r"gr\xf6\xdfe.jpg", "another image has this name")]


def test_a_tfds_dataset_keeps_its_bytes(data_dir: Path):
    images = open_images("scenes/teacher_depth_tiny:validation", data_dir)
    raw = open_raw("tfds:scenes/teacher_depth_tiny:validation[:3]", data_dir, "")
    expected = {f"{i:08d}/{images.record(i)['name']}": images.record(i)["image"] for i in range(3)}
    assert contents(raw) == expected
    assert raw.unread == ["depth"]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("photos", "must be 'folder:PATH', 'tar:FILES', 'parquet:FILES' or 'tfds:NAME:SPLIT'"),
        ("tar:", "must be 'folder:PATH'"),
        ("fodler:/tmp", "'fodler' is not a kind of source; did you mean 'folder'?"),
        ("photos:train", "'photos' is not a kind of source; known: folder, parquet, tar, tfds"),
        ("folder:/does/not/exist", "there is no folder /does/not/exist"),
        ("tar:/does/not/exist.tar", r"there is no .tar file in /does/not/exist.tar; give a file, a folder of files"),
        ("tar:/dev/null", r"images='tar:/dev/null': /dev/null is a device; give a file, a folder of files"),
        ("parquet:/does/not/*.parquet", r"there is no .parquet file in /does/not/\*.parquet"),
        ("tfds:nothing:train", "there is no TFDS dataset in .*nothing"),
    ],
)
def test_a_source_that_is_not_there(spec: str, sentence: str, tmp_path: Path):
    with pytest.raises(UserError, match=sentence):
        open_raw(spec, tmp_path, "")
