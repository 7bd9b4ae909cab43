"""docs/teachers.md as its tests read it: its blocks, and its worked example, worked through."""

from __future__ import annotations

import contextlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from command_line import ROOT, call

PAGE = (ROOT / "docs/teachers.md").read_text(encoding="utf-8")
BLOCKS = {
    language: [text for name, text in re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S) if name == language]
    for language in ("bash", "python", "toml")
}
COMMANDS = [
    line for block in BLOCKS["bash"] for line in block.replace("\\\n", " ").splitlines() if not line.startswith("pip ")
]
EXAMPLE_COMMANDS = [each for each in COMMANDS if each in PAGE.partition("## A worked example")[2].replace("\\\n", " ")]
SMALL = {  # what the tests change at the top of the copy, besides TRIAL=1
    r"IMAGE_SIZE = 64": "IMAGE_SIZE = 32",
    r"MODEL = \{[^}]*\}": 'MODEL = {"backbone": "resnet10", "width": 0.125, "pyramid_channels": 8, "head_channels": 8, '
    '"head_convs": 1}',
}


@contextlib.contextmanager
def home(folder: Path) -> Iterator[Path]:
    """An empty folder beside the checkout, with the ten lines of the page; the working directory."""
    (folder / "must_jax").symlink_to(ROOT)
    (folder / "others").mkdir()
    (ten_lines,) = (block for block in BLOCKS["python"] if "def regions" in block)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "others")
        patch.setenv("TRIAL", "1")
        patch.setattr(sys, "path", [*sys.path])
        Path("my_teachers.py").write_text(ten_lines)
        yield folder / "others"
        sys.modules.pop("my_teachers", None)


def work_through(changes: Mapping[str, str], leave_out: str = "") -> None:
    """All commands of the worked example, in their order.

    Args:
      changes: of the copy of the config, besides `SMALL`: patterns -> what they become.
      leave_out: of the arguments of commands.
    """
    for command in EXAMPLE_COMMANDS:
        if command == "python -m must_jax.main --config=configs/mine.py":  # the trial did the same
            shutil.copytree("runs/trial", "runs/mine")
        assert run(command.replace(leave_out, "") if "made_models" in command else command) == 0, command
        if command.startswith("cp configs/others.py"):
            text = Path("configs/mine.py").read_text(encoding="utf-8")
            for old, new in {**SMALL, **changes}.items():
                text, found = re.subn(old, new, text)
                assert found == 1, old
            Path("configs/mine.py").write_text(text)


def run(command: str) -> int:
    words = [word for word in shlex.split(command) if not word.startswith("TRIAL=")]
    if words[:3] == ["python", "-m", "must_jax.main"]:
        return call(*words[3:])
    if words[0] == "python":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", words[1:])
            runpy.run_path(words[1], run_name="__main__")
        return 0
    return subprocess.run(words, check=False).returncode
