from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from photos import jpeg, write_files

from must_jax.data.folders import digest, files_below, list_folder
from must_jax.data.image_sets import open_images


def names(folder: Path) -> list[str]:
    return [name for name, _ in list_folder(folder).images]


def test_sorted_by_the_parts_of_paths(tmp_path: Path):
    write_files(tmp_path, {name: b"12345" for name in ("b.png", "a-b/1.jpg", "a/2.JPG", "a/1.jpeg", "a/b/c.webp")})
    assert list_folder(tmp_path).images == [
        (name, 5) for name in ("a/1.jpeg", "a/2.JPG", "a/b/c.webp", "a-b/1.jpg", "b.png")
    ]


def test_everything_is_accounted_for(tmp_path: Path):
    write_files(tmp_path, {name: b"" for name in ("1.jpg", "2.heic", "3.NEF", "4.txt", "README", "._1.jpg", ".jpg")})
    (tmp_path / "5.png").symlink_to("nowhere")
    (tmp_path / "6.png").symlink_to("6.png")
    os.mkfifo(tmp_path / "7.png")
    listing = list_folder(tmp_path)
    assert listing.images == [("1.jpg", 0)]
    nothing = "not a regular file, or a broken link"
    assert listing.skipped == [
        ("2.heic", "format not read"),
        ("3.NEF", "format not read"),
        ("5.png", nothing),
        ("6.png", "Too many levels of symbolic links"),
        ("7.png", nothing),
    ]
    assert (listing.others, listing.hidden) == (4, [])


def test_hidden_and_system_folders_hold_no_images(tmp_path: Path):
    """Where they are not what was asked for; and where a link leads into one, that is meant."""
    root = tmp_path / ".photos"
    system = [".git", ".ipynb_checkpoints", "@eaDir", "__MACOSX", ".Trashes", "$RECYCLE.BIN", "#recycle", "lost+found"]
    system += [".thumbnails", "Thumbs", "System Volume Information", ".Trash-1000", "@Recycle", "#snapshot"]
    write_files(
        root, {f"cat/{name}/{deep}1.jpg": b"" for name in system for deep in ("", "deep/")} | {"cat/1.jpg": b""}
    )
    write_files(root, {"dog/.trashed-2.jpg": b"", "dog/.DS_Store": b"", "dog/thumbs up/3.jpg": b"", ".all/4.jpg": b""})
    (root / "linked").symlink_to(root / ".all")
    listing = list_folder(root)
    assert [name for name, _ in listing.images] == ["cat/1.jpg", "dog/thumbs up/3.jpg", "linked/4.jpg"]
    assert {(left.name, left.images) for left in listing.hidden} == {
        *((f"cat/{name}", 2) for name in system),
        ("dog/.trashed-2.jpg", 1),
        (".all", 1),
    }
    assert (listing.skipped, listing.others) == ([], 1)
    assert files_below(root, (".jpg",)) == ["cat/1.jpg", "dog/thumbs up/3.jpg", "linked/4.jpg"]


def test_a_system_folder_that_may_not_be_read_is_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_files(tmp_path, {"lost+found/1.xml": b"", "a/2.xml": b""})
    scan = os.scandir

    def scandir(path: Path) -> Any:
        if Path(path).name == "lost+found":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert files_below(tmp_path, (".xml",)) == ["a/2.xml"]
    assert list_folder(tmp_path)[2:] == ([], 1, [])


def test_links_are_followed_once(tmp_path: Path):
    elsewhere = write_files(tmp_path / "elsewhere", {"x.jpg": b"", "deep/y.jpg": b""})
    (elsewhere / "deep" / "back").symlink_to(tmp_path / "photos")
    photos = write_files(tmp_path / "photos", {"z/1.jpg": b"", "2.jpg": b""})
    (photos / "a").symlink_to(photos / "z")  # has its own name
    (photos / "b").symlink_to(elsewhere)
    (photos / "c").symlink_to(elsewhere)
    (photos / "z" / "up").symlink_to(photos)
    (photos / "3.jpg").symlink_to(photos / "2.jpg")
    listing = list_folder(photos)
    assert [name for name, _ in listing.images] == ["2.jpg", "3.jpg", "b/deep/y.jpg", "b/x.jpg", "z/1.jpg"]
    assert (listing.skipped, listing.others) == ([], 0)


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By what the system answers: the one who runs the tests may be root, who may read everything."""
    write_files(tmp_path, {"1.jpg": b"", "secret/2.jpg": b""})
    scan = os.scandir

    def scandir(path: Path) -> Any:
        if path.name == "secret":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert names(tmp_path) == ["1.jpg"]
    assert list_folder(tmp_path).skipped == [("secret", "the folder cannot be read: Permission denied")]


def test_a_folder_is_opened_with_what_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_files(tmp_path, {"2.jpg": jpeg(), "sub/1.jpg": jpeg(), "sub/.git/3.jpg": jpeg()})
    images = open_images(f"folder:{tmp_path}", "")
    assert [images.record(i)["name"] for i in range(len(images))] == names(tmp_path)
    assert images.digest == digest(list_folder(tmp_path).images)
    said = "skipped: 1 image, hidden, or in a hidden or system folder (sub/.git: 1)\n"
    assert capsys.readouterr().err.startswith(f"folder:{tmp_path}: {said}")


def test_files_of_a_kind_are_found_behind_links(tmp_path: Path):
    write_files(tmp_path, {"elsewhere/x.XML": b"", "maps/b/1.xml": b"", "maps/a-b.xml": b"", "maps/a/2.xml": b""})
    write_files(tmp_path, {"maps/a/3.png": b"", "maps/folder.xml/4.txt": b""})
    (tmp_path / "maps/c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "maps")
    (tmp_path / "maps/5.xml").symlink_to("5.xml")
    (tmp_path / "maps/6.xml").symlink_to("nowhere")
    assert files_below(tmp_path / "maps", (".xml",)) == ["a/2.xml", "a-b.xml", "b/1.xml", "c/x.XML"]
    with pytest.raises(FileNotFoundError):
        files_below(tmp_path / "none", (".xml",))
