from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from must_jax import files
from must_jax.errors import UserError
from must_jax.files import committed, create_text, is_locked, lock, unlock, write_json
from must_jax.reading import read_json_lines


def test_an_interrupted_file_is_replaced_whole(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("old")
    killed, elsewhere = f"{files._machine()}-{2**22 + 1}-0a", f"{socket.gethostname()}-0-{2**22 + 1}-0a"
    for name in (killed, elsewhere):
        (tmp_path / f"file.tmp-{name}").write_text("not finished")
    with pytest.raises(RuntimeError), committed(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert {file.name for file in tmp_path.iterdir()} == {"file", f"file.tmp-{elsewhere}"}
    assert path.read_text() == "old"


def test_threads_write_one_file_side_by_side(tmp_path: Path):
    """Nor do containers disturb each other whose processes have one number and whose hosts have one name."""
    path = tmp_path / "file"
    with committed(path) as first, committed(path) as second:
        for temporary in (first, second):
            temporary.write_text(temporary.name)
    assert path.read_text() == first.name  # which ended last
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("links", [True, False])
def test_one_of_those_that_create_a_file_succeeds(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On file systems without hard links too, where one is about to while the other waits."""
    path, replaced, another = tmp_path / "file", [], threading.Event()
    replace = os.replace

    def slow(source: Path, target: Path) -> None:
        replaced.append(source.read_text())
        if len(replaced) == 1:
            another.wait(0.2)
        else:
            another.set()
        replace(source, target)

    def no_link(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(target))

    monkeypatch.setattr(os, "replace", slow)
    if not links:
        monkeypatch.setattr(os, "link", no_link)
    texts = [f"text {i}" for i in range(4)]
    with ThreadPoolExecutor(len(texts)) as pool:
        list(pool.map(lambda text: create_text(path, text), texts))
    assert path.read_text() in texts
    assert replaced == ([] if links else [path.read_text()])
    create_text(path, "late")
    assert path.read_text() != "late"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_file_that_cannot_be_created_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "link", full)
        patch.setattr(os, "replace", full)
        create_text(tmp_path / "file", "text")
    assert not list(tmp_path.iterdir())
    create_text(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"


def test_json_is_complete_or_as_before(tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_lines_that_are_not_whole_are_no_objects(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    assert read_json_lines(path, dict) == []
    path.write_bytes(b'{"a": 1}\n{"a": {"a": 2}\n\n\0\0\n3\n{"a": "\xc3\n{"a": "\\u2028"}\n{"a": 4}')
    assert read_json_lines(path, dict) == [{"a": 1}, {"a": "\u2028"}]


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


def test_whether_a_folder_is_taken_is_asked_without_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As on a disk that is mounted to be read only."""
    (tmp_path / f"{files.LOCK_FILE}-gone").symlink_to(tmp_path / "nowhere")
    open_file = os.open

    def read_only(path: Path, flags: int, *mode: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return open_file(path, flags, *mode)

    def asked() -> bool:
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", read_only)
            return is_locked(tmp_path)

    held = lock(tmp_path)
    assert asked()
    unlock(held)
    assert not asked()


def test_who_only_asks_keeps_nobody_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for worker in ("", "1-of-2"):
        path = tmp_path / (f"{files.LOCK_FILE}-{worker}" if worker else files.LOCK_FILE)
        path.touch()
        asked = [os.open(path, os.O_RDONLY)]
        fcntl.flock(asked[0], fcntl.LOCK_SH)
        with monkeypatch.context() as patch:
            patch.setattr(files.time, "sleep", lambda seconds, asked=asked: os.close(asked.pop()))
            unlock(lock(tmp_path, worker))
        assert not asked


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "x" * 200])
def test_files_with_the_longest_names(tmp_path: Path, name: str):
    files.write_text(tmp_path / name, "1")
    files.create_text(tmp_path / name, "2")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "1"}


def test_a_full_disk_is_named_with_the_file(tmp_path: Path):
    with pytest.raises(OSError, match="file") as raised, files.committed(tmp_path / "file") as temporary:
        temporary.touch()
        with open("/dev/full", "w") as full:
            full.write("1")
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "file"))


@pytest.mark.parametrize("place", ["/proc/nothing/run", "file", "file/run", "loop/run", "nothing"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, place: str):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nothing").symlink_to("nowhere")
    with pytest.raises(UserError, match=" cannot be created: "):
        files.make_folder(tmp_path / place)
