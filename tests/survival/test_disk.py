"""A disk that fills up, and one that cannot be written to: one sentence, and the checkpoints from before are whole."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import saved

from must_jax.engine.checkpoint import restore_variables

SIZE = 2**26  # bytes


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, bool]]:
    """A small file system, where this user may mount one; else a folder of the large one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder))
    yield folder, mounted
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0


def fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**16))


def test_disk_full_and_read_only_lose_nothing(student, start, tmp_path, assert_same, disk):
    """Where nothing can be mounted, a limit on the size of files and permissions do the same."""
    folder, mounted = disk
    workdir = folder / "run"
    command = (student, f"--workdir={workdir}")
    process = start(*command)
    process.wait_for(lambda: len(saved(workdir)) == 2)
    if mounted:
        fill(folder)
    else:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100, 100))
    told = process.finish(2)
    assert told.startswith("error: ") and told.count("error") < 3
    assert ("No space left on device" if mounted else "File too large") in told
    assert told.endswith("; free some space, then the same command continues") or not mounted
    (folder / "ballast").unlink(missing_ok=True)
    before = saved(workdir)
    assert before and before[-1] < 40
    restore_variables(workdir / "checkpoints")

    if mounted:
        assert mount("-o", "remount,ro", str(folder))
    else:
        workdir.chmod(0o555)
    told = start(*command).finish(2)
    assert told.startswith("error: ") and told.endswith("; choose a folder that can be written to")
    assert saved(workdir) == before
    if mounted:
        assert mount("-o", "remount,rw", str(folder))
    else:
        workdir.chmod(0o755)

    start(*command).finish()
    assert_same(workdir)
    shutil.rmtree(workdir)
