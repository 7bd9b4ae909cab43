"""A disk that fills up, and one that cannot be written to: one sentence, and the checkpoints from before are whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import saved

from must_jax.engine.checkpoint import restore_variables

SIZE = 2**26  # bytes


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or not mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)):
        pytest.skip("only who may mount a disk can fill one")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0


def fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**16))


def test_disk_full_and_read_only_lose_nothing(student, start, assert_same, disk):
    workdir = disk / "run"
    command = (student, f"--workdir={workdir}")
    process = start(*command)
    process.wait_for(lambda: len(saved(workdir)) == 2)
    fill(disk)
    told = process.finish(2)
    assert told.startswith("error: ") and "No space left on device" in told
    assert told.endswith("; free some space, then the same command continues")
    (disk / "ballast").unlink()
    before = saved(workdir)
    assert before and before[-1] < 40
    restore_variables(workdir / "checkpoints")

    assert mount("-o", "remount,ro", str(disk))
    told = start(*command).finish(2)
    assert told.startswith("error: ") and told.endswith("; choose a folder that can be written to")
    assert saved(workdir) == before
    assert mount("-o", "remount,rw", str(disk))

    start(*command).finish()
    assert_same(workdir)
    shutil.rmtree(workdir)
