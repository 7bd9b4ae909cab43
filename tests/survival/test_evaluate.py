"""The scorecard in real processes: of two that work together, and of one, stopped on the way."""

from __future__ import annotations

import pytest
from processes import STUDENT, rows


@pytest.fixture(scope="module")
def evaluation(config_file) -> str:
    splits = {split: {"images": f"scenes/downstream_depth_tiny:{split}"} for split in ("train", "validation", "test")}
    transfer = {
        "mode": "frozen",
        "learning_rates": [0.1, 0.01, 0.001],
        "seeds": [0, 1, 2, 3, 4],
        "steps": 30,
        "batch_size": 8,
    }
    values = {
        "stage": "evaluate",
        "inits": {"one": "", "other": ""},
        "downstream": {"range": {"task": "depth", **splits}},
        "transfers": [transfer | {"batch_size": 8, "optimizer": {"learning_rate": 0.1, "warmup_steps": 1}}],
        "image_size": 32,
        "devices": 1,  # of each process
        "model": STUDENT["model"],
    }
    return f"--config={config_file(values)}"


def test_two_processes_and_a_stopped_one_measure_the_same(evaluation, start, start_together, tmp_path):
    stopped, together = tmp_path / "stopped", tmp_path / "together"
    process = start(evaluation, f"--workdir={stopped}")
    process.wait_for(lambda: len(rows(stopped, "runs.jsonl")) > 1)
    process.send()
    assert process.finish().startswith("preempted, ")
    assert (stopped / "PREEMPTED").exists() and not (stopped / "scorecard.json").exists()
    done = rows(stopped, "runs.jsonl")
    assert 2 <= len(done) < 14

    processes = start_together(evaluation, f"--workdir={together}")
    processes[1].wait_for(lambda: rows(together, "runs-1.jsonl"))
    processes[1].send()
    assert [process.finish().startswith("preempted, ") for process in processes] == [True, True]
    assert (together / "PREEMPTED").exists() and not (together / "scorecard.json").exists()
    for process in start_together(evaluation, f"--workdir={together}"):
        process.finish()
    start(evaluation, f"--workdir={stopped}").finish()
    assert rows(stopped, "runs.jsonl")[: len(done)] == done
    assert not (stopped / "PREEMPTED").exists() and not (together / "PREEMPTED").exists()
    assert len(rows(together, "runs.jsonl")) == len(rows(together, "runs-1.jsonl")) == 7
    assert (together / "scorecard.json").read_bytes() == (stopped / "scorecard.json").read_bytes()
