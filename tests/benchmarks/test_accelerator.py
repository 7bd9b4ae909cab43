"""That the benchmark for accelerators works, at toy size on the CPU: who has an accelerator has it for minutes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from processes import QUICK

ROOT = Path(__file__).parents[2]
SECTIONS = {"five", "one", "network", "labelling", "bits", "survival"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks/accelerator.py"), "--size=toy", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | QUICK, capture_output=True, text=True)


def sections(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_text())["sections"]
    for name, section in found.items():
        assert "error" not in section, f"{name}: {section['error']}\n{section['log']}"
    return found


def test_every_section_reports_its_figures(tmp_path: Path):
    done = run(f"--out={tmp_path / 'result.json'}")
    assert done.returncode == 0, done.stderr
    found = sections(tmp_path / "result.json")
    assert found.keys() == SECTIONS
    lines = done.stdout.splitlines()
    assert {line.split()[0] for line in lines if not line.startswith(" ")} == {"device", *SECTIONS}

    for name in ("five", "one"):
        result = found[name]
        assert result["steps_per_second"] > 0 and result["flops_per_image"] > 0 and result["skipped"] == 0
        assert result["forecast_bytes"] == sum(result["forecast"].values())
        assert result["forecast"]["activations and other temporaries"] > 0
        assert result["share_of_peak"] is None and result["allocator_peak_bytes"] is None  # of a CPU they are unknown
    assert found["five"]["flops_per_image"] > found["one"]["flops_per_image"]
    assert found["network"]["must_jax"]["images_per_second"] > 0
    for name in ("torch", "torch_compiled"):
        if importlib.util.find_spec("torch") is None:
            assert found["network"][name] == {"error": "PyTorch is not installed"}
        else:
            assert found["network"][name]["parameters"] == found["network"]["must_jax"]["parameters"]
    for name in ("one", "five"):
        assert found["labelling"][name]["bare"] > 0 and found["labelling"][name]["labelling"] > 0
    assert found["bits"]["deterministic"]["same"] and found["bits"]["default"]["same"]
    assert found["survival"]["summary"].startswith("1 passed")


def test_a_section_that_fails_costs_a_line(tmp_path: Path):
    done = run("--only=one,bits", "--minutes=0.01", f"--out={tmp_path / 'result.json'}")
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        [name, "FAILED,"] for name in ("device", "one", "bits")
    ]
    found = json.loads((tmp_path / "result.json").read_text())["sections"]
    assert all("no time is left" in found[name]["error"] for name in ("one", "bits"))


def test_an_unknown_section_is_named():
    done = run("--only=six")
    assert done.returncode == 2 and "there is no section six" in done.stderr
