"""The dataset: its configs, its bytes, and its preparation."""

from __future__ import annotations

import fcntl
import hashlib
import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from processes import wait_until

from must_jax.data import scenes
from must_jax.data.kinds import MapLabel, kind_from_dict
from must_jax.data.scenes import __main__ as grid
from must_jax.data.scenes import builder
from must_jax.data.scenes.configs import CONFIGS, SPLITS, encode_examples, render_image
from must_jax.errors import UserError

FEW = {"train": 5, "validation": 2, "test": 2}
TINY = [name for name in CONFIGS if name.endswith("_tiny")]


def records(folder: Path) -> dict[str, str]:
    """File name -> digest of the records of a prepared dataset."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.array_record*")}


@pytest.mark.parametrize("name", TINY)
def test_every_config_opens_with_the_truth_it_promises(name: str, tmp_path: Path):
    folder = scenes.prepare(name, tmp_path)
    assert folder == tmp_path / "scenes" / name / "1.0.0"
    dataset = tfds.builder_from_directory(folder)
    config = CONFIGS[name]
    assert {split: info.num_examples for split, info in dataset.info.splits.items()} == config.images
    tasks = dataset.info.metadata["tasks"]
    assert set(tasks) == set(config.truths)
    for task, truth in config.truths.items():
        assert kind_from_dict(tasks[task]["kind"]) == truth.kind
        assert tuple(tasks[task]["classes"]) == truth.classes
        assert len(truth.classes) > 1 or task in ("depth", "normals")
    skip = {
        task: {truth.kind.field: tfds.decode.SkipDecoding()}
        for task, truth in config.truths.items()
        if isinstance(truth.kind, MapLabel)
    }
    for split in config.images:
        record = dataset.as_data_source(split, decoders=skip)[1]
        scene, rendering = render_image(name, split, 1)
        assert record["name"].decode() == f"{name}-{split}-000001"
        assert np.abs(record["image"].astype(int) - rendering.image).mean() < 4  # JPEG
        for task, truth in config.truths.items():
            stored = truth.kind.decode(record[task])
            for field, expected in truth.make(scene, rendering).items():
                tolerance = 2.2e-2 if field == "normals" else 1e-2  # 1.25 degrees
                np.testing.assert_allclose(stored[field], expected, atol=tolerance, err_msg=f"{task} {field}")


def test_same_seed_same_bytes_with_one_process_or_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    alone = scenes.prepare("teacher_normals", tmp_path / "alone", FEW)
    monkeypatch.setattr(builder, "_POOL_FROM", 3)
    pooled = scenes.prepare("teacher_normals", tmp_path / "pooled", FEW)
    assert len(records(alone)) == 3
    assert records(alone) == records(pooled)


def test_configs_and_splits_share_no_image():
    examples = [
        encode_examples(name, split, range(2))
        for name, config in CONFIGS.items()
        for split in SPLITS
        if split in config.images
    ]
    images = [example["image"] for pair in examples for example in pair]
    assert len(set(images)) == len(images) == 2 * (3 * 24 + 2)


def test_downstream_sets_hold_out_shapes_patterns_and_cameras():
    train, held_out = scenes.TRAINING, scenes.HELD_OUT
    assert not set(train.shapes) & set(held_out.shapes)
    for place in ("floor", "wall", "item"):
        patterns = {*getattr(held_out, place).patterns, *getattr(scenes.MATERIALS, place).patterns}
        assert set(getattr(train, place).patterns) & patterns == {"plain"}
    assert train.camera_height[1] < held_out.camera_height[0]
    assert held_out.focal[1] < train.focal[0]


def test_objects_stand_in_the_room_beside_each_other():
    for index in range(50):
        scene = scenes.sample_scene(np.random.default_rng([1, index]), scenes.TRAINING)
        assert 1 <= len(scene.items) <= 4
        for number, item in enumerate(scene.items):
            corners = item.body.corners()
            assert corners[2].min() == pytest.approx(0, abs=1e-5)
            assert (np.abs(corners[:2]) < np.array(scene.room.half_extents[:2])[:, None]).all()
            for other in scene.items[:number]:
                gap = np.subtract(item.body.center, other.body.center)[:2]
                assert np.linalg.norm(gap) > np.sqrt(2) * (item.body.half_extents[0] + other.body.half_extents[0])


def _failing_encode(fail_at: int) -> Callable[[str, str, range], list[dict]]:
    def encode(name: str, split: str, indices: range) -> list[dict]:
        if split == "validation" and fail_at in indices:
            raise KeyboardInterrupt
        return encode_examples(name, split, indices)

    return encode


def test_an_interrupted_preparation_is_redone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched:
        patched.setattr(builder, "encode_examples", _failing_encode(fail_at=1))
        with pytest.raises(KeyboardInterrupt):
            scenes.prepare("teacher_depth", tmp_path / "a", FEW)
    config = tmp_path / "a" / "scenes" / "teacher_depth"
    assert not (config / "1.0.0").exists()
    killed = config / "incomplete.ABCDEF_1.0.0"
    killed.mkdir()
    (killed / "scenes-train.array_record-00000-of-00001").write_bytes(b"half")
    redone = scenes.prepare("teacher_depth", tmp_path / "a", FEW)
    assert not killed.exists()
    assert records(redone) == records(scenes.prepare("teacher_depth", tmp_path / "b", FEW))


def test_what_is_rendered_ahead_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(builder, "_POOL_FROM", 1)
    ahead, then = tmp_path / "ahead", tmp_path / "then"
    with monkeypatch.context() as small:
        small.setattr(builder, "_POOL_FROM", 1_000)
        scenes.prepare("teacher_depth_tiny", then)
    capfd.readouterr()
    with scenes.rendering_ahead(["teacher_depth_tiny", "downstream_depth_tiny", "teacher_depth_tiny"], ahead):
        wait_until(lambda: (ahead / "scenes/downstream_depth_tiny/1.0.0").is_dir())
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(builder, "encode_examples", None)  # nothing is rendered any more
    scenes.prepare("downstream_depth_tiny", ahead)
    folders = [scenes.prepare("teacher_depth_tiny", data_dir) for data_dir in (ahead, then)]
    skip = {"image": tfds.decode.SkipDecoding(), "depth": {"depth": tfds.decode.SkipDecoding()}}
    # Records hold their fields in an order that differs between processes.
    made, expected = (tfds.builder_from_directory(each).as_data_source("test", decoders=skip) for each in folders)
    assert len(made) == len(expected) > 0
    for some, other in zip(made, expected, strict=True):
        np.testing.assert_equal(some, other)


@pytest.mark.parametrize("needed", [False, True])
def test_what_is_rendered_ahead_ends_with_what_it_is_for_and_for_who_needs_it(tmp_path: Path, needed: bool):
    with scenes.rendering_ahead(["unlabelled"], tmp_path):
        wait_until(lambda: list(tmp_path.glob("scenes/unlabelled/incomplete*")))
        if needed:
            scenes.prepare("unlabelled", tmp_path, {"train": 3})
            assert not multiprocessing.active_children()
    assert not multiprocessing.active_children()
    assert needed or not (tmp_path / "scenes/unlabelled/1.0.0").exists()
    scenes.prepare("unlabelled", tmp_path, {"train": 3})  # the lock is free, and what was begun is gone
    assert not list(tmp_path.glob("scenes/unlabelled/incomplete*"))


SIGNALLED = """
import signal, threading
from must_jax import preemption
from must_jax.data.scenes import builder
from must_jax.errors import Preempted

begun = threading.Event()
other = threading.Thread(target=lambda: begun.wait() and signal.pthread_kill(threading.get_ident(), signal.SIGTERM))
other.start()
preemption.watch()
try:
    with builder._signals_left_to_parent():
        begun.set()
        other.join()
        print("started")
except Preempted:
    print("stopped")
"""


def test_a_signal_waits_until_processes_have_begun():
    """Another thread may take it, which no mask of this one prevents."""
    ended = subprocess.run([sys.executable, "-c", SIGNALLED], stdout=subprocess.PIPE, text=True, check=True)
    assert ended.stdout.split() == ["started", "stopped"]


def test_nothing_is_rendered_ahead_that_is_there_or_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scenes.prepare("teacher_depth", tmp_path, FEW)
    monkeypatch.setattr(builder, "_context", None)  # would start a process
    with scenes.rendering_ahead(["teacher_depth", "teacher_normals_tiny"], tmp_path):
        pass


def test_who_waits_for_another_process_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "scenes/teacher_depth"
    folder.mkdir(parents=True)
    with ThreadPoolExecutor(1) as thread:
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            made = thread.submit(scenes.prepare, "teacher_depth", tmp_path, FEW)
            wait_until(
                lambda: "waiting for another process that renders scenes/teacher_depth" in "".join(capsys.readouterr())
            )
            assert not made.done()
        assert made.result().is_dir()


def test_a_finished_preparation_is_not_repeated_nor_are_concurrent_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rendered = []

    def encode(name: str, split: str, indices: range) -> list[dict]:
        rendered.append(split)
        return encode_examples(name, split, indices)

    monkeypatch.setattr(builder, "encode_examples", encode)
    with ThreadPoolExecutor(3) as threads:
        folders = list(threads.map(lambda _: scenes.prepare("teacher_depth", tmp_path, FEW), range(3)))
    assert len(set(folders)) == 1
    assert scenes.prepare("teacher_depth", tmp_path, FEW) == folders[0]
    assert sorted(rendered) == ["test", "train", "validation"]
    assert len(tfds.builder_from_directory(folders[0]).as_data_source("train")) == FEW["train"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scenes"]


def test_user_mistakes(tmp_path: Path):
    with pytest.raises(UserError, match="did you mean 'teacher_depth'"):
        scenes.prepare("teacher_dept", tmp_path)
    scenes.prepare("teacher_depth", tmp_path, FEW)
    with pytest.raises(UserError, match="remove it or choose another data_dir"):
        scenes.prepare("teacher_depth", tmp_path, FEW | {"train": 6})
    with pytest.raises(
        UserError, match=f"{tmp_path}/scenes/teacher_depth/{builder.VERSION} holds .*'train': 5.* remove it"
    ):
        scenes.prepare("teacher_depth", tmp_path)  # its config's own numbers


def test_the_grid_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "grid.png"
    arguments = ["scenes", f"--out={out}", "--config=downstream_materials", "--images=2"]
    monkeypatch.setattr("sys.argv", arguments)
    grid.main()
    assert out.read_bytes().startswith(b"\x89PNG")
