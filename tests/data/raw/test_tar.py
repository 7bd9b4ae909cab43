from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from photos import jpeg, write_tar

from must_jax.data.folders import LeftOut
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
    assert [(item.name, item.load()) for item in raw.items(range(len(raw)))] == [("1.png", b"again")]
    assert raw.left_out == [LeftOut("t.tar/1.png", "replaced by a later member of the same name")]
    assert raw.skipped == [
        ("t.tar/2.heic", "format not read"),
        ("t.tar/4.png", "not a regular file"),
        ("t.tar/5.png", "not a regular file"),
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
    with pytest.raises(UserError, match=r"t\.tar (is not a tar file, or )?is (damaged or )?truncated"):
        len(opened(path))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "t.tar is empty; copy it again"),
        (b"no tar file" * 100, "t.tar is not a tar file, or is truncated or damaged"),
        (gzip.compress(bytes(10240)), "t.tar is compressed with gzip; unpack it to a plain tar file or a folder"),
        (b"PK\3\4" + bytes(2000), "t.tar is a ZIP archive; unpack it"),
    ],
)
def test_what_is_no_tar_file_is_refused(tmp_path: Path, data: bytes, problem: str):
    (tmp_path / "t.tar").write_bytes(data)
    with pytest.raises(UserError, match=problem):
        len(opened(tmp_path / "t.tar"))


def test_compressed_tar_files_are_refused(tmp_path: Path):
    write_tar(tmp_path / "a.tar", [("1.png", b"1")])
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz"):
        pass
    with pytest.raises(UserError, match=r"b\.tar\.gz is compressed with gzip; unpack it"):
        len(opened(tmp_path))


def test_archives_that_were_joined_are_told_as_such(tmp_path: Path):
    one, other = (write_tar(tmp_path / f"{name}.tar", [(f"{name}.png", b"1" * 600)]).read_bytes() for name in "ab")
    (tmp_path / "t.tar").write_bytes(one + other)
    with pytest.raises(UserError, match=r"t\.tar holds several archives, one behind the other, .* byte 10,240; give"):
        len(opened(tmp_path / "t.tar"))
    (tmp_path / "t.tar").write_bytes(one + b"something else" * 99)
    with pytest.raises(UserError, match=r"t\.tar is damaged or truncated at byte 10,240; copy it again"):
        len(opened(tmp_path / "t.tar"))


def test_hard_links_are_what_they_link_to(tmp_path: Path):
    """As tar writes files that are links on disk: what it meets first has the bytes. A name may be taken anew later."""
    with tarfile.open(tmp_path / "t.tar", "w") as tar:

        def add(name: str, data: bytes = b"", link: str = "") -> None:
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(data), tarfile.LNKTYPE if link else tarfile.REGTYPE, link
            tar.addfile(member, io.BytesIO(data))

        add("./.cache/0.jpg", b"zero")
        add("./a/0.jpg", link="./.cache/0.jpg")
        add("b/0.jpg", link="a/0.jpg")
        add(".//a/./0.jpg", b"new")
        add("c/0.jpg", link="a/0.jpg")
        add("d/0.jpg", link="nowhere.jpg")
    raw = opened(tmp_path)
    assert {item.name: item.load() for item in raw.items(range(len(raw)))} == {
        "a/0.jpg": b"new",
        "b/0.jpg": b"zero",
        "c/0.jpg": b"new",
    }
    assert raw.skipped == [("t.tar/d/0.jpg", "a hard link to 'nowhere.jpg', which is not before it")]
    assert raw.left_out == [
        LeftOut("t.tar/.cache", "hidden, or in a hidden or system folder"),
        LeftOut("t.tar/a/0.jpg", "replaced by a later member of the same name"),
    ]


def test_system_folders_are_no_images(tmp_path: Path):
    members = ["a/1.jpg", "__MACOSX/a/._1.jpg", "__MACOSX/a/2.jpg", "a/.trashed-3.jpg", "a/@eaDir/1.jpg/THUMB.jpg"]
    raw = opened(write_tar(tmp_path / "t.tar", [(name, b"1") for name in members]))
    assert names(raw) == ["a/1.jpg"]
    assert [each.name for each in raw.left_out] == ["t.tar/__MACOSX", "t.tar/a/.trashed-3.jpg", "t.tar/a/@eaDir"]
    assert (raw.others, raw.unread) == (1, [])
