from __future__ import annotations

import base64
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from photos import jpeg

from must_jax.data.raw import RawImages, open_raw
from must_jax.errors import UserError

IMAGES = [jpeg(number) for number in range(5)]


def opened(path: Path, column: str = "") -> RawImages:
    return open_raw(f"parquet:{path}", Path(), column)


def loaded(raw: RawImages) -> list[bytes]:
    return [item.load() for item in raw.items(range(len(raw)))]


def as_structs(images: list[bytes]) -> list[dict]:
    return [{"bytes": image, "path": "x.jpg"} for image in images]


def views() -> list[pa.Array]:
    """Which Arrow writes to Parquet files since version 21."""
    if int(pa.__version__.partition(".")[0]) < 21:
        return []
    images, paths = pa.array(IMAGES, pa.binary_view()), pa.array(["x.jpg"] * 5, pa.string_view())
    return [images, pa.StructArray.from_arrays([images, paths], ["bytes", "path"])]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(as_structs(IMAGES)),
        pa.array(IMAGES),
        pa.array(IMAGES, pa.large_binary()),
        pa.array(IMAGES).dictionary_encode(),
        pa.array(as_structs(IMAGES), pa.struct({"path": pa.string(), "bytes": pa.large_binary()})),
        *views(),
    ],
)
def test_an_image_column_is_found(tmp_path: Path, column: pa.Array):
    beside = {"text": ["a"] * 5, "md5": pa.array([b"m" * 16] * 5, pa.binary(16))}
    pq.write_table(pa.table({"label": range(5), "picture.of.it": column} | beside), tmp_path / "t.parquet")
    raw = opened(tmp_path / "t.parquet")
    assert loaded(raw) == IMAGES
    assert [item.name for item in raw.items(range(1, 3))] == ["t.parquet/1", "t.parquet/2"]
    assert raw.unread == ["label", "md5", "text"]
    assert raw.called.endswith("called by file and row: 't.parquet/0'")


def test_several_files_with_several_row_groups(tmp_path: Path):
    """And one without rows, as a filter leaves it."""
    for number, count in enumerate((3, 0, 4)):
        images = pa.array(as_structs(IMAGES[:count]), pa.struct({"bytes": pa.binary(), "path": pa.string()}))
        pq.write_table(pa.table({"image": images}), tmp_path / f"train-{number}.parquet", row_group_size=2)
    raw = opened(tmp_path)
    assert len(raw) == 7
    assert [item.name for item in raw.items(range(7))] == [
        *(f"train-0.parquet/{row}" for row in range(3)),
        *(f"train-2.parquet/{row}" for row in range(4)),
    ]
    assert loaded(raw) == IMAGES[:3] + IMAGES[:4]


@pytest.mark.parametrize("text", [pa.string(), pa.large_string()])
def test_paths_that_tell_images_apart_are_names(text: pa.DataType, tmp_path: Path):
    """Across files and row groups; relative, and as text."""
    paths = ["/data/a.jpg", "b.jpg", "./c/../d.jpg", "C:\\e.jpg", "größe/f.jpg"]
    names = ["data/a.jpg", "b.jpg", "d.jpg", "C:\\e.jpg", "größe/f.jpg"]
    kind = pa.struct({"bytes": pa.binary(), "path": text})
    for file, chosen in (("0.parquet", slice(0, 3)), ("1.parquet", slice(3, 3)), ("2.parquet", slice(3, 5))):
        rows = [{"bytes": image, "path": path} for image, path in zip(IMAGES[chosen], paths[chosen], strict=True)]
        pq.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / file, row_group_size=2)
    raw = opened(tmp_path)
    assert (raw.named_by, raw.called) == ("path", "")
    assert [item.name for item in raw.items(range(5))] == names
    assert [item.name for item in raw.items(range(2, 4))] == names[2:4]
    assert loaded(raw) == IMAGES


@pytest.mark.parametrize(
    "paths", [["a", "b", "a"], ["a", "./b", "/b"], ["a", "b", ""], ["a", "b", None], ["a", "b", "/"]]
)
def test_paths_that_do_not_tell_images_apart_are_none(paths: list[str | None], tmp_path: Path):
    """A path twice, in one file or in two, and a row without one."""
    rows = [{"bytes": image, "path": path} for image, path in zip(IMAGES, paths, strict=False)]
    for count in (1, 3):
        for file, part in (("0.parquet", rows[:count]), ("1.parquet", rows[count:])):
            kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
            pq.write_table(pa.table({"image": pa.array(part, kind)}), tmp_path / file)
        raw = opened(tmp_path)
        assert raw.named_by == ""
        assert [item.name for item in raw.items(range(3))] == [
            f"{file}.parquet/{row}"
            for file, part in enumerate((rows[:count], rows[count:]))
            for row in range(len(part))
        ]


def test_paths_need_not_be_utf8(tmp_path: Path):
    paths = pa.array([b"caf\xe9.jpg", b"x.jpg"]).view(pa.string())
    images = pa.StructArray.from_arrays([pa.array(IMAGES[:2]), paths], ["bytes", "path"])
    pq.write_table(pa.table({"image": images}), tmp_path / "t.parquet")
    assert [item.name for item in opened(tmp_path).items(range(2))] == [r"caf\xe9.jpg", "x.jpg"]


def test_a_row_without_bytes_is_an_image_that_cannot_be_read(tmp_path: Path):
    images = [None, {"bytes": None, "path": "x"}, {"bytes": IMAGES[0], "path": None}]
    pq.write_table(pa.table({"image": images}), tmp_path / "t.parquet")
    empty, referring, whole = opened(tmp_path).items(range(3))
    with pytest.raises(UserError, match="the row holds no bytes"):
        empty.load()
    with pytest.raises(UserError, match="the row holds a path, x, and no bytes; embed the files when the Parquet file"):
        referring.load()
    assert whole.load() == IMAGES[0]


def test_columns_of_one_name_are_refused(tmp_path: Path):
    columns = [pa.array([b"a"]), pa.array([b"b"])]
    pq.write_table(pa.Table.from_arrays(columns, names=["image", "image"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="has several columns called 'image'; write it with another name for each"):
        len(open_raw(f"parquet:{tmp_path}/a.parquet", tmp_path, "", ()))


@pytest.mark.parametrize(
    ("columns", "wanted", "sentence"),
    [
        (("a", "b"), "", "has several columns of bytes, a, b; choose with config.image_column"),
        (("a", "b"), "c", "has no column 'c' .config.image_column.; known: a, b, number"),
        (("image",), "imgae", "has no column 'imgae' .config.image_column.; did you mean 'image'?"),
        (("image",), "number", "column 'number' of .* is int64, but images are binary"),
        ((), "", "has no column of images .*; its columns are number .int64."),
    ],
)
def test_which_column_has_the_images(tmp_path: Path, columns: tuple[str, ...], wanted: str, sentence: str):
    table = {"number": range(5)} | {name: IMAGES for name in columns}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=sentence):
        len(opened(tmp_path, wanted))
    if len(columns) == 2:
        assert loaded(opened(tmp_path, "b")) == IMAGES


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        (pa.array([[image] for image in IMAGES]), "'image' holds lists of them, which are not read: write one row per"),
        (
            pa.array([as_structs([image]) for image in IMAGES]),
            "'image' holds lists of them, .*; its columns are image .list<",
        ),
        (pa.array([base64.b64encode(image).decode() for image in IMAGES]), "'image' holds images as text in base64"),
        (
            pa.array([None, "/home/me/a.jpg"]),
            "'image' holds paths .'/home/me/a.jpg'., which are not read: write",
        ),
        (pa.array([None, None]), "has no column of images .*; its columns are image .null."),
        (pa.array([["a", "b"]]), "has no column of images .binary, or a struct with binary 'bytes'.; its columns are"),
    ],
)
def test_what_looks_like_images_is_named_with_its_type(tmp_path: Path, column: pa.Array, sentence: str):
    pq.write_table(pa.table({"image": column}), tmp_path / "t.parquet")
    for wanted in ("", "image"):
        with pytest.raises(UserError, match=sentence if not wanted else "t.parquet"):
            len(opened(tmp_path, wanted))


def test_images_of_one_length(tmp_path: Path):
    """Where no other column could hold images."""
    length = max(map(len, IMAGES))
    padded = pa.array([image.ljust(length, b"\0") for image in IMAGES], pa.binary(length))
    pq.write_table(pa.table({"image": padded, "text": ["a"] * 5}), tmp_path / "t.parquet")
    assert [data[: len(image)] for data, image in zip(loaded(opened(tmp_path)), IMAGES, strict=True)] == IMAGES


def test_a_row_that_holds_nothing_takes_no_names_away(tmp_path: Path):
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [{"bytes": image, "path": f"{number}.jpg"} for number, image in enumerate(IMAGES)]
    rows[2] = None
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / "t.parquet", row_group_size=2)
    raw = opened(tmp_path)
    assert [item.name for item in raw.items(range(5))] == ["0.jpg", "1.jpg", "t.parquet/2", "3.jpg", "4.jpg"]


def test_damaged_files_are_named(tmp_path: Path):
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"a\.parquet is not a Parquet file, or is damaged"):
        len(opened(tmp_path))
    pq.write_table(pa.table({"image": [bytes(range(256)) * 9] * 50}), tmp_path / "a.parquet", compression="zstd")
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[4:40] = bytes(36)
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.parquet is not a Parquet file, or is damaged"):
        loaded(opened(tmp_path))
