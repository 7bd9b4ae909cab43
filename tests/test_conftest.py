"""What every test relies on, wherever the tests are started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from launchers import is_alive

TESTS = """
import signal, subprocess, sys
from pathlib import Path

HERE = Path(__file__).parent

def test_ctrl_c():
    stopped = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGINT)"]
    assert subprocess.run(stopped).returncode == -signal.SIGINT

def test_leaves():
    left = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    (HERE / "left").write_text(str(left.pid))
    left.returncode = 0  # so that nobody warns of it
    assert False
"""


def test_where_ctrl_c_is_ignored_children_heed_it_and_a_failed_test_leaves_none(tmp_path: Path):
    (tmp_path / "conftest.py").write_text(Path(__file__).with_name("conftest.py").read_text())
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = f"trap '' INT; exec {sys.executable} -m pytest -q -p no:cacheprovider -p no:xdist"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "test_some.py::test_leaves" in done.stdout
    assert not is_alive(int((tmp_path / "left").read_text()))
