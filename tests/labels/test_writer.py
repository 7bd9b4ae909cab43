from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import hand_made
import pytest
from hand_made import Images, describe, label_of, write_column

from must_jax.errors import UserError
from must_jax.labels.columns import LabelColumn
from must_jax.labels.writer import ColumnWriter


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_finished_shards_are_not_written_again(tmp_path: Path) -> None:
    write_column(tmp_path / "c", "segmentation", Images(), shards=1)
    first = tmp_path / "c" / "labels-train.array_record-00000-of-00003"
    written = first.stat().st_mtime_ns, first.stat().st_ino
    assert ColumnWriter(tmp_path / "c", describe("segmentation", Images())).missing() == [1, 2]
    write_column(tmp_path / "c", "segmentation", Images())
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == written
    assert ColumnWriter(tmp_path / "c", describe("segmentation", Images())).missing() == []


def test_a_column_begun_before_its_kind_had_all_its_fields_goes_on(tmp_path: Path) -> None:
    write_column(tmp_path, "detection", Images(), shards=1)
    file = tmp_path / "manifest.json"
    values = json.loads(file.read_text())
    del values["kind"]["ignore"]
    file.write_text(json.dumps(values))
    assert ColumnWriter(tmp_path, describe("detection", Images())).missing() == [1, 2]
    write_column(tmp_path, "detection", Images())
    assert LabelColumn(tmp_path)[1]["ignore"].tolist() == [0, 0]


def test_a_column_goes_on_whose_rule_has_former_names(tmp_path: Path) -> None:
    """And says what it has said, so that what was made from its labels is not outdated."""
    former, now = (describe("depth", Images(), rule={key: "metric_m"}) for key in ("kind", "depth_kind"))
    writer = ColumnWriter(tmp_path, former)
    said = writer.manifest.labels
    assert ColumnWriter(tmp_path, now).missing() == [0, 1, 2]
    assert ColumnWriter(tmp_path, now).manifest.rule == {"kind": "metric_m"}
    assert ColumnWriter(tmp_path, now).manifest.labels == said
    with pytest.raises(UserError, match="another 'rule'"):
        ColumnWriter(tmp_path, describe("depth", Images(), rule={"depth_kind": "relative"}))


def test_a_shard_with_too_few_labels_leaves_nothing(tmp_path: Path) -> None:
    writer = ColumnWriter(tmp_path, describe("depth", Images()))
    with pytest.raises(ValueError, match="takes 4 labels, got 1"), writer.shard(0) as labels:
        labels.add("0.jpg", label_of("depth", 0))
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_killed_at_random_moments_the_column_ends_up_the_same(tmp_path: Path) -> None:
    """kill -9 in real processes; the undisturbed column is written here, in a process with another hash seed."""
    seconds = time.monotonic()
    write_column(tmp_path / "undisturbed", "normals", Images(40), map_hw=(96, 96))
    seconds = time.monotonic() - seconds
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command, killed = [sys.executable, hand_made.__file__, str(tmp_path / "killed")], tmp_path / "killed"
    moments = random.Random(0)
    for _ in range(3):
        before = len(list(killed.glob("*array_record*")))
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:
            while len(list(killed.glob("*array_record*"))) == before and process.poll() is None:
                time.sleep(0.001)  # until it is at work again
            time.sleep(moments.uniform(0, 0.1) * seconds)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL, "it was through before it was killed: there is too little to do"
    subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")
