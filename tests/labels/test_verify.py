"""Planted damage: `verify` and the start of a training find it and name the file."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from hand_made import Images, write_column

from must_jax.data import known
from must_jax.errors import UserError
from must_jax.labels import manifest, verify

SHARDS = [f"labels-train.array_record-{i:05d}-of-00003" for i in range(3)]


class Named(Images):
    """Images as `write_column` names them."""

    def __init__(self, *, digest: str = "d1", order: list[int] | None = None) -> None:
        super().__init__(10, digest)
        self._order = order or list(range(10))

    def record(self, index: int) -> dict[str, str]:
        return {"name": f"{self._order[index]}.jpg"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("columns") / "boxes"
    write_column(folder, "detection", Images())
    return folder


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def swap(a: Path, b: Path) -> None:
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)


def rewrite(path: Path, order: list[int]) -> None:
    """The same records in another order, or not all of them."""
    records = ArrayRecordReader(str(path)).read_all()
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for index in order:
        writer.write(records[index])
    writer.close()


def edit(path: Path, change: Callable[[dict], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values, indent=1) + "\n")


def forget(folder: Path, index: int) -> None:
    edit(folder / "manifest.json", lambda values: values["shards"].pop(index))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped byte": (
        lambda f: flip_a_byte(f / SHARDS[1]),
        rf"{SHARDS[1]} has other bytes than were written .*; delete the file and rerun",
    ),
    "a missing shard": (lambda f: (f / SHARDS[0]).unlink(), rf"{SHARDS[0]} is missing; rerun the stage that wrote it$"),
    "a cut off shard": (
        lambda f: (f / SHARDS[2]).write_bytes((f / SHARDS[2]).read_bytes()[:-9]),
        rf"{SHARDS[2]} has \d+ bytes instead of \d+",
    ),
    "two shards exchanged": (lambda f: swap(f / SHARDS[0], f / SHARDS[1]), rf"{SHARDS[0]} has other bytes"),
    "labels in another order": (lambda f: rewrite(f / SHARDS[0], [1, 0, 2, 3]), rf"{SHARDS[0]} has "),
    "a label dropped": (lambda f: rewrite(f / SHARDS[1], [0, 1, 2]), rf"{SHARDS[1]} has "),
    "another class list": (
        lambda f: edit(f / "manifest.json", lambda values: values["classes"].reverse()),
        r"manifest\.json was changed after the column was written",
    ),
    "another rule": (
        lambda f: edit(f / "manifest.json", lambda values: values["rule"].update(threshold=0.1)),
        r"manifest\.json was changed",
    ),
    "a shard that is not listed": (lambda f: forget(f, 1), r"manifest\.json does not list the shards of 10 images"),
    "other lengths for TFDS": (
        lambda f: (f / "dataset_info.json").write_text((f / "dataset_info.json").read_text().replace('"4"', '"3"')),
        r"dataset_info\.json was changed, TFDS would read other labels; delete the file and rerun",
    ),
    "no features for TFDS": (lambda f: (f / "features.json").unlink(), r"features\.json is missing; rerun"),
}


def test_a_whole_column_has_no_damage(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    column = manifest.read(whole)
    assert verify.damage(whole, column) == []
    reading, checking = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"reading .* 0/0 \(\d+ %\) [\d.,]+ MB/s", reading)
    assert re.fullmatch(r"checking .* 10/10 \(100 %\) [\d.,]+ images/s", checking)
    assert list(verify.other_images(whole, column, Named())) == []
    verify.check_unchanged((whole, shard) for shard in column.shards)


def test_bytes_are_read_again_only_after_a_change(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUST_JAX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(known, "SETTLED_S", -1.0)  # also what was just written
    folder = Path(shutil.copytree(whole, tmp_path / "c"))
    shards = [(folder, shard) for shard in manifest.read(folder).shards]
    read: list[str] = []
    sha256 = verify.files.sha256

    def noted(path: Path) -> str:
        read.append(path.name)
        return sha256(path)

    monkeypatch.setattr(verify.files, "sha256", noted)

    def start(share: tuple[int, int] = (0, 1)) -> list[str]:
        read.clear()
        verify.check_unchanged(shards, share)
        return sorted(read)

    assert [start((number, 2)) for number in range(2)] == [[SHARDS[0], SHARDS[2]], [SHARDS[1]]]
    assert start() == start((1, 2)) == []
    before = verify.state(shards)
    assert before == verify.state(shards) != verify.state(shards[:2])
    damaged = folder / SHARDS[1]
    times = damaged.stat()
    time.sleep(0.02)  # longer than the resolution of times
    flip_a_byte(damaged)
    os.utime(damaged, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if nothing had happened
    assert verify.state(shards) != before
    for _ in range(2):
        with pytest.raises(UserError, match=rf"{SHARDS[1]} has other bytes"):
            start()
        assert read == [SHARDS[1]]
    assert start((0, 2)) == []  # it is another process's
    flip_a_byte(damaged)
    assert start() == [SHARDS[1]]
    assert start() == []
    damaged.unlink()
    with pytest.raises(UserError, match=rf"{SHARDS[1]} is missing"):
        start()
    monkeypatch.setattr(known, "SETTLED_S", 60.0)
    assert len(start((0, 2))) == 2  # may change again within the resolution of its times
    assert verify.damage(whole, manifest.read(whole)) == []
    assert len(read) == 5  # `verify` always reads


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_named(name: str, whole: Path, tmp_path: Path) -> None:
    do, told = DAMAGES[name]
    folder = Path(shutil.copytree(whole, tmp_path / "c"))
    do(folder)
    problems = verify.damage(folder, manifest.read(folder))
    assert problems
    assert any(re.search(told, problem) for problem in problems), problems
    assert all(str(folder) in problem for problem in problems)


def test_a_label_that_its_class_list_does_not_know(whole: Path, tmp_path: Path) -> None:
    """As if the writer had gone wrong: every checksum fits."""
    folder = Path(shutil.copytree(whole, tmp_path / "c"))
    column = manifest.read(folder).model_copy(update={"classes": ("a",)}).sealed()
    (folder / "manifest.json").write_text(column.to_json())
    problems = verify.damage(folder, column)
    assert problems and all("class id" in problem and "its data lists 1 classes" in problem for problem in problems)


def test_other_images_are_named(whole: Path) -> None:
    column = manifest.read(whole)
    (problem,) = verify.other_images(whole, column, Named(digest="other"))
    assert "different images (photos) from those that photos has now; label them in another --workdir" in problem
    (problem,) = verify.other_images(whole, column, Named(order=[0, 1, 2, 3, 5, 4, 6, 7, 8, 9]))
    assert f"{SHARDS[1]} labels other images, or in another order, than photos" in problem


def test_columns_that_contradict_each_other_are_named(whole: Path, tmp_path: Path) -> None:
    column = manifest.read(whole)
    assert list(verify.disagreements([(whole, column), (whole, column)])) == []
    for number, (change, told) in enumerate(
        (
            ({"classes": ("x", "y", "z")}, "have different class lists of task detection"),
            ({"images": column.images.model_copy(update={"digest": "d2"})}, "label different images"),
            ({"unit": "m"}, "have different units, 'm' and ''"),
        )
    ):
        other = tmp_path / str(number)
        (problem,) = verify.disagreements([(whole, column), (other, column.model_copy(update=change))])
        assert told in problem and str(other) in problem


@pytest.mark.parametrize("name", ["a flipped byte", "two shards exchanged"])
def test_changed_bytes_are_found_before_a_training(name: str, whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "c"))
    shards = [(folder, shard) for shard in manifest.read(folder).shards]
    verify.check_unchanged(shards)
    DAMAGES[name][0](folder)
    with pytest.raises(UserError, match=r"has other bytes than were written.* \(damaged shards in all: [12]\)"):
        verify.check_unchanged(shards)
