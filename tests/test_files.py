from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from must_jax.files import committed, lock, write_json


def test_an_interrupted_file_is_replaced_whole(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("old")
    (tmp_path / f"file.tmp-{socket.gethostname()}-{2**22 + 1}").write_text("of a killed process")
    with pytest.raises(RuntimeError), committed(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"file": "old"}


def test_json_is_complete_or_as_before(tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_folder_is_one_processes_until_it_ends(tmp_path: Path):
    command = (
        f"from must_jax.files import lock; from pathlib import Path; lock(Path({str(tmp_path)!r})); print(); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "\n"
        with pytest.raises(BlockingIOError):
            lock(tmp_path)
        other.kill()
    lock(tmp_path)
