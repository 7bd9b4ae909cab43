"""What a label run makes of the columns that earlier runs have finished in its folder."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_teacher import HEADLINES, make_teacher

from must_jax.config import LabelConfig
from must_jax.errors import UserError
from must_jax.labelling import label_run
from must_jax.labelling.finished import finished_columns
from must_jax.labels import manifest
from must_jax.labels.manifest import AbsentRecord, Manifest
from must_jax.stages import label


def test_columns_of_other_teachers_are_read_before_any_work_and_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"photos/{i}.png"), np.full((8, 8, 3), 90 * i, np.uint8))
    tasks = [key.split("/")[0] for key in HEADLINES]
    make_teacher(tmp_path / "everything", tuple(tasks), 32, HEADLINES)
    make_teacher(tmp_path / "small", ("depth",), 32, HEADLINES)

    def run(teacher: str) -> None:
        config = LabelConfig(
            images=f"folder:{tmp_path / 'photos'}", teachers=(str(tmp_path / teacher),), batch_size=2, gallery_images=0
        )
        label.run(config, tmp_path / "run")

    run("everything")
    finished = finished_columns(tmp_path / "run")
    first = tmp_path / "run/columns" / next(iter(finished)) / manifest.FILE
    whole = first.read_text()
    first.write_text(whole[:100])
    with monkeypatch.context() as patch:
        patch.setattr(label_run, "label", lambda *_: 1 / 0)
        with pytest.raises(UserError, match=r"manifest\.json"):
            run("small")
    assert not (tmp_path / "run/columns/small-depth").exists()
    first.write_text(whole)

    monkeypatch.setattr(Manifest, "absent", lambda self: [AbsentRecord(name=f"{self.maker} {self.task}", reason="")])
    run("small")
    bad = [each["name"] for each in json.loads((tmp_path / "run/result.json").read_text())["bad"]]
    assert bad == ["small depth", *(f"everything {about['task']}" for about in finished.values())]


def test_a_shard_of_an_earlier_run_that_was_damaged_is_named_and_made_again(tmp_path: Path) -> None:
    """Its size is right, so only its bytes tell."""
    (tmp_path / "photos").mkdir()
    for i in range(4):
        cv2.imwrite(str(tmp_path / f"photos/{i}.png"), np.full((40, 40, 3), 60 * i, np.uint8))
    make_teacher(tmp_path / "small", ("depth",), 32, HEADLINES)

    def run(worker: str = "0/1") -> None:
        values = {"batch_size": 2, "shard_images": 1, "gallery_images": 4, "worker": worker}
        images, teachers = f"folder:{tmp_path / 'photos'}", (str(tmp_path / "small"),)
        label.run(LabelConfig(images=images, teachers=teachers, **values), tmp_path / "run")

    run("0/2")
    shard = next((tmp_path / "run/columns/small-depth").glob("*.array_record-*-of-?????"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    for _ in range(2):
        with pytest.raises(UserError, match=f"{shard.name} has other bytes than were written .*; delete the file"):
            run()
    assert not (tmp_path / "run/result.json").exists()
    shard.unlink()
    run()
    assert (tmp_path / "run/result.json").exists()
    other = next(path for path in shard.parent.glob("*.array_record-*-of-?????") if path != shard)
    other.unlink()  # so that the finished run has something to do
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for _ in range(2):
        with pytest.raises(UserError, match=f"{shard.name} has other bytes than were written .*; delete the file"):
            run()
    shard.unlink()
    run()
    assert other.exists() and shard.read_bytes() == whole and (tmp_path / "run/result.json").exists()


def test_only_columns_that_lost_shards_are_taken_back(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    label_run._take_back(tmp_path, {"a"})  # there is no result yet
    told = {"images": 3, "columns": {"a": {"bytes": 1}, "b": {"bytes": 2}}}
    result.write_text(json.dumps(told))
    label_run._take_back(tmp_path, set())
    assert json.loads(result.read_text()) == told
    label_run._take_back(tmp_path, {"a"})
    assert json.loads(result.read_text()) == {"images": 3, "columns": {"b": {"bytes": 2}}}
    label_run._take_back(tmp_path, {"b"})
    assert not result.exists()
