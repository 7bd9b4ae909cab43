"""How a command ends."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from must_jax.cli import exit_code, interrupted_later
from must_jax.config import LabelConfig
from must_jax.stages import STAGES, label


def test_ctrl_c_waits_for_the_end_of_the_block_and_is_not_lost() -> None:
    before, reached = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt), interrupted_later():
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("the end")
    assert reached == ["the end"]
    assert signal.getsignal(signal.SIGINT) is before
    with interrupted_later():
        pass
    with pytest.raises(ZeroDivisionError), interrupted_later():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts back what the test changes."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_signal_that_was_ignored_or_handled_still_is() -> None:
    """A command that a shell starts in the background ignores Ctrl-C."""
    arrived: list[int] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: arrived.append(number))
    with interrupted_later():
        signal.raise_signal(signal.SIGINT)
    assert not arrived and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    with interrupted_later():
        signal.raise_signal(signal.SIGTERM)
        assert not arrived
    assert arrived == [signal.SIGTERM]


def test_another_thread_loads_without_ado() -> None:
    done: list[str] = []

    def work() -> None:
        with interrupted_later():
            done.append("loaded")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["loaded"]


def test_a_device_without_memory_ends_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """Of which only the first line of jax's message is a part."""

    def command() -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nPeak buffers:\n...")

    assert exit_code(command) == 2
    said = capsys.readouterr().err
    assert "9 bytes" in said and "batch_size" in said and "config.accumulate" in said and "Peak" not in said


class Interrupted:
    """Finds and loads one module, which is interrupted meanwhile."""

    def __init__(self, name: str) -> None:
        self.name, self.loaded = name, False

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name == self.name else None

    def create_module(self, spec: ModuleSpec) -> None:
        pass

    def exec_module(self, module: ModuleType) -> None:
        signal.raise_signal(signal.SIGINT)
        self.loaded = True


LABEL = LabelConfig(images="folder:x", teachers=("y",))


@pytest.mark.parametrize(
    ("module", "run", "config"),
    [
        ("stages.labels", STAGES["labels"], None),
        ("labelling.label_run", label.run, LABEL),
        ("labelling.forecasting", label.run, LABEL.model_copy(update={"dry_run": True})),
    ],
)
def test_a_stage_that_is_interrupted_is_loaded_and_not_run(
    module: str, run: Callable[[Any, Path], None], config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finder = Interrupted(f"must_jax.{module}")
    room, _, name = module.partition(".")
    package = importlib.import_module(f"must_jax.{room}")
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    monkeypatch.setitem(sys.modules, finder.name, package)  # set first, so that all is put back afterwards
    monkeypatch.delitem(sys.modules, finder.name)
    monkeypatch.setattr(package, name, None, raising=False)
    monkeypatch.delattr(package, name)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path)
    assert finder.loaded
