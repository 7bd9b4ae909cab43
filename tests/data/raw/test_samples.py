"""Which pictures are images where several share a name."""

from __future__ import annotations

from pathlib import Path

import pytest
from photos import write_files, write_tar

from must_jax.data.folders import LeftOut
from must_jax.data.raw import RawImages, open_raw
from must_jax.errors import UserError

BESIDE = "beside the image of their sample"


def tar(folder: Path, files: list[str], *endings: str) -> RawImages:
    return open_raw(f"tar:{write_tar(folder / 't.tar', [(name, b'1') for name in files])}", folder, endings=endings)


def names(raw: RawImages) -> list[str]:
    return [item.name for item in raw.items(range(len(raw)))]


def of_samples(*endings: str) -> list[str]:
    return [f"s/{number:03d}{ending}" for number in range(20) for ending in endings]


@pytest.mark.parametrize("image", [".jpg", ".JPEG", ".png", ".rgb.png", ".image.webp"])
def test_the_usual_ending_is_that_of_the_image(tmp_path: Path, image: str):
    """Also where it has lost its picture: a mask alone is none."""
    raw = tar(tmp_path, [*of_samples(image, ".seg.png", ".depth.PNG", ".cls"), "s/999.seg.png"])
    assert names(raw) == of_samples(image)
    assert raw.left_out == [LeftOut(".depth.png", BESIDE, 20), LeftOut(".seg.png", BESIDE, 21)]
    assert raw.unread == [".cls"]


def test_images_of_several_formats(tmp_path: Path):
    files = ["1.jpg", "1.seg.png", "2.png", "2.seg.png", "3.webp"]
    assert names(tar(tmp_path, files)) == ["1.jpg", "2.png", "3.webp"]


@pytest.mark.parametrize("endings", [(".left.jpg", ".right.jpg"), (".jpg", ".png"), (".rgb.png", ".image.png")])
def test_what_is_not_clear_is_refused_unless_it_is_said(tmp_path: Path, endings: tuple[str, str]):
    files = of_samples(*endings, ".txt")
    example = r"t.tar/s/000\.\w.* for instance., and it is not clear which are images; name the endings of images in"
    with pytest.raises(UserError, match=rf"several pictures for 20 names \({example} config.image_suffix, or"):
        len(tar(tmp_path, files))
    for ending in (endings[1], endings[1].removeprefix("."), f"*{endings[1]}"):
        assert names(tar(tmp_path, files, ending)) == of_samples(endings[1])
    assert names(tar(tmp_path, files, *endings)) == of_samples(*endings)
    assert names(tar(tmp_path, files, "*")) == of_samples(*endings)


def test_numbers_and_the_odd_double_belong_to_names_of_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    files = ["IMG.2020.01.jpg", "IMG.2020.02.jpg", *of_samples(".1.jpg", ".2.jpg"), "moving.gif", "moving.webp"]
    assert names(tar(tmp_path, files)) == files
    said = "there are several pictures for 1 name (t.tar/moving.gif, t.tar/moving.webp for instance), all of which are"
    assert said in capsys.readouterr().err


def test_samples_of_several_tar_files_are_not_mixed(tmp_path: Path):
    write_tar(tmp_path / "a.tar", [("1.jpg", b"1"), ("1.seg.png", b"1")])
    write_tar(tmp_path / "b.tar", [("1.png", b"1"), ("1.seg.png", b"1")])
    raw = open_raw(f"tar:{tmp_path}", tmp_path)
    assert names(raw) == ["1.jpg", "1.png"]


def test_of_a_folder_all_are_images_unless_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_files(tmp_path, dict.fromkeys(of_samples(".jpg", ".png"), b"1"))
    assert names(open_raw(f"folder:{tmp_path}", tmp_path)) == of_samples(".jpg", ".png")
    assert "there are several pictures for 20 names (s/000.jpg, s/000.png for instance), all" in capsys.readouterr().err
    raw = open_raw(f"folder:{tmp_path}", tmp_path, endings=["JPG"])
    assert names(raw) == of_samples(".jpg")
    assert raw.left_out == [LeftOut(".png", "ending not in config.image_suffix", 20)]
    assert capsys.readouterr().err == ""
