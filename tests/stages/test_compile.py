"""The stage `compile` through the real command: a small teacher, for a slice of four chips."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from command_line import call, config

TEACHER = config("teacher_depth")
TINY = (
    *("--config.model.width=0.125", "--config.model.pyramid_channels=8", "--config.model.head_channels=8"),
    *("--config.model.head_convs=1", "--config.image_size=32", "--config.batch_size=8"),
)
COMPILE = ("--config.stage=compile", "--config.compile.topology=v5e:2x2", "--config.compile.programs=train")
needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU's compiler: pip install -e '.[aot]'"
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[-1]


@needs_compiler
def test_facts_of_a_training(home: Path, capsys: pytest.CaptureFixture[str]):
    assert call(TEACHER, *COMPILE, *TINY) == 0
    shown = capsys.readouterr().out
    assert "train on v5e:2x2: 2 images per chip" in shown
    assert "of 16.0 GiB: fits" in shown
    assert not (home / "data").exists()  # nothing was rendered

    told: dict[str, Any] = json.loads((home / "runs/teacher_depth/compile/v5e-2x2/result.json").read_text())
    assert (told["chips"], told["chip"]["peak_flops"]) == (4, 197e12)
    train = told["programs"]["train"]
    memory = train["memory"]
    assert memory["optimizer"] == memory["parameters"]  # one momentum each
    # Images, depth and valid at stride 4, present; and the learning rate.
    assert memory["batch"] == 2 * (32 * 32 * 3 + 2 * 8 * 8 * 4 + 4) + 4
    assert train["memory_bytes"] == sum(memory.values())
    gradients = train["collectives"]["all-reduce"]["bytes"]
    assert memory["parameters"] <= gradients <= 1.1 * memory["parameters"] + memory["statistics"]
    assert train["memory_traffic"] >= 2 * memory["parameters"]
    by_operations, by_memory = train["flops"] / 197e12, train["memory_traffic"] / 819e9
    assert train["bound_seconds"] == pytest.approx(max(by_operations, by_memory))
    assert train["images_per_second_and_chip"] == pytest.approx(2 / train["bound_seconds"])

    # The folder is still free for the training itself, and another try replaces the result.
    assert not (home / "runs/teacher_depth/config.json").exists()


@needs_compiler
def test_a_batch_that_does_not_fit(home: Path, capsys: pytest.CaptureFixture[str]):
    assert call(TEACHER, *COMPILE, *TINY, "--config.batch_size=1048576", "--config.image_size=128") == 2
    sentence = said(capsys)
    assert sentence.startswith("error: 'train' does not fit on v5e:2x2 (")
    knobs = ["use fewer images per chip (now 262144: config.batch_size)", "config.remat", "config.fsdp"]
    assert sorted(knobs, key=sentence.index) == knobs
    assert not list(home.rglob("result.json"))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("--config.compile.topology=v9:2x2",), "chip 'v9' is unknown"),
        (("--config.compile.topology=",), "config.compile.topology is none"),
        (("--config.compile.topologie=2",), "config.compile.topologie is unknown; did you mean 'topology'?"),
        (("--config.compile.programs=trian",), "programs names 'trian', which is not a program; did you mean 'train'?"),
        (("--config.batch_sise=8",), "config.batch_sise is unknown; did you mean 'batch_size'?"),
        (("--config.remat=stag1",), "remat names 'stag1', which is not a part of the network; did you mean 'stage1'?"),
    ],
)
def test_mistakes_in_the_config(overrides: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]):
    assert call(TEACHER, *COMPILE, *overrides) == 2
    assert sentence in said(capsys)


@needs_compiler
@pytest.mark.parametrize(
    ("name", "overrides", "sentence"),
    [
        (
            "teacher_depth",
            ("--config.batch_size=6",),
            "config.batch_size is 6, which cannot be divided evenly among the 4 chips",
        ),
        ("teacher_depth", ("--config.compile.programs=features",), "names 'features', which this stage does not have"),
        ("label", (), "there is no run runs/teacher_classification"),
        (
            "teacher_detection",
            ("--config.train.0.images=photos:train",),
            "the number of classes of 'detection' is unknown without its labels (photos:train, truth); provide them, "
            "or set it with --config.compile.classes.detection=80",
        ),
    ],
)
def test_mistakes_in_the_rest(name: str, overrides: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]):
    assert call(config(name), *COMPILE, *overrides) == 2
    assert sentence in said(capsys)


def test_only_some_stages_have_programs(capsys: pytest.CaptureFixture[str]):
    assert call(config("quickstart"), *COMPILE) == 2
    assert "config.stage=compile needs a config that trains, labels or evaluates" in said(capsys)
    assert call(TEACHER, "--config.stage=compile") == 2
    assert "config.compile.topology is missing; set it in the config file or with" in said(capsys)
