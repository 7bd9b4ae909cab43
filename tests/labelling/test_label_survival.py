"""Labelling in real processes that are killed, run out of disk, or share the work: the columns are always the same."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import onnx_graphs
import psutil
import pytest
from command_line import CONFIGS, call
from made_teacher import HEADLINES, make_teacher
from processes import QUICK, group

IMAGES, KILLS = 60, 10
COLUMNS = 9
SHARD = "labels-train.array_record-*-of-?????"


FUNCTION = """
import numpy as np

def ask(images):
    return [one(image.astype(np.float32) / 255) for image in images]

def one(image):
    slope = np.dstack([image[..., 0] - 0.5, image[..., 1] - 0.5, -1 - image[..., 2]])
    return {"bright": (image.mean(-1) > 0.5).astype(int), "slopes": slope}
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Labels small photos by two teachers of must_jax, an ONNX file and a function in one pass.

    Every photo is a shard, so that there is much to interrupt.
    """
    home, rng = tmp_path_factory.mktemp("home"), np.random.default_rng(0)
    (home / "photos").mkdir()
    for i in range(IMAGES):
        size = rng.integers(8, 60, 2)
        cv2.imwrite(str(home / f"photos/{i:02d}.png"), rng.integers(0, 256, (*size, 3), np.uint8))
    tasks = tuple(key.split("/")[0] for key in HEADLINES)
    make_teacher(home / "everything", tasks, 64, HEADLINES)
    make_teacher(home / "small", ("depth",), 32, HEADLINES)
    told = onnx_graphs.ultralytics("detect", 64)
    onnx_graphs.detector(home / "boxes.onnx", "yolov8", onnx_graphs.Input(64, 64), metadata=told)
    (home / "asked_by_tests.py").write_text(FUNCTION)
    tasks = {
        "bright": {"kind": "segmentation", "classes": ["dark", "light"]},
        "slopes": {"kind": "normals", "axes": "x,y,z"},
    }
    others = [
        {"model": f"{home / 'boxes.onnx'}", "tasks": {"detection": {}}},
        {"model": "python:asked_by_tests:ask", "tasks": tasks},
    ]
    teachers = f"--config.teachers={json.dumps([str(home / 'everything'), str(home / 'small'), *others])}"
    images = f"--config.images=folder:{home / 'photos'}"
    sizes = ("--config.shard_images=1", "--config.batch_size=4", "--config.gallery_images=0")
    sys.path.append(str(home))
    yield [sys.executable, "-m", "must_jax.main", f"--config={CONFIGS / 'label.py'}", teachers, images, *sizes]
    sys.path.remove(str(home))


def start(
    command: list[str], workdir: Path, *overrides: str, limit_bytes: int = 0, joined: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    environment = os.environ | QUICK | {"PYTHONPATH": os.pathsep.join(sys.path), "SOURCE_DATE_EPOCH": "1767225600"}
    environment |= joined or {}

    process = subprocess.Popen(
        [*command, f"--workdir={workdir}", *overrides],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if limit_bytes:  # long before it writes anything
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    return process


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def columns(workdir: Path) -> dict[str, bytes]:
    folder = workdir / "columns"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shards(workdir: Path) -> int:
    return len(list((workdir / "columns").glob(f"*/{SHARD}")))


def of_process(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition() and process.poll() is None:
        time.sleep(0.005)


@pytest.fixture(scope="module")
def undisturbed(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed")
    finish(start(command, workdir))
    assert shards(workdir) == COLUMNS * IMAGES
    return workdir


def test_killed_at_random_moments_the_columns_end_up_the_same(
    command: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    """Twice with workers, of which one is killed at last; then the run says so, and what to change."""
    moments, killed = random.Random(0), 0
    while killed < KILLS:
        workers = 2 if killed in (5, 6) else 0
        process, before = start(command, tmp_path, f"--config.input.workers={workers}"), shards(tmp_path)
        count = before + moments.randint(1, 25)
        wait_until(lambda count=count: shards(tmp_path) >= count, process)
        if killed == 6:
            os.kill(next(each.pid for each in of_process(process) if each.ppid() != process.pid), signal.SIGKILL)
        else:
            process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
        expected = 1 if killed == 6 else -signal.SIGKILL
        assert process.returncode == expected, "it was through before it was killed: there is too little to do"
        if killed == 6:
            assert re.search(r"a worker process .*config\.input\.workers.*batch_size", output.splitlines()[-1])
        killed += 1
    assert 0 < shards(tmp_path) < COLUMNS * IMAGES
    finish(start(command, tmp_path))
    assert columns(tmp_path) == columns(undisturbed)


def test_stopped_by_its_user_it_says_so_and_goes_on(command: list[str], undisturbed: Path, tmp_path: Path) -> None:
    process = start(command, tmp_path)
    wait_until(lambda: shards(tmp_path) > COLUMNS, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert output.splitlines()[-1] == "stopped; the same command continues" and "Traceback" not in output
    assert shards(tmp_path) < COLUMNS * IMAGES
    assert not [name for name in columns(tmp_path) if "tmp" in name]
    finish(start(command, tmp_path))
    assert columns(tmp_path) == columns(undisturbed)


@pytest.mark.parametrize("workers", [0, 2])
def test_preempted_it_says_so_and_goes_on(command: list[str], undisturbed: Path, tmp_path: Path, workers: int) -> None:
    """By SIGTERM: what is written is whole, and whoever starts it again knows that it is to go on."""
    process = start(command, tmp_path, f"--config.input.workers={workers}")
    wait_until(lambda: shards(tmp_path) > COLUMNS, process)
    for _ in range(3):  # from several senders
        process.send_signal(signal.SIGTERM)
    assert finish(process).splitlines()[-1] == "preempted, stopped by SIGTERM; the same command continues"
    assert (tmp_path / "PREEMPTED").exists() and shards(tmp_path) < COLUMNS * IMAGES
    assert not [name for name in columns(tmp_path) if "tmp" in name]
    finish(start(command, tmp_path))
    assert columns(tmp_path) == columns(undisturbed) and not (tmp_path / "PREEMPTED").exists()


def test_two_processes_that_work_together_make_what_one_makes(
    command: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    """At first one of them is told to stop, which ends both."""
    for number in (1, 0):
        processes = [start(command, tmp_path, joined=joined) for joined in group(2)]
        before = shards(tmp_path)
        wait_until(lambda before=before: shards(tmp_path) > before + COLUMNS, processes[number])
        processes[number].send_signal(signal.SIGTERM)
        outputs = [finish(process) for process in processes]
        assert outputs[number].splitlines()[-1] == "preempted, stopped by SIGTERM; the same command continues"
        told = rf"preempted, as process {number} on .* was stopped by SIGTERM; the same command continues"
        assert re.fullmatch(told, outputs[1 - number].splitlines()[-1])
        assert (tmp_path / "PREEMPTED").exists() and shards(tmp_path) < COLUMNS * IMAGES

    processes = [start(command, tmp_path, joined=joined) for joined in group(2)]
    outputs = [finish(process) for process in processes]
    assert f"{IMAGES} images in {COLUMNS} columns" in outputs[0]
    assert columns(tmp_path) == columns(undisturbed) and not (tmp_path / "PREEMPTED").exists()


def test_one_of_two_processes_that_fails_ends_both(command: list[str], tmp_path: Path) -> None:
    """The one that has nothing against its photos says why, and whose they are."""
    photos = ((), ("--config.images=folder:/nowhere",))
    processes = [start(command, tmp_path, *own, joined=joined) for own, joined in zip(photos, group(2), strict=True)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], outputs
    last = [output.splitlines()[-1] for output in outputs]
    assert re.fullmatch("error: .*there is no folder /nowhere; .*", last[1])
    assert re.fullmatch("error: process 1 on .*: .*there is no folder /nowhere; .*", last[0])
    assert not any("Traceback" in output for output in outputs), "\n@@@\n".join(outputs)


def test_two_workers_that_do_not_talk_make_what_one_makes(
    command: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    """Side by side; one is killed on the way and comes back after the other has finished its part."""
    first, second = (start(command, tmp_path, f"--config.worker={number}/2") for number in (0, 1))
    wait_until(lambda: shards(tmp_path) > 2 * COLUMNS, second)
    second.send_signal(signal.SIGKILL)
    second.communicate()
    assert "others have" in finish(first)
    assert not (tmp_path / "result.json").exists()
    assert f"{IMAGES} images in {COLUMNS} columns" in finish(start(command, tmp_path, "--config.worker=1/2"))
    assert columns(tmp_path) == columns(undisturbed)


def test_a_disk_that_takes_no_more_ends_in_a_sentence(command: list[str], tmp_path: Path) -> None:
    """Files may have no more than 60,000 bytes, which a shard has at least."""
    process = start(command, tmp_path, "--config.shard_images=30", limit_bytes=60_000)
    output, _ = process.communicate()
    assert process.returncode == 2, output
    assert "File too large" in output.splitlines()[-1] and "Traceback" not in output
    finish(start(command, tmp_path, "--config.shard_images=30"))
    assert not [name for name in columns(tmp_path) if "tmp" in name]


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC])
def test_a_disk_that_fails_on_the_way_loses_nothing(
    code: int,
    command: list[str],
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Also for the superuser, whom no permission stops."""
    replace, left = os.replace, iter(range(20))

    def fails(source: str, target: str) -> None:
        if next(left, None) is None:
            raise OSError(code, os.strerror(code), str(target))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fails)
        assert call(*command[3:], f"--workdir={tmp_path}") == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert os.strerror(code) in told
    assert {errno.EROFS: "choose a folder that can be written to", errno.ENOSPC: "free some space"}[code] in told
    kept = {name: data for name, data in columns(tmp_path).items() if re.search(r"-of-\d{5}$", name)}
    assert len(kept) > 3
    assert call(*command[3:], f"--workdir={tmp_path}") == 0
    assert columns(tmp_path).keys() == columns(undisturbed).keys()
    assert all(columns(tmp_path)[name] == data for name, data in kept.items())
