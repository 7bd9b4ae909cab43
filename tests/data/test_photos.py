"""Which photos of a folder can be read, and that the next start need not decode them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from smooth import encoded, jpeg

from must_jax.data import known, photos
from must_jax.data.image_sets import open_images
from must_jax.data.sample import in_order


@pytest.fixture(autouse=True)
def a_new_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MUST_JAX_CACHE_DIR", str(cache))
    monkeypatch.setattr(known, "SETTLED_S", -1.0)  # also what was just written
    return cache


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of photos, once for each time that one is decoded."""
    seen: list[str] = []
    check = photos.check_image

    def check_image(data: bytes) -> object:
        assert threading.current_thread() is not threading.main_thread()
        seen.append(data[-2:].hex())
        return check(data)

    monkeypatch.setattr(photos, "check_image", check_image)
    return seen


def fill(folder: Path, count: int, bad: tuple[int, ...] = ()) -> list[str]:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        data = jpeg(30, 20)
        (folder / f"{number:02d}.jpg").write_bytes(data[:300] if number in bad else data)
    return [f"{number:02d}.jpg" for number in range(count) if number not in bad]


def names(folder: Path, take: int = 0) -> list[str]:
    images = open_images(f"folder:{folder}", "", take)
    assert images.sampled == (len(images) == take)
    return [images.name_of(index) for index in range(len(images))]


def test_a_photo_is_decoded_again_only_after_it_has_changed(tmp_path: Path, decoded: list[str]):
    good = fill(tmp_path / "p", 12, bad=(3,))
    assert names(tmp_path / "p") == good
    assert len(decoded) == 12
    assert names(tmp_path / "p") == good
    assert len(decoded) == 13  # the one that cannot be read may be readable now
    for change in (
        lambda: (tmp_path / "p/05.jpg").write_bytes(jpeg(32, 20)),
        lambda: os.utime(tmp_path / "p/05.jpg", ns=(1, 1)),
        lambda: (tmp_path / "p/04.jpg").rename(tmp_path / "p/40.jpg"),
    ):
        change()
        decoded.clear()
        assert len(names(tmp_path / "p")) == 11
        assert len(decoded) == 2
    (tmp_path / "p/05.jpg").write_bytes(b"")
    assert names(tmp_path / "p") == [name for name in (*good, "40.jpg") if name not in ("04.jpg", "05.jpg")]


def test_what_is_strange_about_them_is_told_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "p").mkdir()
    for number in range(3):
        (tmp_path / f"p/{number}.png").write_bytes(encoded(np.full((4, 4, 3), 20 * number, np.uint8), "PNG"))
    for _ in range(2):
        names(tmp_path / "p")
        assert "3 of 3 images are constant: 0.png is 0 everywhere" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_cache_counts_for_nothing(
    a_new_cache: Path, tmp_path: Path, decoded: list[str], damage: bytes | None
):
    good = fill(tmp_path / "p", 3)
    names(tmp_path / "p")
    (file,) = (a_new_cache / "known").iterdir()
    file.write_bytes(file.read_bytes()[:-10] if damage is None else damage)
    assert names(tmp_path / "p") == good
    assert len(decoded) == 6
    assert names(tmp_path / "p") == good
    assert len(decoded) == 6


def test_without_a_place_for_the_cache_all_are_decoded(tmp_path: Path, decoded: list[str], monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MUST_JAX_CACHE_DIR", str(tmp_path / "file"))
    fill(tmp_path / "p", 3)
    for _ in range(2):
        names(tmp_path / "p")
    assert len(decoded) == 6


def test_photos_that_were_just_written_are_looked_at_again(tmp_path: Path, decoded: list[str], monkeypatch):
    monkeypatch.setattr(known, "SETTLED_S", 60.0)
    fill(tmp_path / "p", 3)
    for _ in range(2):
        names(tmp_path / "p")
    assert len(decoded) == 6


def test_caches_that_were_not_used_for_long_are_removed(a_new_cache: Path, tmp_path: Path):
    for name in ("p", "q", "r"):
        fill(tmp_path / name, 2)
        names(tmp_path / name)
        for file in (a_new_cache / "known").iterdir():
            os.utime(file, (0, 0))
    names(tmp_path / "p")  # which no longer has one, as neither has q
    assert len([*(a_new_cache / "known").iterdir()]) == 1


def test_copies_at_one_path_on_several_hosts_are_all_known(tmp_path: Path, decoded: list[str]):
    """Which have one home, and so one cache."""
    copies = [tmp_path / name for name in ("a", "b")]
    for copy in copies * 2:
        if not copy.exists():
            fill(copy, 3)
        copy.rename(tmp_path / "p")
        assert len(names(tmp_path / "p")) == 3
        (tmp_path / "p").rename(copy)
    assert len(decoded) == 6


def test_a_sample_of_a_folder(tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch):
    """As of all that can be read, in the order of the folder; and no more are decoded than are needed."""
    monkeypatch.setattr(photos, "_CHECKED_TOGETHER", 2)
    monkeypatch.setattr(photos, "cores", lambda: 2)
    first = in_order(40, range(40)).tolist()
    bad = (first[0], first[2])
    fill(tmp_path / "p", 40, bad)
    wanted = sorted(f"{number:02d}.jpg" for number in first[:7] if number not in bad)
    assert names(tmp_path / "p", 5) == wanted
    assert len(decoded) == 8
    assert set(names(tmp_path / "p", 3)) < set(wanted)
    assert names(tmp_path / "p", 5) == wanted
    assert len(names(tmp_path / "p")) == 38
    assert names(tmp_path / "p", 5) == wanted
    few, all_ = (open_images(f"folder:{tmp_path / 'p'}", "", take) for take in (5, 0))
    assert few.digest == all_.digest
    assert few.taking(0).numbers.tolist() == all_.numbers.tolist() == [n for n in range(40) if n not in bad]
    assert set(few.numbers.tolist()) < set(all_.numbers.tolist())
    assert {Path(path).name for path, _ in few.skipped} == {f"{number:02d}.jpg" for number in bad}


def test_photos_are_decoded_by_as_many_threads_as_there_are_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fill(tmp_path / "p", 3)
    together, check = threading.Barrier(3, timeout=10), photos._check

    def wait(path: Path) -> object:
        together.wait()
        return check(path)

    monkeypatch.setattr(photos, "_check", wait)
    monkeypatch.setattr(photos, "cores", lambda: 3)
    assert len(names(tmp_path / "p")) == 3


def test_names_of_any_bytes():
    given = ["a/b.jpg", "", os.fsdecode(b"\xff.png"), "\u00fc.jpg"]
    kept = photos.Names(given)
    assert [*kept] == given
    assert len(kept) == 4
