"""That the benchmark of COCO's memory works, and that the boxes of a large file take little."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_little_memory_a_box():
    command = [sys.executable, str(ROOT / "benchmarks/coco_memory.py"), "--boxes=100000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak = re.search(r"100,000 boxes, 0.02 GB: peak ([\d,]+) bytes a box, [\d,]+ when open", done.stdout)
    assert peak, done.stdout
    assert int(peak[1].replace(",", "")) < 500  # a part that is worked on counts more here than in large files
