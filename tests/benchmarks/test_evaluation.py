"""That the benchmark of evaluation works, at toy size: of maps, only counts are fetched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOY = ("--sides=48", "--image-size=32", "--classes=5", "--images=8", "--batch=4", "--tasks=depth,all", "--json")


def test_every_row_has_its_figures() -> None:
    command = [sys.executable, str(ROOT / "benchmarks/evaluation.py"), *TOY, "--boxes=20"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    depth, everything, boxes = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert depth["task"] == "depth" and {"segmentation/miou", "normals/within_30"} < everything["metrics"].keys()
    assert everything["seconds"] > 0
    assert 0 < depth["bytes"] * 8 < 100_000  # the histograms, once
    assert boxes["kept_bytes"] >= 0 and 0 < boxes["ap50"] <= 100
