"""Damage to the files of a run: every command says in one sentence which file it is and what to do; nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import call
from made_teacher import redescribe

from must_jax import predict

CONFIG = {
    "stage": "train",
    "devices": 1,
    "train": [{"images": "scenes/teacher_classification_tiny:train"}],
    "tasks": {"classification": {}},
    "image_size": 32,
    "model": {"backbone": "resnet10", "width": 0.125, "pyramid_channels": 8, "head_channels": 8, "head_convs": 1},
    "batch_size": 8,
    "steps": 4,
    "log_every": 1,
    "checkpoint_every": 2,
}
HARMS = [
    b"",
    b"{",
    b"[]",
    b"3",
    b"\xff\xfe{}",
    b"[" * 5000 + b"]" * 5000,
    b'{"stage": 3, "steps": "a"}',
    "folder",
    "pipe",
]
LOGS = ("metrics.jsonl", "goodput.jsonl", "skipped.jsonl")


@pytest.fixture(scope="module")
def whole(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config file `mine.py` and its finished run, `run`."""
    home = tmp_path_factory.mktemp("home")
    values = json.dumps(CONFIG | {"data_dir": str(data_dir)})
    (home / "mine.py").write_text(f"import json\n\ndef get_config():\n    return json.loads({values!r})\n")
    cv2.imwrite(str(home / "photo.png"), np.zeros((32, 32, 3), np.uint8))
    assert call(f"--config={home / 'mine.py'}", f"--workdir={home / 'run'}") == 0
    (home / "run/skipped.jsonl").write_text('{"update": 1, "images": []}\n')
    return home


@pytest.fixture
def home(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return tmp_path


def train(home: Path) -> int:
    return call(f"--config={home / 'mine.py'}", f"--workdir={home / 'run'}")


def describe(home: Path) -> int:
    return call("--config.stage=describe", f"--config={home / 'mine.py'}", f"--workdir={home / 'run'}")


def resume(home: Path) -> int:
    (home / "run/model.json").unlink(missing_ok=True)
    return train(home)


def ask(home: Path) -> int:
    return predict.main(["predict", f"--model={home / 'run'}", f"--out={home / 'out'}", str(home / "photo.png")])


def harmed(file: Path, harm: bytes | str) -> None:
    file.unlink()
    if harm == "folder":
        file.mkdir()
    elif harm == "pipe":
        os.mkfifo(file)
    else:
        assert isinstance(harm, bytes)
        file.write_bytes(harm + b"\n" * (file.suffix == ".jsonl"))


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line, which is the only one of an error."""
    lines = capsys.readouterr().err.splitlines()
    assert not any(line.startswith(("error:", "Traceback")) for line in lines[:-1])
    return lines[-1]


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("model.json", train),
        ("model.json", ask),
        ("config.json", train),
        ("config.json", describe),
        ("result.json", describe),
    ],
)
def test_what_is_no_such_file_is_named(
    home: Path, name: str, command: Callable[[Path], int], harm: bytes | str, capsys: pytest.CaptureFixture[str]
):
    harmed(home / "run" / name, harm)
    capsys.readouterr()
    assert command(home) == 2
    error = told(capsys)
    assert error.startswith("error: ") and f"{home / 'run' / name}" in error and "remove" in error
    assert "delete that folder" not in error


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("command", [describe, resume])
@pytest.mark.parametrize("name", LOGS)
def test_lines_that_cannot_be_read_are_counted(
    home: Path, name: str, command: Callable[[Path], int], harm: bytes | str, capsys: pytest.CaptureFixture[str]
):
    harmed(home / "run" / name, harm)
    capsys.readouterr()
    code, text = command(home), capsys.readouterr().err
    if isinstance(harm, str):
        assert code == 2 and f"{home / 'run' / name} is not a file" in text
    else:
        assert code == 0
        if not (name == "skipped.jsonl" and command is resume):  # which only writes it
            assert f"{home / 'run' / name}: 1 line skipped, because unreadable" in text


def test_what_the_sentence_about_the_config_advises_helps(home: Path):
    (home / "run/config.json").write_text("{")
    assert train(home) == 2
    (home / "run/config.json").unlink()
    assert train(home) == 0 and ask(home) == 0


def test_an_older_checkpoint_does_not_take_the_place_of_the_newest(home: Path, capsys: pytest.CaptureFixture[str]):
    weights = json.loads((home / "run/model.json").read_text())
    shutil.rmtree(home / "run/checkpoints/4")
    assert ask(home) == 2
    missing = f"{home}/run/checkpoints/4, which holds the model, is missing; restore it, or "
    assert told(capsys).startswith(f"error: {missing}remove model.json and start")
    assert resume(home) == 0 and ask(home) == 0
    now = json.loads((home / "run/model.json").read_text())
    assert all(now[name] == weights[name] for name in ("digest", "stats_digest", "metrics"))


@pytest.mark.parametrize("name", ["digest", "stats_digest"])
def test_weights_that_are_not_signed_are_refused(home: Path, name: str, capsys: pytest.CaptureFixture[str]):
    file = home / "run/model.json"
    values = json.loads(file.read_text())
    redescribe(file, **{name: "0" * 64})
    assert ask(home) == 2 and "does not hold the weights that" in told(capsys)
    for missing in (name, "checksum"):
        file.write_text(json.dumps({key: value for key, value in values.items() if key != missing}))
        assert ask(home) == 2 and f"error: {file} is damaged at '{missing}'; restore it" in told(capsys)


def test_a_model_whose_description_was_changed_is_refused(home: Path, capsys: pytest.CaptureFixture[str]):
    """Other names of the same classes would be read without any other sign of it."""
    file = home / "run/model.json"
    values = json.loads(file.read_text())
    values["tasks"]["classification"]["classes"].reverse()
    file.write_text(json.dumps(values))
    assert ask(home) == 2 and f"error: {file} was changed after it was written; restore it" in told(capsys)


def test_a_model_that_describes_another_network_is_refused(home: Path, capsys: pytest.CaptureFixture[str]):
    file = home / "run/model.json"
    tasks = json.loads(file.read_text())["tasks"]
    tasks["classification"]["classes"].pop()
    redescribe(file, tasks=tasks)
    assert ask(home) == 2 and f"{file} describes a network other than the trained one: " in told(capsys)


def test_one_bit_of_a_checkpoint_is_named(home: Path, capsys: pytest.CaptureFixture[str]):
    file = next((home / "run/checkpoints/4/state/d").iterdir())
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    assert ask(home) == 2
    assert f"error: {file} has other bytes than were written" in told(capsys)
    assert resume(home) == 2
    assert told(capsys).endswith(
        f"step 2 is whole: remove {home}/run/checkpoints/4, and the same command then goes on from there"
    )
    shutil.rmtree(home / "run/checkpoints/4")
    assert resume(home) == 0 and ask(home) == 0
