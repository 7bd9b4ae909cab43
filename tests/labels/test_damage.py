"""Damage to any file of a column: readers and `verify` say in one sentence which file it is, or nothing is changed."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hand_made import Images, write_column

from must_jax.config import LabelsConfig
from must_jax.data import shards
from must_jax.errors import UserError
from must_jax.labels import judging, manifest, verify
from must_jax.labels.columns import LabelColumn
from must_jax.stages import labels

SHARD = "labels-train.array_record-00001-of-00003"
DEEP = b"[" * 5000 + b"]" * 5000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("columns") / "boxes"
    write_column(folder, "detection", Images())
    column = manifest.read(folder)
    judging.write(folder, column, [], column.images.length)
    return folder


@pytest.fixture
def column(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "boxes")
    return tmp_path / "boxes"


def read(folder: Path) -> list[dict[str, Any]]:
    """As a training does: its start checks the sums of the shards as well."""
    column = LabelColumn(folder)
    judging.read(folder, column.manifest)
    verify.check_unchanged((folder, shard) for shard in column.manifest.shards)
    return [column[index] for index in range(len(column))]


def refused(folder: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By a training and by `verify`, in a sentence that names the file."""
    with pytest.raises(UserError, match=file):
        read(folder)
    if file != judging.FILE:
        with pytest.raises(UserError, match="do not train on them until they are repaired"):
            labels.run(LabelsConfig(columns=(str(folder),), action="verify"), Path())
        assert file in capsys.readouterr().err


@pytest.mark.parametrize(
    "harm", [b"", b"{", b"[]", b"null", b"\xff\xfe{}", b"3", b'{"a": NaN}', DEEP, "cut", "folder", "pipe"]
)
@pytest.mark.parametrize("name", [manifest.FILE, *shards.DESCRIPTIONS, SHARD, judging.FILE])
def test_what_is_no_such_file_is_named(column: Path, name: str, harm: bytes | str, capsys: pytest.CaptureFixture[str]):
    file = column / name
    data = file.read_bytes()
    file.unlink()
    if harm == "folder":
        file.mkdir()
    elif harm == "pipe":
        os.mkfifo(file)
    else:
        file.write_bytes(data[: len(data) // 2] if isinstance(harm, str) else harm)
    refused(column, name, capsys)


def test_one_bit_is_found_or_changes_nothing(column: Path, capsys: pytest.CaptureFixture[str]):
    rng, labelled, found = random.Random(0), read(column), 0
    for file in sorted(column.iterdir()):
        data = file.read_bytes()
        for _ in range(12):
            flipped = bytearray(data)
            flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            file.write_bytes(flipped)
            try:
                now = read(column)
            except UserError as error:
                assert file.name in str(error), str(error)
                found += 1
            else:
                assert file.name in (*shards.DESCRIPTIONS, judging.FILE)  # in texts for people
                for ours, theirs in zip(now, labelled, strict=True):
                    assert all(np.array_equal(ours[name], value) for name, value in theirs.items())
            try:
                labels.run(LabelsConfig(columns=(str(column),), action="verify"), Path())
                assert file.name == judging.FILE
            except UserError:
                assert file.name in capsys.readouterr().err
        file.write_bytes(data)
    assert found > 40


def lengths(values: dict[str, Any], of: list[str]) -> None:
    values["splits"][0]["shardLengths"] = of


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (shards.INFO_FILE, lambda values: lengths(values, ["2", "6", "2"])),
        (shards.INFO_FILE, lambda values: lengths(values, ["4", "4", "999999999999"])),
        (shards.INFO_FILE, lambda values: lengths(values, ["4", "4"])),
        (shards.INFO_FILE, lambda values: lengths(values, ["-4", "4", "10"])),
        (shards.INFO_FILE, lambda values: values["splits"][0].update(name="test")),
        (shards.INFO_FILE, lambda values: values.pop("splits")),
        (shards.INFO_FILE, lambda values: values.update(splits=3)),
        (shards.INFO_FILE, lambda values: values.update(fileFormat="tfrecord")),
        (shards.FEATURES_FILE, lambda values: values["content"]["features"].pop("classes")),
        (
            shards.FEATURES_FILE,
            lambda values: values["content"]["features"]["classes"]["tensor"].update(dtype="int8"),
        ),
        (manifest.FILE, lambda values: values["images"].update(length=10**15)),
        (manifest.FILE, lambda values: values["images"].update(length=-1)),
        (manifest.FILE, lambda values: values["kind"].update(kind="cloud")),
        (manifest.FILE, lambda values: values["kind"].update(max_boxes="many")),
        (manifest.FILE, lambda values: values["shards"][0]["summary"].update(images_with_class=[1] * 50)),
        (manifest.FILE, lambda values: values["shards"].pop()),
        (manifest.FILE, lambda values: values.update(shards={"a": 1})),
        (manifest.FILE, lambda values: values.update(schema_version="1")),
        (manifest.FILE, lambda values: values.pop("images")),
    ],
)
def test_wrong_counts_and_types_are_named(
    column: Path, name: str, change: Callable[[dict[str, Any]], object], capsys: pytest.CaptureFixture[str]
):
    values = json.loads((column / name).read_text())
    change(values)
    (column / name).write_text(json.dumps(values))
    refused(column, name, capsys)


def test_shards_whose_manifest_is_gone_are_named(column: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(column, column.with_name("other"))
    (column / manifest.FILE).unlink()
    for path in (column, column.parent):
        with pytest.raises(UserError, match=r"1 problem in \d columns?, listed above"):
            labels.run(LabelsConfig(columns=(str(path),), action="verify"), Path())
        assert f"damaged: {column} has shards of labels, but no manifest.json; " in capsys.readouterr().err
