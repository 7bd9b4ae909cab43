from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from photos import jpeg, write_tar

from must_jax.data.raw import RawImages, open_raw
from must_jax.errors import UserError


def opened(pattern: Path | str) -> RawImages:
    return open_raw(f"tar:{pattern}", Path(), "")


def names(raw: RawImages) -> list[str]:
    return [item.name for item in raw.items(range(len(raw)))]


def test_web_dataset_shards(tmp_path: Path):
    """Images beside their captions; the tar files come sorted, whatever order the disk has."""
    for shard in (2, 0, 1):
        samples = [(f"{shard}{key}", data) for key in "ba" for data in (b"caption", jpeg(shard))]
        write_tar(
            tmp_path / f"shard-{shard}.tar",
            [(f"./{key}.{'txt' if data == b'caption' else 'JPG'}", data) for key, data in samples],
        )
    for pattern in (tmp_path, f"{tmp_path}/*.tar", f"{tmp_path}/**/shard-?.tar"):
        raw = opened(pattern)
        assert names(raw) == ["0b.JPG", "0a.JPG", "1b.JPG", "1a.JPG", "2b.JPG", "2a.JPG"]
        assert (raw.others, raw.skipped, raw.unread) == (6, [], [".txt"])
    assert [item.load() for item in raw.items(range(1, 3))] == [jpeg(0), jpeg(1)]
    assert names(opened(tmp_path / "shard-1.tar")) == ["1b.JPG", "1a.JPG"]


def test_names_that_repeat_begin_with_their_tar_file(tmp_path: Path):
    for folder in ("a", "b"):
        write_tar(tmp_path / folder / "1.tar", [("0.png", folder.encode())])
    write_tar(tmp_path / "a" / "2.tar", [("7.png", b"7")])
    raw = opened(tmp_path)
    assert names(raw) == ["a/1.tar/0.png", "a/2.tar/7.png", "b/1.tar/0.png"]
    assert [item.load() for item in raw.items(range(3))] == [b"a", b"7", b"b"]


def test_what_is_in_a_tar_file_besides_images(tmp_path: Path):
    path = write_tar(tmp_path / "t.tar", [("1.png", b"1"), ("1.png", b"again"), ("2.heic", b""), ("3.json", b"")])
    with tarfile.open(path, "a") as tar:
        link, folder = tarfile.TarInfo("4.png"), tarfile.TarInfo("5.png")
        link.type, link.linkname, folder.type = tarfile.SYMTYPE, "1.png", tarfile.DIRTYPE
        tar.addfile(link)
        tar.addfile(folder)
    raw = opened(path)
    assert [(item.name, item.load()) for item in raw.items(range(len(raw)))] == [("1.png", b"1")]
    assert raw.skipped == [
        ("t.tar/1.png", "another image of this name comes before it"),
        ("t.tar/2.heic", "format not read"),
        ("t.tar/4.png", "no regular file"),
        ("t.tar/5.png", "no regular file"),
    ]
    assert raw.others == 1


def test_long_and_odd_names(tmp_path: Path):
    wanted = ["n" * 300 + ".png", "größe\n.png", "a b/c.png"]
    assert names(opened(write_tar(tmp_path / "t.tar", [(name, b"1") for name in wanted]))) == wanted


@pytest.mark.parametrize("lost", [700, 1536, 5000])
def test_a_tar_file_that_is_cut_off_is_refused(tmp_path: Path, lost: int):
    path = write_tar(tmp_path / "t.tar", [(f"{number}.png", bytes(1000)) for number in range(20)])
    whole = path.read_bytes().rstrip(b"\0")
    path.write_bytes(whole[:-lost])
    with pytest.raises(UserError, match=r"t\.tar is no tar file, or one that is compressed or cut off"):
        len(opened(path))


@pytest.mark.parametrize("data", [b"", b"no tar file" * 100])
def test_what_is_no_tar_file_is_refused(tmp_path: Path, data: bytes):
    (tmp_path / "t.tar").write_bytes(data)
    with pytest.raises(UserError, match="is no tar file"):
        len(opened(tmp_path / "t.tar"))


def test_compressed_tar_files_are_refused(tmp_path: Path):
    write_tar(tmp_path / "a.tar", [("1.png", b"1")])
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz"):
        pass
    with pytest.raises(UserError, match=r"b\.tar\.gz is no tar file, or one that is compressed .* unpack it"):
        len(opened(tmp_path))
