"""That the benchmark for accelerators works, at toy size on the CPU: who has an accelerator has it for minutes."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import QUICK

ROOT = Path(__file__).parents[2]
SECTIONS = {"five", "one", "network", "labelling", "bits", "survival"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks/accelerator.py"), "--size=toy", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | QUICK, capture_output=True, text=True)


def sections(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_text())["sections"]
    for name, section in found.items():
        for part, result in section.items():
            assert "seconds" in result, f"{name}, {part}: {result}"
    return found


def test_every_section_reports_its_figures(tmp_path: Path):
    done = run(f"--out={tmp_path / 'result.json'}")
    assert done.returncode == 0, done.stderr
    found = sections(tmp_path / "result.json")
    assert found.keys() == SECTIONS
    *lines, last = done.stdout.splitlines()
    assert {line.split()[0] for line in lines if not line.startswith(" ")} == {"device", *SECTIONS}
    assert last.startswith("all") and "left out" not in last

    for name in ("five", "one"):
        result = found[name][name]
        assert result["steps_per_second"] > 0 and result["flops_per_image"] > 0 and result["skipped"] == 0
        assert result["forecast_bytes"] == sum(result["forecast"].values())
        assert result["forecast"]["activations and other temporaries"] > 0
        assert result["share_of_peak"] is None and result["allocator_peak_bytes"] is None  # of a CPU they are unknown
    assert found["five"]["five"]["flops_per_image"] > found["one"]["one"]["flops_per_image"]
    assert found["network"]["must_jax"]["images_per_second"] > 0
    with_torch = {"torch"} if importlib.util.find_spec("torch") else set()
    assert found["network"].keys() == {"must_jax", *with_torch}
    assert len({result["parameters"] for result in found["network"].values()}) == 1
    for each in found["labelling"]["labelling"]["teachers"].values():
        assert each["bare"] > 0 and each["labelling"] > 0
    assert len(found["bits"]) == 4 and len({each["digest"] for each in found["bits"].values()}) == 1
    assert all(each["summary"].startswith("1 passed") for each in found["survival"].values())


def test_what_has_no_time_is_left_out_and_named(tmp_path: Path):
    done = run("--only=one,bits", "--minutes=0.01", f"--out={tmp_path / 'result.json'}")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "result.json").read_text())["sections"]
    parts = [result for section in found.values() for result in section.values()]
    assert len(parts) == 5 and all(result["left_out"] for result in parts)
    *lines, last = done.stdout.splitlines()
    for name in SECTIONS:
        assert (name in last) == any(line.startswith(name) for line in lines) == (name in ("one", "bits"))


@pytest.mark.parametrize(
    ("code", "limit_s", "ends_s", "told"),
    [
        ("import sys; sys.stdin.readline(); print(3); print(4)", 60, 60, {"value": 4}),
        ("raise SystemExit('it broke')", 60, 60, {"error": "exit code 1: it broke"}),
        ("import time; time.sleep(60)", 0.2, 60, {"error": "not done within 0 s"}),
        ("import time; time.sleep(60)", 60, 0.2, {"left_out": "the time was up before it was done"}),
    ],
)
def test_a_part_that_fails_costs_a_line(
    code: str, limit_s: float, ends_s: float, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    accelerator = importlib.import_module("accelerator")
    monkeypatch.setattr(accelerator, "LEAST_S", 0)
    bench = accelerator.Bench("toy", ends_s / 60, ROOT)
    job = accelerator.Job([sys.executable, "-c", code], limit_s, read=lambda line: {"value": int(line)})
    ((key, result),) = bench.run({("section", "part"): job})
    assert key == ("section", "part")
    assert {name: result[name] for name in told} == told
    assert ("seconds" in result) == ("value" in told)


def test_an_unknown_section_is_named():
    done = run("--only=six")
    assert done.returncode == 2 and "there is no section six" in done.stderr
