"""Damage to an image set: whoever opens it says in one sentence which file it is, or reads what was there."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from must_jax.config import PrepareConfig
from must_jax.data import plan, preparing, shards
from must_jax.data.datasets import METADATA_FILE
from must_jax.data.image_sets import open_images
from must_jax.errors import UserError

FILES = (*shards.DESCRIPTIONS, METADATA_FILE)
SHARD = "photos-train.array_record-00001-of-00003"
DEEP = b"[" * 5000 + b"]" * 5000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photos in three shards."""
    home = tmp_path_factory.mktemp("home")
    (home / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        cv2.imwrite(str(home / f"photos/{number}.png"), rng.integers(0, 256, (40, 48, 3), np.uint8))
    preparing.prepare(config(home))
    return home


@pytest.fixture
def home(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole / "data", tmp_path / "data")
    return tmp_path


def config(home: Path, photos: Path | None = None) -> PrepareConfig:
    images = f"folder:{photos or home / 'photos'}"
    return PrepareConfig(name="photos", images=images, data_dir=str(home / "data"), shard_images=2)


def folder(home: Path) -> Path:
    return home / "data/photos/1.0.0"


def read(home: Path, split: str = "train") -> list[dict[str, Any]]:
    images = open_images(f"photos:{split}", home / "data")
    return [dict(images.record(index)) for index in range(len(images))]


@pytest.mark.parametrize("harm", [b"", b"{", b"[]", b"null", b"\xff\xfe{}", DEEP, "cut", "folder", "pipe"])
@pytest.mark.parametrize("name", [*FILES, SHARD])
def test_what_is_no_such_file_is_named(home: Path, name: str, harm: bytes | str):
    file = folder(home) / name
    data = file.read_bytes()
    file.unlink()
    if harm == "folder":
        file.mkdir()
    elif harm == "pipe":
        os.mkfifo(file)
    else:
        file.write_bytes(data[: len(data) // 2] if isinstance(harm, str) else harm)
    with pytest.raises(UserError, match=rf"{name}.*; delete that folder and prepare it again, or bring it back"):
        read(home)


def lengths(values: dict[str, Any], of: list[str]) -> None:
    values["splits"][0]["shardLengths"] = of


@pytest.mark.parametrize(
    "change",
    [
        lambda values: lengths(values, ["1", "3", "1"]),
        lambda values: lengths(values, ["2", "2", "999999999999999"]),
        lambda values: lengths(values, ["2", "2"]),
        lambda values: lengths(values, ["2", "-2", "1"]),
        lambda values: lengths(values, ["two", "2", "1"]),
        lambda values: values["splits"][0].update(name="test"),
        lambda values: values["splits"][0].update(filepathTemplate="{DATASET}-test.array_record-{SHARD_X_OF_Y}"),
        lambda values: values["splits"][0].pop("shardLengths"),
        lambda values: values.update(splits=3),
        lambda values: values.pop("splits"),
        lambda values: values.update(fileFormat="riegeli"),
        lambda values: values.update(version="one"),
    ],
)
@pytest.mark.parametrize("split", ["train", "train[2:]", "train[:40%]+train[60%:]"])
def test_wrong_counts_and_types_are_refused(home: Path, change: Callable[[dict[str, Any]], object], split: str):
    file = folder(home) / shards.INFO_FILE
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))
    with pytest.raises(UserError):
        read(home, split)


def test_one_bit_is_found_or_changes_nothing(home: Path):
    rng, there, found = random.Random(0), read(home), 0
    for file in (folder(home) / name for name in (*FILES, SHARD, SHARD.replace("-00001-", "-00000-"))):
        data = file.read_bytes()
        for _ in range(12):
            flipped = bytearray(data)
            flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            file.write_bytes(flipped)
            try:
                images = open_images("photos:train", home / "data")
            except UserError:
                found += 1
                continue
            for index, record in enumerate(there):
                try:
                    now = images.record(index)
                except Exception:  # whoever reads it leaves it out, and names it
                    found += 1
                else:
                    assert now["image"] == record["image"]
        file.write_bytes(data)
    assert found > 12


def test_what_is_damaged_can_be_prepared_again(whole: Path, home: Path):
    there = read(home)
    for name in FILES:
        (folder(home) / name).unlink()
    file = folder(home) / plan.FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"images": f"folder:{whole / 'photos'}"}))
    preparing.prepare(config(home, whole / "photos"))
    assert [record["image"] for record in read(home)] == [record["image"] for record in there]


@pytest.mark.parametrize(
    "change",
    [
        {"length": 10**18},
        {"length": -5},
        {"shard_images": 0},
        {"shards": {"a": 1}},
        {"shards": [{"file": 3}]},
        {"source": None},
        {"schema_version": 2},
    ],
)
def test_a_plan_of_wrong_types_or_counts_is_named(whole: Path, home: Path, change: dict[str, Any]):
    file = folder(home) / plan.FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=r"prepare\.json is damaged.*; delete .*/1\.0\.0, and prepare it again"):
        preparing.prepare(config(home, whole / "photos"))
